"""Opening a connection with the standard library: to all addresses of a name, and with TLS."""

from __future__ import annotations

import errno
import os
import select
import time
from binascii import b2a_base64
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import socket
    import ssl

_AFTER = 0.25  # seconds after which the next address is tried too: https://www.rfc-editor.org/rfc/rfc8305#section-8
_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


class Unconnected(Exception):
    """No connection could be opened; its cause says why."""


class ProxyRefused(Exception):
    """The proxy does not let the connection through."""


class NotSocks(Exception):
    """The proxy does not speak SOCKS."""


class End(NamedTuple):
    """The endpoint, or a proxy. ``host`` is ASCII; ``user`` is the name and the password in the URL."""

    scheme: str
    host: str
    port: int
    user: tuple[bytes, bytes] | None = None

    @property
    def address(self) -> str:
        """Host and port, as a proxy is told them."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def credentials(self) -> dict[str, str]:
        """The header by which an HTTP proxy knows the user."""
        return {"Proxy-Authorization": basic(self.user)} if self.user else {}


def end_of(url: str) -> End | None:
    """Return where a URL leads, None if its host is not ASCII."""
    parts = urlsplit(url)
    if not parts.hostname or not parts.hostname.isascii():
        return None
    name, password = (unquote(each or "").encode() for each in (parts.username, parts.password))
    port = parts.port or _PORTS.get(parts.scheme, 0)
    return End(parts.scheme, parts.hostname, port, (name, password) if name or password else None)


class Route(NamedTuple):
    """The way to an endpoint: directly, or through a proxy."""

    end: End
    proxy: End | None = None

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken on it."""
        return "https" in (self.end.scheme, self.proxy and self.proxy.scheme)


def basic(user: tuple[bytes, bytes]) -> str:
    """Return name and password as HTTP sends them: https://www.rfc-editor.org/rfc/rfc7617"""
    return f"Basic {b2a_base64(b':'.join(user), newline=False).decode()}"


def opened(route: Route, trust: Callable[[], ssl.SSLContext], timeout: float | None) -> socket.socket:
    """Return a connection on which a request may be sent.

    ``trust`` gives the certificates, ``timeout`` (seconds) limits each step but the lookup of the name.

    :raises Unconnected: if an end does not answer, or its certificate does not verify.
    :raises ProxyRefused: if the proxy does; NotSocks, NotHttp or Lost, if it does something else.
    """
    end, proxy = route
    first = proxy or end
    found: socket.socket | None = None
    try:
        found = connect(first.host, first.port, timeout)
        if first.scheme == "https":
            found = _secured(found, first, trust())
        if proxy:
            from gptpipe.wire import proxies

            proxies.pass_through(found, proxy, end, timeout)
            if end.scheme == "https":
                found = _secured(found, end, trust())
    except BaseException as error:
        if found:
            found.close()
        if isinstance(error, (OSError, ValueError)):  # a ValueError is of a name that no certificate can have
            raise Unconnected(str(error)) from error
        raise
    return found


def connect(host: str, port: int, timeout: float | None) -> socket.socket:
    """Return a connection to the first address of the host that answers (RFC 8305).

    ``timeout`` (seconds) is for all addresses together, and does not limit the lookup of the name.

    :raises OSError: what the first address said, if none answers; TimeoutError if none does in time.
    """
    import socket

    addresses = _by_turns(socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM))
    until = None if timeout is None else time.monotonic() + timeout
    trying: dict[int, socket.socket] = {}
    poll = select.poll()
    failures: list[OSError] = []
    try:
        while True:
            if address := next(addresses, None):
                try:
                    begun = _begun(*address)
                except OSError as error:
                    failures.append(error)
                    continue
                trying[begun.fileno()] = begun
                poll.register(begun, select.POLLOUT)
            elif not trying:
                raise failures[0]
            waits = [*([_AFTER] if address else []), *([] if until is None else [until - time.monotonic()])]
            for number, _ in poll.poll(max(0, min(waits)) * 1000 if waits else None):
                poll.unregister(number)
                found = trying.pop(number)
                if not (code := found.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                    found.settimeout(timeout)
                    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return found
                found.close()
                failures.append(OSError(code, os.strerror(code)))
            if until is not None and time.monotonic() >= until:
                raise TimeoutError("timed out")
    finally:
        for each in trying.values():
            each.close()


def alive(found: socket.socket) -> bool:
    """Return whether a connection is open and silent; else it is closed.

    What TLS sends for later connections is read here.
    """
    try:
        found.settimeout(0)
        found.recv(1)
    except BlockingIOError:
        return True
    except OSError as error:  # of TLS: it wants to read, so there is nothing
        if type(error).__name__ == "SSLWantReadError":
            return True
    found.close()
    return False


def _by_turns(found: list[Any]) -> Iterator[Any]:
    """Yield the addresses that a lookup found, the two families by turns, that of the first one first."""
    first = [each for each in found if each[0] == found[0][0]]
    others = [each for each in found if each[0] != found[0][0]]
    return (each for each in chain.from_iterable(zip_longest(first, others)) if each)


def _begun(family: int, kind: int, protocol: int, _: str, address: Any) -> socket.socket:
    """Return a socket that connects to an address."""
    import socket

    found = socket.socket(family, kind, protocol)
    found.setblocking(False)
    if (code := found.connect_ex(address)) not in (0, errno.EINPROGRESS):
        found.close()
        raise OSError(code, os.strerror(code))
    return found


def _secured(found: socket.socket, peer: End, context: ssl.SSLContext) -> socket.socket:
    """Speak TLS with one end of the route."""
    import ssl

    if isinstance(found, ssl.SSLSocket):
        from gptpipe.wire.proxies import TlsInTls

        return TlsInTls(found, context, peer.host)  # type: ignore[return-value]  # all that is asked of a socket
    return context.wrap_socket(found, server_hostname=peer.host)
