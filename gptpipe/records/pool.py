"""Many records at once, through a bounded window: no more are read than will soon be asked, and none waits in vain."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from threading import Lock, Semaphore, Thread
from typing import Any

from gptpipe.console.output import say
from gptpipe.records.input import Record
from gptpipe.records.pace import Stopped
from gptpipe.records.results import Outcome

_WINDOW = 4  # records that are read and not yet passed on, for each job
_EACH = 2  # descriptors of a request: its connection, and one that is being opened in its place
_OTHERS = 24

_DROPPED = object()  # what a record becomes whose turn does not come any more
_WAKE = object()  # moves the iteration to see whether it is over
_END = object()
_TICK = 0.5  # seconds: how late a signal may be seen


def possible_jobs(wanted: int) -> int:
    """Raise the limit of descriptors as far as it goes, and return how many jobs it allows, with a note if fewer."""
    needed = _EACH * wanted + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (OSError, ValueError):  # macOS has a limit that it does not tell
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    found = max(1, (soft - _OTHERS) // _EACH)
    say(f"{found} requests at once, not {wanted}: only {soft} files may be open (ulimit -n)")
    return found


class Pool:
    """``jobs`` threads that make an outcome of each record. Iterate once; the iteration moves the window.

    Reader and workers are daemon threads: a process that ends leaves them where they are. ``work`` may raise Stopped
    for a record that gets no outcome. The iteration calls ``stopping`` when the pool is stopped. What ``records``
    raises is raised after the last outcome.
    """

    def __init__(
        self,
        records: Iterable[Record],
        work: Callable[[Record], Outcome],
        jobs: int,
        *,
        ordered: bool,
        stopping: Callable[[], None],
    ) -> None:
        self._records = records
        self._work = work
        self._jobs = jobs
        self._ordered = ordered
        self._stopping = stopping
        self._todo: SimpleQueue[Any] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, Any]] = SimpleQueue()
        self._slots = Semaphore(_WINDOW)  # each for as many records as there are jobs: to wake the reader costs time
        self._lock = Lock()
        self._given = 0  # records that the workers got
        self.stopped = False
        self.abandoned = False
        self._ended = False
        self._error: BaseException | None = None  # of the reader

    def stop(self) -> None:
        """Begin with no more records; those that are being worked on are finished. A signal handler may call it."""
        self.stopped = True
        self._done.put((0, _WAKE))

    def abandon(self) -> None:
        """End the iteration with the outcomes that are there; what is being worked on has none."""
        self.abandoned = True
        self.stop()

    def __iter__(self) -> Iterator[Outcome]:
        """Yield the outcomes: in the order of the records, or as they come."""
        for target in [self._read, *[self._serve] * self._jobs]:
            Thread(target=target, daemon=True).start()
        finished = passed_on = 0
        waiting: dict[int, Any] = {}
        while not self._complete(finished):
            try:
                # A signal that comes just before the wait does not end it: its handler runs when the wait is over.
                number, result = self._done.get(timeout=_TICK)
            except Empty:
                continue
            if isinstance(result, BaseException):  # a bug
                raise result
            if self.stopped:
                self._stopping()
            if result is not _WAKE:
                finished += 1
                waiting[number if self._ordered else passed_on] = result
            while passed_on in waiting:
                result = waiting.pop(passed_on)
                passed_on += 1
                if not passed_on % self._jobs:
                    self._slots.release()
                if result is not _DROPPED:
                    yield result
            if self.abandoned:
                yield from (result for _, result in sorted(waiting.items()) if result is not _DROPPED)
                return
        if self._error is not None:
            raise self._error

    def _complete(self, finished: int) -> bool:
        with self._lock:
            return (self._ended or self.stopped) and finished == self._given

    def _read(self) -> None:
        try:
            self._slots.acquire()
            for record in self._records:
                with self._lock:
                    if self.stopped:
                        return
                    self._todo.put((self._given, record))
                    self._given += 1
                if not self._given % self._jobs:
                    self._slots.acquire()
        except BaseException as error:
            self._error = error
        self._ended = True
        self._done.put((0, _WAKE))
        for _ in range(self._jobs):
            self._todo.put(_END)

    def _serve(self) -> None:
        while (given := self._todo.get()) is not _END:
            number, record = given
            try:
                # The iteration may hold still, where nobody takes its results, and not have called ``stopping`` yet.
                result: Any = _DROPPED if self.stopped else self._work(record)
            except Stopped:
                self.stopped = True
                result = _DROPPED
            except BaseException as error:
                result = error
            self._done.put((number, result))
