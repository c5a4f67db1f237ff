"""One exchange with a server: a request, and the bytes of its reply.

It happens in a daemon thread, because nothing else can bound a name lookup. The thread that needs the reply waits for
it here, and may leave at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from threading import Lock, Thread, local
from typing import Any, NamedTuple, Protocol

from gptpipe.errors import exhausted

LEAD = 256  # blocks of bytes that may wait for the reader
_TOGETHER = 1 << 18  # bytes of blocks that are decoded at once
_PARTING = 1.0  # seconds for which the end of a body may come when the answer has ended: then the connection is kept


class Response(Protocol):
    """The part of the HTTP library's response that is used here."""

    @property
    def status_code(self) -> int:
        """Its status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, whatever their case."""

    @property
    def extensions(self) -> Mapping[str, Any]:
        """What the transport adds, the socket under ``network_stream``."""

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield the body as it arrives."""


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


Item = Head | bytes | BaseException | None
"""What the thread hands over: Head, the blocks of the body, None for its end; an exception instead is the last."""


class _Hand:
    """A daemon thread that makes the exchanges of another thread, one after another."""

    def __init__(self) -> None:
        self._todo: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.last: Exchange | None = None
        Thread(target=self._work, daemon=True).start()

    def make(self, exchange: Exchange, work: Callable[[], None]) -> None:
        """Do the work of an exchange."""
        self.last = exchange
        self._todo.put(work)

    def _work(self) -> None:
        while True:
            self._todo.get()()


_here = local()  # ``hand`` makes the exchanges of a thread


class Exchange:
    """A request that ``ask`` sends. ``ask`` returns the response, or None if it has read the reply itself.

    ``connected`` becomes true when name, TCP, TLS and proxy are done.
    """

    def __init__(self, ask: Callable[[Exchange], Response | None]) -> None:
        self.connected = False
        self._ask = ask
        self._items: SimpleQueue[Item] = SimpleQueue()
        self._ahead: list[Item] = []
        self._over = False  # the body is at its end
        self._left = inf  # when the reader left
        self._response: Response | None = None
        self._working = Lock()  # until the body is at its end, or nobody wants it any more

    def __enter__(self) -> Exchange:
        """Send the request.

        :raises Temporary: if the system has no thread left.
        """
        self._working.acquire()
        hand: _Hand | None = getattr(_here, "hand", None)
        if hand is None or (hand.last and not hand.last._part()):
            try:
                hand = _here.hand = _Hand()
            except RuntimeError as error:
                raise exhausted(error) or error from error
        hand.make(self, self._work)
        return self

    def head(self, timeout: float | None) -> Head:
        """Return the head. ``timeout`` (seconds) limits the wait for the connection, not that for the head.

        :raises Empty: if the connection is not made in time. What ``ask`` raised is raised here.
        """
        try:
            item = self._items.get(timeout=timeout)
        except Empty:
            if not self.connected:
                raise
            item = self._items.get()
        if isinstance(item, BaseException):
            raise item
        assert isinstance(item, Head)
        return item

    def blocks(self, left: Callable[[], float | None]) -> Iterator[bytes]:
        """Yield the blocks of the body; those that wait together come as one.

        ``left`` returns the seconds for which the next one is waited for, None for no limit.

        :raises Empty: if it did not come in time. What broke the reply is raised here.
        """
        while True:
            item = self._ahead.pop() if self._ahead else self._items.get(timeout=left())
            if isinstance(item, BaseException):
                raise item
            if not isinstance(item, bytes):
                return
            yield self._joined(item)

    def _joined(self, first: bytes) -> bytes:
        parts, size = [first], len(first)
        while size < _TOGETHER and not self._items.empty():
            following = self._items.get_nowait()
            if not isinstance(following, bytes):
                self._ahead.append(following)
                break
            parts.append(following)
            size += len(following)
        return b"".join(parts)

    def _work(self) -> None:
        try:
            response = self._ask(self)
            if response is None:
                self._items.put(Head(200, {}))
            else:
                self.hand_over(response)
        except BaseException as error:
            self._items.put(error)
        finally:
            self._working.release()

    def hand_over(self, response: Response) -> None:
        """Hand a reply over, from its head to its end. Called in the exchange's own thread."""
        self._response = response
        self._items.put(Head(response.status_code, response.headers))
        for block in response.iter_bytes():
            if time.monotonic() > self._left + _PARTING:
                self._shut()
                return
            self._items.put(block)
            while self._items.qsize() > LEAD and self._left == inf:  # the reader of the answer is slow
                time.sleep(0.002)
        self._over = True
        self._items.put(None)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave. If something went wrong, the server is to stop at once; else the end of the body may still come."""
        self._left = time.monotonic() if kind is None else -inf
        if kind is not None:
            self._shut()

    def _part(self) -> bool:
        """Wait for the end of the body, so that the next exchange gets the connection; but not for long.

        Return whether the thread is free for the next one: a name lookup cannot be ended.
        """
        left = 0.0 if self._response is None else max(0.0, self._left + _PARTING - time.monotonic())
        if self._working.acquire(timeout=left):
            return True
        self._shut()
        return False

    def _shut(self) -> None:
        """Shut the socket if the body has not ended: that wakes the thread."""
        if self._over:
            return
        stream = self._response.extensions.get("network_stream") if self._response else None
        if stream is not None:
            import socket

            with suppress(OSError):
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
