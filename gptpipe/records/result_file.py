"""A file of results that is appended to as they come, put in order at the end, and gone on with by the next run."""

from __future__ import annotations

import fcntl
import os
import stat
from array import array
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, pairwise
from pathlib import Path
from threading import Lock

from gptpipe.console.output import say, write_all
from gptpipe.errors import BadInput, NoInput, Temporary, UsageError, WriteError
from gptpipe.records.form import Form, Stored
from gptpipe.records.input import Record
from gptpipe.records.keys import Earlier, packed
from gptpipe.records.results import Outcome, State, Stream
from gptpipe.storage import failing, overwrite, stands_at

_BLOCK = 1 << 16  # bytes that are written at once


def opened(path: str, name: str, hint: str, *, new: bool = True) -> int:
    """Open a regular file, called ``name``, to which results are added, and return its descriptor.

    :raises UsageError: if it must be ``new`` and there is anything at the path.
    :raises WriteError: if it cannot be written.
    """
    kind = os.O_EXCL if new else 0
    try:
        # One that is not a regular file is looked at below: opening a FIFO is not waited for.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | kind, 0o666)
    except FileExistsError:
        raise UsageError(f"{name} exists", hint) from None
    except OSError as error:
        raise WriteError(f"cannot write {name}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # at the end it would be replaced by one
        raise WriteError(f"cannot write {name}: it is not a regular file")
    return descriptor


class ResultFile:
    """The file. A process killed at any moment leaves whole results, and at most one that is torn, which is cut.

    A result belongs to the record that it shows and whose request has its key, wherever the record stands now. With
    ``share`` it is also, in a copy, that of every other record which makes this request. Several threads may use it at
    once. With ``look`` the file, which must be there, is only read. ``prune`` drops results of records that the input
    does not have; without ``whole`` the input is a part of what the file is about.

    :raises UsageError: without ``resume``, if there is anything at the path.
    :raises BadInput: if the file holds anything but results.
    :raises Temporary: if another process is writing it, or has just put another in its place.
    :raises WriteError: if it cannot be written, here and in the methods.
    """

    to_terminal = False

    def __init__(
        self,
        path: str,
        form: Form,
        *,
        resume: bool,
        share: bool = False,
        look: bool = False,
        whole: bool = True,
        prune: bool = False,
    ) -> None:
        self._name = path
        self._path = os.path.realpath(path) if path else path
        self._form = form
        self._lock = Lock()
        self._offsets, self._lengths = array("q"), array("I")  # of each result in the file
        self._numbers = array("I")  # the record of each: as the file says, and when it is taken as this run says
        self._states = array("B")
        self._taken = bytearray()
        self._share = share
        self._settled = False  # whether the results are where they belong
        self._moved = False  # whether a result is that of another record now
        self._look, self._whole, self._prune = look, whole, prune
        hint = "--resume goes on with it; else give another path"
        self._descriptor = opened(self._path, path, hint, new=not resume)
        try:
            if look:
                self._earlier = self._read()
                return
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # or two runs would ask everything twice
            if not stands_at(self._descriptor, Path(self._path)):  # what is added to the old one would be lost
                raise BlockingIOError
            self._earlier = self._read()
        except BlockingIOError:
            raise Temporary(f"{path} is being written by another process") from None
        except OSError as error:
            raise WriteError(f"cannot write {path}: {error.strerror}") from error

    def _read(self) -> Earlier:
        size = os.fstat(self._descriptor).st_size
        head = self._form.head
        found = os.pread(self._descriptor, len(head), 0)
        if not head.startswith(found) or (found != head and size > len(found)):
            raise BadInput(f"{self._name} has another header than its results would have", "give another path")
        keys, own = array("Q"), array("Q")
        self._end = len(head)
        for each in self._form.read(self._descriptor, self._name):
            self._note(each)
            keys.append(each.key)
            own.append(each.key ^ each.mark)
            self._end = each.offset + each.length
        if not self._look:
            if found != head:
                os.ftruncate(self._descriptor, 0)
                write_all(self._descriptor, head, self._name)
            elif self._end < size:
                os.ftruncate(self._descriptor, self._end)  # the record of a torn result is asked again
        return Earlier(keys, own, self._states)

    def _note(self, each: Stored) -> None:
        self._offsets.append(each.offset)
        self._lengths.append(each.length)
        self._numbers.append(each.number)
        self._states.append(each.state)
        self._taken.append(0)

    def take(self, record: Record, key: str, *, again: bool = False) -> State:
        """Return what the file says of a record, whose request has the key; from now on it says so of this record.

        MISSING, if it must be asked (again); ``again`` says whether that includes what was truncated or refused.
        """
        if not self._earlier:  # nothing can be found, and what other threads append needs no wait for the lock
            return State.MISSING
        wanted = packed(key)
        with self._lock:
            own = self._usable(self._earlier.own(wanted, self._form.mark(record)), again)
            if own is not None and not self._taken[own]:
                self._earlier.take(own)
                self._moved = self._moved or self._numbers[own] != record.number
                self._taken[own], self._numbers[own] = 1, record.number
                return State(self._states[own])
            other = self._usable(self._earlier.equal(wanted), again) if self._share else None
            if other is None:
                return State.MISSING
            state = State(self._states[other])
            if not self._look:
                self._append(self._form.copied(self._data(other), record), record.number, state)
            return state

    def _usable(self, place: int | None, again: bool) -> int | None:
        """Return the place, unless there is none or its record is asked again."""
        worst = State.ANSWERED if again else State.INCOMPLETE
        return None if place is None or self._states[place] < worst else place

    def write(self, outcome: Outcome) -> None:
        """Append a result, unless it is there."""
        if outcome.known is not State.MISSING:
            return
        data = self._form.encode(outcome)
        with self._lock:
            self._append(data, outcome.record.number, State.ANSWERED if outcome.failure is None else State.FAILED)

    def _append(self, data: bytes, number: int, state: State) -> None:
        write_all(self._descriptor, data, self._name)
        self._note(Stored(self._end, len(data), number, 0, state))
        self._taken[-1] = 1
        self._end += len(data)

    def _data(self, place: int) -> bytes:
        return os.pread(self._descriptor, self._lengths[place], self._offsets[place])

    def finish(self, total: int) -> None:
        """Put the file in the order of the input, which has ended after ``total`` records.

        Results of records behind the input's end, which may have ended early, are kept unless they are to be pruned;
        without the whole input those of all records that were not looked at. After a failure the file stays as it is.

        :raises NoInput: if the input had no record and the file has: whatever should have written it has failed.
        """
        if not total and self._offsets and not self._prune:
            raise NoInput(f"the input is empty, and {self._name} has results", "the file is left as it is")
        order = array("I", bytes(4 * (max(self._numbers, default=0) + 1)))  # by record: its result's place, plus one
        looked_at = bytearray(len(order))  # by record
        for number, taken in zip(self._numbers, self._taken, strict=True):
            looked_at[number] |= taken
        left = 0
        for place, number in enumerate(self._numbers):
            if not self._taken[place]:
                gone = number <= total or self._states[place] < State.INCOMPLETE if self._whole else looked_at[number]
                if self._prune or gone:
                    continue
                left += 1
            order[number] = place + 1
        if left and self._whole:
            say(f"{left} results of records that the input no longer has are kept; --prune drops them")
        kept = len(order) - order.count(0)
        if kept < len(self._offsets) or self._moved or any(a > b for a, b in pairwise(filter(None, order))):
            self._replace(order)

    def _replace(self, order: array[int]) -> None:
        self._settled = True
        with failing(WriteError, f"cannot write {self._name}"):
            if stands_at(self._descriptor, Path(self._path)):
                overwrite(self._path, lambda: self._sorted(order))
            else:
                number = _write_beside(self._path, self._sorted(order))
                say(f"{self._name} was replaced meanwhile; its results are in {self._name}.{number}")

    def close(self) -> None:
        """Keep the results of a run that did not come to its end, if somebody else has replaced the file."""
        if self._offsets and not self._settled and not stands_at(self._descriptor, Path(self._path)):
            order = array("I", bytes(4 * (max(self._numbers) + 1)))
            for place, number in enumerate(self._numbers):
                order[number] = place + 1
            self._replace(order)

    def _sorted(self, order: array[int]) -> Iterator[bytes]:
        block = bytearray(self._form.head)
        for number, place in enumerate(order):
            if place:
                block += self._form.renumbered(self._data(place - 1), number)
            if len(block) > _BLOCK:
                yield bytes(block)
                block.clear()
        yield bytes(block)


Sink = Stream | ResultFile
"""Takes the results, one after another. ``finish`` is called if the input has ended, ``close`` in any case."""


def _write_beside(path: str, blocks: Iterator[bytes]) -> int:
    """Write to a new file beside the one that somebody else has put at the path; return the number in its name."""
    for number in count(1):
        with suppress(FileExistsError), open(f"{path}.{number}", "xb") as file:
            for block in blocks:
                write_all(file.fileno(), block, file.name)
            break
    return number
