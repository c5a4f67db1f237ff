"""One call computes nothing twice: how often the settings are made and the budgets are read on the way of a prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
sys.argv = ["gptpipe", "-n", "-m", "echo", *sys.argv[1:]]
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
    run: Any, shell: Any, options: tuple[str, ...], resolved: int
) -> None:
    run("gptpipe", "-n", "-m", "echo", "-s", "s", "before")
    result = shell(f"python -c '{COUNTING}' {' '.join(options)} hi")
    assert (result.status, result.text) == (0, "hi\n")
    calls = json.loads(result.err)
    assert calls["settings/resolve.py:resolve"] == resolved
    assert 1 <= calls["usage/budget.py:check"] <= 2
    assert calls["asking/answer.py:judge"] == 1
    assert calls["settings/keys.py:find"] == 1
