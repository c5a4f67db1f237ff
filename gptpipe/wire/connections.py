"""The connections of many threads to one endpoint: each thread keeps its own, and none searches those of the others.

The HTTP library would keep all of them in one pool. It looks at each, under one lock, when a request begins and when
it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from gptpipe.wire.exchange import Unopened, lane, may_open

if TYPE_CHECKING:
    import httpcore2


class Connections:
    """A pool of the HTTP library, made by ``make``, for each thread that asks.

    What ``make`` raises is raised at once.
    """

    def __init__(self, make: Callable[[], httpcore2.ConnectionPool]) -> None:
        self._make = make
        self._pools = {lane(): make()}

    def handle_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a request over the connection of this thread, and return the response before its body is read."""
        pool = self._pools.get(lane())
        if pool is None:
            pool = self._pools[lane()] = self._make()
        return pool.handle_request(request)

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.close()


class Opening:
    """A network backend of the HTTP library that opens connections only in threads that may."""

    def __init__(self, backend: httpcore2.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(self, *arguments: Any, **named: Any) -> Stream:
        """Open a connection.

        :raises Unopened: if this thread may not.
        """
        if not may_open():
            raise Unopened
        return Stream(self._backend.connect_tcp(*arguments, **named))


class Stream:
    """A connection, from which nothing is read after the time ``until`` (monotonic)."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self.until = inf
        self._came = b""  # the bytes that were read last
        self._at = 0  # up to where they were passed on
        self._stream = stream
        self.write, self.close, self.get_extra_info = stream.write, stream.close, stream.get_extra_info

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return bytes as soon as there are any; none at the end."""
        if self.until < inf:
            left = max(0.0, self.until - time.monotonic())
            timeout = left if timeout is None else min(timeout, left)
        self._came, self._at = self._stream.read(max_bytes, timeout), 0
        return self._came

    def has_more(self, block: bytes) -> bool:
        """Return whether bytes of the next block of a chunked body came together with this one."""
        found = self._came.find(block, self._at)
        self._at = len(self._came) if found < 0 else found + len(block)
        line = self._came.find(b"\n", self._at + 2)  # with the size of the next chunk, after the end of this one
        return 0 < line < len(self._came) - 1

    def start_tls(self, *arguments: Any, **named: Any) -> Stream:
        """Return the connection with TLS on it."""
        return Stream(self._stream.start_tls(*arguments, **named))
