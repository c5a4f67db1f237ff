"""``--max-cost``: what the requests of a run, or of a whole chat, may cost together."""

from __future__ import annotations

from threading import Condition

from gptpipe.errors import OverLimit

_ROUNDING = 1e-9  # a hundred times one cent is a little more than a dollar


class Ceiling:
    """A sum in USD, what was used of it, and what the requests on their way may take. Threads may share it."""

    def __init__(self, usd: float) -> None:
        self._usd = usd
        self._used = 0.0
        self._on_their_way = 0.0
        self._largest = 0.0  # of the requests so far
        self._changed = Condition()

    def begin(self, usd: float) -> float:
        """Set aside what a request may cost: ``usd``, or what the dearest one did; return that.

        Waits for requests on their way, if they may turn out cheaper than what was set aside for them.

        :raises OverLimit: if the sum might be passed.
        """
        with self._changed:
            usd = max(usd, self._largest)
            most = self._usd * (1 + _ROUNDING)
            while self._on_their_way > _ROUNDING and self._used + usd <= most < self._used + self._on_their_way + usd:
                self._changed.wait()
                usd = max(usd, self._largest)
            if self._used + self._on_their_way + usd > most:
                raise OverLimit(
                    f"the next request could pass --max-cost {self._usd:g} (${self._used:.4f} are used)",
                    "a higher --max-cost allows it",
                )
            self._on_their_way += usd
            return usd

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
