"""The early connection: refused, closed, reset, half-closed or spoken to before and while the request is sent."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from gptpipe.errors import Status
from tests.harness.server import Server, certificate
from torture.frame import Case, Rig, manners, parallel

TITLE = "The early connection"

TRIES = 6  # of each fault in each way, with other delays
SLOWEST = 0.25  # seconds until a fault, and until the input
AT_ONCE = 4
LATEST = 15  # seconds for any run
REQUEST_TIMEOUT = b"HTTP/1.1 408 Request Time-out\r\nConnection: close\r\n\r\n"

Fault = Callable[[socket.socket], object]


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _half(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(LATEST)
    while connection.recv(1 << 16):  # until the client goes
        pass


def _deaf(connection: socket.socket) -> None:
    connection.settimeout(LATEST)
    connection.recv(1 << 16)  # and the connection is closed


def _reset_deaf(connection: socket.socket) -> None:
    _deaf(connection)
    _reset(connection)


def _babble(connection: socket.socket) -> None:
    connection.sendall(b"\0\xff" * 50)
    _half(connection)


# What the server does with the first connection. All others reach it.
FAULTS: dict[str, Fault] = {
    "closed": lambda _: None,
    "reset": _reset,
    "half-closed": _half,
    "closed at the request": _deaf,
    "reset at the request": _reset_deaf,
    "a reply before the request": lambda connection: connection.sendall(REQUEST_TIMEOUT),
    "bytes before the request": _babble,
}
# After these the request may have got a reply that is not one, if it was sent in the same moment.
SPOKEN = frozenset({Status.TEMPFAIL, Status.PROTOCOL})


class Trial(NamedTuple):
    """A fault, when it comes (seconds after the connection), and when the input does. ``way`` is the stage it hits."""

    fault: str
    way: str
    program: str
    after: float
    typed: float

    def __str__(self) -> str:
        return f"{self.program}, {self.way}, {self.fault} after {self.after} s, input after {self.typed} s"


class Door:
    """A port before a server: it spoils the first connection, and passes all others on. A context manager."""

    def __init__(self, server: Server, trial: Trial) -> None:
        self._server = server
        self._trial = trial
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if server.tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        spoil: Callable[[socket.socket], None] = self._spoil
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=spoil, args=(connection,), daemon=True).start()
                spoil = self._pass

    def _spoil(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._trial.way == "after TLS":
                assert self._server.tls is not None
                connection = self._server.tls.wrap_socket(connection, server_side=True)
            time.sleep(self._trial.after)
            FAULTS[self._trial.fault](connection)
        connection.close()

    def _pass(self, connection: socket.socket) -> None:
        behind = socket.create_connection((self._server.host, self._server.port))
        back = threading.Thread(target=_pipe, args=(behind, connection), daemon=True)
        back.start()
        _pipe(connection, behind)
        back.join()
        connection.close()
        behind.close()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def spoiled(rig: Rig, tls: ssl.SSLContext, authority: str, trial: Trial) -> Case:
    """Run a program whose early connection has a fault: one answer, one request, and no try is used up."""
    context = None if trial.way == "plain" else tls
    words = ["-m", "m", "--retry", "0", "--cacert", authority, "--connect-timeout", "3"]
    template = ["--text", "{}"] if trial.program == "gptpipe-map" else []
    with rig.home() as home, Server(tls=context) as server, Door(server, trial) as door:
        with rig.spawn(home, trial.program, "--base-url", door.url, *words, *template, stdin=b"") as process:
            time.sleep(trial.typed)
            result = process.communicate(b"hello\n", LATEST)
        asked = len(server.requests)
    wrong = manners(result)
    # A handshake that fails while the request waits for it is the request's own failure.
    may_fail = trial.way == "instead of TLS" or "before" in trial.fault
    failed = result.status in SPOKEN | {Status.DATAERR} and not result.out.strip() and may_fail
    if not failed and (result.status, result.out, asked) != (0, b"hello\n", 1):
        wrong = wrong or f"{asked} requests"
    return Case(str(trial), not wrong, f"{wrong}; {result}")


def unborn(rig: Rig, number: int) -> Case:
    """Nobody listens when the run begins, and somebody does before the request: it is no try."""
    dice = random.Random(number)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    with rig.home() as home:
        call = ("gptpipe", "--base-url", url, "-m", "m", "--retry", "3")
        with rig.spawn(home, *call, stdin=b"") as process:
            time.sleep(dice.uniform(0, SLOWEST))
            with Server(port=port) as server:
                time.sleep(dice.uniform(0, SLOWEST))
                result = process.communicate(b"hello\n", LATEST)
                asked = len(server.requests)
    ok = (result.status, result.out, asked) == (0, b"hello\n", 1) and not manners(result)
    return Case(f"a server that is late, {number}", ok, f"{asked} requests, {result}")


def _trials() -> Iterator[Trial]:
    dice = random.Random(20261125)
    ways = ("plain", "instead of TLS", "after TLS")
    for fault, way, program, _ in itertools.product(FAULTS, ways, ("gptpipe", "gptpipe-map"), range(TRIES)):
        at_once = dice.random() < 0.3
        after = 0.0 if at_once else round(dice.uniform(0, SLOWEST), 3)
        yield Trial(fault, way, program, after, round(dice.uniform(0, SLOWEST), 3))


def cases(rig: Rig) -> Iterator[Case]:
    """Spoil the first connection at every stage."""
    with rig.home() as home:
        tls, authority = certificate(home)
        yield from parallel(lambda trial: spoiled(rig, tls, str(authority), trial), _trials(), AT_ONCE)
        yield from parallel(lambda number: unborn(rig, number), range(TRIES * 4), AT_ONCE)
