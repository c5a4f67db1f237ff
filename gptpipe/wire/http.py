"""HTTP with the connection pool that is below the HTTP library: all that an answer needs.

The library itself adds models, cookies, redirects and more, and takes a seventh of the time of a call to import. It is
imported for the SDK, and for an address that needs its care.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from gptpipe.settings.settings import Settings
from gptpipe.wire.connections import Connections, Opening
from gptpipe.wire.dial import connect
from gptpipe.wire.early import Early, here
from gptpipe.wire.exchange import Response

if TYPE_CHECKING:
    import socket

    import httpcore2
    import httpx2

Echo = Callable[[str, str, bytes, float | None], Response]
"""The built-in endpoint: method, URL, content and the seconds for which it may be silent, to a response."""

ENCODINGS = "gzip, deflate"
_IDLE = 60.0  # seconds: as long as a person thinks in a chat, and not longer than most servers keep a connection
_PIECE = 1 << 20  # bytes that are decoded at once
_LAYERS = 5  # encodings of one body that are decoded
# Nothing to be quoted, no other letters than these, no user, no port that goes without saying, no "." as a folder.
_PLAIN = re.compile(
    r"(https?|socks5h?)://[a-z0-9.-]+(:(?!(80|443)\b)[1-9]\d*)?(/(?!\.)[\w~-][\w.~-]*)*/?(\?[\w.~=&-]*)?", re.A
)


class Address(NamedTuple):
    """A URL as HTTP needs it: ``host`` is what the header Host says, ``user`` the name and password in the URL."""

    url: httpcore2.URL
    host: bytes
    user: tuple[bytes, bytes] | None = None


def address(text: str) -> Address:
    """Return the parts of a URL.

    :raises ValueError: if it is not a URL.
    """
    import httpcore2

    if _PLAIN.fullmatch(text):
        url = httpcore2.URL(text)
        return Address(url, url.host if url.port is None else b"%b:%d" % (url.host, url.port))
    import httpx2

    try:
        found = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise ValueError(str(error)) from error
    url = httpcore2.URL(scheme=found.raw_scheme, host=found.raw_host, port=found.port, target=found.raw_path)
    user = (found.username.encode(), found.password.encode())
    return Address(url, found.netloc, user if any(user) else None)


class Received:
    """A response, its headers by their names in lower case."""

    def __init__(self, response: httpcore2.Response) -> None:
        self.status_code = response.status
        self.extensions: Mapping[str, Any] = response.extensions
        self.headers: dict[str, str] = {}
        for name, value in response.headers:
            key, text = name.decode("ascii").lower(), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        self._response = response

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield the body as it arrives, decoded.

        :raises zlib.error: if its encoding is broken.
        """
        blocks: Iterable[bytes] = self._response.iter_stream()
        names = [name.strip().lower() for name in self.headers.get("content-encoding", "").split(",")]
        for _ in [name for name in names if name in ("gzip", "deflate")][:_LAYERS]:
            blocks = _inflated(blocks)
        yield from blocks

    def close(self) -> None:
        """Give the connection back, or close it if the body has not ended."""
        self._response.close()


def _inflated(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what gzip or deflate made blocks of. Some servers send deflate without its head."""
    machine, begun = zlib.decompressobj(zlib.MAX_WBITS | 32), False
    for block in blocks:
        rest = block
        while rest and not machine.eof:  # what follows the end would be kept
            try:
                data = machine.decompress(rest, _PIECE)
            except zlib.error:
                if begun:
                    raise
                machine = zlib.decompressobj(-zlib.MAX_WBITS)
                data = machine.decompress(rest, _PIECE)
            begun, rest = True, machine.unconsumed_tail
            yield data
    yield machine.flush()


def connections(settings: Settings, early: Early) -> Connections:
    """Return the connections to the endpoint of the settings, by their proxy. The first is the early one.

    :raises ValueError: if the proxy's address cannot be used; ConfigError: the certificates.
    """
    import httpcore2

    context, proxy = early.trust(), settings.proxy
    options: dict[str, Any] = {
        "ssl_context": context,
        "max_connections": None,
        "keepalive_expiry": _IDLE,
        "network_backend": Opening(backend(early)),
    }
    if not proxy:
        return Connections(partial(httpcore2.ConnectionPool, **options))
    url, _, user = address(proxy)
    if proxy.startswith("socks"):
        return Connections(partial(httpcore2.SOCKSProxy, url, user, **options))
    options["proxy_ssl_context"] = context if url.scheme == b"https" else None
    return Connections(partial(httpcore2.HTTPProxy, url, user, **options))


def backend(early: Early) -> httpcore2.NetworkBackend:
    """Return what opens the connections of the HTTP library: the first is the early one."""
    import httpcore2
    from httpcore2._backends.sync import SyncStream  # a stream of ours would be a copy of it

    class Ready(SyncStream):
        """The early connection. What was said to a proxy and to TLS already is not said again."""

        def __init__(self, found: socket.socket) -> None:
            super().__init__(found)
            self._said = early.tunnel.said if early.tunnel else 0
            self._heard = early.tunnel.heard if early.tunnel else []

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            if buffer and self._said:
                self._said -= 1
            else:
                super().write(buffer, timeout)

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            return self._heard.pop(0) if self._heard else super().read(max_bytes, timeout)

        def start_tls(self, *arguments: Any, **named: Any) -> httpcore2.NetworkStream:
            return SyncStream(self._sock) if early.secure else super().start_tls(*arguments, **named)

    class Backend(httpcore2.SyncBackend):
        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,  # noqa: ARG002
            socket_options: Iterable[Any] | None = None,  # noqa: ARG002
        ) -> httpcore2.NetworkStream:
            try:
                if (host.lower(), port) == early.address and (found := early.take()) is not None:
                    return Ready(found)
                here.fresh = True
                return SyncStream(connect(host, port, timeout))
            except TimeoutError as error:
                raise httpcore2.ConnectTimeout from error
            except OSError as error:
                raise httpcore2.ConnectError(str(error)) from error

    return Backend()


# For the SDK


def client(transport: httpx2.BaseTransport, limits: Mapping[str, float | None], **more: Any) -> httpx2.Client:
    """Return a client of the HTTP library with these timeouts. Closing it closes the transport."""
    import httpx2

    return httpx2.Client(transport=transport, timeout=httpx2.Timeout(**limits), trust_env=False, **more)


def over(connections: Connections, early: Early) -> httpx2.BaseTransport:
    """Return a transport of the HTTP library over connections of ours."""
    import httpx2

    transport = httpx2.HTTPTransport(verify=early.trust(), trust_env=False)
    transport._pool = connections  # type: ignore[assignment]  # the library makes its own, and does not take any
    return transport


def over_echo(ask: Echo) -> httpx2.BaseTransport:
    """Return a transport of the HTTP library to the built-in model."""
    import httpx2

    def handle(request: httpx2.Request) -> httpx2.Response:
        limit = request.extensions.get("timeout", {}).get("read")
        said = ask(request.method, str(request.url), request.content, limit)
        return httpx2.Response(said.status_code, headers=dict(said.headers), content=timed(said, request))

    def timed(said: Response, request: httpx2.Request) -> Iterator[bytes]:
        try:
            yield from said.iter_bytes()
        except TimeoutError as error:
            raise httpx2.ReadTimeout(str(error), request=request) from error

    return httpx2.MockTransport(handle)
