"""What each engine is asked, and what must come back."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from engines.server import Engine, Running
from gptpipe.errors import Status
from tests.harness.processes import Result, read_some
from tests.harness.toolbox import write_tool
from torture.frame import Rig, execute, manners, session

LIMIT = 1200  # seconds until a call counts as one that hangs: transformers answers 300 records one after another
RECORDS, JOBS = 300, 32
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


class Cell(NamedTuple):
    """What came back: the status, None where there was nothing to ask; a remark; what is wrong with it, if anything."""

    status: int | None
    remark: str
    wrong: str = ""


class Place(NamedTuple):
    """Where a question is asked: a server of an engine, one of its protocols, an empty home."""

    rig: Rig
    home: Path
    engine: Engine
    server: Running
    api: str

    def argv(self, program: str, *argv: str, model: str = "") -> list[str]:
        """Return the command line of a program that asks this engine."""
        if program == "gptpipe-models":
            return [program, *argv, "--base-url", self.server.url]
        return [program, *argv, "--base-url", self.server.url, "--api", self.api, "-m", model or self.engine.model]

    def env(self, key: str = "") -> dict[str, str]:
        """Return the variables that it needs."""
        return {"OPENAI_API_KEY": key or self.engine.key or "none"}

    def run(self, program: str, *argv: str, stdin: bytes | None = None, model: str = "", key: str = "") -> Result:
        """Run a program to its end."""
        command = self.argv(program, *argv, model=model)
        return self.rig.run(self.home, *command, stdin=stdin, env=self.env(key), timeout=LIMIT)


def cell(result: Result, remark: str, wrong: str = "") -> Cell:
    """Return the cell of a program that ended: with what it said, or with its own remark if that is an answer."""
    said = result.err.strip().partition("\n")[0].partition(": ")[2]
    return Cell(result.status, said or remark, manners(result) or wrong)


def shown(result: Result) -> str:
    return repr(result.out.decode(errors="replace").strip()[:30])


def one_shot(place: Place) -> Cell:
    result = place.run("gptpipe", "hi")
    return cell(result, shown(result), "" if result.out.strip() or result.status else "no answer, but status 0")


def stream(place: Place) -> Cell:
    """Ask for an answer that --max-tokens cuts, and count the pieces that standard output gets."""
    argv = place.argv("gptpipe", "--max-tokens", "48", "~", model=place.engine.long_model)
    with place.rig.spawn(place.home, *argv, env=place.env()) as process:
        pieces = list(iter(lambda: read_some(process.stdout), b""))
        err = process.read(stream="stderr").decode()
        result = Result(process.wait(LIMIT), b"".join(pieces), err)
    found = cell(result, "")
    return found._replace(remark=f"{len(pieces)} pieces; {found.remark}".removesuffix("; "))


def usage(place: Place) -> Cell:
    result = place.run("gptpipe", "--json", "hi")
    if result.status:
        return cell(result, "")
    found = result.json()
    used = found["usage"] or {}
    numbers = [used.get(f"{name}_tokens") for name in ("prompt", "completion", "total")]
    remark = "{} + {} = {} tokens".format(*numbers) if used else "no usage"
    return cell(result, remark, "" if found["answer"] else "no answer in the object")


def turns(place: Place) -> Cell:
    for prompt in ("one", "two"):
        result = place.run("gptpipe", "-s", "s", prompt)
        if result.status:
            return cell(result, "")
    result = place.run("gptpipe", "-s", "s", "--json", "three")
    if result.status:
        return cell(result, "")
    sent, kept = result.json()["turns_sent"], len(session(place.home))
    return cell(
        result, f"{sent} turns sent, {kept} kept", "" if (sent, kept) == (2, 3) else f"{sent} sent, {kept} kept"
    )


def schema(place: Place) -> Cell:
    (place.home / "schema.json").write_text(json.dumps(SCHEMA))
    result = place.run("gptpipe", "--schema", "schema.json", "--repair", "0", "Which colour?")
    return cell(result, result.text.strip()[:40])


def image(place: Place) -> Cell:
    (place.home / "dot.png").write_bytes(png())
    result = place.run("gptpipe", "-f", "dot.png", "look")
    return cell(result, f"takes it: {shown(result)}")


def png() -> bytes:
    """Return a picture of 8 × 8 grey points."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0\x80\x80\x80\x80\x80\x80\x80\x80" * 8)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def wrong_key(place: Place) -> Cell:
    if not place.engine.key:
        return Cell(None, "has no keys")
    result = place.run("gptpipe", "hi", key="sk-wrong-0123456789")
    return cell(result, shown(result), "the key is shown" if "sk-wrong-0123456789" in result.err else "")


def unknown_model(place: Place) -> Cell:
    result = place.run("gptpipe", "hi", model="no-such-model")
    return cell(result, f"takes it: {shown(result)}")


def models(place: Place) -> Cell:
    result = place.run("gptpipe-models")
    names = result.text.split()
    missing = not result.status and not any(name.endswith(place.engine.model) for name in names)  # MLX names a path
    return cell(result, f"{len(names)} named", "its model is not among them" if missing else "")


