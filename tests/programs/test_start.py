"""What the console scripts prepare before a program runs."""

from __future__ import annotations

from typing import Any

import pytest

COLLECTS = """
import gc, os, sys
leave = os._exit
def report(status):
    os.write(2, str(gc.isenabled()).encode())
    leave(status)
os._exit = report
program, *sys.argv[1:] = sys.argv[1:]
from gptpipe.programs import start
getattr(start, program)()
"""


@pytest.mark.parametrize(
    ("call", "collects"),
    [("filter -n -m echo hi", False), ("map -m echo x </dev/null", True), ("chat </dev/null", True)],
)
def test_a_program_that_may_last_collects_garbage(shell: Any, call: str, collects: bool) -> None:
    assert shell(f"python -c '{COLLECTS}' {call}")[1:] == (b"hi\n" if not collects else b"", str(collects))
