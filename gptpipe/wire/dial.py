"""Opening a connection with the standard library alone: to all addresses of a name, and through a proxy."""

from __future__ import annotations

import errno
import os
import re
import select
import time
from base64 import b64encode
from collections.abc import Iterator
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote

if TYPE_CHECKING:
    import socket

_AFTER = 0.25  # seconds after which the next address is tried too: https://www.rfc-editor.org/rfc/rfc8305#section-8
_LET_THROUGH = re.compile(rb"HTTP/1\.[01] 2\d\d\b[^\n]*\n(?:[^\r\n]+\r?\n)*\r?\n")
_BLOCK = 1 << 16


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


class Tunnel:
    """The way through a proxy to a host, as the HTTP library would ask for it.

    ``said`` is the number of messages that went out, ``heard`` what the proxy replied to each; ``stands`` says that it
    has let us through.
    """

    def __init__(self, proxy: SplitResult, host: str, port: int) -> None:
        self.said = 0
        self.heard: list[bytes] = []
        self.stands = False
        self._name = tuple(unquote(each or "").encode() for each in (proxy.username, proxy.password))
        self._ask = self._connect if proxy.scheme == "http" else self._socks
        self._target = host, port

    def open(self, found: socket.socket) -> None:
        """Ask the proxy.

        :raises OSError: if the connection breaks.
        """
        self.stands = self._ask(found)

    def _exchange(self, found: socket.socket, message: bytes) -> bytes:
        self.said += 1
        found.sendall(message)
        reply = found.recv(_BLOCK)
        self.heard.append(reply)
        return reply

    def _connect(self, found: socket.socket) -> bool:
        """Ask an HTTP proxy."""
        host, port = self._target
        target = f"{f'[{host}]' if ':' in host else host}:{port}".encode()
        name = b"Proxy-Authorization: Basic %b\r\n" % b64encode(b":".join(self._name)) if any(self._name) else b""
        head = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\nAccept: */*\r\n%b\r\n" % (target, target, name)
        more = reply = self._exchange(found, head)
        while more and b"\r\n\r\n" not in reply and len(reply) < _BLOCK:
            more = found.recv(_BLOCK)
            self.heard.append(more)
            reply += more
        return bool(_LET_THROUGH.fullmatch(reply))

    def _socks(self, found: socket.socket) -> bool:
        """Ask a SOCKS proxy: https://www.rfc-editor.org/rfc/rfc1928, and 1929 for name and password."""
        from socksio.socks5 import SOCKS5Command, SOCKS5CommandRequest

        begin = b"\5\1\2" if any(self._name) else b"\5\1\0"
        if self._exchange(found, begin)[1:2] != begin[-1:]:
            return False
        if any(self._name):
            name = b"".join(bytes([len(each)]) + each for each in self._name)
            if self._exchange(found, b"\1" + name)[1:2] != b"\0":
                return False
        request = SOCKS5CommandRequest.from_address(SOCKS5Command.CONNECT, self._target)
        return self._exchange(found, request.dumps())[1:2] == b"\0"
