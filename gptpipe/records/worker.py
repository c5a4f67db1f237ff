"""One record asked, unless an equal one was: what ``gptpipe-map`` does with each."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

from gptpipe.asking.answer import Answer
from gptpipe.asking.asker import Asker, Receiver
from gptpipe.errors import Failure, Unavailable
from gptpipe.message import counts
from gptpipe.records import request
from gptpipe.records.input import FILES, Record
from gptpipe.records.keys import Keys, packed
from gptpipe.records.pace import Pace
from gptpipe.records.request import Maker
from gptpipe.records.result_file import Sink
from gptpipe.records.results import Outcome, State
from gptpipe.records.tally import stops
from gptpipe.text.strict_json import compact
from gptpipe.wire.request import Request

_TICK = 0.1  # seconds: how late the end of a run may be seen while a file is waited for
_IN_MEMORY = 1 << 16  # bytes of outcomes, before there is a file


class Equals:
    """Equal records: each request is sent once in a run, and all records that make it get its answer.

    The outcomes are kept in a file without a name, which may be in ``folder``; memory holds only their offsets. Several
    threads may use it at once.
    """

    def __init__(self, folder: Path) -> None:
        import tempfile

        self._lock = Lock()
        self._places = Keys()
        self._offsets = array("q")  # of each request's outcome, plus one; 0 if there is none
        self._on_their_way: dict[int, Event] = {}
        self._end = 0
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(folder) if folder.is_dir() else None)  # noqa: SIM115
        self._last: tuple[int, list[Any]] | None = None

    def once(self, record: Record, key: str, ask: Callable[[], Outcome]) -> Outcome:
        """Return the outcome of a request. If an equal one was sent, wait for its outcome; else call ``ask``."""
        with self._lock:
            place = self._places.get(packed(key))
            first = place is None
            if place is None:
                place = len(self._offsets)
                self._places.set(packed(key), place)
                self._offsets.append(0)
                self._on_their_way[place] = Event()
            came = self._on_their_way.get(place)
        if first:
            try:
                outcome = ask()
                self._keep(place, outcome)
                return outcome
            finally:
                self._on_their_way.pop(place).set()
        if came is not None:
            came.wait()
        found = self._found(place)
        return ask() if found is None else _outcome(record, key, found)

    def _keep(self, place: int, outcome: Outcome) -> None:
        failure = outcome.failure
        every = isinstance(failure, Unavailable) and failure.every
        error = [int(failure.status), failure.message, every] if failure else None
        found = [outcome.record.number, outcome.value, outcome.model, outcome.finish_reason, error]
        data = compact(found).encode() + b"\n"
        with self._lock:
            try:
                self._file.seek(self._end)
                self._file.write(data)
            except OSError:  # no room: an equal record is asked by itself
                return
            self._offsets[place] = self._end + 1
            self._end += len(data)

    def _found(self, place: int) -> list[Any] | None:
        with self._lock:
            if self._last is not None and self._last[0] == place:
                return self._last[1]
            if not self._offsets[place]:
                return None
            self._file.seek(self._offsets[place] - 1)
            found: list[Any] = json.loads(self._file.readline())
            self._last = place, found
            return found


def _outcome(record: Record, key: str, found: list[Any]) -> Outcome:
    """Return the outcome of an equal record as that of this one, without usage."""
    number, value, model, finish_reason, error = found
    return Outcome(record, key, _failure(*error) if error else None, value, model, finish_reason, same_as=number)


def _failure(status: int, message: str, every: bool) -> Failure:
    if status == Unavailable.status:
        return Unavailable(message, every=every)
    return next(kind for kind in Failure.__subclasses__() if kind.status == status)(message)


class Worker(NamedTuple):
    """Asks for each record, unless ``sink`` has its result or an equal record was asked.

    Without ``equals`` each equal record is asked. With ``again``, truncated and refused answers are asked for again.
    """

    maker: Maker
    asker: Asker
    pace: Pace
    sink: Sink
    equals: Equals | None = None
    again: bool = False

    def answer(self, record: Record) -> Outcome:
        """Return the outcome of the record.

        :raises Stopped: if the run takes no more requests.
        """
        key = None
        try:
            asked = self._request(record)
            key = request.key_of(asked)
            known = self.sink.take(record, key, again=self.again)
        except Failure as failure:
            return self._stopping(Outcome(record, key, failure))
        if known is not State.MISSING:
            return Outcome(record, key, known=known)
        ask = partial(self._ask, record, key, asked)
        return ask() if self.equals is None else self.equals.once(record, key, ask)

    def _request(self, record: Record) -> Request:
        """Return the request of a record. A FIFO, which may never end, is read in a thread that can be left."""
        if self.maker.how.form != FILES or os.path.isfile(record.value):
            return self.maker.request(record)
        made: list[Request | BaseException] = []

        def make() -> None:
            try:
                made.append(self.maker.request(record))
            except BaseException as error:
                made.append(error)

        reader = Thread(target=make, daemon=True)
        reader.start()
        while not made:
            self.pace.sleep(0)
            reader.join(_TICK)
        if isinstance(made[0], BaseException):
            raise made[0]
        return made[0]

    def _ask(self, record: Record, key: str, asked: Request) -> Outcome:
        answer = Answer(self.maker.want)
        self.asker.ask(asked, answer, Receiver())
        if answer.usage:
            used = counts(answer.usage)
            self.pace.spent(asked, used.input + used.output)
        return self._stopping(request.outcome(record, key, asked.model, answer))

    def _stopping(self, outcome: Outcome) -> Outcome:
        if outcome.failure and stops(outcome.failure):
            self.pace.stop()  # at once: the results are judged in their order, later
        return outcome
