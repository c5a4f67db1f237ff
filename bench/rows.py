"""The rows of the table: what is done, with which tools, and what gptpipe promises of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.measure import MIB, Command, Run, repeat, run, run_lag, run_late
from bench.tools import Tool

PROMPT = "Say twenty words."
LAST_OF_20 = b"word20 "
LAST_OF_20000 = b"word20000 "


class Place(NamedTuple):
    """What a row has to work with: the tools by name, a folder for files, and how often to run each command."""

    tools: Mapping[str, Tool]
    folder: Path
    runs: int


class Result(NamedTuple):
    """A measured command: the median of its seconds, and the largest of its peak memories in MiB."""

    row: str
    name: str
    seconds: float
    memory: float | None
    every: tuple[float, ...]


class Promise(NamedTuple):
    """A figure and the limit that it must not pass."""

    row: str
    text: str
    value: float
    limit: float

    @property
    def kept(self) -> bool:
        """Whether the figure is within the limit."""
        return self.value <= self.limit


Finding = Result | Promise
Row = Callable[[Place], Iterator[Finding]]


def measured(row: str, kinds: Mapping[str, Callable[[], Run]], runs: int) -> dict[str, Result]:
    """Run each kind so many times, in turns, and return their results by name."""
    return {
        name: Result(
            row,
            name,
            median(each.seconds for each in found),
            max(each.memory for each in found) / MIB,
            tuple(each.seconds for each in found),
        )
        for name, found in repeat(kinds, runs).items()
    }


def _asked(place: Place, model: str, expect: bytes, *names: str) -> dict[str, Callable[[], Run]]:
    """Return what asks the model by each of the tools that are there: all, if none is named."""
    return {
        name: partial(run, tool.command(model, PROMPT), expect)
        for name, tool in place.tools.items()
        if not names or name in names
    }


def _ratios(row: str, found: Mapping[str, Result], limit: float, *others: str) -> Iterator[Promise]:
    for other in others:
        if other in found:
            value = found["gptpipe"].seconds / found[other].seconds
            yield Promise(row, f"time, that of {other} being 1", value, limit)


def start(place: Place) -> Iterator[Finding]:
    """Help, version and a TAB: what is paid before anything is asked."""
    tool = place.tools["gptpipe"]
    program = tool.version_argv[0]
    ours = {
        "gptpipe -h": Command([program, "-h"], tool.env),
        "gptpipe --version": Command(tool.version_argv, tool.env),
        "gptpipe TAB": Command([program], {**tool.env, "_GPTPIPE_COMPLETE": "models"}),
    }
    theirs = {
        f"{name} --version": Command(other.version_argv, other.env)
        for name, other in place.tools.items()
        if name not in ("gptpipe", "ten lines")
    }
    kinds = {name: partial(run, command, b"") for name, command in {**ours, **theirs}.items()}
    found = measured("start", kinds, place.runs)
    yield from found.values()
    if "llm" in place.tools:
        slowest = max(found[name].seconds for name in ours)
        yield Promise("start", "the slowest, llm --version being 1", slowest / found["llm --version"].seconds, 0.10)


def one_shot(place: Place) -> Iterator[Finding]:
    """A question, 20 chunks from a server without delay."""
    found = measured("one shot", _asked(place, "chunks-20", LAST_OF_20), place.runs)
    yield from found.values()
    yield from _ratios("one shot", found, 0.24, "ten lines", "llm")
    yield Promise("one shot", "memory, MiB", found["gptpipe"].memory or 0, 40)


def slow_input(place: Place) -> Iterator[Finding]:
    """A question that comes after 0.6 s: from the end of the input to the end of the process."""
    kinds = {
        name: partial(run_late, tool.command("chunks-20"), LAST_OF_20, b"hi\n", 0.6)
        for name, tool in place.tools.items()
        if name != "curl"
    }
    found = measured("slow input", kinds, place.runs)
    yield from found.values()
    yield Promise("slow input", "seconds", found["gptpipe"].seconds, 0.12)


def stream(place: Place) -> Iterator[Finding]:
    """An answer of 20,000 chunks, as fast as it is read."""
    found = measured("stream", _asked(place, "chunks-20000", LAST_OF_20000), max(5, place.runs // 3))
    yield from found.values()
    yield from _ratios("stream", found, 0.17, "ten lines")
    yield Promise("stream", "memory, MiB", found["gptpipe"].memory or 0, 40)


def protocols(place: Place) -> Iterator[Finding]:
    """The same answers, of 20 and of 20,000 deltas, by either protocol."""
    tool = place.tools["gptpipe"]
    for count, last in ((20, LAST_OF_20), (20_000, LAST_OF_20000)):
        asked = tool.command(f"chunks-{count}", PROMPT)
        kinds = {
            f"{count} by {api}": partial(run, Command([*asked.argv, "--api", api], asked.env), last)
            for api in ("chat", "responses")
        }
        found = measured("protocols", kinds, place.runs)
        yield from found.values()
        chat, responses = (each.seconds for each in found.values())
        yield Promise("protocols", f"{count} by responses, by chat being 1", responses / chat, 1.1)


def lag(place: Place) -> Iterator[Finding]:
    """From the server's write to the reader's read, chunk by chunk at 200 a second."""
    every: dict[str, list[float]] = {name: [] for name in place.tools}
    for _ in range(max(1, place.runs // 5)):
        for name, tool in place.tools.items():
            every[name].append(run_lag(tool.command("paced-400", PROMPT), 20))
    for name, lags in every.items():
        yield Result("lag", name, median(lags), None, tuple(lags))
    if "curl" in every:
        more = median(every["gptpipe"]) - median(every["curl"])
        yield Promise("lag", "milliseconds more than curl -N", more * 1000, 0.5)


def _write(path: Path, block: bytes, times: int, after: bytes, before: bytes = b"") -> None:
    """Write a block many times, without ever holding it all: the kernel counts our memory as a child's too."""
    with path.open("wb") as file:
        file.write(before)
        for _ in range(times):
            file.write(block)
        file.write(after)
        file.flush()
        os.fsync(file.fileno())  # or the first to append to it would pay for all that we wrote


