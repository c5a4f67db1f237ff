"""What a whole run will cost, estimated by a sample that was asked."""

from __future__ import annotations

from math import sqrt
from typing import Any

from gptpipe.message import counts
from gptpipe.records.request import Rehearsal
from gptpipe.records.results import Outcome, State
from gptpipe.settings.settings import Settings
from gptpipe.usage import prices

_CERTAIN = 1.96  # standard errors on each side: 95 percent


class Estimate:
    """Sums up what the records of a sample used; ``settings`` are those that they are asked by."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked = self._failed = self._output = 0
        self._costs: list[float | None] = []

    def add(self, outcome: Outcome) -> None:
        """Count a record."""
        if outcome.known is not State.MISSING:
            return
        chosen, used = self._settings, counts(outcome.usage)
        self._asked += 1
        self._failed += outcome.failure is not None
        self._output += used.output
        self._costs.append(prices.cost(used, chosen))

    def found(self, rehearsal: Rehearsal, seconds: float, jobs: int) -> dict[str, Any]:
        """Return the estimate as JSON. The sample took ``seconds``."""
        number, asked = rehearsal.open, self._asked
        known = [cost for cost in self._costs if cost is not None]
        price = spread = None
        if known and len(known) == asked:
            mean = sum(known) / asked
            deviation = sqrt(sum((cost - mean) ** 2 for cost in known) / max(1, asked - 1))
            rest = max(0.0, 1 - asked / number) if number else 0.0
            price, spread = mean * number, _CERTAIN * number * deviation / sqrt(asked) * sqrt(rest)
        return {
            "asked": {"records": asked, "failed": self._failed, "price": sum(known) if price is not None else None},
            "estimate": {
                "price": price,
                "from": None if price is None or spread is None else max(0.0, price - spread),
                "to": None if price is None or spread is None else price + spread,
                "output_tokens": round(self._output / asked * number) if asked else None,
                "seconds": round(seconds * number / max(asked, jobs), 1) if asked else None,
            },
        }
