"""One exchange with a server, in a daemon thread of its own: what it hands over, and how it is left.

Nothing else can bound a name lookup; so whoever waits for an exchange waits for its thread, and may walk away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from threading import Thread, local
from typing import Any, NamedTuple, Protocol

LEAD = 256  # blocks of bytes that may wait for the reader
_TOGETHER = 1 << 18  # bytes of blocks that are decoded at once


class Response(Protocol):
    """What is needed of a response of the HTTP library."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, whatever their case."""

    @property
    def extensions(self) -> Mapping[str, Any]:
        """What the transport adds, the socket under ``network_stream``."""

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield the body as it arrives."""


class Connected(NamedTuple):
    """Name, TCP, TLS and proxy are done."""


class Head(NamedTuple):
    """The server has accepted the request; ``event_stream`` is what it calls its reply."""

    request_id: str | None
    event_stream: bool


Item = Connected | Head | bytes | BaseException | None
"""What is handed over, in this order: Connected, Head, the blocks of the body, None for its end; or an exception."""


class Link:
    """One exchange in its daemon thread: the blocks that it hands over, and its response."""

    def __init__(self, thread: local) -> None:
        self.blocks: SimpleQueue[Item] = SimpleQueue()
        self._ahead: list[Item] = []
        self._thread = thread
        self._left = False
        self._response: Response | None = None
        self._worker: Thread | None = None

    def __enter__(self) -> Link:
        return self

    def start(self, ask: Callable[[], Response]) -> None:
        """Run ``ask`` and hand over: Connected, Head, the blocks of the body, None; or the exception."""
        self._worker = Thread(target=self._work, args=(ask,), daemon=True)
        self._worker.start()

    def run(self, call: Callable[[], object]) -> None:
        """Run a call that reads its own reply, and hand over: Connected, Head; or the exception."""

        def work() -> None:
            self._thread.link = self
            try:
                call()
                self.blocks.put(Head(None, False))
            except BaseException as error:
                self.blocks.put(error)

        Thread(target=work, daemon=True).start()

    def take(self, timeout: float | None) -> Item:
        """Return what is handed over next, within so many seconds; blocks that wait together come as one.

        :raises Empty: if nothing came.
        """
        item = self._ahead.pop() if self._ahead else self.blocks.get(timeout=timeout)
        if not isinstance(item, bytes):
            return item
        parts, size = [item], len(item)
        while size < _TOGETHER and not self.blocks.empty():
            following = self.blocks.get_nowait()
            if not isinstance(following, bytes):
                self._ahead.append(following)
                break
            parts.append(following)
            size += len(following)
        return b"".join(parts)

    def _work(self, ask: Callable[[], Response]) -> None:
        self._thread.link = self
        try:
            self._response = response = ask()
            kind = response.headers.get("content-type", "")
            self.blocks.put(Head(response.headers.get("x-request-id"), "event-stream" in kind))
            for block in response.iter_bytes():
                self.blocks.put(block)
                while self.blocks.qsize() > LEAD and not self._left:  # the reader of the answer is slow
                    time.sleep(0.002)
            self.blocks.put(None)
        except BaseException as error:
            self.blocks.put(error)

    def __exit__(self, *_: object) -> None:
        """Leave: at once if the body is at its end, else by shutting the socket, which wakes the thread."""
        self._left = True
        worker, response = self._worker, self._response
        if worker is None or response is None:
            return
        worker.join(0.02)
        if worker.is_alive() and (stream := response.extensions.get("network_stream")):
            import socket

            try:
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
