"""Every wait has a limit or is announced: each limit says which it was, and ``--max-time`` bounds all of them."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.server import DONE, Packet, Server, chunk, finish, say


@pytest.fixture
def silent() -> Iterator[str]:
    """Give the URL of a port that listens, takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def locked(home: Path) -> Any:
    path = home / ".local/share/gptpipe/sessions/s.jsonl"
    path.parent.mkdir(parents=True)
    file = path.open("wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return what the call returns; its promise is a time, so here a clock is right."""
    started = time.monotonic()
    result = call()
    assert time.monotonic() - started < seconds
    return result


PINGS: list[Packet] = [b": ping\n\n", 0.1] * 50
MAX = ("--max-time", "1", "-v")


def test_max_time_against_a_silent_stdin(spawn: Any) -> None:
    process = spawn("gptpipe", "-m", "echo", *MAX, stdin=b"")
    assert within(1.3, lambda: process.wait()) == 75
    assert "--max-time" in process.read(stream="stderr").decode()


def test_max_time_against_a_held_lock(run: Any, home: Path) -> None:
    with locked(home):
        result = within(1.3, lambda: run("gptpipe", "-m", "echo", "-s", "s", *MAX, "hi"))
    assert result.status == 75
    assert "--max-time" in result.err


def test_max_time_against_a_port_that_says_nothing(run: Any, silent: str, tmp_path: Path) -> None:
    meta = tmp_path / "meta"
    call = ("gptpipe", "--base-url", silent, "-m", "m", "--meta", str(meta), *MAX, "hi")
    assert within(1.3, lambda: run(*call)).status == 75
    assert '"name":"TEMPFAIL"' in meta.read_text()


def test_max_time_against_keep_alives(run: Any, server: Server) -> None:
    server.reply(*PINGS)
    call = ("gptpipe", "--base-url", server.url, "-m", "m", *MAX, "hi")
    assert within(1.3, lambda: run(*call)).status == 75


def test_max_time_against_retry_after(run: Any, server: Server) -> None:
    server.json(429, {"error": {"message": "slow"}}, headers={"retry-after": "300"})
    call = ("gptpipe", "--base-url", server.url, "-m", "m", *MAX, "hi")
    result = within(1.3, lambda: run(*call))
    assert result.status == 75
    assert "300 s" in result.err


def test_max_time_against_a_reader_that_does_not_read(spawn: Any) -> None:
    process = spawn("gptpipe", *MAX, "-m", "echo", stdin=b"")
    process.write(b"word " * 30_000)
    process.close_stdin()
    assert within(1.6, lambda: process.wait()) == 75


def test_max_time_settles_the_turn(run: Any, home: Path) -> None:
    result = run("gptpipe", "-m", "echo:stall=3", "-s", "s", *MAX, "hello")
    assert (result.status, result.out[:3]) == (75, b"hel")
    line = (home / ".local/share/gptpipe/sessions/s.jsonl").read_text()
    assert '"finish_reason":null' in line
    assert '"content":"hel"' in line


def test_the_lock_timeout(run: Any, home: Path) -> None:
    with locked(home):
        for seconds in ("0", "0.2"):
            result = run("gptpipe", "-m", "echo", "-s", "s", "--lock-timeout", seconds, "hi")
            assert result.status == 75
            assert "session s" in result.err
            assert "--lock-timeout" in result.err


def test_the_idle_timeout_says_so_and_is_not_tried_again(run: Any, server: Server) -> None:
    server.reply(hang=True)
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "--idle-timeout", "0.3", "hi")
    assert result.status == 75
    assert "--idle-timeout" in result.err
    assert len(server.requests) == 1


def test_the_idle_timeout_counts_keep_alives(run: Any, server: Server) -> None:
    server.reply(*PINGS[:20], say("hi"), finish(), DONE)
    assert run("gptpipe", "--base-url", server.url, "-m", "m", "--idle-timeout", "0.7", "hi").status == 0


def test_echo_honours_the_idle_timeout(run: Any) -> None:
    result = run("gptpipe", "-m", "echo:stall=3", "--idle-timeout", "0.2", "hello")
    assert (result.status, result.out) == (75, b"hel\n")
    assert "--idle-timeout" in result.err


