"""The comparison of the README, measured: ``python -m bench.fairness`` prints its table.

One server on loopback (that of the tests) answers every tool as the row says. A cell is the exit status of the tool;
in the last row it is how many of six turns, asked at the same moment, the next request of that conversation holds. A
tool that cannot be had is left out.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import tools
from bench.tools import MODELS, Tool
from tests.harness.server import DONE, Refusal, Server, chunk, finish, say

NAMES = ("llm", "sgpt", "aichat", "mods", "gptpipe")
SECONDS = 120
TURNS = 6
# What makes each tool go on with one conversation.
TALK: dict[str, Sequence[str]] = {
    "gptpipe": ["-s", "talk"],
    "llm": ["-c"],
    "sgpt": ["--chat", "talk"],
    "aichat": ["-s", "talk"],
    "mods": ["--continue", "talk"],
}

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"


def broken(server: Server) -> None:
    server.reply(say("Half an "), broken=True)


def unframed(server: Server) -> None:
    server.reply(HEAD + b"\r\n", say("Half an "), raw=True)


def unfinished(server: Server) -> None:
    server.reply(say("Half an "))


def ends_with(reason: str) -> Callable[[Server], None]:
    return lambda server: server.reply(say("Half an "), finish(reason), DONE)


def empty(server: Server) -> None:
    server.reply(chunk({"role": "assistant", "content": ""}), finish(), DONE)


def refuses(status: int) -> Callable[[Server], None]:
    def prepare(server: Server) -> None:
        server.rule = lambda _: Refusal(status)

    return prepare


CASES: dict[str, Callable[[Server], None]] = {
    "breaks the chunked body off in mid-answer": broken,
    "closes a body without length in mid-answer": unframed,
    "ends the body without a finish reason": unfinished,
    "stops at the length limit (`length`)": ends_with("length"),
    "stops for its content filter (`content_filter`)": ends_with("content_filter"),
    "gives up (`abort`)": ends_with("abort"),
    "answers nothing": empty,
    "refuses the key (401)": refuses(401),
    "limits the rate (429)": refuses(429),
}


def start(tool: Tool, prompt: str, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    argv = [*tool.ask(MODELS[0], None), *options, prompt]
    null = subprocess.DEVNULL
    return subprocess.Popen(argv, env=tool.env, stdin=null, stdout=null, stderr=null)


def end(call: subprocess.Popen[bytes]) -> str:
    """Return the exit status of a call; one that does not end in time is killed."""
    try:
        return str(call.wait(SECONDS))
    except subprocess.TimeoutExpired:
        call.kill()
        call.wait()
        return "hangs"


def status(tool: Tool, server: Server, prepare: Callable[[Server], None]) -> str:
    """Return the exit status of a call that meets a case."""
    before = len(server.requests)
    prepare(server)
    code = end(start(tool, "hello"))
    server.rule = lambda _: None
    if len(server.requests) == before:
        raise SystemExit(f"{tool.name} did not ask: it is not set up")
    return code


def kept(tool: Tool, server: Server) -> str:
    """Ask once, then several times at once in the same conversation, then once more; count what the last call sends."""
    talk = TALK[tool.name]
    # llm goes on with the latest conversation, so the first call must begin one.
    end(start(tool, "begin", [] if tool.name == "llm" else talk))
    calls = [start(tool, f"turn {number} of them", talk) for number in range(TURNS)]
    for call in calls:
        end(call)
    end(start(tool, "end", talk))
    sent = str(server.requests[-1].body["messages"])
    return f"{sum(f'turn {number} of them' in sent for number in range(TURNS))} of {TURNS}"


def measure(found: Sequence[Tool], server: Server) -> dict[str, list[str]]:
    """Return the cells of each row."""
    rows = {case: [status(tool, server, prepare) for tool in found] for case, prepare in CASES.items()}
    return rows | {f"answers {TURNS} calls at once in one conversation": [kept(tool, server) for tool in found]}


def main() -> None:
    """Install the tools, measure, print the table."""
    parser = argparse.ArgumentParser(prog="bench.fairness", description="The comparison of the README, measured.")
    parser.add_argument("--without", action="append", default=[], choices=NAMES, help="leave a tool out")
    without = [*parser.parse_args().without, "ten lines", "curl"]
    with tempfile.TemporaryDirectory() as home, Server() as server:
        ready = tools.install(Path(home), server.url, without)
        found = [ready[name] for name in NAMES if name in ready]
        rows = measure(found, server)
    print(*(f"{tool.name}: {tool.version}" for tool in found), sep="\n")
    print(f"\n| the server | {' | '.join(f'`{tool.name}`' for tool in found)} |\n|---|{'---|' * len(found)}")
    for case, cells in rows.items():
        print(f"| {case} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
