"""The pace of many requests at once: how they are held and slowed down together, and when the run gives up.

- A 429, or a wait that the server asked for, holds all requests and spends no try of the record. The run ends when
  HOLDS such waits in a row and PATIENCE seconds brought no accepted request.
- No connection, 502, 503 or 529 concerns only its record, until ROW of them came with no answer in between. Then
  all are held, and one request tries from time to time. After OUTAGE seconds its record is given up, because the
  fault may be in the record; if the next one fares no better, the run ends.

A run that ends so has status 75, and records that it did not come to have no result. gptpipe-map(1) says this too.
"""

from __future__ import annotations

import random
import time
from math import inf
from threading import TIMEOUT_MAX, Condition, get_ident

from gptpipe.console.output import patience, say
from gptpipe.errors import Failure, Temporary
from gptpipe.message import size
from gptpipe.records.rate import Rate
from gptpipe.wire.client import Gate, Wait
from gptpipe.wire.request import Request

HOLDS, PATIENCE = 10, 300.0
ROW, OUTAGE = 3, 45.0
_FIRST_HOLD, _LONGEST_HOLD = 0.5, 5.0  # seconds, doubled from one to the next, if the server names no time
_BYTES_PER_TOKEN = 4


class Stopped(BaseException):
    """The run takes no new requests."""


def estimate(request: Request) -> int:
    """Return roughly how many tokens a request counts against a limit, before the server has said so."""
    limit = request.params.get("max_completion_tokens") or request.params.get("max_tokens")
    longest = int(limit) if isinstance(limit, int | float) and limit > 0 else 0  # --param may set it to anything
    return sum(map(size, request.messages)) // _BYTES_PER_TOKEN + longest


