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

from gptpipe.errors import Interrupted, Status

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_holding = False
_pending: int | None = None


def catch() -> None:
    """Turn the signals into Interrupted from now on, but for those that were ignored at the start."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def _handle(signum: int, _: FrameType | None) -> None:
    global _pending
    if _holding:
        _pending = signum
    else:
        raise Interrupted(signum)


@contextmanager
def held() -> Iterator[None]:
    """Run a block to its end: a caught signal that comes in it is raised after it. Blocks do not nest."""
    global _holding, _pending
    _holding = True
    try:
        yield
    finally:
        _holding = False
        signum, _pending = _pending, None
        if signum is not None:
            raise Interrupted(signum)


def die_of(signum: int) -> NoReturn:
    """End the process by the signal itself."""
    signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # not reached, unless the signal cannot be delivered


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
