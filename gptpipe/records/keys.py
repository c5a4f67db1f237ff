"""A table of requests by their keys, in 15 to 23 bytes each: a dict takes six times that; a run may have millions."""

from __future__ import annotations

from array import array

_FIRST_SIZE = 1 << 10  # slots


class Keys:
    """A mapping of keys (64 bits, evenly spread) to numbers from 0."""

    def __init__(self) -> None:
        self._keys = array("Q", bytes(8 * _FIRST_SIZE))
        self._numbers = array("I", bytes(4 * _FIRST_SIZE))  # plus one; 0 is a free slot
        self._used = 0

    def get(self, key: int) -> int | None:
        """Return the number of a key, or None if it has none."""
        return self._numbers[self._slot(key)] - 1 if self._numbers[self._slot(key)] else None

    def set(self, key: int, number: int) -> None:
        """Give the key a number."""
        slot = self._slot(key)
        if not self._numbers[slot]:
            if 5 * self._used > 4 * len(self._keys):
                self._grow()
                slot = self._slot(key)
            self._used += 1
        self._keys[slot], self._numbers[slot] = key, number + 1

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


def packed(key: str | None) -> int:
    """Return a key of hexadecimal digits as a number, 0 for None.

    :raises ValueError: if the key has other characters.
    """
    return int(key, 16) if key else 0


def hashed(text: str) -> int:
    """Return 64 bits of a text, the same for equal ones in this process."""
    return hash(text) & (1 << 64) - 1