class Pace(Gate):
    """The gate of all threads of a run. ``rpm`` and ``tpm`` are requests and tokens a minute, None means no cap.

    ``deadline`` is when the run ends (monotonic), None for never: a wait beyond it ends the run at once. ``over`` is
    why the run gave up.

    :raises Stopped: where it makes a thread wait, once no more requests may be sent.
    """

    longest = inf  # seconds that the server may ask for

    def __init__(self, rpm: float | None, tpm: float | None, deadline: float | None) -> None:
        self._rate = Rate(None if rpm is None else rpm / 60)
        self._tokens_per_second = None if tpm is None else tpm / 60
        self._deadline = deadline
        self._changed = Condition()
        self._stopped = False
        self._next = 0.0  # when the next request is due
        self._tokens_due = 0.0  # when the tokens of the requests so far are within the cap
        self._until = 0.0  # the end of the present hold
        self._began = 0.0  # its beginning: what was sent before says nothing new
        self._entered: dict[int, float] = {}  # when each thread's request was sent
        self._row = 0  # of failures that say that no server is there
        self._holds = 0  # without an accepted request between them
        self._since = 0.0  # the first failure or hold of these
        self._trying: int | None = None  # the thread whose request looks whether the server is back
        self._given_up = False  # a record, in this outage
        self.over: Failure | None = None

    def stop(self) -> None:
        """Let no more requests pass."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def enter(self, request: Request) -> None:
        """Wait for this request's turn."""
        with self._changed:
            if self._tokens_per_second:
                due = max(time.monotonic(), self._tokens_due)
                self._tokens_due = due + estimate(request) / self._tokens_per_second
                self._wait_until(due)
            while True:
                hold = self._began
                self._wait_until(self._reserve())
                while self._away and self._trying not in (None, get_ident()) and not self._stopped:
                    self._changed.wait()
                if hold == self._began and not self._stopped:  # else a hold came while this one waited
                    break
            if self._away:
                self._trying = get_ident()
            self._entered[get_ident()] = time.monotonic()

    @property
    def _away(self) -> bool:
        """Whether the server seems not to be there."""
        return self._row >= ROW

    def _reserve(self) -> float:
        due = max(time.monotonic(), self._until, self._next)
        if rate := self._rate.at(due):
            self._next = due + 1 / rate
        return due

    def _wait_until(self, moment: float) -> None:
        while (left := moment - time.monotonic()) > 0 and not self._stopped:
            self._changed.wait(min(left, TIMEOUT_MAX))
        if self._stopped:
            raise Stopped

    def opened(self) -> None:
        """Count a request that the server accepted."""
        with self._changed:
            now = time.monotonic()
            self._rate.accept(self._entered.get(get_ident(), now), now)
            self._reached()

    def _reached(self) -> None:
        """End an outage: a server answers, whatever it says."""
        if self._away:
            self._changed.notify_all()
        self._row, self._holds, self._trying, self._given_up = 0, 0, None, False

    def spent(self, request: Request, tokens: int) -> None:
        """Correct the estimate of a request by what the server says that it took."""
        if self._tokens_per_second:
            with self._changed:
                self._tokens_due += (tokens - estimate(request)) / self._tokens_per_second

    def failed(self, failure: Failure, seconds: float) -> Wait:
        """Hold all requests if the failure concerns all; return the wait of the one that failed."""
        with self._changed:
            if not isinstance(failure, Temporary) or not (failure.busy or failure.away):
                self._reached()
                return Wait(seconds)
            if failure.busy:
                self._row, self._trying = 0, None
            elif not self._missed():
                return Wait(seconds, free=failure.retry_after is not None)
            return self._hold(failure)

    def _missed(self) -> bool:
        """Count a failure that says that no server is there; return whether there were enough of them."""
        if self._trying in (None, get_ident()):
            self._row += 1
            self._trying = None
        if self._row == 1 and not self._holds:
            self._since = time.monotonic()
        return self._away

    def _hold(self, failure: Temporary) -> Wait:
        """Send nothing for as long as the server asks, and less in a second after that."""
        now = time.monotonic()
        last = False
        if self._entered.get(get_ident(), now) >= self._began:  # else it was sent before the last hold
            self._since = self._since if self._holds or self._row else now
            self._holds += 1
            new = now >= self._until
            self._began, self._until = now, max(self._until, now + self._asked(failure))
            self._next = self._rate.refuse(now, self._until)
            if new:
                self._announce(failure, self._until - now)
            last = self._hopeless(failure, now)
        elif failure.retry_after is not None:
            self._until = self._next = max(self._until, now + failure.retry_after)
        self._changed.notify_all()
        return Wait(max(0.0, self._until - now), free=True, last=last)

    def _asked(self, failure: Temporary) -> float:
        if failure.retry_after is not None:
            return failure.retry_after
        return min(_LONGEST_HOLD, _FIRST_HOLD * 2.0 ** min(self._holds - 1, 10)) * random.uniform(0.75, 1.0)

    def _announce(self, failure: Temporary, seconds: float) -> None:
        if self._row == ROW:
            say(f"{failure.message}; trying again for {OUTAGE:.0f} s, then the run ends")
        elif seconds >= patience():
            say(f"the server is busy: no requests for {seconds:.0f} s")

    def _hopeless(self, failure: Temporary, now: float) -> bool:
        """End the run if it cannot succeed any more; return whether to give the record up."""
        if self._deadline is not None and self._until > self._deadline:
            self._give_up(f"{failure.message}; the next try is due after --max-time")
        elif not self._away or failure.retry_after is not None:
            if self._holds >= HOLDS and now - self._since >= PATIENCE:
                self._give_up(failure.message)
        elif now - self._since >= OUTAGE:
            if self._given_up:
                self._give_up(failure.message)
            self._given_up = True
            return self.over is None
        return False

    def _give_up(self, message: str) -> None:
        self.over = self.over or Temporary(message, "with --output, --resume goes on where the run ended")
        self._stopped = True

    def sleep(self, seconds: float) -> None:
        """Wait, but not longer than requests may be sent."""
        with self._changed:
            self._wait_until(time.monotonic() + seconds)