def test_the_connect_timeout(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = []
        for _ in range(8):  # until the backlog is full and a connection attempt is left unanswered
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        url = f"http://127.0.0.1:{address[1]}/v1"
        result = run("gptpipe", "--base-url", url, "-m", "m", "--connect-timeout", "0.3", "--retry", "0", "hi")
        for filler in fillers:
            filler.close()
    assert result.status == 75
    assert "--connect-timeout" in result.err


def test_the_tls_handshake_is_under_the_connect_timeout(run: Any, silent: str) -> None:
    url = silent.replace("http:", "https:")
    env = {"OPENAI_API_KEY": "k"}
    result = run("gptpipe", "--base-url", url, "-m", "m", "--connect-timeout", "0.3", "--retry", "0", "hi", env=env)
    assert result.status == 75
    assert "--connect-timeout" in result.err


@pytest.mark.parametrize("option", ["--max-time", "--connect-timeout", "--idle-timeout", "--lock-timeout"])
@pytest.mark.parametrize("value", ["-1", "nan", "inf", "x", "1e10"])
def test_bad_times(run: Any, option: str, value: str) -> None:
    result = run("gptpipe", "-m", "echo", option, value, "hi")
    assert result.status == 2
    assert option in result.err


def test_zero_is_no_limit(run: Any) -> None:
    zero = ("--max-time", "0", "--connect-timeout", "0", "--idle-timeout", "0")
    assert run("gptpipe", "-m", "echo", *zero, "hi").out == b"hi\n"


def test_a_wait_is_announced_on_a_terminal(spawn: Any, home: Path, server: Server) -> None:
    with locked(home):
        lock = spawn("gptpipe", "-m", "echo", "-s", "s", "hi", tty="err")
        stdin = spawn("gptpipe", "-m", "echo", stdin=b"", tty="err")
        server.reply(*PINGS)
        pings = spawn("gptpipe", "--base-url", server.url, "-m", "m", "hi", tty="err")
        assert b"--lock-timeout" in lock.read(until=b"\n", stream="stderr")
        assert b"standard input" in stdin.read(until=b"\n", stream="stderr")
        assert b"keep-alives" in pings.read(until=b"\n", stream="stderr")


ENDLESS = {
    "a line": (200, [b"data: "], b"a" * (1 << 20), 76),
    "an event": (200, [], b"data: aaaa\n" * 90_000, 76),
    "a reply in one piece": (200, [b'{"a":"'], b"a" * (1 << 20), 76),
    "a refusal": (401, [], b"a" * (1 << 20), 77),
}


@pytest.mark.parametrize(("status", "head", "more", "ends"), ENDLESS.values(), ids=ENDLESS)
def test_what_a_server_sends_without_end_is_not_kept(
    run: Any, server: Server, status: int, head: list[Packet], more: bytes, ends: int
) -> None:
    server.reply(*head, *[more] * 80, status=status, hang=True)
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "--retry", "0", "hi")
    assert result.status == ends
    assert len(result.err) < 1000


def test_a_server_that_never_stops_after_the_answer(run: Any, server: Server) -> None:
    server.reply(say("hi"), finish(), *[b": ping\n\n" * 5000, b""] * 20_000, hang=True)
    result = within(10, lambda: run("gptpipe", "--base-url", server.url, "-m", "m", "hi"))
    assert (result.status, result.text) == (0, "hi\n")


@pytest.mark.parametrize("said", [b"\n", chunk({})], ids=["blank lines", "empty deltas"])
def test_a_server_that_says_nothing_in_other_ways_is_announced(spawn: Any, server: Server, said: bytes) -> None:
    packets: list[Packet] = [said, 0.1]
    server.reply(*packets * 100)
    process = spawn("gptpipe", "--base-url", server.url, "-m", "m", "hi", tty="err")
    assert b"keep-alives" in process.read(until=b"\n", stream="stderr")


def test_a_pause_beyond_what_a_thread_can_sleep(run: Any, server: Server) -> None:
    server.json(429, {"error": {"message": "slow"}}, headers={"retry-after": "99999999999"})
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "--max-time", "5", "hi")
    assert result.status == 75
    assert "1000000000 s" in result.err


@pytest.mark.parametrize("option", ["-o", "--meta", "-f", "-S@", "--schema", "--config"])
def test_a_fifo_that_nobody_opens_is_announced(spawn: Any, tmp_path: Path, option: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    argument = [f"{option}fifo"] if option == "-S@" else [option, "fifo"]
    process = spawn("gptpipe", "-m", "echo", *argument, "hi", tty="err")
    assert b"fifo" in process.read(until=b"\n", stream="stderr")


def test_max_time_against_a_fifo_that_nobody_reads(run: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert within(1.3, lambda: run("gptpipe", "-m", "echo", *MAX, "-o", "fifo", "hi")).status == 75


def test_the_wait_for_what_is_typed_is_announced_once(spawn: Any) -> None:
    process = spawn("gptpipe", "-m", "echo", tty=True)
    assert b"^D ends it" in process.read(until=b"\n", stream="stderr")
    time.sleep(2.5)  # that nothing comes can only be waited for
    process.write(b"hello\n\x04")
    assert process.wait() == 0
    assert b"waiting" not in process.read(stream="stderr")


def test_max_time_ends_the_key_command_with_its_children(run: Any, home: Path, tmp_path: Path) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    command = f"sleep 77 & echo $! >{tmp_path}/pid; wait"
    (home / ".config/gptpipe/config.toml").write_text(
        f"[profiles.openai]\napi_key_command = ['sh', '-c', '{command}']\n"
    )
    assert within(1.3, lambda: run("gptpipe", *MAX, "hi")).status == 75
    child = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"
