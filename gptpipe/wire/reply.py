"""The reading of a reply: which kind it is, its events up to the end of the answer, and what is wrong with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from queue import Empty

from gptpipe.errors import Failure, ProtocolError, Temporary
from gptpipe.text.address import masked
from gptpipe.wire import faults, sse
from gptpipe.wire.events import Done, Error, Event, Finish, KeepAlive, Malformed, Refusal, Text, ToolCall, Usage
from gptpipe.wire.exchange import Exchange, Head
from gptpipe.wire.protocol import Protocol
from gptpipe.wire.transport import Way, reason

Waiting = Callable[[str], AbstractContextManager[object]]

TAIL = 1.0  # seconds for which an answer that has ended is still read: for its usage
_PAGE = 65536  # bytes shown, at most, of a reply that is not an answer
_REFUSAL = 1 << 20  # bytes read of what a server says beside a status that is not success
_REFUSING = 10.0  # seconds for which they are read
_KEEP_ALIVES = "the server sends nothing but keep-alives; --max-time would end this"
_CUT = "the answer was cut"


class Reply:
    """The reply to one request for an answer."""

    def __init__(self, exchange: Exchange, head: Head, way: Way, spoken: Protocol, waiting: Waiting) -> None:
        self._exchange = exchange
        self._head = head
        self._way = way
        self._spoken = spoken
        self._waiting = waiting
        self._text = False  # whether text or a tool call came
        self._known = False  # whether any event could be read
        self._ended: float | None = None  # when the answer ended (monotonic)

    def events(self) -> Iterator[Event]:
        """Yield what the server says until the answer has ended.

        :raises Failure: if it is not an answer, an error, or cut.
        """
        blocks = self._blocks()
        first = self._first(blocks)
        start = first.lstrip()[:1]
        if start in (b"{", b"["):
            yield from self._whole(_joined(first, blocks, masked(self._way.url(self._spoken.path))))
        elif start == b"<":
            raise self._foreign(first)
        else:
            yield from self._stream(first, blocks)

    def _blocks(self) -> Iterator[bytes]:
        """Yield the body's blocks until it ends, but only for TAIL seconds after the end of the answer."""

        def left() -> float | None:
            return None if self._ended is None else max(0.0, self._ended + TAIL - time.monotonic())

        blocks = self._exchange.blocks(left)
        while left() != 0:
            try:
                block = next(blocks, None)
            except Exception as error:
                if self._ended is not None:
                    return
                raise _broken(error, self._way, self._spoken.path) from error
            if block is None:
                return
            yield block

    def _first(self, blocks: Iterator[bytes]) -> bytes:
        """Return the first block that is not blank: it tells what kind of reply this is."""
        first = next(blocks, b"")
        if not first.strip():
            with self._waiting(_KEEP_ALIVES):
                first = next((block for block in blocks if block.strip()), b"")
        if not first:
            raise Temporary(f"{_CUT}: the server sent nothing", repeat=True)
        return first

    def _stream(self, first: bytes, blocks: Iterator[bytes]) -> Iterator[Event]:
        """Decode an event stream up to the end of the answer."""
        for event in self._announced(self._decoded(first, blocks)):
            if self._ended is not None and time.monotonic() > self._ended + TAIL:
                return
            match event:
                case Done():
                    if self._ended is None and self._text:
                        yield Finish("stop")
                        self._ended = time.monotonic()
                    if self._ended is not None:
                        return
                    continue
                case Error() | Malformed():
                    if self._ended is not None:
                        return
                    raise self._failure(event)
                case Finish():
                    self._ended = time.monotonic()
                case Text() | Refusal() | ToolCall():
                    self._text = True
            self._known = True
            yield event
            if self._ended is not None and isinstance(event, Usage):
                return
        if self._ended is not None:
            return
        if not self._known and not self._head.event_stream:
            raise self._foreign(first)
        raise Temporary(f"{_CUT}: the server ended it without a finish reason", repeat=True)

    def _failure(self, event: Error | Malformed) -> Failure:
        """Return what an event means that ends the answer before its end."""
        if isinstance(event, Error):
            return faults.from_event(event.body)
        if not self._known and not self._head.event_stream:
            return self._foreign(event.data.encode())
        return Temporary(f"{_CUT}: an event in it is not JSON", repeat=True)

    def _decoded(self, first: bytes, blocks: Iterator[bytes]) -> Iterator[Event]:
        """Yield the events of a stream; a failure at its end is raised after them, unless the answer has ended."""
        decoder = sse.Decoder(self._spoken.reader(self._way.settings))
        yield from _merged(decoder.feed(first))
        lost: Failure | None = None
        try:
            for block in blocks:
                # An event may also say nothing: an empty delta, again and again.
                yield from _merged(decoder.feed(block) or [KeepAlive()])
        except Failure as failure:
            lost = failure
        yield from decoder.close()
        if lost and self._ended is None:  # the last event may have been whole, and the end of the answer
            raise lost

    def _announced(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield the events that say something; that none does for long is announced, once."""
        announced = False
        with ExitStack() as quiet:
            for event in events:
                if not isinstance(event, KeepAlive):
                    if not isinstance(event, Done):  # without text before it, it ends no wait
                        quiet.close()
                    yield event
                elif not announced:
                    announced = True
                    quiet.enter_context(self._waiting(_KEEP_ALIVES))

    def _whole(self, data: bytes) -> Iterator[Event]:
        """Read a reply in one piece: an answer to a request without ``stream``, or an error."""
        try:
            body = json.loads(data)
        except RecursionError:
            raise self._foreign(data) from None
        except ValueError:
            raise Temporary(f"{_CUT}: the reply is not whole JSON", repeat=True) from None
        found = False
        for event in whole(body, self._spoken, self._way.settings.thinks):
            found = True
            yield event
        if not found:
            raise self._foreign(data)

    def _foreign(self, data: bytes) -> ProtocolError:
        return foreign(data, self._way, self._spoken.path, self._spoken.title)


def whole(body: object, spoken: Protocol, thinks: bool = False) -> Iterator[Event]:
    """Yield the events of a reply in one piece; none if it is not a reply of this protocol.

    :raises Failure: if it is an error, or holds one.
    """
    if not isinstance(body, dict):
        return
    finished = None
    for event in spoken.whole(body, thinks):
        if isinstance(event, Error):
            raise faults.from_event(event.body)
        finished = isinstance(event, Finish) or finished is True
        yield event
    if finished is False:
        yield Finish("stop")


def foreign(data: bytes, way: Way, path: str, wanted: str) -> ProtocolError:
    """Return the failure of a reply that is not ``wanted``."""
    # Without the key before it is shortened, or the half of one would be left.
    shown = way.clean(" ".join(data[:_PAGE].decode("utf-8", "replace").split())) or "nothing"
    return ProtocolError(
        f"{masked(way.url(path))} answered with something that is not {wanted}: {shown[:60]}",
        "check the base URL (often it must end in /v1), and that no login page is in between",
    )


def refusal(exchange: Exchange) -> str:
    """Return the body of a refusal as far as it comes: the status alone says most, and the body may be cut."""
    until = time.monotonic() + _REFUSING
    data = b""
    try:
        for block in exchange.blocks(lambda: max(0.0, until - time.monotonic())):
            data += block
            if len(data) >= _REFUSAL:
                break
    except (Exception, Empty):
        pass
    return data[:_REFUSAL].decode("utf-8", "replace")


def _joined(first: bytes, blocks: Iterator[bytes], where: str) -> bytes:
    """Return a reply in one piece.

    :raises ProtocolError: if it is larger than an answer can be.
    """
    parts, size = [first], len(first)
    for block in blocks:
        parts.append(block)
        size += len(block)
        if size > sse.LARGEST:
            raise ProtocolError(f"{where} answered with more than {sse.LARGEST >> 20} MiB in one piece")
    return b"".join(parts)


def _broken(error: Exception, way: Way, path: str) -> Exception:
    """Return the failure for an exception inside a reply: its head was HTTP, so the rest was damaged."""
    failure = way.failure(error, path)
    if isinstance(failure, ProtocolError):
        return Temporary(f"{_CUT}: {reason(error)}", repeat=True)
    return failure


def _merged(events: list[Event]) -> Iterator[Event]:
    """Yield the events of one block, neighbouring pieces of text as one: they came together and leave together."""
    text: list[str] = []
    for event in events:
        if isinstance(event, Text):
            text.append(event.text)
            continue
        if text:
            yield Text("".join(text))
            text.clear()
        yield event
    if text:
        yield Text("".join(text))
