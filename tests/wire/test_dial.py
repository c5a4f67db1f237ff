"""Connections: every address of a name is tried, and a proxy hears what it would hear from the HTTP library."""

from __future__ import annotations

import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gptpipe.errors import ConfigError, Failure, ProtocolError, Temporary
from gptpipe.settings.settings import Settings
from gptpipe.wire import dial, proxies
from gptpipe.wire.early import Early
from gptpipe.wire.events import Text
from tests.harness.server import Server, certificate, finish, say
from tests.wire.test_early import ask, pass_on, until

SOCKS = bytes([5, 0]), bytes([5, 0, 0, 1, 0, 0, 0, 0, 0, 0])


class Proxy:
    """A proxy that notes what it is asked and, if it lets one through, passes on to a server. ``says`` are its words.

    Each reply is cut in two packets, unless ``cuts`` is false.
    """

    def __init__(self, server: Server, *says: bytes, through: bool = True, tls: ssl.SSLContext | None = None) -> None:
        self.heard: list[bytes] = []
        self.cuts = True
        self._tls = tls
        self._server, self._says, self._through = server, says, through
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                met = self._listener.accept()[0]
                self._meet(self._tls.wrap_socket(met, server_side=True) if self._tls else met)

    def _meet(self, connection: socket.socket) -> None:
        for words in self._says:
            self.heard.append(connection.recv(1 << 16))
            for packet in (words[:-1], words[-1:]) if self.cuts else (words,):
                connection.sendall(packet)
                time.sleep(0.02)
        if not self._through:
            connection.close()
            return
        behind = socket.create_connection((self._server.host, self._server.port))
        for source, target in ((connection, behind), (behind, connection)):
            threading.Thread(target=pass_on, args=(source, target), daemon=True).start()

    def close(self) -> None:
        self._listener.close()


@contextmanager
def by_proxy(server: Server, scheme: str, *says: bytes, through: bool = True, **more: Any) -> Iterator[Any]:
    """Give settings that lead through a proxy, and that proxy."""
    proxy = Proxy(server, *says, through=through, tls=more.pop("tls", None))
    url = f"{scheme}://{more.pop('user', '')}127.0.0.1:{proxy.port}"
    try:
        yield Settings("m", None, server.url, proxy=url, retry=0, **more), proxy
    finally:
        proxy.close()


