"""Results: a line of JSON for each record, and the file of them that a run can be resumed from.

The line's format is specified in gptpipe-map(1).
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from array import array
from collections.abc import Iterator
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from gptpipe.asking.answer import Answer
from gptpipe.console.output import write_all
from gptpipe.errors import BadInput, Failure, NoInput, Refused, Temporary, Truncated, UsageError, WriteError
from gptpipe.records.input import Record, displayed
from gptpipe.storage import forward, overwrite, stands_at
from gptpipe.text.strict_json import compact

_BEGINNING = b'{"index":'  # of each line
_BLOCK = 1 << 16  # bytes of lines that are put in order at once


class State(IntEnum):
    """What a file of results says of a record."""

    MISSING = 0
    FAILED = 1
    INCOMPLETE = 2  # truncated or refused
    ANSWERED = 3


class Outcome(NamedTuple):
    """What has come of a record. ``key`` is None if it could not be made a request.

    ``value`` is the answer as a result shows it: its text, or the JSON that a schema asked for. ``known`` is what a
    file of results already says of the record, if that is why it was not asked.
    """

    record: Record
    key: str | None
    answer: Answer
    failure: Failure | None
    value: Any = None
    known: State = State.MISSING


def line(outcome: Outcome, *, with_record: bool) -> str:
    """Return the result as JSON. A truncated or refused answer has an error beside it."""
    failure, answer = outcome.failure, outcome.answer
    found: dict[str, Any] = {"index": outcome.record.number, "key": outcome.key}
    if with_record:
        found["record"] = displayed(outcome.record.value)
    if failure is None or isinstance(failure, (Truncated, Refused)):
        found |= {"answer": outcome.value, "finish_reason": answer.finish_reason, "usage": answer.usage}
    if calls := answer.listed():
        found["tool_calls"] = calls
    if failure is not None:
        status = failure.status
        found["error"] = {"status": status, "name": status.name, "message": failure.message}
    return compact(found)


_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r"})


def bare(outcome: Outcome, *, null: bool) -> str:
    """Return the answer alone, on one line or without NUL, so that one can follow; nothing if there is none."""
    if outcome.failure is not None:
        return ""
    text = outcome.value if isinstance(outcome.value, str) else compact(outcome.value)
    return text.replace("\0", "") if null else text.translate(_ESCAPES)


def new_file(path: str) -> int:
    """Make a file and return its descriptor.

    :raises UsageError: if there is anything at the path.
    :raises WriteError: if it cannot be made.
    """
    return _open(path, path, os.O_EXCL)


def _open(path: str, name: str, kind: int) -> int:
    try:
        # One that is no regular file is looked at below: opening a FIFO is not waited for.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | kind, 0o666)
    except FileExistsError:
        raise UsageError(f"{name} exists", "--resume goes on with it; else give another path") from None
    except OSError as error:
        raise WriteError(f"cannot write {name}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # at the end it would be replaced by one
        raise WriteError(f"cannot write {name}: it is not a regular file")
    return descriptor


class ResultFile:
    """A file of results that is appended to as they come, and put in order at the end.

    A process killed at any moment leaves whole lines, and at most one that is torn, which the next run cuts.

    :raises UsageError: without ``resume``, if there is anything at the path.
    :raises BadInput: if the file holds anything but results.
    :raises Temporary: if another process is writing it, or has just put another in its place.
    :raises WriteError: if it cannot be written.
    """

    def __init__(self, path: str, *, resume: bool) -> None:
        self._name = path
        self._path = os.path.realpath(path) if path else path
        self._offsets = array("q")  # where the line of each record begins, from number 0 on
        self._keys = array("Q")
        self._states = array("B")
        self._lines = 0
        self._descriptor = _open(self._path, path, 0 if resume else os.O_EXCL)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # or two runs would ask everything twice
            if not stands_at(self._descriptor, Path(self._path)):  # what is added to the old one would be lost
                raise BlockingIOError
            self._read()
        except BlockingIOError:
            raise Temporary(f"{path} is being written by another process") from None
        except OSError as error:
            raise WriteError(f"cannot write {path}: {error.strerror}") from error

    def _read(self) -> None:
        for row in forward(self._descriptor):
            try:
                if row.ended:
                    self._note(row.offset, row.data)
                elif row.data[: len(_BEGINNING)] == _BEGINNING[: len(row.data)]:
                    os.ftruncate(self._descriptor, row.offset)  # torn by a kill: its record is asked again
                else:
                    raise ValueError(row.data)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                raise BadInput(
                    f"{self._name} line {self._lines + 1} is no result of gptpipe-map", "give another path with -o"
                ) from None
        self._end = os.fstat(self._descriptor).st_size

    def _note(self, offset: int, data: bytes) -> None:
        """Remember a line. Of several for one record the last counts."""
        found = json.loads(data)
        number = found["index"]
        if not isinstance(number, int) or not 0 < number <= offset + (1 << 16):
            raise ValueError(number)
        if "answer" not in found and "error" not in found:
            raise KeyError("answer")
        state = State.FAILED
        if "answer" in found:
            state = State.INCOMPLETE if "error" in found else State.ANSWERED
        self._set(number, offset, found.get("key"), state)

    def _set(self, number: int, offset: int, key: str | None, state: State) -> None:
        if (short := number + 1 - len(self._offsets)) > 0:
            for column in (self._offsets, self._keys, self._states):
                column.extend([0] * short)
        self._offsets[number], self._keys[number], self._states[number] = offset, _packed(key), state
        self._lines += 1

    def state(self, number: int, key: str) -> State:
        """Return what the file says of the request with this key for this record."""
        if number >= len(self._states) or self._keys[number] != _packed(key):
            return State.MISSING
        return State(self._states[number])

    def add(self, outcome: Outcome, text: str) -> None:
        """Append a result's line.

        :raises WriteError: if that fails.
        """
        data = text.encode() + b"\n"
        write_all(self._descriptor, data, self._name)
        state = State.ANSWERED if outcome.failure is None else State.FAILED
        self._set(outcome.record.number, self._end, outcome.key, state)
        self._end += len(data)

    def finish(self, total: int) -> None:
        """Put the file in the order of the input, one line for each of its ``total`` records, by rename.

        :raises NoInput: if the input had none and the file has: whatever should have written it has failed.
        :raises WriteError: if that fails; in both cases the file stays as it is.
        """
        if not total and self._lines:
            raise NoInput(f"the input is empty, and {self._name} has results", "the file is left as it is")
        wanted = self._offsets[1 : total + 1]
        if self._lines == len(wanted) and all(a < b for a, b in pairwise(wanted)):
            return
        try:
            overwrite(self._path, lambda: self._sorted(total))
        except OSError as error:
            raise WriteError(f"cannot write {self._name}: {error.strerror}") from error

    def _sorted(self, total: int) -> Iterator[bytes]:
        block = bytearray()
        with open(self._descriptor, "rb", closefd=False) as file:
            for number in range(1, min(total + 1, len(self._offsets))):
                if self._states[number]:
                    file.seek(self._offsets[number])
                    block += file.readline()
                if len(block) > _BLOCK:
                    yield bytes(block)
                    block.clear()
        yield bytes(block)


def _packed(key: str | None) -> int:
    return int(key, 16) if key else 0
