"""A part of the records: the first ones, or some at random; and what the whole run will cost, estimated by these."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from math import sqrt
from typing import Any

from gptpipe.message import counts
from gptpipe.records.input import Record
from gptpipe.records.request import Rehearsal
from gptpipe.records.results import Outcome, State
from gptpipe.settings.settings import Settings
from gptpipe.usage import prices

_CERTAIN = 1.96  # standard errors on each side: 95 percent


def selected(records: Iterable[Record], limit: int | None, size: int | None, seed: int | None) -> Iterator[Record]:
    """Yield the first ``limit`` records, or ``size`` of them at random, in their order; None means all.

    Each has the same chance to be in the sample (reservoir sampling).
    """
    first = islice(records, limit)
    if size is None:
        yield from first
        return
    taken: list[Record] = []
    dice = random.Random(seed)
    for offered, record in enumerate(first, 1):
        if offered <= size:
            taken.append(record)
        elif (place := dice.randrange(offered)) < size:
            taken[place] = record
    yield from sorted(taken, key=lambda record: record.number)


class Estimate:
    """Sums up what the records of a sample used; ``settings`` are those that they are asked by."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failed = self._output = 0
        self._costs: list[float | None] = []  # of each

    def add(self, outcome: Outcome) -> None:
        """Count a record."""
        if outcome.known is State.MISSING:
            used = counts(outcome.usage)
            self._failed += outcome.failure is not None
            self._output += used.output
            self._costs.append(prices.cost(used, self._settings))

    def found(self, rehearsal: Rehearsal, seconds: float, jobs: int) -> dict[str, Any]:
        """Return the estimate as JSON. The sample took ``seconds``."""
        number, asked = rehearsal.open, len(self._costs)
        known = [cost for cost in self._costs if cost is not None]
        paid = price = least = most = None
        if known and len(known) == asked:
            paid = sum(known)
            mean = paid / asked
            deviation = sqrt(sum((cost - mean) ** 2 for cost in known) / max(1, asked - 1))
            rest = max(0.0, 1 - asked / number) if number else 0.0
            price, spread = mean * number, _CERTAIN * number * deviation / sqrt(asked) * sqrt(rest)
            least, most = max(0.0, price - spread), price + spread
        return {
            "asked": {"records": asked, "failed": self._failed, "price": paid},
            "estimate": {
                "price": price,
                "from": least,
                "to": most,
                "output_tokens": round(self._output / asked * number) if asked else None,
                "seconds": round(seconds * number / max(asked, jobs), 1) if asked else None,
            },
        }
