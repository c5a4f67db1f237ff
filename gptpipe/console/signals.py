"""What ends a run from outside: signals, and the deadline of ``--max-time``.

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
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from gptpipe.console import output
from gptpipe.errors import Failure, Interrupted, Status, Temporary

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_ANSWERS_ONLY = (signal.SIGINT, signal.SIGALRM)  # in the chat, which goes on after these
_GRACE = 1.0  # seconds for the last words: the reader of standard error may have stopped reading

_holding = False
_pending: int | None = None

groups: set[int] = set()
"""The process groups that end with this process: of tools, and of commands that give a key."""


def end_group(group: int) -> None:
    """Kill a process group, if it is there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


_ended = False


def add_group(group: int) -> None:
    """Note a process group that must end with this process. After :func:`end_groups` it ends at once."""
    groups.add(group)
    if _ended:
        end_group(group)


def end_groups() -> None:
    """Kill all noted process groups. The process starts nothing new after this. A signal handler may call it."""
    global _ended
    _ended = True
    for group in tuple(groups):
        end_group(group)


def catch() -> None:
    """Turn the signals into Interrupted from now on, but for those that were ignored at the start.

    After the first signal others wait, so that they do not interrupt the settling. A program that goes on calls this
    again. It then gets the signal that waited, unless that asks for no more than the first one did.
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
def caught() -> Iterator[None]:
    """Catch, in the block, those signals that would end the process at once and leave something running."""
    found = [number for number in SIGNALS if _is_main() and signal.getsignal(number) is signal.SIG_DFL]
    for number in found:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in found:
            signal.signal(number, signal.SIG_DFL)


def _is_main() -> bool:
    """Return whether this is the thread in which signals are handled."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def held() -> Iterator[None]:
    """Run a block to its end: a caught signal that comes in it is raised after it."""
    if not _is_main():
        yield
        return
    before = _holding
    _hold(True)
    try:
        yield
    finally:
        _hold(before)


def die_of(signum: int) -> NoReturn:
    """End the process by the signal itself, after the programs that it runs."""
    end_groups()
    signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)  # not reached, unless the signal cannot be delivered


# The deadline


class Deadline:
    """The end of ``--max-time``, counted from when this is made: before anything is read.

    Its length may be given later. When the time is over, what :meth:`ending` holds is called, and the process ends
    with 75. A daemon thread does that, because no signal interrupts a name lookup. Any thread may use it.
    ``started`` is monotonic.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._began: float | None = self.started  # None while the time does not count
        self._changed = threading.Condition()
        self._seconds: float | None = None
        # Without a lock: the threads of a map would wait for one another at it.
        self._ends: dict[object, Callable[[], None]] = {}
        self._holders: set[object] = set()
        self._leaving = False
        self._stop = self._leave
        self._watched = False

    def limit(self, seconds: float | None) -> None:
        """Set the length in seconds; with None or 0 the run may last."""
        with self._changed:
            self._seconds = seconds or None
            if self._seconds and not self._watched:
                self._watched = True
                threading.Thread(target=self._watch, daemon=True).start()
            self._changed.notify()

    @property
    def at(self) -> float | None:
        """The time (monotonic) at which the run ends; None if it may last."""
        began, seconds = self._began, self._seconds
        return None if began is None or seconds is None else began + seconds

    def late(self, what: str = "run") -> Temporary:
        """Return the failure of what did not end in time."""
        return Temporary(f"the {what} took longer than {self._seconds:g} s (--max-time)")

    @contextmanager
    def ending(self, call: Callable[[], None]) -> Iterator[None]:
        """Call ``call`` if the run's time is over in the block; of several the last one is called first.

        ``call`` runs in another thread. The block does not end after that: the process does.
        """
        key = object()
        self._ends[key] = call
        try:
            yield
        finally:
            del self._ends[key]
            self._stay()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Run a short block to its end before the process may end: its work must not be done by half, or twice."""
        holder = object()
        self._holders.add(holder)
        try:
            if self._leaving:
                self._holders.discard(holder)
                self._stay()
            yield
        finally:
            self._holders.discard(holder)

    def _stay(self) -> None:
        """Go no further if the process is about to end."""
        if self._leaving:
            threading.Event().wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the block."""
        with self._counting(None):
            paused = time.monotonic()
            yield
        with self._changed:
            if self._began is not None:
                self._began += time.monotonic() - paused
            self._changed.notify()

    @contextmanager
    def of_answer(self) -> Iterator[None]:
        """Count from zero in a block of a program that goes on after it. Raises Temporary if the time ends first."""
        main = threading.main_thread().ident
        assert main is not None
        signal.signal(signal.SIGALRM, _handle)
        self._stop = lambda: signal.pthread_kill(main, signal.SIGALRM)
        try:
            with self._counting(time.monotonic()):
                yield
        except Interrupted as ending:
            if ending.signum != signal.SIGALRM:
                raise
            catch()
            raise self.late("answer") from None
        finally:
            self._stop = self._leave

    @contextmanager
    def _counting(self, began: float | None) -> Iterator[None]:
        """In the block, count the time from ``began`` on, or not at all if that is None."""
        with self._changed:
            before, self._began = self._began, began
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._began = before
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while True:
                at = self.at
                left = None if at is None else at - time.monotonic()
                if left is None or left > 0:
                    self._changed.wait(left)
                else:
                    self._began = None
                    self._stop()

    def _leave(self) -> None:
        """End the process, after what :meth:`ending` holds was called."""
        self._leaving = True
        try:
            while self._holders:
                time.sleep(0.001)
            for call in reversed(tuple(self._ends.values())):
                try:
                    call()
                except Failure as failure:
                    output.say(failure.message, failure.hint)
            threading.Thread(target=_leave_soon, daemon=True).start()
            output.say(self.late().message)
        finally:
            _exit()


def _leave_soon() -> None:
    time.sleep(_GRACE)
    _exit()


def _exit() -> NoReturn:
    end_groups()  # last: the main thread must not find time to say that what it waits for was killed
    os._exit(Status.TEMPFAIL)