WAYS = {
    "CONNECT": ("http", "", True, [b"HTTP/1.1 200 OK\r\n\r\n"]),
    "CONNECT with a password": ("http", "me:a%40b@", True, [b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n"]),
    "SOCKS": ("socks5", "", False, SOCKS),
    "SOCKS and TLS": ("socks5h", "", True, SOCKS),
    "SOCKS, and a name in its reply": ("socks5h", "", True, [SOCKS[0], bytes([5, 0, 0, 3, 2]) + b"ab" + bytes(2)]),
    "SOCKS, and IPv6 in its reply": ("socks5h", "", True, [SOCKS[0], bytes([5, 0, 0, 4, *([0] * 18)])]),
    "SOCKS with a password": ("socks5h", "me:a%40b@", True, [bytes([5, 2]), bytes([1, 0]), SOCKS[1]]),
}


@pytest.mark.parametrize(("scheme", "user", "secure", "says"), WAYS.values(), ids=WAYS)
def test_the_way_through_a_proxy_stands_before_the_request(
    scheme: str, user: str, secure: bool, says: list[bytes], tmp_path: Path
) -> None:
    context, authority = certificate(tmp_path)
    with (
        Server(tls=context if secure else None) as server,
        by_proxy(server, scheme, *says, user=user, cacert=str(authority)) as (settings, proxy),
    ):
        early = Early(settings)
        until(lambda: early._thread is not None and not early._thread.is_alive())
        assert early._socket is not None
        assert isinstance(early._socket, ssl.SSLSocket) == secure
        assert (len(proxy.heard), server.requests) == (len(says), [])
        assert Text("hi") in ask(settings, early)
        assert (len(proxy.heard), len(server.requests)) == (len(says), 1)


@pytest.mark.parametrize(("scheme", "user", "_", "says"), WAYS.values(), ids=WAYS)
def test_a_proxy_hears_the_same_from_us_as_from_the_library(
    scheme: str, user: str, _: bool, says: list[bytes], server: Server
) -> None:
    with by_proxy(server, scheme, *says, user=user) as (settings, proxy):
        secure = "https" if scheme == "http" else "http"
        early = Early(settings._replace(base_url=f"{secure}://elsewhere.invalid:8443/v1"))
        until(lambda: early._thread is not None and not early._thread.is_alive())
        early.close()
        ours, proxy.heard = proxy.heard, []
        proxy.cuts = False  # the library reads a reply of SOCKS once
        with httpx2.Client(proxy=settings.proxy) as client, suppress(httpx2.HTTPError):
            client.get(f"{secure}://elsewhere.invalid:8443/v1")
        assert proxy.heard[: len(says)] == ours


def test_a_tunnel_through_a_proxy_that_speaks_tls_itself(tmp_path: Path) -> None:
    context, authority = certificate(tmp_path)
    with (
        Server(tls=context) as server,
        by_proxy(server, "https", b"HTTP/1.1 200 OK\r\n\r\n", tls=context, cacert=str(authority)) as (settings, proxy),
    ):
        server.reply(say("x" * 70_000), finish())  # more than TLS and the proxy pass on at once
        early = Early(settings)
        assert Text("x" * 70_000) in ask(settings, early)
        assert isinstance(early._socket, proxies.TlsInTls)
        assert (len(proxy.heard), len(server.requests)) == (1, 1)


REFUSALS = {
    "an HTTP proxy": ("http", "", [b"HTTP/1.1 403 Forbidden\r\n\r\n"], Temporary, "403 Forbidden"),
    "its 407": ("http", "", [b"HTTP/1.1 407 Who\r\nContent-Length: 2\r\n\r\nno"], ConfigError, "407 Who"),
    "what is no HTTP": ("http", "", [b"\5\xff"], ProtocolError, "does not speak HTTP"),
    "a SOCKS proxy": (
        "socks5",
        "",
        [SOCKS[0], bytes([5, 5, 0, 1, *([0] * 6)])],
        Temporary,
        "not connect: connection refused",
    ),
    "its password": ("socks5", "me:x@", [bytes([5, 2]), bytes([1, 1])], ConfigError, "username/password"),
    "its methods": ("socks5", "", [bytes([5, 255])], ConfigError, "NO ACCEPTABLE METHODS"),
}


@pytest.mark.parametrize(("scheme", "user", "says", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_proxy_that_refuses_is_asked_once(
    server: Server, scheme: str, user: str, says: list[bytes], kind: type[Failure], words: str
) -> None:
    with by_proxy(server, scheme, *says, user=user, through=False) as (settings, proxy):
        settings = settings._replace(base_url="https://elsewhere.invalid/v1")
        early = Early(settings)
        until(lambda: early._thread is not None and not early._thread.is_alive())
        with pytest.raises(kind, match=words):
            ask(settings, early)
        assert len(proxy.heard) == len(says)


@contextmanager
def full() -> Iterator[tuple[str, int]]:
    """Give an address of this machine that says nothing: nobody accepts there, and no more may wait."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        waiting: list[socket.socket] = []
        while not waiting or select.select([], waiting[-1:], [], 0.2)[1]:
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()
        finally:
            for each in waiting:
                each.close()


def named(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[Any, ...]) -> None:
    """Let every name have these addresses."""
    found = [
        (socket.AF_INET6 if ":" in each[0] else socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_an_address_that_goes_nowhere_costs_a_quarter_of_a_second(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    with full() as dead:
        named(monkeypatch, dead, (server.host, server.port))
        began = time.monotonic()
        with dial.connect("both.invalid", 1, 10) as found:
            assert found.getpeername() == (server.host, server.port)
        assert time.monotonic() - began > dial._AFTER / 2


def test_the_families_are_tried_by_turns() -> None:
    six, four = [(socket.AF_INET6, n) for n in range(3)], [(socket.AF_INET, n) for n in range(2)]
    assert list(dial._by_turns([*six, *four])) == [six[0], four[0], six[1], four[1], six[2]]


def test_the_next_address_is_tried_at_once_where_one_refuses(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()
    monkeypatch.setattr(dial, "_AFTER", 1000)
    named(monkeypatch, closed, (server.host, server.port))
    with dial.connect("both.invalid", 1, None) as found:
        assert found.getpeername() == (server.host, server.port)


def test_what_no_address_answers_is_what_the_first_one_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()
    named(monkeypatch, closed, ("::1", closed[1], 0, 0))
    with pytest.raises(ConnectionRefusedError):
        dial.connect("both.invalid", 1, 5)


def test_the_system_may_give_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """After minutes, by itself: then no limit of ours is to be named, least of all one that is not there."""
    monkeypatch.setattr(dial, "connect", lambda *_: (_ for _ in ()).throw(OSError(errno.ETIMEDOUT, "timed out")))
    settings = Settings("m", None, "http://127.0.0.1:9/v1", retry=0, connect_timeout=None)
    with pytest.raises(Temporary, match=r"cannot connect to http://127\.0\.0\.1:9/v1: timed out"):
        ask(settings, Early(settings))


def test_all_addresses_together_get_the_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with full() as dead:
        named(monkeypatch, dead, dead, dead)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            dial.connect("dead.invalid", 1, 0.6)
        assert time.monotonic() - began >= 0.6
