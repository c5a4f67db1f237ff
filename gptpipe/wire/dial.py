"""Opening a connection: to all addresses of a name, through a proxy, and with TLS.

Up to a proxy, the standard library is all that this needs.
"""

from __future__ import annotations

import errno
import os
import select
import time
from binascii import b2a_base64
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import socket
    import ssl

_AFTER = 0.25  # seconds after which the next address is tried too: https://www.rfc-editor.org/rfc/rfc8305#section-8
_BLOCK = 1 << 16

Found = TypeVar("Found")


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
        if proxy and proxy.scheme.startswith("socks"):
            _socks(found, proxy, end)
        elif proxy and end.scheme == "https":
            _tunnel(found, proxy, end, timeout)
        if proxy and end.scheme == "https":
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
    """Speak TLS with one end of the way."""
    import ssl

    if isinstance(found, ssl.SSLSocket):
        return _TlsInTls(found, context, peer.host)  # type: ignore[return-value]  # all that is asked of a socket
    return context.wrap_socket(found, server_hostname=peer.host)


class _TlsInTls:
    """A connection to the endpoint through a proxy that itself speaks TLS, with what is used of a socket."""

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, host: str) -> None:
        import ssl

        self._outer = outer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self.settimeout, self.close, self.fileno = outer.settimeout, outer.close, outer.fileno
        self._do(self._tls.do_handshake)

    def recv(self, size: int) -> bytes:
        """Return bytes as soon as there are any; none at the end."""
        import ssl

        try:
            return self._do(lambda: self._tls.read(size))
        except ssl.SSLEOFError:
            return b""

    def send(self, data: bytes) -> int:
        """Send bytes, and return how many."""
        return self._do(lambda: self._tls.write(data))

    def _do(self, step: Callable[[], Found]) -> Found:
        import ssl

        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:
                if waiting := self._out.read():
                    self._outer.sendall(waiting)
            if data := self._outer.recv(_BLOCK):
                self._in.write(data)
            else:
                self._in.write_eof()


def _tunnel(found: socket.socket, proxy: End, end: End, timeout: float | None) -> None:
    """Ask an HTTP proxy for a tunnel: https://www.rfc-editor.org/rfc/rfc9110#name-connect

    :raises ProxyRefused: if it gives none.
    """
    from gptpipe.wire.connection import Connection, Sent

    fields = {"Host": end.address, "Accept": "*/*", **proxy.credentials}
    reply = Connection(found).ask(Sent("CONNECT", end.address.encode(), fields), timeout)
    if not 200 <= reply.status < 300:
        raise ProxyRefused(f"{reply.status} {reply.reason}")


def _socks(found: socket.socket, proxy: End, end: End) -> None:
    """Ask a SOCKS proxy: https://www.rfc-editor.org/rfc/rfc1928, and 1929 for name and password.

    :raises ProxyRefused: if it refuses.
    """
    from socksio import ProtocolError, socks5

    if proxy.user and max(map(len, proxy.user)) > 255:
        raise ProxyRefused("invalid username/password: more than 255 bytes")
    talk = socks5.SOCKS5Connection()

    def told(message: Any, kind: type[Any]) -> Any:
        talk.send(message)
        found.sendall(talk.data_to_send())
        try:
            reply = talk.receive_data(found.recv(_BLOCK))
        except (ProtocolError, ValueError, IndexError) as error:
            raise NotSocks from error
        if not isinstance(reply, kind):
            raise NotSocks
        return reply

    wanted = socks5.SOCKS5AuthMethod.USERNAME_PASSWORD if proxy.user else socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED
    method = told(socks5.SOCKS5AuthMethodsRequest([wanted]), socks5.SOCKS5AuthReply).method
    if method != wanted:
        raise ProxyRefused(f"its answer to the login is {method.name.replace('_', ' ')}")
    if proxy.user:
        name = socks5.SOCKS5UsernamePasswordRequest(*proxy.user)
        if not told(name, socks5.SOCKS5UsernamePasswordReply).success:
            raise ProxyRefused("invalid username/password")
    request = socks5.SOCKS5CommandRequest.from_address(socks5.SOCKS5Command.CONNECT, (end.host, end.port))
    code = told(request, socks5.SOCKS5Reply).reply_code
    if code != socks5.SOCKS5ReplyCode.SUCCEEDED:
        raise ProxyRefused(f"it could not connect: {code.name.replace('_', ' ').lower()}")
