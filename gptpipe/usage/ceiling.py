"""``--max-cost``: what the requests of a run, or of a whole chat, may cost together."""

from __future__ import annotations

from threading import Condition

from gptpipe.errors import OverLimit

_ROUNDING = 1e-9  # a hundred times one cent is a little more than a dollar


class Ceiling:
    """A sum in USD, what was used of it, and what the requests on their way may take. Threads may share it."""

    def __init__(self, usd: float) -> None:
        self._usd = usd
        self._most = usd * (1 + _ROUNDING)
        self._used = 0.0
        self._on_their_way = 0.0
        self._largest = 0.0  # of the requests so far
        self._changed = Condition()

    def begin(self, usd: float) -> float:
        """Set aside what a request may cost: ``usd``, or the most that one has cost so far. Return the sum.

        If only the requests on their way leave no room, wait: they may turn out cheaper than what was set aside.

        :raises OverLimit: if the sum might be passed.
        """
        with self._changed:
            usd = max(usd, self._largest)
            while self._on_their_way > _ROUNDING and self._used + usd <= self._most < self._expected + usd:
                self._changed.wait()
                usd = max(usd, self._largest)
            self._check(usd)
            self._on_their_way += usd
            return usd

    def check(self) -> None:
        """Check that a request may be tried again. Its sum is set aside already.

        :raises OverLimit: if that could pass the ceiling.
        """
        with self._changed:
            self._check(0)

    @property
    def _expected(self) -> float:
        return self._used + self._on_their_way

    def _check(self, usd: float) -> None:
        if self._expected + usd > self._most:
            raise OverLimit(
                f"the next request could pass --max-cost {self._usd:g} (${self._used:.4f} are used)",
                "a higher --max-cost allows it",
            )

    def use(self, usd: float) -> None:
        """Count what a request has cost."""
        with self._changed:
            self._used += usd
            self._largest = max(self._largest, usd)

    def end(self, usd: float) -> None:
        """Give back what was set aside for a request."""
        with self._changed:
            self._on_their_way -= usd
            self._changed.notify_all()
