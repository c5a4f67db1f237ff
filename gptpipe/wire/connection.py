"""HTTP/1.1 over one connection, for one exchange after another: https://www.rfc-editor.org/rfc/rfc9112"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import h11

from gptpipe.errors import BadInput
from gptpipe.wire.dial import alive
from gptpipe.wire.exchange import WAKE, Lost, NotHttp

if TYPE_CHECKING:
    import socket

_IDLE = 60.0  # seconds: as long as a person thinks in a chat, and not longer than most servers keep a connection
_LARGEST_HEAD = 100 << 10
_BLOCK = 1 << 16  # bytes that are read at once
_PIECE = 1 << 20  # bytes that are decoded at once
_LAYERS = 5  # encodings of one body that are decoded


class Sent(NamedTuple):
    """A request. The pieces of its ``content`` are sent as they are; ``fields`` say how it is framed.

    A ``repeatable`` one is sent again where the server had closed the connection that was kept.
    """

    method: str
    target: bytes
    fields: Mapping[str, str]
    content: Iterable[bytes] = ()
    repeatable: bool = True


class Connection:
    """A connection to a server, or to a proxy that passes on to it. Nothing is read after ``until`` (monotonic)."""

    def __init__(self, found: socket.socket) -> None:
        self.until = inf
        self._socket = found
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LARGEST_HEAD)
        self._since = time.monotonic()

    def usable(self) -> bool:
        """Return whether another request may be sent."""
        idle = self._http.our_state is h11.IDLE and time.monotonic() - self._since < _IDLE
        return idle and alive(self._socket)

    def ask(self, request: Sent, limit: float | None) -> Received:
        """Send a request, and return the response before its body is read.

        ``limit`` is the seconds for which the server may be silent.

        :raises Lost: if it closes the connection; TimeoutError, if it is silent for longer; NotHttp.
        :raises BadInput: if the request's headers contradict its content.
        """
        try:
            return Received(self, self._asked(request, limit), limit)
        except BaseException:
            self.close()
            raise

    def _asked(self, request: Sent, limit: float | None) -> h11.Response:
        fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in request.fields.items()]
        try:
            self._send(h11.Request(method=request.method, target=request.target, headers=fields), limit)
            for piece in request.content:
                self._send(h11.Data(data=piece), limit)
            self._send(h11.EndOfMessage(), limit)
        except h11.LocalProtocolError as error:  # a header of the settings says another length
            raise BadInput(f"the request cannot be sent: {error}") from error
        except Lost:
            pass  # a server may refuse a request, and close, before it has read all of it
        while True:
            event = self._event()
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA and not self._receive(limit) and self._http.their_state is h11.SEND_RESPONSE:
                raise Lost("server disconnected without sending a response")

    def body(self, limit: float | None) -> Iterator[bytes]:
        """Yield the body of the response; blocks that came together as one."""
        event: object = None
        while event is None or event is h11.NEED_DATA:
            if event is h11.NEED_DATA:
                self._receive(limit)
            blocks, broken = [], None
            try:
                while isinstance(event := self._event(), h11.Data):
                    blocks.append(event.data)
            except NotHttp as error:
                event, broken = error, error
            if blocks:
                yield b"".join(blocks)
            if broken:
                raise broken

    def release(self) -> None:
        """Keep the connection for the next exchange if this one has ended, or else close it."""
        self.until = inf
        more, _ = self._http.trailing_data  # what follows an answer would be taken for the next one
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not more:
            self._http.start_next_cycle()
            self._since = time.monotonic()
        else:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _event(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise NotHttp(str(error)) from error

    def _receive(self, limit: float | None) -> bytes:
        """Read bytes, none at the end."""
        until = self.until if limit is None else min(self.until, time.monotonic() + limit)
        data: bytes | None = None
        while data is None:
            left = max(0.0, until - time.monotonic())
            try:
                self._socket.settimeout(min(left, WAKE))
                data = self._socket.recv(_BLOCK)
            except TimeoutError:
                if left <= WAKE:
                    raise
            except OSError as error:
                raise Lost(str(error)) from error
        self._http.receive_data(data)
        return data

    def _send(self, event: h11.Event, limit: float | None) -> None:
        rest = memoryview(self._http.send(event) or b"")
        try:
            self._socket.settimeout(limit)
            while rest:
                rest = rest[self._socket.send(rest) :]
        except TimeoutError:
            raise
        except OSError as error:
            raise Lost(str(error)) from error


class Received:
    """A response, its headers by their names in lower case; ``raw`` are those that came."""

    def __init__(self, connection: Connection, response: h11.Response, limit: float | None) -> None:
        self.status = response.status_code
        self.reason = response.reason.decode("ascii", "ignore")
        self.raw = response.headers.raw_items()
        self.headers: dict[str, str] = {}
        for key, value in response.headers:
            name, text = key.decode("ascii"), value.decode("latin-1")
            self.headers[name] = f"{self.headers[name]}, {text}" if name in self.headers else text
        self._limit = limit
        self._connection: Connection | None = connection

    def read_until(self, moment: float) -> None:
        """Read nothing more after a moment (monotonic)."""
        if self._connection:
            self._connection.until = moment

    def blocks(self) -> Iterator[bytes]:
        """Yield the body as it arrives, encoded as it is."""
        return self._connection.body(self._limit) if self._connection else iter(())

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield the body as it arrives, decoded.

        :raises zlib.error: if its encoding is broken. Lost, NotHttp and TimeoutError are those of the connection.
        """
        blocks = self.blocks()
        names = [name.strip().lower() for name in self.headers.get("content-encoding", "").split(",")]
        for _ in [name for name in names if name in ("gzip", "deflate")][:_LAYERS]:
            blocks = _inflated(blocks)
        return blocks

    def close(self) -> None:
        """Give the connection back, or close it if the body has not ended."""
        connection, self._connection = self._connection, None
        if connection:
            connection.release()


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
