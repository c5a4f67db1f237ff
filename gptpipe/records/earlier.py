"""The results that a file has from earlier runs, found by the requests and the records that they belong to."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from gptpipe.records.keys import Keys
from gptpipe.records.results import State


class Earlier:
    """Which result is that of a record, and which one is that of an equal request.

    A result is known by its place in the file, a request by its key, a record by its mark; both are 64 bits.
    """

    def __init__(self) -> None:
        self._keys, self._marks = array("Q"), array("Q")  # of each result
        self._next = array("I")  # plus one: the next result of an equal record
        self._by_record = Keys()
        self._by_request = Keys()

    def __bool__(self) -> bool:
        """Whether there is any result."""
        return bool(self._keys)

    def note(self, key: int, mark: int) -> None:
        """Take note of the next result of the file; key 0 is that of no request."""
        self._keys.append(key)
        self._marks.append(mark)

    def chain(self, states: Sequence[int]) -> None:
        """Make the results findable, the best of equal ones first, and equally good ones in their order."""
        self._next = array("I", bytes(4 * len(self._keys)))
        for state in sorted(State):
            for place in range(len(self._keys) - 1, -1, -1):
                if states[place] == state and (key := self._keys[place]):
                    first = self._by_record.get(key ^ self._marks[place])
                    self._next[place] = 0 if first is None else first + 1
                    self._by_record.set(key ^ self._marks[place], place)
                    self._by_request.set(key, place)

    def own(self, key: int, mark: int) -> int | None:
        """Return the result of a record: of equal ones the first that was not taken, or the last."""
        return self._by_record.get(key ^ mark)

    def take(self, place: int) -> None:
        """Leave the result to a record: an equal one gets the next."""
        if following := self._next[place]:
            self._by_record.set(self._keys[place] ^ self._marks[place], following - 1)

    def equal(self, key: int) -> int | None:
        """Return the best result of a request, whichever record it shows."""
        return self._by_request.get(key)
