"""Requests and results by their keys, in 15 to 23 bytes each: a dict takes six times that; a run may have millions."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

_FIRST_SIZE = 1 << 10  # slots


class Keys:
    """A mapping of keys (64 bits, evenly spread) to numbers from 0."""

    def __init__(self) -> None:
        self._keys = array("Q", bytes(8 * _FIRST_SIZE))
        self._numbers = array("I", bytes(4 * _FIRST_SIZE))  # plus one; 0 is a free slot
        self._used = 0

    def get(self, key: int) -> int | None:
        """Return the number of a key, or None if it has none."""
        number = self._numbers[self._slot(key)]
        return number - 1 if number else None

    def set(self, key: int, number: int) -> None:
        """Give the key a number."""
        slot = self._slot(key)
        self._used += not self._numbers[slot]
        self._keys[slot], self._numbers[slot] = key, number + 1
        if 5 * self._used > 4 * len(self._keys):
            self._grow()

    def _slot(self, key: int) -> int:
        """Return the place of a key, or the free one in which it would be put."""
        keys, numbers = self._keys, self._numbers
        size = len(keys)
        slot = key % size
        while numbers[slot] and keys[slot] != key:
            slot = (slot + 1) % size
        return slot

    def _grow(self) -> None:
        keys, numbers = self._keys, self._numbers
        size = len(keys) * 3 // 2  # not twice: while both tables are there, they are most of a run's memory
        self._keys, self._numbers = array("Q", bytes(8 * size)), array("I", bytes(4 * size))
        for key, number in zip(keys, numbers, strict=True):
            if number:
                slot = self._slot(key)
                self._keys[slot], self._numbers[slot] = key, number


class Earlier:
    """Which result of a file is that of a record, and which one is that of an equal request.

    A result is known by its place in the file, a request by its key (0 for none), a record by its mark; both are 64
    bits. ``own`` has key and mark of each result, one exclusive or the other.
    """

    def __init__(self, keys: Sequence[int], own: array[int], states: Sequence[int]) -> None:
        self._own = own
        self._next = array("I", bytes(4 * len(keys)))  # plus one: the next result of an equal record
        self._by_record, self._by_request = Keys(), Keys()
        # The best of equal ones is found first, and equally good ones in their order.
        for state in sorted(set(states)):
            for place in range(len(keys) - 1, -1, -1):
                if states[place] == state and keys[place]:
                    first = self._by_record.get(own[place])
                    self._next[place] = 0 if first is None else first + 1
                    self._by_record.set(own[place], place)
                    self._by_request.set(keys[place], place)

    def __bool__(self) -> bool:
        """Whether there is any result."""
        return bool(self._own)

    def own(self, key: int, mark: int) -> int | None:
        """Return the result of a record: of equal ones the first that was not taken, or the last."""
        return self._by_record.get(key ^ mark)

    def take(self, place: int) -> None:
        """Leave the result to a record: an equal one gets the next."""
        if following := self._next[place]:
            self._by_record.set(self._own[place], following - 1)

    def equal(self, key: int) -> int | None:
        """Return the best result of a request, whichever record it shows."""
        return self._by_request.get(key)


def packed(key: str | None) -> int:
    """Return a key of hexadecimal digits as a number, 0 for None; raise ValueError if it has other characters."""
    return int(key, 16) if key else 0


def hashed(text: str) -> int:
    """Return 64 bits of a text, the same for equal ones in this process."""
    return hash(text) & (1 << 64) - 1
