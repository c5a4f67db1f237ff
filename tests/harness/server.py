"""A Chat Completions server on loopback: the ``echo`` model behind real sockets, and scripted replies of any kind.

In a test, take the fixture ``server``: it answers as ``gptpipe -m echo`` does, whatever the model's name::

    server.url                                          # http://127.0.0.1:PORT/v1
    server.requests[0].body["messages"]                 # what was asked
    server.reply(say("Hel"), say("lo"), finish(), DONE) # the next reply: one packet after the other
    server.reply(say("Hel"), hang=True)                 # ... and then silence
    server.json(429, {"error": {"message": "slow"}}, headers={"retry-after": "1"})

A packet may also be a number, to wait so many seconds, or a function, to be called when its turn comes:
``event.set`` tells the test how far the reply is, ``event.wait`` waits for the test.

As a program it serves until it is interrupted: ``python -m tests.harness.server [--port N] [--delay SECONDS]``.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import itertools
import json
import math
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from gptpipe.wire import echo
from tests.harness.batch_api import BatchAPI
from tests.harness.tools import needs

Packet = bytes | float | Callable[[], object]

DONE = b"data: [DONE]\n\n"


def event(value: object) -> bytes:
    """Return a server-sent event with this JSON value."""
    # Half a surrogate pair has no UTF-8; with a backslash it is the JSON escape.
    return b"data: " + json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n\n"


def chunk(delta: Mapping[str, Any] | None, reason: str | None = None, **more: Any) -> bytes:
    """Return the event of a chunk with one choice; ``more`` are fields of the chunk beside ``choices``."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return event({"id": "c1", "object": "chat.completion.chunk", "model": "served", "choices": [choice], **more})


def say(text: str) -> bytes:
    """Return the event of a piece of the answer."""
    return chunk({"content": text})


def finish(reason: str = "stop", **more: Any) -> bytes:
    """Return the event of a finish reason."""
    return chunk({}, reason, **more)


