"""Equal records: each request is sent once in a run, and all records that make it get its answer.

The outcomes are kept in a file without a name; memory holds only their offsets.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock
from typing import Any

from gptpipe.errors import Failure, Unavailable
from gptpipe.records.input import Record
from gptpipe.records.keys import Keys, packed
from gptpipe.records.results import Outcome
from gptpipe.text.strict_json import compact

_IN_MEMORY = 1 << 16  # bytes, before there is a file


class Equals:
    """The outcomes of the requests so far. Several threads may use it at once; ``folder`` is where the file may be."""

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
