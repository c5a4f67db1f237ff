"""``--max-time``: whatever a program waits for, the run ends with 75, and so does everything that it has started."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.leash import Leash
from tests.harness.server import DONE, Server, finish, say

LIMIT = {"GPTPIPE_MAX_TIME": "0.5"}  # seconds; what is waited for would take much longer
LONGER = {"GPTPIPE_MAX_TIME": "3"}  # where something is to come in time
SCHEMA = '{"type": "object"}'


@pytest.fixture
def leash(tmp_path: Path) -> Iterator[Leash]:
    leash = Leash(tmp_path)
    yield leash
    leash.close()


@pytest.fixture
def fifo(tmp_path: Path, home: Path, leash: Leash) -> Path:
    """Make what the cases below wait for: a FIFO that nobody opens at the other end, and a slow key command."""
    os.mkfifo(tmp_path / "p")
    folder = home / ".config/gptpipe"
    (folder / "roles").mkdir(parents=True)
    os.mkfifo(folder / "roles/fifo.md")
    slow = json.dumps(["sh", "-c", f"{leash.hold}; sleep 60 & sleep 60"])
    (folder / "config.toml").write_text(
        f'[profiles.slow]\nbase_url = "https://slow.invalid/v1"\nmodel = "m"\napi_key_command = {slow}\n'
    )
    (tmp_path / "records").write_text("one\n")
    (tmp_path / "schema").write_text(SCHEMA)
    return tmp_path / "p"


FILTER = "gptpipe -n -m echo"
MAP = "gptpipe-map -m echo"
CHAT = "gptpipe-chat -m echo"
SUBMIT = "gptpipe-batch submit -p slow"

FIFOS = [
    f"{FILTER} -S @p hi",
    f"{FILTER} --meta p hi",
    f"{FILTER} --config p hi",
    f"{FILTER} -f p hi",
    f"{FILTER} -o p hi",
    f"{FILTER} --schema p hi",
    f"{FILTER} -r fifo hi",
    f"{CHAT} -S @p",
    f"{CHAT} --config p",
    f"{CHAT} -r fifo",
    f"{MAP} @p",
    f"{MAP} -f p x",
    f"{MAP} -S @p -f records x",
    f"{MAP} --config p -f records x",
    f"{MAP} --schema p -f records x",
    f"{MAP} -r fifo -f records x",
    f"{MAP} --dry-run -f p x",
    f"{SUBMIT} @p -f records",
    f"{SUBMIT} -f p x",
    f"{SUBMIT} --config p -f records x",
    f"{SUBMIT} --schema p -f records x",
    f"{SUBMIT} --requests-only -f p x",
    "gptpipe-batch list --config p",
    "gptpipe-models --config p",
    "gptpipe-config show --config p",
    "gptpipe-config check --config p",
    "gptpipe-usage --config p",
]


def check_late(result: Any) -> None:
    """Check that the deadline has ended the run, and said so."""
    assert "took longer than 0.5 s (--max-time)" in result.err
    assert (result.status, result.out) == (75, b"")


@pytest.mark.parametrize("words", FIFOS)
def test_a_fifo_that_nobody_writes(run: Any, fifo: Path, words: str) -> None:
    assert fifo.exists()
    check_late(run(*words.split(), env=LIMIT))


@pytest.mark.parametrize("words", ["gptpipe -m echo", "gptpipe-map -m echo x", f"{SUBMIT} --requests-only x"])
def test_standard_input_that_does_not_end(spawn: Any, fifo: Path, words: str) -> None:
    assert fifo.exists()
    process = spawn(*words.split(), stdin=b"", env=LIMIT)
    process.read(until=b"--max-time", stream="stderr")
    assert process.wait() == 75


@pytest.mark.parametrize(
    "words",
    [
        "gptpipe -n -p slow hi",
        "gptpipe -n -p slow -s s hi",
        "gptpipe -n -p slow --cache 1d hi",
        "gptpipe-map -p slow -f records x",
        "gptpipe-map -p slow --cache 1d -f records x",
        "gptpipe-models -p slow",
        "gptpipe-config check -p slow",
        f"{SUBMIT} -f records x",
    ],
)
def test_a_key_command_ends_with_the_run(run: Any, fifo: Path, leash: Leash, words: str) -> None:
    assert fifo.exists()
    result = run(*words.split(), env=LIMIT)
    assert (result.status, "--max-time" in result.err) == (75, True)
    leash.check_released()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize(
    "words", ["gptpipe -n -p slow hi", "gptpipe-map -p slow -f records x", "gptpipe-models -p slow"]
)
def test_a_key_command_ends_by_a_signal(
    spawn: Any, fifo: Path, leash: Leash, words: str, number: signal.Signals
) -> None:
    assert fifo.exists()
    process = spawn(*words.split())
    leash.taken()
    process.kill(number)
    assert process.wait() == 128 + number
    leash.check_released()


@pytest.mark.parametrize(
    "words",
    [
        f"{FILTER} -s s hi",
        "gptpipe-sessions rename s u",
        "gptpipe-sessions copy t s --force",
        "gptpipe-sessions remove --yes s",
    ],
)
def test_a_lock_that_another_process_holds(run: Any, home: Path, words: str) -> None:
    for name in "st":
        run(*FILTER.split(), "-s", name, "before")
    with (home / ".local/share/gptpipe/sessions/s.jsonl").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        check_late(run(*words.split(), env=LIMIT))


@pytest.mark.parametrize(
    "words",
    [
        "gptpipe -n -m m hi",
        "gptpipe-models",
        "gptpipe-config check --online -m m",
        "gptpipe-batch submit -m m -f records x",
    ],
)
@pytest.mark.parametrize("sent", [None, b": keep-alive\n\n", say("Hel")], ids=["nothing", "keep-alives", "a part"])
def test_a_server_that_does_not_go_on(run: Any, fifo: Path, server: Server, words: str, sent: bytes | None) -> None:
    assert fifo.exists()
    for _ in range(2):
        server.reply(*([] if sent is None else [sent]), hang=True)
    result = run(*words.split(), "--base-url", server.url, env=LIMIT)
    assert (result.status, "--max-time" in result.err) == (75, True)


def test_a_chat_goes_on_after_an_answer_that_is_late(run: Any, server: Server) -> None:
    server.reply(hang=True)
    server.reply(say("there"), finish(), DONE)
    result = run("gptpipe-chat", "-m", "m", "--base-url", server.url, env=LONGER, stdin=b"one\ntwo\n")
    assert "the answer took longer than 3 s (--max-time)" in result.err
    assert result.text == "there\n"


def test_a_meta_file_that_is_read_late_does_not_hold_the_run(run: Any, fifo: Path, server: Server) -> None:
    server.reply(say("Hel"), hang=True)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    result = run("gptpipe", "-n", "-m", "m", "--base-url", server.url, "--meta", str(fifo), "hi", env=LONGER)
    assert (result.status, result.out) == (75, b"Hel")
    value = json.loads(os.read(reader, 65536))
    assert (value["answer"], value["name"], value["error"]["status"]) == ("Hel", "TEMPFAIL", 75)
    os.close(reader)


@pytest.mark.parametrize("words", [f"{MAP} -f p x", f"{SUBMIT} --requests-only -f p x"])
def test_a_fifo_of_records_is_announced(spawn: Any, fifo: Path, words: str) -> None:
    assert fifo.exists()
    process = spawn(*words.split(), tty="err", env={"GPTPIPE_MAX_TIME": "20"})
    assert b"waiting for p to be written" in process.read(until=b"--max-time bounds it", stream="stderr")
    process.kill(signal.SIGKILL)
