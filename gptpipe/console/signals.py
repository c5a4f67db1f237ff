"""Ending a run from outside: signals, and ``--max-time``.

Until the first byte of the answer the three signals keep their default action. From then on they become
:class:`~gptpipe.errors.Interrupted`, so that the turn is settled before the process dies of the same signal: a
shell loop stops for a child that died of SIGINT, not for one that returned 130.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from gptpipe.errors import Interrupted, Status, Temporary

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_ANSWERS_ONLY = (signal.SIGINT, signal.SIGALRM)  # in the chat, which goes on after these

_holding = False
_pending: int | None = None


def catch() -> None:
    """Turn the signals into Interrupted from now on, but for those that were ignored at the start.

    After the first one others wait, or they would end its settling half way. A program that goes on after it calls
    this again, and then gets the one that waited, unless that asks for no more than the first one did.
    """
    global _pending
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    if _pending in _ANSWERS_ONLY:
        _pending = None
    _hold(False)


def _handle(signum: int, _: FrameType | None) -> None:
    global _pending
    if _pending is None or _pending in _ANSWERS_ONLY:
        _pending = signum
    _hold(_holding)


def _hold(holding: bool) -> None:
    """Let signals wait, or raise the one that waits."""
    global _holding, _pending
    _holding = holding
    if not holding and _pending is not None:
        signum, _pending = _pending, None
        _holding = True
        raise Interrupted(signum)


def catch_once(stop: Callable[[], None]) -> Callable[[], int | None]:
    """Call ``stop`` at the first signal; the second ends the process at once. Ignored ones stay ignored.

    Returns a function that says which signal came, if one did. What ``stop`` does must be safe in a handler.
    """
    came: int | None = None

    def handle(signum: int, _: FrameType | None) -> None:
        nonlocal came
        if came is not None:
            die_of(signum)
        came = signum
        stop()

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)
    return lambda: came


@contextmanager
def held() -> Iterator[None]:
    """Run a block to its end: a caught signal that comes in it is raised after it."""
    before = _holding
    _hold(True)
    try:
        yield
    finally:
        _hold(before)


@contextmanager
def limit(seconds: float | None) -> Iterator[None]:
    """Raise Interrupted of ``SIGALRM`` in the block when it lasts longer; for a program that goes on after it."""
    signal.signal(signal.SIGALRM, _handle)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def die_of(signum: int) -> NoReturn:
    """End the process by the signal itself."""
    signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # not reached, unless the signal cannot be delivered


def late(seconds: float) -> Temporary:
    """Return the failure of a run that did not end within ``--max-time``."""
    return Temporary(f"the run took longer than {seconds:g} s (--max-time)")


class Deadline:
    """``--max-time``: after ``seconds`` from ``started`` (monotonic), call ``end`` and leave with 75.

    It is a daemon thread's work, because no signal interrupts a name lookup. ``end`` runs in that thread.
    """

    def __init__(self, started: float, seconds: float, end: Callable[[], None]) -> None:
        self._at = started + seconds
        self._end = end
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while (left := self._at - time.monotonic()) > 0:
            time.sleep(left)
        try:
            self._end()
        finally:
            os._exit(Status.TEMPFAIL)
