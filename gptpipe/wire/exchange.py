"""One exchange with a server: a request, and the bytes of its reply.

The thread that needs the reply sends the request and reads it, over the connection of its last exchange. Where a
connection has to be opened, a daemon thread sends the request, because nothing else can bound a name lookup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from threading import Thread, get_ident, local
from typing import NamedTuple, Protocol

from gptpipe.errors import exhausted

# Seconds that a call may block. Python runs signal handlers between its own steps only: a signal that comes just before
# a call blocks, or to another thread, is handled when the call ends.
WAKE = 0.25
_PARTING = 1.0  # seconds for which the end of a body may come when the answer has ended: then the connection is kept


class Response(Protocol):
    """A response, of a server or of the built-in model."""

    @property
    def status(self) -> int:
        """Its status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, by their names in lower case."""

    def read_until(self, moment: float) -> None:
        """Read nothing more after a moment (monotonic)."""

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield the body as it arrives."""

    def close(self) -> None:
        """Give the connection back, or close it if the body has not ended."""


class Head(NamedTuple):
    """What a reply begins with."""

    status: int
    headers: Mapping[str, str]

    @property
    def request_id(self) -> str | None:
        """The name that the server gave to the request."""
        return self.headers.get("x-request-id")

    @property
    def event_stream(self) -> bool:
        """Whether the server calls its reply an event stream."""
        return "event-stream" in self.headers.get("content-type", "")


class Refused(Exception):
    """A refusal that ``ask`` has read itself."""

    def __init__(self, head: Head, text: str) -> None:
        super().__init__(text)
        self.head = head
        self.text = text


class Lost(Exception):
    """The connection broke."""


class NotHttp(Exception):
    """The server sent what is not HTTP, or ended too early."""


class Unopened(Exception):
    """The request needs a new connection, and this thread may not open one; or nobody waits for its reply."""


_here = local()  # ``lane``, ``opens`` (see below), and ``last``, the exchange that this thread made before


def lane() -> int:
    """Return the number under which the connections of this thread are kept."""
    return getattr(_here, "lane", None) or get_ident()


def may_open() -> bool:
    """Return whether this thread may open a connection: only a thread that can be left behind."""
    return getattr(_here, "opens", False)


class Exchange:
    """A request that ``ask`` sends. ``ask`` returns the response, or None if it has read the reply itself."""

    def __init__(self, ask: Callable[[Exchange], Response | None]) -> None:
        self._ask = ask
        self._connected = False  # name, TCP, TLS and proxy are done
        self._left = inf  # until when the rest of the body is read (monotonic); the past if nobody wants the reply
        self._opened: SimpleQueue[Response | BaseException | None] = SimpleQueue()
        self._response: Response | None = None
        self._body: Iterator[bytes] = iter(())

    def __enter__(self) -> Exchange:
        last, _here.last = getattr(_here, "last", None), self
        if last is not None:
            last._part()
        return self

    def head(self, timeout: float | None) -> Head:
        """Send the request, and return the head of its reply.

        ``timeout`` (seconds) limits the wait for the connection, not that for the head.

        :raises Empty: if the connection is not made in time. What ``ask`` raised is raised here.
        :raises Temporary: if the system has no thread left.
        """
        with suppress(Unopened):  # what is raised below must not have it as its context
            return self._taken(self._ask(self))
        return self._taken(self._from_another_thread(timeout))

    def _taken(self, response: Response | None) -> Head:
        return Head(200, {}) if response is None else self.take(response)

    def _from_another_thread(self, timeout: float | None) -> Response | None:
        own = lane()

        def work() -> None:
            _here.lane, _here.opens = own, True
            try:
                self._opened.put(self._ask(self))
            except BaseException as error:
                self._opened.put(error)
            if self._left < inf:
                self._drop()

        try:
            Thread(target=work, daemon=True).start()
        except RuntimeError as error:
            raise exhausted(error) or error from error
        until = inf if timeout is None else time.monotonic() + timeout
        found: Response | BaseException | None = None
        while True:
            left = inf if self._connected else until - time.monotonic()
            with suppress(Empty):
                found = self._opened.get(timeout=max(0.0, min(left, WAKE)))
                break
            if left <= 0 and not self._connected:
                raise Empty
        if isinstance(found, BaseException):
            raise found
        return found

    def sending(self) -> None:
        """Called when the connection is made and the request is about to be sent.

        :raises Unopened: if nobody waits for the reply any more.
        """
        self._connected = True
        if self._left < inf:
            raise Unopened

    def take(self, response: Response) -> Head:
        """Take the response whose body :meth:`blocks` reads, and return its head."""
        self._response, self._body = response, response.iter_bytes()
        return Head(response.status, response.headers)

    def blocks(self, left: Callable[[], float | None]) -> Iterator[bytes]:
        """Yield the blocks of the body; those that came together as one.

        ``left`` returns the seconds for which the next one is waited for, None for no limit.

        :raises Empty: if it did not come in time. What broke the reply is raised here.
        """
        while True:
            seconds = left()
            until = self._read_until(inf if seconds is None else time.monotonic() + seconds)
            try:
                block = next(self._body, None)
            except Exception as error:
                if time.monotonic() >= until:
                    raise Empty from error
                raise
            if block is None:
                break
            yield block
        self._close()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave. If something went wrong, the server is to stop at once; else the end of the body may still come."""
        self._left = time.monotonic() + _PARTING if kind is None else -inf
        if kind is not None:
            self._close()
            self._drop()

    def _part(self) -> None:
        """Read the rest of the body, for a moment, so that the next exchange gets the connection."""
        if self._response is not None:
            self._read_until(self._left)
            with suppress(Exception):  # what has come already is read in any case
                while next(self._body, None) is not None and time.monotonic() < self._left:
                    pass
            self._close()

    def _close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def _read_until(self, moment: float) -> float:
        if self._response is not None:
            self._response.read_until(moment)
        return moment

    def _drop(self) -> None:
        """Close a response that nobody took."""
        with suppress(Empty):
            found = self._opened.get_nowait()
            if found is not None and not isinstance(found, BaseException):
                found.close()
