"""One call computes nothing twice: how often the settings are made and the budgets are read on the way of a prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Spawn
from tests.harness.server import DONE, Server, finish, say
from tests.wire.test_early import until

# Counts the calls of each function of gptpipe, and prints them when the process ends.
COUNTING = """
import json, os, sys
from collections import Counter
calls, leave = Counter(), os._exit
def count(frame, event, _):
    if event == "call":
        calls[frame.f_code.co_filename.rpartition("/gptpipe/")[2] + ":" + frame.f_code.co_name] += 1
def report(status):
    sys.setprofile(None)
    os.write(2, json.dumps(calls).encode())
    leave(status)
os._exit = report
sys.argv = ["gptpipe", "-n", "-m", "m", *sys.argv[1:]]
sys.setprofile(count)
from gptpipe.programs.start import filter
filter()
"""


@pytest.mark.parametrize(
    ("options", "resolved"),
    [
        pytest.param((), 1, id="no session"),
        pytest.param(("-s", "new"), 1, id="a new session"),
        pytest.param(("-s", "s"), 2, id="a session"),
        pytest.param(("-s", "s", "--cache", "1d"), 2, id="a session and the cache"),
        pytest.param(("-s", "s", "--no-save"), 2, id="a session that is read"),
    ],
)
def test_settings_and_budgets_are_made_once_more_if_a_session_has_a_say(
    run: Any, shell: Any, server: Server, home: Path, options: tuple[str, ...], resolved: int
) -> None:
    settings = home / ".config/gptpipe/config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("[budget]\nday_tokens = 1000\n")
    for _ in range(2):
        server.reply(say("hello"), finish(), DONE)
    run("gptpipe", "-n", "-m", "m", "--base-url", server.url, "-s", "s", "before")
    result = shell(f"python -c '{COUNTING}' --base-url {server.url} {' '.join(options)} hi")
    assert (result.status, result.text) == (0, "hello\n")
    calls = json.loads(result.err)
    assert calls["settings/resolve.py:resolve"] == resolved
    assert 1 <= calls["usage/budget.py:require_left"] <= 2
    assert calls["asking/answer.py:judge"] == 1
    assert calls["settings/keys.py:find"] == 1


def test_the_answer_is_kept_and_its_line_ended_before_another_process_has_the_session(
    run: Run, spawn: Spawn, server: Server, home: Path
) -> None:
    """Else two answers of ``xargs -P`` could share a line. The pipe takes the text, and not the newline."""
    text = "x" * (1 << 16)
    server.reply(say(text), finish())
    call = ("gptpipe", "--base-url", server.url, "-m", "m", "-s", "s", "-n")
    first = spawn(*call, "one")
    path = home / ".local/share/gptpipe/sessions/s.jsonl"
    until(lambda: path.exists() and path.read_bytes().endswith(b"\n"))
    assert run(*call, "--lock-timeout", "0", "two").status == 75
    assert first.read(until=b"\n").decode() == f"{text}\n"
    assert first.wait() == 0
    assert run(*call, "--lock-timeout", "0", "two").status == 0
