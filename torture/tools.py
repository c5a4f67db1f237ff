"""Tools: runs that are killed at every step of a round, and after it, by both protocols."""

from __future__ import annotations

import itertools
import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gptpipe.wire.echo import Knobs
from tests.harness.leash import Leash
from tests.harness.processes import Process, Result
from tests.harness.server import Server
from tests.harness.toolbox import DESCRIPTION, write_tool
from torture.frame import Case, Rig, manners, parallel, session

TITLE = "Tools under kills"

APIS = ("chat", "responses")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STEPS = ("describe", "first request", "call", "second request")
RANDOM = 240  # runs that are killed at any moment
LATEST = 0.9  # seconds until then
AT_ONCE = 4
SECONDS = 0.4  # that a tool takes where it is killed

QUESTION = '{"order":4711}'
ANSWER = f"in Ulm: {QUESTION}"
_ROLES = ["user", "assistant", "tool", "assistant"]


class Trial(NamedTuple):
    """A run that calls a tool, and when it is killed: at a step, or after so many seconds."""

    api: str
    number: signal.Signals
    step: str | float

    def __str__(self) -> str:
        return f"{self.api}, {self.number.name}, {self.step}"


def _tool(home: Path, leash: Leash, step: str | float) -> Path:
    """Write a tool that takes hold of the leash in each call, or when it describes itself."""
    slow = f"{leash.hold}; sleep {SECONDS if step in ('describe', 'call') else 0.05}"
    said = json.dumps({"name": "lookup", **DESCRIPTION})
    describe = f"{slow if step == 'describe' else ':'}\ncat <<'END'\n{said}\nEND"
    execute = f"{':' if step == 'describe' else slow}\nprintf 'in Ulm: '; cat"
    return write_tool(home, execute, describe)


def _until(step: str | float, process: Process, server: Server, leash: Leash) -> None:
    """Wait until the run is at the step."""
    match step:
        case "describe" | "call":
            leash.taken()
        case "first request":
            server.wait_for_requests(1)
        case "second request":
            server.wait_for_requests(2)
        case _:
            process.wait_for(float(step))


def killed(rig: Rig, trial: Trial) -> Case:
    """Kill a run; its tool ends too, its session is whole, and the next run goes on with it."""
    with rig.home() as home, Server(Knobs(call="lookup", delay=0.02)) as server:
        leash = Leash(home)
        path = _tool(home, leash, trial.step)
        call = [
            "gptpipe",
            "-n",
            "--base-url",
            server.url,
            "-m",
            "m",
            "--api",
            trial.api,
            "-s",
            "s",
            "--tool",
            str(path),
        ]
        try:
            with rig.spawn(home, *call, QUESTION) as process:
                _until(trial.step, process, server, leash)
                process.kill(trial.number)
                result = process.communicate()
            wrong = _wrong(trial, result, home) or _left(trial, leash)
        finally:
            leash.close()
        write_tool(home, "printf 'in Ulm: '; cat")
        after = rig.run(home, *call, QUESTION)
        checked = rig.run(home, "gptpipe-sessions", "check", "s")
        if (after, checked.status) != (Result(0, f"{ANSWER}\n".encode(), ""), 0):
            wrong = wrong or f"then {after}, {checked}"
        wrong = wrong or _disorder(server.requests[-1].body)
    return Case(str(trial), not wrong, f"{wrong}; {result}")


def _wrong(trial: Trial, result: Result, home: Path) -> str:
    """Return how the end of the run and its session do not agree."""
    if result.status not in (0, 128 + trial.number):
        return f"status {result.status}"
    if (trial.step in STEPS) and not result.status:
        return "it was not killed"
    turns = session(home)
    roles = [[message["role"] for message in turn["messages"]] for turn in turns]
    if result.status == 0 and (roles != [_ROLES] or turns[0]["finish_reason"] is None):
        return f"a finished turn is {turns}"
    if result.status and any(turn["finish_reason"] is not None for turn in turns) and roles != [_ROLES]:
        return f"an unfinished turn is {turns}"
    return manners(result)


def _left(trial: Trial, leash: Leash) -> str:
    """Return whether a tool is still there. After SIGKILL nobody ends it, but it ends by itself and is not held up."""
    if trial.step not in ("describe", "call"):
        return ""
    started = time.monotonic()
    leash.check_released(SECONDS * 10)
    soon = time.monotonic() - started < SECONDS / 2
    return "" if trial.number == signal.SIGKILL or soon else "the tool outlived its run"


def _disorder(body: dict[str, Any]) -> str:
    """Return the calls of a request that have no result, or results without a call."""
    items = body.get("input", [])
    called = [item["call_id"] for item in items if item.get("type") == "function_call"]
    said = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
    for message in body.get("messages", []):
        called += [call["id"] for call in message.get("tool_calls") or ()]
        said += [message["tool_call_id"]] if message["role"] == "tool" else []
    return "" if called == said and called else f"calls {called}, results {said}"


def _trials() -> Iterator[Trial]:
    yield from itertools.starmap(Trial, itertools.product(APIS, SIGNALS, STEPS))
    dice = random.Random(20261125)
    for number in range(RANDOM):
        yield Trial(APIS[number % 2], dice.choice(SIGNALS), round(dice.uniform(0, LATEST), 3))


def cases(rig: Rig) -> Iterator[Case]:
    """Kill at each step, and at any moment."""
    yield from parallel(lambda trial: killed(rig, trial), _trials(), AT_ONCE)
