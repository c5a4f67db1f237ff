"""The connections of many threads to one endpoint: each thread keeps its own, and none waits for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gptpipe.wire import dial
from gptpipe.wire.dial import Route
from gptpipe.wire.early import Early
from gptpipe.wire.exchange import Lost, Unopened, lane, may_open

if TYPE_CHECKING:
    from gptpipe.wire.connection import Connection, Received, Sent


class Connections:
    """Connections that lead one way. The first is the early one, if it does; ``connect`` limits the opening (seconds).

    :raises ConfigError: if the certificates cannot be used.
    """

    def __init__(self, route: Route, early: Early, connect: float | None) -> None:
        if route.secure:
            early.trust()
        self._route = route
        self._early = early
        self._connect = connect
        self._of: dict[int, Connection] = {}  # by the number of the thread
        proxy = route.proxy
        self._passes_on = proxy if proxy and proxy.scheme in ("http", "https") and route.end.scheme == "http" else None

    def ask(self, request: Sent, limit: float | None, opened: Callable[[], None]) -> Received:
        """Send a request over a connection of this thread, and return the response before its body is read.

        ``limit`` is the seconds for which the server may be silent; ``opened`` is called before the request is sent
        over a connection that was opened for it.

        :raises Unopened: if one has to be opened, and this thread may not; or what ``opened`` raises.
        :raises Lost, NotHttp, TimeoutError: as ``Connection.ask``; and what ``dial.opened`` does.
        """
        if self._passes_on:
            host = self._route.end.address.removesuffix(":80")
            target = b"http://%b%b" % (host.encode(), request.target)
            request = request._replace(target=target, fields={**self._passes_on.credentials, **request.fields})
        for connection, fresh in self._usable():
            try:
                if may_open():
                    opened()
                self._of[lane()] = connection
                return connection.ask(request, limit)
            except Lost:
                if fresh or not request.repeatable:
                    raise  # else the server had closed a connection that was open before: that is not a try
            except Unopened:
                connection.close()
                raise
        raise AssertionError

    def _usable(self) -> Iterator[tuple[Connection, bool]]:
        """Yield the connection of the thread, the early one and then a new one, with whether it is new."""
        kept = self._of.get(lane())
        if kept is not None and kept.usable():
            yield kept, False
        if not may_open():
            raise Unopened
        from gptpipe.wire.connection import Connection

        if (found := self._early.take(self._route)) is not None:
            yield Connection(found), False
        yield Connection(dial.opened(self._route, self._early.trust, self._connect)), True

    def close(self) -> None:
        """Close all connections."""
        for connection in self._of.values():
            connection.close()