def certificate(folder: Path, names: str = "DNS:localhost,IP:127.0.0.1,IP:::1") -> tuple[ssl.SSLContext, Path]:
    """Return the server's side of TLS, and the file with the certificate that a client must trust."""
    needs("openssl")
    key, path = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=gptpipe"
    files = ["-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(path)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    return context, path


class Request(NamedTuple):
    """A request as it came; the names of its headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.content)


class Refusal(NamedTuple):
    """What a rule says to a request: a status that is an error, and headers."""

    status: int
    headers: Mapping[str, str] = {}


class TokenBucket:
    """A rule: so many requests at once, then so many a second; a refusal says in milliseconds when there is room."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self.tokens, self.at = burst, time.monotonic()
        self.refused = 0

    def __call__(self, _: Request) -> Refusal | None:
        """Take a token, or refuse."""
        now = time.monotonic()
        self.tokens, self.at = min(self.burst, self.tokens + (now - self.at) * self.rate), now
        if self.tokens >= 1:
            self.tokens -= 1
            return None
        self.refused += 1
        return Refusal(429, {"retry-after-ms": str(math.ceil((1 - self.tokens) / self.rate * 1000))})


class _Script(NamedTuple):
    """A scripted reply."""

    packets: tuple[Packet, ...]
    status: int
    headers: dict[str, str]
    raw: bool
    hang: bool
    reset: bool
    broken: bool


class Server:
    """The server, running from construction to ``close``; a context manager.

    ``knobs`` are those of models that are not ``echo`` (that one brings its own in its name); ``tls`` makes it https;
    ``host`` may be ``::1``. ``rule`` may refuse a request that no
    script is for. Without ``record`` the requests are forgotten, as a long benchmark needs it.
    """

    def __init__(
        self,
        knobs: echo.Knobs = echo.Knobs(),  # noqa: B008 (a tuple)
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        record: bool = True,
    ) -> None:
        self.knobs = knobs
        self.tls = tls
        self.record = record
        self.requests: list[Request] = []
        self.connections = 0
        self.closing = threading.Event()
        self.tries = itertools.count()
        self.batches = BatchAPI()
        self.rule: Callable[[Request], Refusal | None] = lambda _: None
        self._scripts: deque[_Script] = deque()
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=512)
        self.host, self.port = host, self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        """The base URL, as ``--base-url`` takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/v1"

    def reply(
        self,
        *packets: Packet,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        raw: bool = False,
        hang: bool = False,
        reset: bool = False,
        broken: bool = False,
        times: int = 1,
    ) -> None:
        """Script the reply to the next request that has none yet, or to the next ``times``.

        The packets are the body, by default an event stream, in chunked coding; with ``raw`` they are all that goes
        out, status line included, and the connection ends with them. After the last packet ``hang`` leaves the socket
        open, ``reset`` resets the connection, ``broken`` closes it within the chunked coding.
        """
        headers = {"content-type": "text/event-stream", **(headers or {})}
        self._scripts.extend([_Script(packets, status, headers, raw, hang, reset, broken)] * times)

    def json(self, status: int, value: object, headers: Mapping[str, str] | None = None, times: int = 1) -> None:
        """Script a reply that is a JSON value."""
        headers = {"content-type": "application/json", **(headers or {})}
        self.reply(json.dumps(value).encode(), status=status, headers=headers, times=times)

    def wait_for_requests(self, count: int, timeout: float = 20) -> list[Request]:
        """Wait until so many requests have come in all, and return them."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, timeout):
                pytest.fail(f"{len(self.requests)} requests came within {timeout} s, not {count}")
            return self.requests[:]

    def close(self) -> None:
        """Close every socket and wait for the threads."""
        self.closing.set()
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
            pass  # wakes the acceptor: closing a socket does not
        self._acceptor.join()
        self._listener.close()
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, request: Request) -> _Script | None:
        """Record a request and return the script for it."""
        with self._changed:
            if self.record:
                self.requests.append(request)
                self._changed.notify_all()
            if self._scripts:
                return self._scripts.popleft()
            refusal = self.rule(request)
        if refusal is None:
            return None
        body = json.dumps({"error": {"message": "refused by a rule"}}).encode()
        headers = {"content-type": "application/json", **refusal.headers}
        return _Script((body,), refusal.status, headers, raw=False, hang=False, reset=False, broken=False)

    def _accept(self) -> None:
        while True:
            connection, address = self._listener.accept()
            if self.closing.is_set():
                connection.close()
                return
            self.connections += 1
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            with self._changed:
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection, address), daemon=True)
            self._threads = [*(other for other in self._threads if other.is_alive()), thread]
            thread.start()

    def _serve(self, connection: socket.socket, address: object) -> None:
        """Serve one connection; a peer that goes away ends it, whatever was to be said."""
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            _Handler(connection, address, self)  # type: ignore[arg-type]
        except OSError:
            pass
        finally:
            with self._changed:
                self._open.discard(connection)
            connection.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection: requests in, replies out."""

    protocol_version = "HTTP/1.1"
    connection: socket.socket
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, content)
        script = self.server.take(request)
        if script is not None:
            self._play(script)
            return
        kind = headers.get("content-type", "")
        reply = self.server.batches.answer(request.method, request.path, kind, content) or echo.answer(
            request.method, request.path, content, self.server.tries, self.server.knobs
        )
        self._head(reply.status, reply.headers)
        self._chunks(_pauses(reply.chunks))
        self._chunk(b"")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Keep standard error for the test."""

    def _play(self, script: _Script) -> None:
        if script.raw:
            self.close_connection = True
        else:
            self._head(script.status, script.headers)
        self._chunks(script.packets, raw=script.raw)
        if script.hang:
            self.server.closing.wait()
        if script.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if script.hang or script.reset or script.broken:
            self.close_connection = True
        elif not script.raw:
            self._chunk(b"")

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in {**headers, "transfer-encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _chunks(self, packets: Iterable[Packet], *, raw: bool = False) -> None:
        for packet in packets:
            if isinstance(packet, bytes):
                if raw:
                    self.wfile.write(packet)
                elif packet:
                    self._chunk(packet)
            elif callable(packet):
                packet()
            elif self.server.closing.wait(None if packet == math.inf else packet):
                raise ConnectionAbortedError

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


def _pauses(chunks: Iterator[bytes | echo.Pause]) -> Iterator[Packet]:
    for piece in chunks:
        yield piece.seconds if isinstance(piece, echo.Pause) else piece


@pytest.fixture
def server() -> Iterator[Server]:
    """Give the test a server of its own."""
    with Server() as running:
        yield running


def main() -> None:
    """Serve until interrupted, after a line with the base URL."""
    parser = argparse.ArgumentParser(description="The echo model behind a real socket, on loopback.")
    parser.add_argument("--port", type=int, default=0, help="the port (default: a free one)")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="before each chunk of an answer")
    options = parser.parse_args()
    with Server(echo.Knobs(delay=options.delay), port=options.port, record=False) as running:
        print(running.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
