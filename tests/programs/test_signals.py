"""How a run ends when something else wants it to: signals, and a reader that is gone."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.harness.server import DONE, Server, finish, say
from tests.harness.tools import needs

CAUGHT = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def lines(home: Path) -> list[Any]:
    return [json.loads(line) for path in home.rglob("sessions/*.jsonl") for line in path.read_text().splitlines()]


@pytest.mark.parametrize("number", CAUGHT, ids=lambda number: number.name)
def test_in_mid_answer_the_turn_is_settled_and_the_signal_ends_it(
    spawn: Any, home: Path, server: Server, tmp_path: Path, number: signal.Signals
) -> None:
    server.reply(say("Hel"), hang=True)
    meta = tmp_path / "meta"
    process = spawn("gptpipe", "--base-url", server.url, "-m", "m", "-s", "s", "--meta", str(meta), "hi")
    process.read(until=b"Hel")
    process.kill(number)
    assert process.wait() == 128 + number
    (line,) = lines(home)
    assert (line["finish_reason"], line["messages"][-1]["content"]) == (None, "Hel")
    assert json.loads(meta.read_text())["name"] == number.name


BEGUN = "until [ -s out ]; do sleep 0.02; done"  # the answer has begun


@pytest.mark.parametrize("number", CAUGHT, ids=lambda number: number.name)
def test_before_the_first_byte_the_signal_ends_it_and_nothing_is_left(
    spawn: Any, home: Path, server: Server, number: signal.Signals
) -> None:
    server.reply(hang=True)
    process = spawn("gptpipe", "--base-url", server.url, "-m", "m", "-s", "s", "hi")
    server.wait_for_requests(1)
    process.kill(number)
    assert process.wait() == 128 + number
    assert lines(home) == []


def test_an_ignored_signal_stays_ignored(shell: Any, server: Server) -> None:
    server.reply(say("Hel"), 0.5, say("lo"), finish(), DONE)
    call = f"trap '' INT; gptpipe -n --base-url {server.url} -m m hi >out & "
    assert shell(f"{call} {BEGUN}; kill -INT $!; wait $!; echo $?; cat out").out == b"0\nHello\n"


def test_a_loop_stops(shell: Any) -> None:
    call = "set -m; for i in 1 2 3; do gptpipe -m echo:stall=1 $i; done >out & "
    assert shell(f"{call} {BEGUN}; kill -INT -$!; wait $!; echo $?; cat out").out == b"130\n1"


@pytest.mark.parametrize("parent", ["", "strace -qq -e trace=none -o /dev/null "])
def test_a_reader_that_is_gone_is_sigpipe_and_silent(parent: str, shell: Any, home: Path) -> None:
    needs(*parent.split()[:1])
    script = f"yes | head -c 3000000 | {parent}gptpipe -m echo -s s | head -n 1; echo ${{PIPESTATUS[@]: -2}}"
    assert shell(script) == (0, b"y\n141 0\n", "")
    (line,) = lines(home)
    assert line["finish_reason"] is None


def test_the_unfinished_turn_is_not_sent_again(run: Any, spawn: Any, server: Server) -> None:
    server.reply(say("Hel"), hang=True)
    process = spawn("gptpipe", "--base-url", server.url, "-m", "m", "-s", "s", "one")
    process.read(until=b"Hel")
    process.kill(signal.SIGTERM)
    process.wait()
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "-s", "s", "--json", "two").json()
    assert (result["turns_sent"], result["turns_dropped"]) == (0, 1)
    assert [message["content"] for message in server.requests[-1].body["messages"]] == ["two"]


def test_a_reader_that_is_gone_is_in_the_metadata(shell: Any, tmp_path: Path) -> None:
    result = shell("yes | head -c 3000000 | gptpipe -m echo --meta meta | head -1; echo ${PIPESTATUS[2]}")
    assert (result.text, result.err) == ("y\n141\n", "")
    meta = json.loads((tmp_path / "meta").read_text())
    assert (meta["status"], meta["name"], meta["error"]["name"]) == (141, "SIGPIPE", "SIGPIPE")


def test_where_sigpipe_is_ignored_a_reader_that_is_gone_is_a_failed_write(shell: Any, tmp_path: Path) -> None:
    call = "yes | head -c 3000000 | (trap '' PIPE; gptpipe -m echo --meta meta; echo $? >&2) | head -n 1"
    result = shell(call)
    assert result.text == "y\n"
    assert result.err == "gptpipe: cannot write standard output: Broken pipe\n74\n"
    assert json.loads((tmp_path / "meta").read_text())["name"] == "IOERR"


def test_the_names_for_a_completion_that_nobody_reads(shell: Any) -> None:
    script = "(sleep 0.2; _GPTPIPE_COMPLETE=profiles gptpipe; echo $? >&2) | true"
    assert shell(script) == (0, b"", "141\n")
