"""What is said to a proxy before it passes a connection on, and TLS inside a connection that has TLS already."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from gptpipe.wire.connection import Connection, Sent
from gptpipe.wire.dial import End, NotSocks, ProxyRefused

if TYPE_CHECKING:
    import socket
    import ssl

_BLOCK = 1 << 16
_OF_ADDRESS = {1: 5, 4: 17}  # bytes that follow the first five of a SOCKS reply, by the type of its address

Found = TypeVar("Found")


def pass_through(found: socket.socket, proxy: End, end: End, timeout: float | None) -> None:
    """Ask a proxy to pass the connection on, as far as it has to be asked.

    :raises ProxyRefused: if it does not; NotSocks, NotHttp, Lost or OSError, if it does something else.
    """
    if proxy.scheme.startswith("socks"):
        _socks(found, proxy, end)
    elif end.scheme == "https":  # else it reads the requests themselves
        _tunnel(found, proxy, end, timeout)


def _tunnel(found: socket.socket, proxy: End, end: End, timeout: float | None) -> None:
    """Ask an HTTP proxy for a tunnel: https://www.rfc-editor.org/rfc/rfc9110#name-connect

    :raises ProxyRefused: if it gives none.
    """
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

    def read(size: int) -> bytes:
        data = b""
        while len(data) < size and (more := found.recv(size - len(data))):
            data += more
        return data

    def told(message: Any, kind: type[Any]) -> Any:
        talk.send(message)
        found.sendall(talk.data_to_send())
        try:
            data = read(2)
            if kind is socks5.SOCKS5Reply and len(data := data + read(3)) == 5:
                data += read(data[4] + 2 if data[3] == 3 else _OF_ADDRESS.get(data[3], 0))  # of type 3, a name
            reply = talk.receive_data(data)
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


class TlsInTls:
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
