"""Results of a map: tables and lines that are killed at any moment and gone on with, and what a run may cost."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gptpipe.wire.echo import Knobs
from tests.harness.server import Refusal, Request, Server
from torture.frame import Case, Rig, manners, parallel

TITLE = "Results under kills, and under a cost"

TABLES = 48  # each with a form, a dialect and a seed of its own
CEILINGS = 16
ROWS = 60
KILLS = 6  # of a run, at most; then one to the end
LATEST = 0.9  # seconds until a kill
AT_ONCE = 3
JOBS = 8
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CELLS = ('say "hi"', "two\nlines", "a,b;c\td|e", "Größe 语 \N{CAT}", "", " spaces ", "-1", "=1+2", "{}", "'", "x" * 300)


class Table(NamedTuple):
    """Records, the options that read them and write their results, and the seed of all dice."""

    seed: int
    form: str
    delimiter: str
    newline: str

    def __str__(self) -> str:
        return f"{self.form}, {self.delimiter!r}, {self.newline!r}, {self.seed}"


def _cell(text: str, delimiter: str, *, quoted: bool) -> str:
    return '"' + text.replace('"', '""') + '"' if quoted or any(c in text for c in delimiter + '"\r\n') else text


def _rows(table: Table, dice: random.Random) -> list[str]:
    """Return the rows as they are written, the header first; some are equal, some quote what needs no quotes."""
    rows = ["id,words,more"] + [f"{n}" for n in range(ROWS)]
    rows[0] = rows[0].replace(",", table.delimiter)
    for n in range(1, ROWS + 1):
        number = str(dice.randrange(1, n + 1) if n % 10 == 0 else n)
        words = random.Random(number).choices(CELLS, k=2)
        quoted = random.Random(number).random() < 0.3
        rows[n] = table.delimiter.join(_cell(each, table.delimiter, quoted=quoted) for each in (number, *words))
    return rows


def _parsed(text: str, table: Table) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=table.delimiter, strict=True))


def resumed(rig: Rig, table: Table) -> Case:
    """Kill a map again and again and go on with it: in the end each row is there once, its columns byte for byte."""
    dice = random.Random(table.seed)
    rows = _rows(table, dice)
    with rig.home() as home, Server() as server:
        (home / "in").write_bytes(table.newline.join(rows).encode() + table.newline.encode() * (table.seed % 2))
        call = ["gptpipe-map", "--base-url", server.url, "-m", "m", "-j", str(JOBS), "--csv", "--resume"]
        call += ["--delimiter", table.delimiter, "--to", table.form, "-f", "in", "-o", "out", "{id}: {words}"]
        kills = 0
        for _ in range(dice.randrange(1, KILLS + 1)):
            with rig.spawn(home, *call) as process:
                if process.wait_for(dice.uniform(0, LATEST)) is None:
                    process.kill(dice.choice(SIGNALS))
                    kills += 1
                result = process.communicate(timeout=60)
            if wrong := manners(result):
                return Case(str(table), False, f"{wrong}; {result}")
        result = rig.run(home, *call, timeout=60)
        asked = Counter(request.content for request in server.requests)
        wrong = _wrong(table, rows, (home / "out").read_bytes().decode()) or _too_often(asked, kills)
        again = rig.run(home, *call, timeout=60)
        # Which of equal records has the usage of the one request may change.
        wrong = wrong or _wrong(table, rows, (home / "out").read_bytes().decode())
        if (result.status, again.status) != (0, 0):
            wrong = wrong or f"{result}, then {again}"
        if len(server.requests) > asked.total():
            wrong = wrong or "a finished map asked again"
        return Case(str(table), not wrong, f"{wrong}, {kills} kills", kills + 2)


def _wrong(table: Table, rows: list[str], out: str) -> str:
    """Return how the results are not those of the rows."""
    head, *parsed = _parsed(table.newline.join(rows), table)
    answers = [f"{id}: {words}" for id, words, _ in parsed]
    if table.form == "jsonl":
        found = [json.loads(line) for line in out.splitlines()]
        kept = [(each["index"], each["record"], each["answer"].removesuffix("\n")) for each in found]
        wanted = [
            (n, dict(zip(head, cells, strict=True)), answer)
            for n, (cells, answer) in enumerate(zip(parsed, answers, strict=True), 1)
        ]
        return "" if kept == wanted else f"the results are {kept}"
    keys = [row[-1] for row in _parsed(out, table)[1:]]
    if len(keys) != ROWS or not all(keys):
        return f"{len(keys)} rows: {out}"
    added = [("answer", "status", "error", "key"), *((a, "0", "", k) for a, k in zip(answers, keys, strict=True))]
    wanted_text = "".join(
        table.delimiter.join([row, *(_cell(each, table.delimiter, quoted=False) for each in more)]) + table.newline
        for row, more in zip(rows, added, strict=True)
    )
    return "" if out == wanted_text else f"the table is {out!r} instead of {wanted_text!r}"


def _too_often(asked: Counter[bytes], kills: int) -> str:
    """Return which request came more often than once for each kill, and once; one that a kill cut is another."""
    often = {content: count for content, count in asked.items() if content and count > kills + 1}
    return f"asked too often, with {kills} kills: {often}" if often else ""


# What a run may cost

PRICE = 0.01  # USD a token
RECORDS = 60


class Cost(NamedTuple):
    """A map under ``--max-cost``: how many of its requests the sum pays for, and how many jobs it has."""

    seed: int
    allowed: int
    jobs: int

    def __str__(self) -> str:
        return f"--max-cost for {self.allowed} requests, {self.jobs} jobs, {self.seed}"


def bounded(rig: Rig, cost: Cost) -> Case:
    """Kill runs under a ceiling and go on: none sends more than it may, and in the end all is answered, once."""
    dice = random.Random(cost.seed)
    refused = 0

    def sometimes(_: Request) -> Refusal | None:
        nonlocal refused
        if dice.random() < 0.1:
            refused += 1
            return Refusal(503, {"retry-after-ms": "1"})
        return None

    with rig.home() as home, Server(Knobs(text="four")) as server:
        _priced(home)
        (home / "in").write_text("".join(f"record {n:04}\n" for n in range(RECORDS)))
        call = ["gptpipe-map", "--base-url", server.url, "-m", "m", "--max-tokens", "1", "-j", str(cost.jobs)]
        call += ["--retry", "9", "-f", "in", "-o", "out", "--resume", "{}"]
        rig.run(home, *call, "--limit", "1")
        (first,) = (json.loads(line) for line in (home / "out").read_text().splitlines())
        dollars = first["usage"]["total_tokens"] * PRICE * cost.allowed
        server.rule = sometimes
        kills = runs = 0
        while True:
            before = len(server.requests) - refused
            with rig.spawn(home, *call, "--max-cost", str(dollars)) as process:
                if kills < KILLS and process.wait_for(dice.uniform(0.2, LATEST)) is None:
                    process.kill(dice.choice(SIGNALS))
                    kills += 1
                result = process.communicate(timeout=60)
            runs += 1
            paid = len(server.requests) - refused - before
            if paid > cost.allowed:
                return Case(str(cost), False, f"run {runs} sent {paid} requests: {result}")
            if result.status in (0, 2, 65, 75) or runs > RECORDS:
                break
            if result.status == 6 and not paid:
                return Case(str(cost), False, f"run {runs} sent nothing: {result}")
        indexes = sorted(json.loads(line)["index"] for line in (home / "out").read_text().splitlines())
        ok = result.status == 0 and indexes == list(range(1, RECORDS + 1))
        return Case(str(cost), ok, f"{runs} runs, {kills} kills, then {result}: {indexes}", runs)


def _priced(home: Path) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    dollars = PRICE * 1e6
    (home / ".config/gptpipe/config.toml").write_text(f"[prices.m]\ninput = {dollars}\noutput = {dollars}\n")


def cases(rig: Rig) -> Iterator[Case]:
    """Kill and go on."""
    dialects = itertools.cycle(itertools.product(("csv", "jsonl"), (",", ";", "\t"), ("\n", "\r\n")))
    tables = [Table(seed, *dialect) for seed, dialect in zip(range(TABLES), dialects, strict=False)]
    yield from parallel(lambda table: resumed(rig, table), tables, AT_ONCE)
    costs = [Cost(seed, (9, 17, 33)[seed % 3], (1, 4, 16)[seed // 3 % 3]) for seed in range(CEILINGS)]
    yield from parallel(lambda cost: bounded(rig, cost), costs, AT_ONCE)
