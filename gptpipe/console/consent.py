"""Asking the user for permission, on the terminal."""

from __future__ import annotations

import os
import termios
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Lock

from gptpipe.console.output import write_all

_TERMINAL = "/dev/tty"
_LONGEST = 4096  # bytes of an answer
_one_at_a_time = Lock()


def agrees(question: str, aside: Callable[[], AbstractContextManager[None]] = nullcontext) -> bool:
    """Show a question and return whether the user types ``y`` or ``yes``. Everything else means no.

    Uses the terminal of the session, wherever standard input and output lead. What was typed before the question
    is dropped. Characters that a terminal obeys or does not show appear as escapes.
    ``aside`` hides other output on the terminal while the question stands.

    :raises OSError: if the process has no terminal.
    """
    with open(_TERMINAL, "r+b", buffering=0) as terminal, _one_at_a_time, aside():
        termios.tcflush(terminal, termios.TCIFLUSH)
        write_all(terminal.fileno(), f"{_printable(question)} [y/N] ".encode())
        answer = os.read(terminal.fileno(), _LONGEST)
        if not answer.endswith(b"\n"):
            write_all(terminal.fileno(), b"\n")
    return answer.strip().lower() in (b"y", b"yes")


def _printable(text: str) -> str:
    """Return the text with escapes for what a terminal does not show, also for marks of the writing direction."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
