"""Addresses, and what the SDK needs of HTTP: the HTTP library over connections of ours.

The library adds models, cookies, redirects and more, and takes longer to import than a call may last. It is imported
for the SDK, and for an address that needs its care.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from gptpipe.settings.settings import Settings
from gptpipe.wire.connections import Connections
from gptpipe.wire.dial import End, Route, end_of
from gptpipe.wire.exchange import Exchange, Response

if TYPE_CHECKING:
    import httpx2

Echo = Callable[[str, str, bytes, float | None], Response]
"""The built-in endpoint: method, URL, content and the seconds for which it may be silent, to a response."""
_RESPONSE = "gptpipe"  # where a response of the library keeps the one of ours

# Nothing to be quoted, no other letters than these, no user, no port that goes without saying, no "." as a folder.
_PLAIN = re.compile(
    r"(https?|socks5h?)://(?P<host>[a-z0-9.-]+(:(?!(80|443)\b)[1-9]\d*)?)"
    r"(?P<target>(/(?!\.)[\w~-][\w.~-]*)*/?(\?[\w.~=&-]*)?)",
    re.A,
)


class Address(NamedTuple):
    """A URL as HTTP needs it: where it leads, and what a request and its header Host say."""

    end: End
    target: bytes
    host: str


def address(text: str) -> Address:
    """Return the parts of a URL.

    :raises ValueError: if it is not a URL.
    """
    end = end_of(text)
    if end and (plain := _PLAIN.fullmatch(text)):
        target = plain["target"]
        return Address(end, (target if target.startswith("/") else f"/{target}").encode(), plain["host"])
    import httpx2

    try:
        found = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise ValueError(str(error)) from error
    known = end_of(str(found.copy_with(host=found.raw_host.decode())))
    if known is None:
        raise ValueError("it has no host")
    return Address(known, found.raw_path, found.netloc.decode("ascii"))


def route(settings: Settings) -> Route:
    """Return the way to the endpoint of the settings.

    :raises ValueError: if an address cannot be used.
    """
    return Route(address(settings.base_url or "").end, address(settings.proxy).end if settings.proxy else None)


# For the SDK


def client(transport: httpx2.BaseTransport, limit: float | None, **more: Any) -> httpx2.Client:
    """Return a client of the HTTP library that bears with a silence of ``limit`` seconds."""
    import httpx2

    return httpx2.Client(transport=transport, timeout=limit, trust_env=False, **more)


def over(connections: Connections, exchange: Exchange) -> httpx2.BaseTransport:
    """Return a transport of the HTTP library over connections of ours, for one exchange."""
    import httpx2

    from gptpipe.wire.connection import Received, Sent

    class Body(httpx2.SyncByteStream):
        def __init__(self, found: Received) -> None:
            self._found = found

        def __iter__(self) -> Iterator[bytes]:
            return self._found.blocks()

        def close(self) -> None:
            self._found.close()

    class Transport(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            assert isinstance(request.stream, Iterable)
            fields = {name.decode("ascii"): value.decode("ascii") for name, value in request.headers.raw}
            sent = Sent(request.method, request.url.raw_path, fields, request.stream, repeatable=False)
            limit = request.extensions["timeout"]["read"]
            found = connections.ask(sent, limit, exchange.sending)
            return httpx2.Response(found.status, headers=found.raw, stream=Body(found), extensions={_RESPONSE: found})

    return Transport()


def response(found: httpx2.Response) -> Response:
    """Return the response of ours that a response of the HTTP library came from."""
    ours: Response = found.extensions[_RESPONSE]
    return ours


def over_echo(ask: Echo) -> httpx2.BaseTransport:
    """Return a transport of the HTTP library to the built-in model."""
    import httpx2

    def handle(request: httpx2.Request) -> httpx2.Response:
        limit = request.extensions.get("timeout", {}).get("read")
        said = ask(request.method, str(request.url), request.content, limit)
        body = timed(said, request)
        return httpx2.Response(said.status, headers=dict(said.headers), content=body, extensions={_RESPONSE: said})

    def timed(said: Response, request: httpx2.Request) -> Iterator[bytes]:
        try:
            yield from said.iter_bytes()
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error), request=request) from error

    return httpx2.MockTransport(handle)
