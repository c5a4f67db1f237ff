"""A part of the records: the first ones, or some at random."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice

from gptpipe.records.input import Record


class Sample:
    """A random sample of the records offered, each with the same chance (reservoir sampling)."""

    def __init__(self, size: int, seed: int | None) -> None:
        self._size = size
        self._random = random.Random(seed)
        self._offered = 0
        self._taken: list[Record] = []

    def offer(self, record: Record) -> None:
        """Take the record, perhaps, and drop another one for it."""
        self._offered += 1
        if len(self._taken) < self._size:
            self._taken.append(record)
        elif (place := self._random.randrange(self._offered)) < self._size:
            self._taken[place] = record

    def records(self) -> list[Record]:
        """Return what was taken, in the order of the input."""
        return sorted(self._taken, key=lambda record: record.number)


def selected(records: Iterable[Record], limit: int | None, sample: int | None, seed: int | None) -> Iterator[Record]:
    """Yield the first ``limit`` records, or ``sample`` of them at random; None means all."""
    first = islice(records, limit)
    if sample is None:
        yield from first
        return
    some = Sample(sample, seed)
    for record in first:
        some.offer(record)
    yield from some.records()
