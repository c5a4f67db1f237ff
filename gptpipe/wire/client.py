"""The client: one request to an endpoint, and the tries around it.

What one try sends and reads is in :mod:`gptpipe.wire.transport`, :mod:`gptpipe.wire.exchange` and
:mod:`gptpipe.wire.reply`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from math import inf
from queue import Empty
from typing import NamedTuple

from gptpipe.errors import Failure, Temporary
from gptpipe.settings.settings import Settings
from gptpipe.text.address import masked
from gptpipe.text.strict_json import compact
from gptpipe.wire import faults, protocol, transport
from gptpipe.wire.early import Early
from gptpipe.wire.events import Again, Event, Opened
from gptpipe.wire.exchange import Exchange, Head, Refused, Response
from gptpipe.wire.protocol import Protocol
from gptpipe.wire.reply import Reply, Waiting, refusal
from gptpipe.wire.request import Request
from gptpipe.wire.transport import Way, load, preload

__all__ = ["Client", "Early", "Gate", "Patient", "load", "preload"]

_MOST_WAITS = 100  # of one request, where the server asks for them again and again


class Wait(NamedTuple):
    """What follows a failed try: a wait of ``seconds``.

    A ``free`` wait spends no try; after the ``last`` the request is given up.
    """

    seconds: float
    free: bool = False
    last: bool = False


class Gate:
    """What each try has to pass, so that many at once can be held and slowed down together; this one is open.

    A server that asks for a pause of more than ``longest`` seconds ends the run.
    """

    longest = 600.0

    def enter(self, request: Request) -> None:
        """Return when this request may be sent."""

    def opened(self) -> None:
        """Called when the server has accepted a request."""

    def failed(self, failure: Failure, seconds: float) -> Wait:  # noqa: ARG002
        """Return what follows a failed try; ``seconds`` is the wait that one request alone would make."""
        return Wait(seconds)

    def sleep(self, seconds: float) -> None:
        """Wait before a try is repeated."""
        time.sleep(seconds)


class Patient(Gate):
    """For runs that may take a day: they wait as long as the server asks for."""

    longest = inf


class _FieldRefused(Exception):
    """The endpoint refuses a field of the request, and takes it without."""

    def __init__(self, field: str, failure: Failure) -> None:
        super().__init__(field)
        self.field = field
        self.failure = failure


class Client:
    """Asks one endpoint, and keeps its connections. Several threads may use it at once.

    ``key`` is the API key or None; ``deadline`` gives the monotonic time after which no retry is waited for;
    ``waiting`` announces a wait that lasts; each try of each thread passes the ``gate``; ``early`` is the first
    connection, if it is being opened already. ``retries`` counts the tries after the first.

    :raises ConfigError: if an address, the proxy or the certificates cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        key: str | None,
        *,
        deadline: Callable[[], float | None],
        waiting: Waiting,
        gate: Gate | None = None,
        early: Early | None = None,
    ) -> None:
        self.way = Way(settings, key, early)
        self.retries = 0
        self._settings = settings
        self._deadline = deadline
        self._waiting = waiting
        self._gate = gate or Gate()
        self._refused: set[str] = set()

    def close(self) -> None:
        """Close the connections, for a program that goes on."""
        self.way.close()

    @property
    def refused(self) -> frozenset[str]:
        """The fields of requests that the endpoint has refused so far."""
        return frozenset(self._refused)

    def stream(self, request: Request, *, repeatable: Callable[[], bool]) -> Iterator[Event]:
        """Ask, and yield what the server says until the answer has ended.

        ``repeatable`` is asked before a try is repeated: whether nothing of it was passed on.

        :raises Failure: of the kind that gptpipe(1) documents under EXIT STATUS.
        """
        return self._repeat(lambda: self._answer(request), repeatable)

    def run(self, ask: Callable[[Exchange], Response | None], path: str, *, repeatable: bool = True) -> None:
        """Make an exchange in which ``ask`` reads its own reply, with the limits and tries of every request.

        :raises Failure: as :meth:`stream`.
        """

        def attempt() -> Iterator[Event]:
            with Exchange(ask) as exchange:
                yield Opened(self._head(exchange, path).request_id)

        for _ in self._repeat(attempt, lambda: repeatable):
            pass

    def _repeat(self, attempt: Callable[[], Iterator[Event]], repeatable: Callable[[], bool]) -> Iterator[Event]:
        tries = waits = 0
        dropped: set[str] = set()
        while True:
            try:
                yield from attempt()
                return
            except _FieldRefused as refused:
                failure = self._cleaned(refused.failure)
                if refused.field in dropped or not repeatable():
                    raise failure from None
                dropped.add(refused.field)
                self._refused.add(refused.field)  # by the other threads' next requests too
                yield Again(failure)
            except Failure as failure:
                self._cleaned(failure)
                wait = self._gate.failed(failure, _pause(failure, tries))
                if not isinstance(failure, Temporary) or not failure.repeat or not repeatable():
                    raise
                if wait.last or waits >= _MOST_WAITS or (tries >= self._settings.retry and not wait.free):
                    raise
                self._check(failure, wait.seconds)
                tries += not wait.free
                waits += 1
                self.retries += 1
                yield Again(failure)
                with self._waiting(
                    f"{failure.message}; trying again in {wait.seconds:.0f} s, --max-time or --retry 0 ends it"
                ):
                    self._gate.sleep(wait.seconds)

    def _check(self, failure: Temporary, seconds: float) -> None:
        """Raise the failure if the next try is too far away."""
        until = self._deadline()
        if until is not None and time.monotonic() + seconds > until:
            raise Temporary(f"{failure.message}; the next try is due in {seconds:.0f} s, after --max-time") from None
        if seconds > self._gate.longest:
            raise Temporary(f"{failure.message}; the server wants to be left alone for {seconds:.0f} s") from None

    def _cleaned(self, failure: Failure) -> Failure:
        """Return the failure without a key or header value that the server repeated in it."""
        failure.message = self.way.clean(failure.message)
        return failure

    def _answer(self, request: Request) -> Iterator[Event]:
        """Try once."""
        self._gate.enter(request)
        spoken, way = self._spoken(request), self.way
        try:
            content = compact(spoken.body(request, self._settings, self._refused)).encode()
        except UnicodeEncodeError as error:
            raise way.failure(error, spoken.path) from None
        with Exchange(lambda exchange: way.post(exchange, spoken.path, content)) as exchange:
            head = self._head(exchange, spoken.path, request)
            self._gate.opened()
            yield Opened(head.request_id, spoken.name)
            yield from Reply(exchange, head, way, spoken, self._waiting).events()

    def _spoken(self, request: Request) -> Protocol:
        """Return the protocol for a request: the other one if the endpoint has asked for it."""
        chosen = protocol.of(self._settings, request)
        return protocol.RESPONSES if chosen.name in self._refused else chosen

    def _head(self, exchange: Exchange, path: str, request: Request | None = None) -> Head:
        """Wait until the server accepts the request.

        :raises Failure: if it does not.
        """
        try:
            head = exchange.head(self._settings.connect_timeout)
        except Empty:
            raise transport.unreached(self._settings) from None
        except Refused as refused:
            raise self._refusal(refused.head, refused.text, path, request) from None
        except Exception as error:
            raise self.way.failure(error, path) from error
        if 200 <= head.status < 300:
            return head
        raise self._refusal(head, refusal(exchange), path, request)

    def _refusal(self, head: Head, text: str, path: str, request: Request | None) -> Exception:
        """Return what another status than success means: a field of the request is refused, or a failure."""
        text = self.way.clean(text)  # before it is shortened, or the half of a key would be left
        failure = faults.from_response(head.status, head.headers, text, masked(self.way.url(path)))
        if request is None:
            return failure
        spoken = self._spoken(request)
        if faults.wants_responses(head.status, text) and spoken is protocol.CHAT and self._settings.api == "auto":
            return _FieldRefused(spoken.name, failure)
        if spoken is protocol.RESPONSES and faults.has_no_path(head.status, text):
            failure.hint = "the server may not have the Responses API: --api chat speaks Chat Completions"
        field = faults.refused_field(text) if faults.refuses(head.status, text) else None
        if field is not None and self._matters(field, request):
            return _FieldRefused(field, failure)
        return failure

    def _matters(self, field: str, request: Request) -> bool:
        """Return whether the request without the field is another one."""
        body = self._spoken(request).body
        return body(request, self._settings, self._refused | {field}) != body(request, self._settings, self._refused)


def _pause(failure: Failure, tries: int) -> float:
    """Return how many seconds the server asks to be left alone, or else what is usual."""
    asked = failure.retry_after if isinstance(failure, Temporary) else None
    return min(8.0, 0.5 * 2**tries) * (0.75 + os.urandom(1)[0] / 1024) if asked is None else asked
