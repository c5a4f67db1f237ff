"""Server-sent events: bytes in, events of the answer out, for both protocols.

The framing is that of https://html.spec.whatwg.org/multipage/server-sent-events.html. Real servers do not keep to it.
The decoder takes what it can use and ignores what it does not know. What would make the answer wrong becomes an
``Error`` or ``Malformed`` event. The module does no input or output, and the way in which the bytes were cut into
packets makes no difference to the events.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from gptpipe.errors import ProtocolError
from gptpipe.wire.events import Error, Event, KeepAlive, Malformed

LARGEST = 64 << 20  # bytes of one event: a larger one is not part of an answer, and would fill the memory

# Not strict: some servers leave control characters inside strings as they are.
_JSON = json.JSONDecoder(strict=False)


class Reader(Protocol):
    """Makes events of a stream's JSON objects, by the rules of one protocol."""

    def take(self, value: dict[str, Any], failed: bool, events: list[Event]) -> None:
        """Append what an object says to ``events``; ``failed``: its event is called an error."""

    def done(self, events: list[Event]) -> None:
        """Append what ``[DONE]`` means to ``events``."""

    def close(self, events: list[Event]) -> None:
        """Append what was held back to ``events``: the body has ended."""


class Decoder:
    """Bytes to events; ``reader`` knows the protocol."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        # Bytes, not lists of pieces: a piece may be one byte long, and would take a hundred times its length.
        self._line = bytearray()  # a line that has not ended
        self._data = bytearray()  # the data lines of an event that has not ended, each with its end
        self._size = 0  # bytes of that event
        self._failed = False  # that event calls itself an error
        self._begun = False
        self._after_cr = False

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these bytes complete.

        :raises ProtocolError: if one of them is larger than LARGEST; its bytes are dropped.
        """
        self._size += len(data)
        if self._size > LARGEST:
            self._line, self._data, self._size = bytearray(), bytearray(), 0
            raise ProtocolError(f"the server sent an event of more than {LARGEST >> 20} MiB")
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._line += data
        if b"\n" not in data:
            return []
        lines = bytes(self._line).split(b"\n")  # not splitlines(): VT, FF, NEL, U+2028 end no line here
        self._line = bytearray(lines.pop())
        if not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        events: list[Event] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data += line[5:].removeprefix(b" ") + b"\n"
            elif not line:
                self._dispatch(events)
            elif line.startswith(b"event:"):
                self._failed = line[6:].strip() == b"error"
            elif line.startswith(b"error:"):  # llama.cpp before 2025
                self._failed = True
                self._data += line[6:] + b"\n"
        return events

    def close(self) -> list[Event]:
        """Return what was held back, when the body has ended.

        That includes a last event whose blank line is missing. If that event breaks off, it is cut, not malformed.
        """
        events: list[Event] = []
        if self._line or self._data:
            events = [event for event in self.feed(b"\n\n") if not isinstance(event, (Malformed, KeepAlive))]
        self._reader.close(events)
        return events

    def _dispatch(self, events: list[Event]) -> None:
        """Append what an event says whose last line has come."""
        data, self._data, self._size = self._data, bytearray(), 0
        failed, self._failed = self._failed, False
        # Bytes that are not UTF-8 become U+FFFD. Inside a string that is one wrong character, and visible, in an
        # answer that is otherwise whole. Anywhere else it is not JSON, and the event is malformed.
        text = data[:-1].decode("utf-8", "replace")
        try:
            value = _JSON.decode(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            self._reader.take(value, failed, events)
        elif not text.strip():
            events.append(KeepAlive())
        elif text.strip() == "[DONE]":
            self._reader.done(events)
        else:
            events.append(Error(text) if failed else Malformed(text))