def tool(place: Place) -> Cell:
    path = write_tool(place.home, "echo found")
    result = place.run("gptpipe", "--tool", str(path), "Find order 7")
    return cell(result, shown(result))


def forced_call(place: Place) -> Cell:
    path = write_tool(place.home, "echo found")
    argv = ["--tool", str(path), "--tool-calls", "--max-tokens", "400", "-O", "tool_choice=required", "Find order 7"]
    result = place.run("gptpipe", *argv)
    return cell(result, result.text.strip()[:60])


def many(place: Place) -> Cell:
    records = "".join(f"{number}\n" for number in range(RECORDS)).encode()
    result = place.run("gptpipe-map", "-j", str(JOBS), "Say {}.", stdin=records)
    lines = [json.loads(line) for line in result.out.splitlines()]
    answers = sum(bool(line.get("answer")) for line in lines)
    wrong = "" if result.status or answers == len(lines) == RECORDS else f"{answers} of {len(lines)} lines are answers"
    return cell(result, f"{answers} answers", wrong)


def batch(place: Place) -> Cell:
    result = place.run("gptpipe-batch", "submit", "Say {}.", stdin=b"1\n2\n3\n")
    if result.status:
        return cell(result, "")
    where = ["--base-url", place.server.url, result.text.strip()]
    fetched = ["gptpipe-batch", "fetch", "--wait", "--max-time", "100", *where]
    result = place.rig.run(place.home, *fetched, env=place.env(), timeout=LIMIT)
    return cell(
        result, f"{_answered(result)} of 3 answers", "" if result.status or _answered(result) == 3 else result.text
    )


def _answered(result: Result) -> int:
    return sum("error" not in json.loads(line) for line in result.out.splitlines())


def run_batch(place: Place) -> Cell:
    """Take the requests, as a file, through the engine's own program for batches."""
    if not place.engine.batch:
        return Cell(None, "has none")
    if place.api != place.engine.apis[0]:
        return Cell(None, "as the other")  # it starts the engine again, which takes minutes
    made = place.run("gptpipe-batch", "submit", "--requests-only", "Say {}.", stdin=b"1\n2\n3\n")
    (place.home / "in.jsonl").write_bytes(made.out)
    command = map(str, place.engine.batch(place.server.programs))
    ran = execute(place.home, *command, env=place.engine.env, timeout=LIMIT)
    if ran.status:
        return Cell(ran.status, "", f"the engine's program ended with {ran.status}: {ran.err.strip()[-300:]}")
    argv = ["gptpipe-batch", "fetch", "--results", "out.jsonl", "--base-url", place.server.url]
    result = place.rig.run(place.home, *argv, env=place.env(), timeout=LIMIT)
    return cell(result, f"{_answered(result)} of 3 answers", "" if _answered(result) == 3 else str(result))


def killed(place: Place) -> Cell:
    """Kill the server in mid-answer: the last that it is asked."""
    argv = place.argv("gptpipe", "--retry", "0", "-s", "s", "~", model=place.engine.long_model)
    with place.rig.spawn(place.home, *argv, env=place.env()) as process:
        first = read_some(process.stdout)
        place.server.kill()
        result = process.communicate(timeout=LIMIT)
    found: list[Any] = session(place.home)
    if not first or result.status == Status.OK:  # nothing was begun, or it was over already: where that is known
        return cell(result, "was over before")
    kept = len(found) == 1 and found[0]["finish_reason"] is None and found[0]["messages"][-1]["content"]
    return cell(result, "", "" if kept else f"the session has {found}"[:300])


class Ask(NamedTuple):
    """A row of the table: what is asked, and the statuses that are usual."""

    title: str
    ask: Callable[[Place], Cell]
    usual: set[Status]


ASKS = {
    "one shot": Ask("`gptpipe hi`", one_shot, {Status.OK}),
    "stream": Ask("a stream, cut by `--max-tokens`", stream, {Status.TRUNCATED}),
    "usage": Ask("`--json`, with usage", usage, {Status.OK}),
    "turns": Ask("three turns of a session", turns, {Status.OK}),
    "schema": Ask("`--schema`", schema, {Status.OK}),
    "image": Ask("an image", image, {Status.UNAVAILABLE, Status.DATAERR}),
    "wrong key": Ask("a wrong key", wrong_key, {Status.NOPERM}),
    "unknown model": Ask("an unknown model", unknown_model, {Status.UNAVAILABLE}),
    "models": Ask("`gptpipe-models`", models, {Status.OK}),
    "tool": Ask("`--tool`", tool, {Status.OK}),
    "forced call": Ask("`--tool-calls`, a call forced", forced_call, {Status.OK}),
    "many": Ask(f"`gptpipe-map`, {RECORDS} records, {JOBS} jobs", many, {Status.OK}),
    "batch": Ask("`gptpipe-batch submit`, `fetch`", batch, {Status.UNAVAILABLE}),
    "run-batch": Ask("the engine's own batches", run_batch, {Status.OK}),
    "killed": Ask("the server killed in mid-answer", killed, {Status.TEMPFAIL}),
}
