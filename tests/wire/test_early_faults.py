"""What goes wrong with the connection that is opened early is said as if it had been opened with the request.

With ``--cache`` nothing is opened early, since a stored answer may do: that call is the measure of the other.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Run, Spawn
from tests.harness.server import Server, certificate
from tests.wire.test_dial import full

Where = Iterator[tuple[str, ...]]


@contextmanager
def at(*options: str) -> Where:
    yield options


@contextmanager
def refused(_: Path) -> Where:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    yield "--base-url", f"https://127.0.0.1:{port}/v1"


@contextmanager
def silent(_: Path) -> Where:
    with full() as (host, port):
        yield "--base-url", f"https://{host}:{port}/v1", "--connect-timeout", "1"


@contextmanager
def untrusted(folder: Path) -> Where:
    with Server(tls=certificate(folder)[0]) as server:
        yield "--base-url", server.url


@contextmanager
def closing(*words: bytes, scheme: str = "") -> Where:
    """A peer that reads once if it has something to say, says it, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def meet(met: socket.socket) -> None:
            with met, suppress(OSError):
                for word in words:
                    met.recv(1 << 16)
                    met.sendall(word)
                met.shutdown(socket.SHUT_WR)  # what is still to be read would make the end a reset, or not
                while met.recv(1 << 16):
                    pass

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=meet, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        if scheme:
            yield "--base-url", "https://elsewhere.invalid/v1", "--proxy", f"{scheme}://{address}"
        else:
            yield "--base-url", f"https://{address}/v1"


FAULTS: dict[str, tuple[Callable[[Path], AbstractContextManager[tuple[str, ...]]], int, str]] = {
    "refused": (refused, 75, "connection refused"),
    "unknown name": (lambda _: at("--base-url", "https://none.invalid/v1"), 75, "cannot connect"),
    "silent port": (silent, 75, "within 1 s (--connect-timeout)"),
    "bad certificate": (untrusted, 78, "does not verify"),
    "a proxy that refuses": (lambda _: closing(b"HTTP/1.1 403 No\r\n\r\n", scheme="http"), 75, "403 No"),
    "a proxy that wants a name": (lambda _: closing(b"HTTP/1.1 407 Who\r\n\r\n", scheme="http"), 78, "407 Who"),
    "a SOCKS proxy that refuses": (lambda _: closing(b"\5\xff", scheme="socks5"), 78, "NO ACCEPTABLE METHODS"),
    "closed at once": (lambda _: closing(), 75, "cannot connect"),
    "closed in the handshake": (lambda _: closing(b""), 75, "cannot connect"),
    "not TLS": (lambda _: closing(b"SSH-2.0-x\r\n"), 76, "does not speak TLS"),
}


@pytest.mark.parametrize(("where", "status", "words"), FAULTS.values(), ids=FAULTS)
def test_a_fault_has_the_status_and_the_words_that_it_has_later(
    run: Run, tmp_path: Path, where: Callable[[Path], AbstractContextManager[tuple[str, ...]]], status: int, words: str
) -> None:
    with where(tmp_path) as options:
        early, later = (
            run("gptpipe", "-n", *options, "-m", "m", "--retry", "0", *more, "hi", env={"OPENAI_API_KEY": "k"})
            for more in ((), ("--cache", "1d"))
        )
    assert (early.status, words in early.err) == (status, True), early.err
    assert (early.status, early.out, early.err) == (later.status, later.out, later.err)


def test_nothing_is_open_while_standard_input_is(spawn: Spawn, server: Server) -> None:
    """A server that closes what is idle has nothing to close."""
    reader, writer = os.pipe()
    process = spawn("gptpipe", "--base-url", server.url, "-m", "m", "hi", stdin=reader)
    os.close(reader)
    time.sleep(1.5)  # long enough to import everything
    assert server.connections == 0
    os.close(writer)
    assert process.communicate().out == b"hi\n"
    assert server.connections == 1
