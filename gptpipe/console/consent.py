"""Asking the user for leave, on the terminal."""

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
    """Show a question and return whether the user types ``y`` or ``yes``; another word and ^D are a no.

    The terminal is that of the session, wherever standard input and output lead. What was typed before the question
    is dropped. Characters that a terminal does not show, or obeys, appear as escapes. ``aside`` keeps away, for as
    long as it is asked, what else is shown there.

    :raises OSError: if the process has no terminal.
    """
    descriptor = os.open(_TERMINAL, os.O_RDWR | os.O_CLOEXEC)
    try:
        with _one_at_a_time, aside():
            termios.tcflush(descriptor, termios.TCIFLUSH)
            write_all(descriptor, f"{_printable(question)} [y/N] ".encode())
            answer = os.read(descriptor, _LONGEST)
            if not answer.endswith(b"\n"):
                write_all(descriptor, b"\n")
    finally:
        os.close(descriptor)
    return answer.strip().lower() in (b"y", b"yes")


def _printable(text: str) -> str:
    """Return text that shows what is in it: also what turns the direction of writing is an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
