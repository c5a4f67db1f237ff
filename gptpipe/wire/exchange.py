"""One exchange with a server: what it hands over, and how it is left.

It happens in a daemon thread of its own, because nothing else can bound a name lookup; whoever waits for an exchange
waits for its thread, and may walk away. Where many are made one after another, most can do without (Direct).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from queue import Empty, SimpleQueue
from threading import Thread, local
from typing import Any, NamedTuple, Protocol

LEAD = 256  # blocks of bytes that may wait for the reader
_TOGETHER = 1 << 18  # bytes of blocks that are decoded at once
_PARTING = 1.0  # seconds for which the rest of a body may come that is not waited for
_LOOK = 0.1  # seconds between two looks at what is late


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

    def close(self) -> None:
        """Close the connection, if the body is not at its end."""


class Head(NamedTuple):
    """The server has accepted the request; ``event_stream`` is what it calls its reply."""

    request_id: str | None
    event_stream: bool


Item = Head | bytes | BaseException | None
"""What is handed over, in this order: Head, the blocks of the body, None for its end; or an exception, the last."""


def _head(response: Response) -> Head:
    kind = response.headers.get("content-type", "")
    return Head(response.headers.get("x-request-id"), "event-stream" in kind)


class Link:
    """One exchange in its daemon thread: the blocks that it hands over, and its response.

    In that thread it is ``here.link``; ``connected`` becomes true when name, TCP, TLS and proxy are done.
    """

    def __init__(self, here: local) -> None:
        self.connected = False
        self._items: SimpleQueue[Item] = SimpleQueue()
        self._ahead: list[Item] = []
        self._here = here
        self._left = False
        self._response: Response | None = None
        self._worker: Thread | None = None

    def __enter__(self) -> Link:
        return self

    def start(self, ask: Callable[[], Response]) -> None:
        """Run ``ask`` and hand over what it returns."""
        self._worker = Thread(target=self._work, args=(ask,), daemon=True)
        self._worker.start()

    def run(self, call: Callable[[], object]) -> None:
        """Run a call that reads its own reply, and hand over a head."""

        def work() -> None:
            self._here.link = self
            try:
                call()
                self._items.put(Head(None, False))
            except BaseException as error:
                self._items.put(error)

        Thread(target=work, daemon=True).start()

    def head(self, timeout: float | None) -> Item:
        """Return the head, or an exception. Once there is a connection, it has no limit here.

        :raises Empty: if there is none within so many seconds.
        """
        try:
            return self._items.get(timeout=timeout)
        except Empty:
            if not self.connected:
                raise
        return self._items.get()

    def take(self, timeout: float | None) -> Item:
        """Return what is handed over next, within so many seconds; blocks that wait together come as one.

        :raises Empty: if nothing came.
        """
        item = self._ahead.pop() if self._ahead else self._items.get(timeout=timeout)
        if not isinstance(item, bytes):
            return item
        parts, size = [item], len(item)
        while size < _TOGETHER and not self._items.empty():
            following = self._items.get_nowait()
            if not isinstance(following, bytes):
                self._ahead.append(following)
                break
            parts.append(following)
            size += len(following)
        return b"".join(parts)

    def _work(self, ask: Callable[[], Response]) -> None:
        self._here.link = self
        try:
            self._response = response = ask()
            self._items.put(_head(response))
            for block in response.iter_bytes():
                self._items.put(block)
                while self._items.qsize() > LEAD and not self._left:  # the reader of the answer is slow
                    time.sleep(0.002)
            self._items.put(None)
        except BaseException as error:
            self._items.put(error)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave: at once if the body is at its end, else by shutting the socket, which wakes the thread."""
        self._left = True
        worker, response = self._worker, self._response
        if worker is None or response is None:
            return
        worker.join(0.02)
        if worker.is_alive():
            self.shut()

    def shut(self) -> None:
        """Shut the socket: what is being read from it ends."""
        if self._response is not None and (stream := self._response.extensions.get("network_stream")):
            import socket

            try:
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Direct(Link):
    """An exchange in the thread that waits for it: each time that something is handed over takes a turn at the GIL.

    Only for a name that was found a moment ago, and for threads that nobody waits for; ``watch`` ends it.
    """

    def __init__(self, here: local, watch: Watch) -> None:
        super().__init__(here)
        self.connected = True
        self._watch = watch
        self._first: Item = None
        self._body: Iterator[bytes] = iter(())
        self._over = False

    def start(self, ask: Callable[[], Response]) -> None:
        """Run ``ask``."""
        self._here.link = self
        try:
            self._response = response = ask()
            self._first, self._body = _head(response), response.iter_bytes()
        except BaseException as error:
            self._first = error

    def head(self, _: float | None) -> Item:
        """Return the head, or an exception."""
        return self._first

    def take(self, timeout: float | None) -> Item:
        """Return the next block, None for the end, or an exception: also if nothing came for so many seconds."""
        if timeout is not None:
            self._watch.end(self, timeout)
        try:
            item = next(self._body, None)
        except BaseException as error:
            return error
        if item is None:
            self._over = True
            self._watch.forget(self)  # at once: another exchange may have the connection by now
        return item

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave: if the answer has ended, the connection is kept for another; else the server is to stop."""
        if self._response is None:
            return
        if kind is None and not self._over:
            self._watch.end(self, _PARTING)
            while isinstance(self.take(None), bytes):
                pass
        self._watch.forget(self)
        if not self._over:
            self._response.close()


class Watch:
    """Shuts the exchanges that do not end in time: one thread for all of them."""

    def __init__(self) -> None:
        self._due: dict[Direct, float] = {}
        Thread(target=self._look, daemon=True).start()

    def end(self, link: Direct, seconds: float) -> None:
        """Give an exchange so much time."""
        self._due[link] = time.monotonic() + seconds

    def forget(self, link: Direct) -> None:
        """Let an exchange be: it is over."""
        self._due.pop(link, None)

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK)
            now = time.monotonic()
            for link, due in self._due.copy().items():
                if now > due:
                    link.shut()
