"""The pace of many requests at once: held together when the server is busy, slower after that, under the user's caps.

A 429 or 503 holds every request for what the server asks and takes the rate down to SLOWER of what it was, once for
each such wait: what was sent before the rate went down does not lower it again. Then it grows by GROWTH requests a
second each second. The rate that it was is, the first time, the number of requests that the server took in the last
second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import TIMEOUT_MAX, Event, Lock, local

from gptpipe.message import size
from gptpipe.wire.client import Gate
from gptpipe.wire.request import Request

SLOWER = 0.8
GROWTH = 1.0
SLOWEST = 0.1  # requests a second
_WINDOW = 1.0  # seconds: also the shortest wait, because limits of servers are for a second at least
_BYTES_PER_TOKEN = 4


class Stopped(BaseException):
    """The run takes no new requests."""


def estimate(request: Request) -> int:
    """Return roughly how many tokens a request counts against a limit, before the server has said so."""
    limit = request.params.get("max_completion_tokens") or request.params.get("max_tokens")
    longest = int(limit) if isinstance(limit, int | float) and limit > 0 else 0  # --param may set it to anything
    return sum(map(size, request.messages)) // _BYTES_PER_TOKEN + longest


class Pace(Gate):
    """The gate of all threads of a run. ``rpm`` and ``tpm`` are requests and tokens a minute, None is no cap.

    ``held`` is told of each wait that the server asks for, in seconds.
    """

    def __init__(self, rpm: float | None, tpm: float | None, held: Callable[[float], None]) -> None:
        self._cap = None if rpm is None else rpm / 60
        self._tokens_per_second = None if tpm is None else tpm / 60
        self._told = held
        self._lock = Lock()
        self._stopped = Event()
        self._rate = self._cap  # at the time _since
        self._since = time.monotonic()
        self._next = 0.0  # when the next request is due
        self._tokens_due = 0.0  # when the tokens of the requests so far are within the cap
        self._until = 0.0  # the end of the last hold
        self._lowered = 0.0  # when the rate was last taken down
        self._taken: deque[float] = deque()  # when the server took the requests of the last second
        self._thread = local()

    def stop(self) -> None:
        """Let no more requests pass."""
        self._stopped.set()

    def enter(self, request: Request) -> None:
        """Wait for this request's turn.

        :raises Stopped: if none comes any more.
        """
        if self._tokens_per_second:
            self._wait_until(self._reserve_tokens(estimate(request) / self._tokens_per_second))
        self._wait_until(self._reserve())
        while self._until > (now := time.monotonic()):  # a hold came while this one waited
            self._wait_until(self._reserve())
        self._thread.entered = now

    def _reserve(self) -> float:
        with self._lock:
            due = max(time.monotonic(), self._until, self._next)
            if rate := self._rate_at(due):
                self._next = due + 1 / rate
            return due

    def _reserve_tokens(self, seconds: float) -> float:
        with self._lock:
            due = max(time.monotonic(), self._tokens_due)
            self._tokens_due = due + seconds
            return due

    def _rate_at(self, moment: float) -> float | None:
        if self._rate is None:
            return None
        rate = self._rate + GROWTH * max(0.0, moment - self._since)
        return rate if self._cap is None else min(rate, self._cap)

    def _wait_until(self, moment: float) -> None:
        self.sleep(max(0.0, moment - time.monotonic()))

    def opened(self) -> None:
        """Count a request that the server took."""
        with self._lock:
            self._count(time.monotonic(), 1)

    def _count(self, now: float, more: int) -> int:
        """Add so many requests, and return how many there were in the last second."""
        self._taken.extend([now] * more)
        while self._taken and self._taken[0] < now - _WINDOW:
            self._taken.popleft()
        return len(self._taken)

    def spent(self, request: Request, tokens: int) -> None:
        """Correct the estimate of a request by what the server says that it took."""
        if self._tokens_per_second:
            with self._lock:
                self._tokens_due += (tokens - estimate(request)) / self._tokens_per_second

    def hold(self, seconds: float) -> float:
        """Send nothing for so long, and less in a second after that; return what is to be waited."""
        with self._lock:
            now = time.monotonic()
            if self._thread.entered > self._lowered:
                self._lower(now)
            begins = self._until <= now
            if now + seconds > self._until:
                self._until = self._next = self._since = now + seconds
            left = self._until - now
        if begins:
            self._told(left)
        return max(0.0, left)

    def _lower(self, now: float) -> None:
        taken = float(self._count(now, 0))
        rate = self._rate_at(now)
        if rate is None or now - self._until >= _WINDOW:  # else a part of the second was a hold
            rate = taken if rate is None else min(rate, taken)
        self._rate = max(SLOWEST, SLOWER * rate)
        self._since = self._lowered = now

    def sleep(self, seconds: float) -> None:
        """Wait.

        :raises Stopped: if no more requests are to be sent.
        """
        if self._stopped.wait(min(seconds, TIMEOUT_MAX)):
            raise Stopped
