"""The pace of a map against servers that refuse, stumble, go away and come back."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Spawn
from tests.harness.server import Refusal, Request, Server, TokenBucket


def numbers(last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(1, last + 1))


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def quick(*args: str, outage: float = 1.0) -> str:
    """Return the script of a map that gives a dead server up sooner than in 45 seconds."""
    arguments = ", ".join(map(repr, args))
    return (
        f'exec {sys.executable} -c "import sys; from gptpipe.records import pace; pace.OUTAGE = {outage};'
        f'from gptpipe.programs.map import command; sys.argv[1:] = [{arguments}]; command.main()"'
    )


@pytest.mark.parametrize("jobs", [8, 32, 64])
def test_a_limited_server_answers_all_at_its_rate(run: Run, server: Server, jobs: int) -> None:
    bucket = server.rule = TokenBucket(rate=50, burst=100)
    args = ("--base-url", server.url, "-m", "m", "-j", str(jobs), "--text", "{}")
    begun = time.monotonic()
    result = run("gptpipe-map", *args, stdin=numbers(200), timeout=60)
    assert (result.status, result.err) == (0, "")
    assert result.out == numbers(200)
    assert time.monotonic() - begun >= 1.9  # so that the limit was met
    assert bucket.refused <= 2 * jobs + 10  # those that were on their way when it was met


def test_a_wait_that_the_server_asks_for_spends_no_try(run: Run, server: Server) -> None:
    server.json(429, {"error": {"message": "slow"}}, headers={"retry-after-ms": "10"}, times=7)
    args = ("--base-url", server.url, "-m", "m", "-j", "1", "--retry", "0", "--text", "{}")
    assert run("gptpipe-map", *args, stdin=b"a\n") == (0, b"a\n", "")
    assert len(server.requests) == 8


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1.2s"}, 1.2),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "0m1s200ms"}, 1.2),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1.2"}, 1.2),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "9m"}, 0.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "tomorrow"}, 0.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9m", "retry-after": "0"}, 0.0),
    ],
)
def test_without_retry_after_what_is_used_up_says_how_long_all_wait(
    run: Run, server: Server, headers: dict[str, str], least: float
) -> None:
    came: list[float] = []

    def rule(_: Request) -> Refusal | None:
        came.append(time.monotonic())
        return Refusal(429, headers) if len(came) == 1 else None

    server.rule = rule
    args = ("--base-url", server.url, "-m", "m", "-j", "1", "--retry", "0", "--text", "{}")
    assert run("gptpipe-map", *args, stdin=numbers(2)) == (0, numbers(2), "")
    assert len(came) == 3
    assert came[1] - came[0] >= least


def test_a_stray_503_is_the_affair_of_its_record(run: Run, server: Server) -> None:
    """Three of a hundred, and no other record waits for them: each is repeated after half a second."""
    seen: set[str] = set()

    def stray(request: Request) -> Refusal | None:
        question = request.body["messages"][0]["content"]
        if question in ("20", "50", "80") and question not in seen:
            seen.add(question)
            return Refusal(503)
        return None

    server.rule = stray
    args = ("--base-url", server.url, "-m", "m", "-j", "4", "--unordered", "{}")
    result = run("gptpipe-map", *args, stdin=numbers(100))
    order = [json.loads(line)["index"] for line in result.out.splitlines()]
    assert (result.status, len(order), len(server.requests)) == (0, 100, 103)
    assert order.index(20) > 30  # the others went on


def test_a_server_that_goes_and_comes_back_loses_no_record(shell: Run, server: Server, tmp_path: Path) -> None:
    port = server.port
    (tmp_path / "in").write_bytes(numbers(300))
    script = quick("--base-url", server.url, "-m", "m", "-j", "8", "-f", "in", "-o", "out", "{}", outage=20)

    def restart() -> None:
        server.wait_for_requests(50)
        server.close()
        time.sleep(1)
        again.append(Server(port=port))

    again: list[Server] = []
    thread = threading.Thread(target=restart)
    thread.start()
    result = shell(script)
    thread.join()
    again[0].close()
    assert result.status == 0
    assert "trying again for 20 s, then the run ends" in result.err
    assert [row["answer"] for row in rows(tmp_path / "out")] == [str(n) for n in range(1, 301)]


def test_a_server_that_is_gone_ends_the_run_and_the_same_command_goes_on(
    shell: Run, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(numbers(300))
    args = ("-m", "m", "-j", "8", "-f", "in", "-o", "out", "--resume", "{}")
    calls = iter(range(10_000))

    def die(_: Request) -> None:
        if next(calls) == 50:
            server.closing.set()

    server.rule = die
    port = server.port

    def stop() -> None:
        server.closing.wait()
        server.close()

    stopper = threading.Thread(target=stop)
    stopper.start()
    result = shell(quick("--base-url", f"http://127.0.0.1:{port}/v1", *args))
    stopper.join()
    assert result.status == 75
    written = rows(tmp_path / "out")
    failed = [row for row in written if "error" in row]
    assert len(failed) <= 1  # the record that looked whether the server was back
    assert len(written) < 100
    with Server(port=port) as again:
        assert shell(quick("--base-url", again.url, *args)).status == 0
        assert len(again.requests) <= 300 - (len(written) - len(failed))
    assert [row["answer"] for row in rows(tmp_path / "out")] == [str(n) for n in range(1, 301)]


def test_a_wait_beyond_max_time_ends_the_run_at_once(run: Run, server: Server, tmp_path: Path) -> None:
    server.json(429, {"error": {"message": "slow"}}, headers={"retry-after": "3600"}, times=9)
    args = ("--base-url", server.url, "-m", "m", "--max-time", "30", "-o", "out", "{}")
    begun = time.monotonic()
    result = run("gptpipe-map", *args, stdin=numbers(50))
    assert result.status == 75
    assert time.monotonic() - begun < 15
    assert "the next try is due after --max-time" in result.err
    assert rows(tmp_path / "out") == []


def test_a_record_that_breaks_the_connection_fails_alone(shell: Run, server: Server, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"1\nbad\n3\n")

    def poison(request: Request) -> Refusal | None:
        return Refusal(502) if b"bad" in request.content else None

    server.rule = poison
    result = shell(quick("--base-url", server.url, "-m", "m", "-j", "1", "-f", "in", "-o", "out", "{}"))
    found = rows(tmp_path / "out")
    assert result.status == 75
    assert [row.get("answer") for row in found] == ["1", None, "3"]
    assert found[1]["error"]["status"] == 75


def test_the_wait_for_a_server_is_announced(spawn: Spawn) -> None:
    process = spawn("gptpipe-map", "--base-url", "http://127.0.0.1:9/v1", "-m", "m", "{}", stdin=b"")
    process.write(b"1\n")
    assert b"trying again for 45 s, then the run ends" in process.read(until=b"\n", stream="stderr")
