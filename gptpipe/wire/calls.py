"""Tool calls, put together from the pieces in which they are streamed.

A call begins with its id and name, and its arguments follow in pieces that name its index. Servers differ: some send
a call in one piece, leave the index or the id out, give every call the index 0, or send the arguments as an object.
"""

from __future__ import annotations

from typing import Any

from gptpipe.errors import ProtocolError
from gptpipe.text.strict_json import clean, compact, mend
from gptpipe.wire.events import Event, ToolCall

_MOST = 1000  # calls of one answer: more are an attack
_LARGEST = 16 << 20  # characters of all their arguments


class _Call:
    """A call as far as it has arrived."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self.id = self.name = ""
        self.arguments: list[str] = []


class Calls:
    """The calls of one answer so far."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._size = 0  # characters of their arguments

    def add(self, pieces: object) -> None:
        """Take the ``tool_calls`` of a delta, or of a whole message.

        :raises ProtocolError: if the calls are too many or too large.
        """
        for piece in pieces if isinstance(pieces, list) else ():
            function = piece.get("function") if isinstance(piece, dict) else None
            if isinstance(function, dict):
                self._add(piece.get("index"), _text(piece.get("id")), _text(function.get("name")), function)

    def set(self, index: int, id: object, name: object, arguments: object) -> None:
        """Take all that is known of a call, in place of its pieces. What is empty changes nothing.

        :raises ProtocolError: if there are too many.
        """
        call = next((call for call in self._calls if id and call.id == id), None)
        call = call or next((call for call in self._calls if call.index == index), None) or self._begin(index)
        call.id = _text(id) or call.id
        call.name = _text(name) or call.name
        call.arguments = [arguments] if arguments and isinstance(arguments, str) else call.arguments

    def _add(self, index: Any, id: str, name: str, function: dict[str, Any]) -> None:
        call = self._of(index, id, name)
        call.id = call.id or id
        call.name = call.name or name
        arguments = function.get("arguments")
        if arguments is not None:
            call.arguments.append(arguments if isinstance(arguments, str) else compact(clean(arguments)))
            self._size += len(call.arguments[-1])
        if self._size > _LARGEST:
            raise ProtocolError(f"the server sent arguments of tools of more than {_LARGEST >> 20} MiB")

    def _of(self, index: Any, id: str, name: str) -> _Call:
        """Return the call that a piece belongs to: the one of its index, or the last one, unless it begins another."""
        known = [call for call in self._calls if index is None or call.index == index]
        if known and not (name and known[-1].name and (id != known[-1].id if id else index is None)):
            return known[-1]
        return self._begin(index)

    def _begin(self, index: Any) -> _Call:
        if len(self._calls) == _MOST:
            raise ProtocolError(f"the server sent more than {_MOST} tool calls")
        self._calls.append(_Call(index))
        return self._calls[-1]

    def flush(self, events: list[Event]) -> None:
        """Append the calls to ``events``: the answer has ended, so they are whole. A call without a name is dropped."""
        for number, call in enumerate(self._calls):
            if call.name:
                arguments = mend("".join(call.arguments)).strip()
                events.append(ToolCall(mend(call.id) or f"call_{number}", mend(call.name), arguments or "{}"))
        self._calls = []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
