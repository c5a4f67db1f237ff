"""How many requests a second a server takes, learned from the moments at which it refused one.

At such a moment the server's allowance is used up. So what it accepted between two of them is what it gives in that
time: ``(accepted + 1) / time`` is never less than its rate, and the nearer the longer the time is. Before there are
two, the rate begins low and doubles each second. Afterwards it doubles each minute (a slow one, more slowly), to find
out when there is more; but after a wait that is long for this rate it doubles each second again, because such a server
counts in windows, and begins anew.
Times are monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

SLOWEST = 0.1  # requests a second
_START = 1.0  # and after the first refusal, unless the server took many more in the second before
_FRACTION = 8  # of those then
_QUICKLY = 1.0  # seconds in which the rate doubles, at first
_SLOWLY = (60.0, 300.0)  # and afterwards; the time for _MANY requests, within these bounds
_MANY = 300
_LONG = 2.0  # seconds
_RESERVE = 2  # requests for which more is waited, or the next one to come a little early would be refused too
_WINDOW, _ENOUGH = 15.0, 30  # seconds that are looked back at least, and accepted requests


class _Refusal(NamedTuple):
    """When the allowance was used up, and how many requests had been accepted until then."""

    at: float
    accepted: int


class Rate:
    """The rate at which requests may be sent; ``cap`` is the user's own limit, in requests a second, or None."""

    def __init__(self, cap: float | None) -> None:
        self._cap = cap
        self._rate: float | None = None  # at the time _since; None as long as the server refused nothing
        self._since = 0.0
        self._doubles = _QUICKLY
        self._accepted = 0
        self._recent: deque[float] = deque()  # when the requests of the last second were accepted
        self._refusals: deque[_Refusal] = deque()

    def at(self, moment: float) -> float | None:
        """Return the rate in requests a second, or None without a limit."""
        if self._rate is None:
            return self._cap
        rate = self._rate * 2 ** min(60.0, max(0.0, moment - self._since) / self._doubles)
        return rate if self._cap is None else min(rate, self._cap)

    def accept(self, sent: float, now: float) -> None:
        """Count a request that was ``sent`` at some moment and that the server has accepted ``now``."""
        self._accepted += 1
        if self._refusals and sent < self._refusals[-1].at:
            at, accepted = self._refusals.pop()
            self._refusals.append(_Refusal(at, accepted + 1))
        self._recent.append(now)
        while self._recent[0] < now - 1:
            self._recent.popleft()

    def refuse(self, now: float, resumes: float) -> float:
        """Learn from a refusal after which the server asks to wait until ``resumes``; return when to send again."""
        if not self._refusals:
            recent = sum(moment > now - 1 for moment in self._recent)
            self._set(max(_START, recent / _FRACTION), resumes)
        elif self._accepted > self._refusals[-1].accepted:
            while len(self._refusals) > 1 and self._suffices(self._refusals[1], now):
                self._refusals.popleft()
            since = self._refusals[0]
            rate = (self._accepted - since.accepted + 1) / max(now - since.at, 1e-3)
            self._doubles = min(_SLOWLY[1], max(_SLOWLY[0], _MANY / rate))
            if resumes - now > max(_LONG, _RESERVE / rate):
                self._doubles = _QUICKLY
            else:
                resumes += _RESERVE / rate
            self._set(rate, resumes)
        else:  # nothing was accepted since: that says nothing about the rate
            self._set(self.at(now) or SLOWEST, resumes)
            return resumes
        self._refusals.append(_Refusal(now, self._accepted))
        return resumes

    def _suffices(self, since: _Refusal, now: float) -> bool:
        return since.at < now - _WINDOW and self._accepted - since.accepted >= _ENOUGH

    def _set(self, rate: float, since: float) -> None:
        self._rate, self._since = max(SLOWEST, rate), since
