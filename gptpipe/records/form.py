"""The forms in which results are written: lines of JSON, and tables that begin with the input's columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from gptpipe.errors import Absent, BadInput, Refused, Truncated, UsageError
from gptpipe.message import Schema
from gptpipe.records.input import Record, displayed
from gptpipe.records.keys import hashed, packed
from gptpipe.records.results import Outcome, State, shown, state_of
from gptpipe.records.rows import UNCLOSED, Header, Row, extended, rows
from gptpipe.storage import forward
from gptpipe.text.strict_json import compact

_BEGINNING = b'{"index":'  # of each line
_WITH_ANSWER = (Truncated, Refused, Absent)  # with these there is an answer beside the error, which was paid for


class Stored(NamedTuple):
    """Where a result stands in a file, whose it is, and what it says. ``mark`` is that of its record."""

    offset: int
    length: int
    number: int
    key: int
    state: State
    mark: int = 0


def _foreign(name: str, line: int) -> BadInput:
    return BadInput(f"{name} line {line} is not a result of gptpipe-map", "give another path with -o")


class Lines:
    """A line of JSON for each result, as gptpipe-map(1) specifies it."""

    head = b""

    def __init__(self, *, with_record: bool) -> None:
        self._with_record = with_record

    def encode(self, outcome: Outcome) -> bytes:
        """Return a result with its line end. An answer that is not what was wanted has an error beside it."""
        failure = outcome.failure
        found: dict[str, Any] = {"index": outcome.record.number, "key": outcome.key}
        if outcome.same_as is not None:
            found["same_as"] = outcome.same_as
        if self._with_record:
            found["record"] = displayed(outcome.record.value)
        if failure is None or isinstance(failure, _WITH_ANSWER):
            found |= {"answer": outcome.value, "model": outcome.model, "finish_reason": outcome.finish_reason}
        if "answer" in found or outcome.usage:
            found["usage"] = outcome.usage
        if outcome.calls:
            found["tool_calls"] = outcome.calls
        if failure is not None:
            found["error"] = {"status": failure.status, "name": failure.status.name, "message": failure.message}
        return compact(found).encode() + b"\n"

    def read(self, descriptor: int, name: str) -> Iterator[Stored]:
        """Yield the results in a file; one at its end that a kill has torn is left out.

        :raises BadInput: if the file, which has this name, holds anything else.
        """
        for number, row in enumerate(forward(descriptor), 1):
            if not row.ended and row.data[: len(_BEGINNING)] == _BEGINNING[: len(row.data)]:
                return
            try:
                if not row.ended:
                    raise ValueError(row.data)
                yield self._stored(row.offset, row.data)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                raise _foreign(name, number) from None

    def _stored(self, offset: int, data: bytes) -> Stored:
        found = json.loads(data)
        number, key = found["index"], packed(found.get("key"))
        if not isinstance(number, int) or not 0 < number < 1 << 32 or not 0 <= key < 1 << 64:
            raise ValueError(number)
        if "answer" not in found and "error" not in found:
            raise KeyError("answer")
        state = state_of(found["error"]["status"]) if "error" in found else State.ANSWERED
        mark = hashed(compact(found["record"])) if self._with_record and "record" in found else 0
        return Stored(offset, len(data) + 1, number, key, state, mark)

    def mark(self, record: Record) -> int:
        """Return a number of 64 bits that results of equal records share; 0 if a result does not show its record."""
        return hashed(compact(displayed(record.value))) if self._with_record else 0

    def renumbered(self, data: bytes, number: int) -> bytes:
        """Return a result as that of the same record, which now has another number."""
        return data if data.startswith(b"%b%d," % (_BEGINNING, number)) else _changed(data, index=number)

    def copied(self, data: bytes, record: Record) -> bytes:
        """Return a result as that of another record that makes the same request; that one used nothing."""
        more = {"record": displayed(record.value)} if self._with_record else {}
        return _changed(data, index=record.number, usage=None, **more)


def _changed(data: bytes, **changes: Any) -> bytes:
    found = json.loads(data) | changes
    found.pop("same_as", None)  # that one has another number now too
    return compact(found).encode() + b"\n"


class Table:
    """The rows of the input, each with its result in more columns: the answer, or with a schema its properties.

    After these come ``status`` and ``error``, and with ``keyed`` the ``key`` by which a row is known again.

    An empty input makes an empty table, without a header.

    :raises UsageError: if the schema has no properties, or the table has one of the columns already.
    """

    def __init__(self, header: Header | None, schema: Schema | None, *, keyed: bool) -> None:
        self._header = header or Header([], "", ",")
        self._names = ["answer"] if schema is None else _properties(schema)
        self._whole = schema is None
        self._added = [*self._names, "status", "error", *(["key"] if keyed else [])]
        self._keyed = keyed
        self.head = b""
        if header:
            if double := [name for name in self._added if name in header.columns]:
                raise UsageError(f"the table has a column {double[0]!r} already", "rename it, or write --to jsonl")
            self.head = self._row(header.text, self._added)

    def _row(self, text: str, cells: list[str]) -> bytes:
        row = extended(text, cells, self._header.delimiter, self._header.newline)
        return row.encode("utf-8", "surrogateescape")

    def encode(self, outcome: Outcome) -> bytes:
        """Return a result with its line end."""
        failure, value = outcome.failure, outcome.value
        text = _text(outcome.record)
        if not isinstance(outcome.record.value, dict):
            text, answer = self._fitted(outcome.record)
        elif self._whole:
            answer = [shown(value)]
        else:
            fields = value if isinstance(value, dict) else {}
            answer = [shown(fields.get(name)) for name in self._names]
        said = [str(int(failure.status)), failure.message] if failure else ["0", ""]
        return self._row(text, [*answer, *said, *([outcome.key or ""] if self._keyed else [])])

    def _fitted(self, record: Record) -> tuple[str, list[str]]:
        """Return the text of a row that is not asked, and the empty cells up to its status.

        Too many cells take the place of the answer; where they would take that of the status, the row is one cell.
        """
        cells = 1 if record.value is None else len(record.value)
        room = len(self._header.columns) + len(self._names)
        if cells > room:
            record, cells = record._replace(value=None, row=(record.row or "").rstrip("\r\n")), 1
        return _text(record), [""] * (room - cells)

    def read(self, descriptor: int, name: str) -> Iterator[Stored]:
        """Yield the results in a file, as :meth:`Lines.read` does."""
        if not self.head:  # nothing says what the columns are
            for line in forward(descriptor):
                yield Stored(line.offset, len(line.data) + 1, 1, 0, State.ANSWERED)
            return
        end = 0  # of the line that was read last

        def lines() -> Iterator[str]:
            nonlocal end
            for line in forward(descriptor):
                if line.offset >= len(self.head) and line.ended:
                    end = line.offset + len(line.data) + 1
                    yield line.data.decode("utf-8", "surrogateescape")

        first = 1 + self.head.count(b"\n")
        for number, row in enumerate(rows(lines(), self._header.delimiter, first), 1):
            if row.problem == UNCLOSED:
                return
            length = len(row.text.encode("utf-8", "surrogateescape"))
            try:
                status, _, key = row.cells[-3:]
                yield Stored(end - length, length, number, packed(key), state_of(int(status)), self._mark(row))
            except ValueError:
                raise _foreign(name, row.line) from None

    def _mark(self, row: Row) -> int:
        added = extended("", row.cells[-len(self._added) :], self._header.delimiter, self._header.newline)
        # What another program has quoted in its own way is not that of any record.
        return hashed(row.text.removesuffix(added)) if row.text.endswith(added) else 0

    def mark(self, record: Record) -> int:
        """Return a number of 64 bits that results of equal records share."""
        return hashed(_text(record).rstrip("\r\n"))

    def renumbered(self, data: bytes, number: int) -> bytes:  # noqa: ARG002
        """Return the row: it has no number."""
        return data

    def copied(self, data: bytes, record: Record) -> bytes:
        """Return the row of another record that makes the same request, with the result of this one."""
        lines = data.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")
        (row,) = rows(lines, self._header.delimiter, 1)
        return self._row(_text(record), row.cells[-len(self._added) :])


Form = Lines | Table
"""How results are written to a file, and read from it."""


def _text(record: Record) -> str:
    """Return the row of a record as it is written."""
    text = record.row or ""
    # A quote that is not closed would swallow what follows.
    return text if record.value is not None else '"' + text.replace('"', '""') + '"'


def _properties(schema: Schema) -> list[str]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not properties or schema.get("type", "object") != "object":
        raise UsageError("the schema is not one of an object with properties, which would be columns", "--to jsonl")
    return list(properties)