def _turn(n: int) -> bytes:
    messages = [
        {"role": "user", "content": f"Tell me about {n % 1000}. " + "Please. " * 40},
        {"role": "assistant", "content": f"There is much to say about {n % 1000}. " + "Indeed. " * 60},
    ]
    turn = {"n": n, "at": "2026-01-01T00:00:00.000Z", "profile": None, "model": "chunks-20", "messages": messages}
    counted = {"finish_reason": "stop", "usage": None, "tokens": 220, "total_tokens": n * 220}
    return json.dumps({**turn, **counted}, separators=(",", ":")).encode() + b"\n"


def long_session(place: Place) -> Iterator[Finding]:
    """A question in a session of 1 GB and in one of 1 KB; the same turns are sent."""
    tool = place.tools["gptpipe"]
    sessions = place.folder / "data/gptpipe/sessions"
    sessions.mkdir(parents=True)
    block = b"".join(map(_turn, range(1, 1001)))
    blocks = -(-(10**9) // len(block))
    last = _turn(blocks * 1000 + 1)
    _write(sessions / "1KB.jsonl", b"", 0, last)
    _write(sessions / "1GB.jsonl", block, blocks, last)
    base = tool.command("chunks-20", PROMPT)
    kinds = {
        f"gptpipe -s {size}": partial(
            run,
            Command(
                [*base.argv, "--history", "1", "-s", size],
                {**base.env, "XDG_DATA_HOME": str(place.folder / "data")},
            ),
            LAST_OF_20,
        )
        for size in ("1KB", "1GB")
    }
    found = measured("long session", kinds, place.runs)
    (sessions / "1GB.jsonl").unlink()
    yield from found.values()
    small, large = found.values()
    yield Promise("long session", "time, that of 1 KB being 1", large.seconds / small.seconds, 1.10)
    yield Promise("long session", "memory, that of 1 KB being 1", (large.memory or 0) / (small.memory or 1), 1.10)


def big_input(place: Place) -> Iterator[Finding]:
    """10 MB with non-ASCII characters in them, piped to the endpoint."""
    line = "A plain line, naïve “quotes”, a\ttab, \\ and 日本語 — then some more plain text.\n"
    lines = -(-(10**7) // len(line.encode()))
    plain, body = place.folder / "input.txt", place.folder / "input.json"
    _write(plain, line.encode(), lines, b"")
    around = json.dumps({"model": "chunks-20", "messages": [{"role": "user", "content": "|"}], "stream": True})
    before, after = around.encode().split(b"|")
    _write(body, json.dumps(line, ensure_ascii=False)[1:-1].encode(), lines, after, before)
    kinds = {
        name: partial(run, tool.command("chunks-20"), LAST_OF_20, body if name == "curl" else plain)
        for name, tool in place.tools.items()
        if name in ("gptpipe", "ten lines", "llm", "curl")
    }
    found = measured("big input", kinds, max(5, place.runs // 3))
    yield from found.values()
    limit = 60 + 16 * plain.stat().st_size / MIB
    yield Promise("big input", "memory, MiB", found["gptpipe"].memory or 0, limit)
    if "curl" in found:
        more = found["gptpipe"].seconds - found["curl"].seconds
        yield Promise("big input", "seconds more than curl --data-binary", more, 0.6)


def many(place: Place) -> Iterator[Finding]:
    """200 calls one after another in a shell loop, once."""
    found: dict[str, Result] = {}
    for name in ("gptpipe", "ten lines", "llm", "curl"):
        if name in place.tools:
            command = place.tools[name].command("chunks-20", PROMPT)
            loop = 'for i in {1..200}; do "$@" </dev/null || exit; done; echo done'
            done = run(Command(["bash", "-c", loop, "bash", *command.argv], command.env), b"done")
            found[name] = Result("many", name, done.seconds, done.memory / MIB, (done.seconds,))
    yield from found.values()
    yield from _ratios("many", found, 0.50, "llm")


ROWS: dict[str, Row] = {
    "start": start,
    "one shot": one_shot,
    "slow input": slow_input,
    "stream": stream,
    "protocols": protocols,
    "lag": lag,
    "long session": long_session,
    "big input": big_input,
    "many": many,
}
