"""Results: the outcome of each record, and what is written of it where nothing is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from gptpipe.console.output import Printer
from gptpipe.errors import Failure, Status
from gptpipe.records.input import Record
from gptpipe.text.strict_json import compact


class State(IntEnum):
    """What a file of results says of a record; the higher, the better."""

    MISSING = 0
    FAILED = 1
    INCOMPLETE = 2  # truncated or refused
    ANSWERED = 3


class Outcome(NamedTuple):
    """The outcome of a record. ``key`` is None if it could not be made a request.

    ``value`` is the answer as a result shows it: its text, or the JSON that a schema asked for. ``model`` was asked.
    ``known`` is what a file of results already says of the record, if that is why it was not asked. ``same_as`` is the
    number of an equal record, whose answer this is. ``calls`` are those of tools.
    """

    record: Record
    key: str | None
    failure: Failure | None = None
    value: Any = None
    model: str | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    known: State = State.MISSING
    same_as: int | None = None
    calls: Sequence[dict[str, Any]] = ()


def state_of(status: int) -> State:
    """Return what a result with this status says of its record."""
    if status == Status.OK:
        return State.ANSWERED
    return State.INCOMPLETE if status in (Status.TRUNCATED, Status.REFUSED) else State.FAILED


_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r"})


def bare(outcome: Outcome, *, null: bool) -> bytes:
    """Return the answer alone, ended by NUL or by a newline, which it does not hold; it is empty after a failure."""
    text = shown(outcome.value) if outcome.failure is None else ""
    return ((text.replace("\0", "") + "\0") if null else (text.translate(_ESCAPES) + "\n")).encode()


def shown(value: Any) -> str:
    """Return a value as a text: a string as it is, nothing for null, else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else compact(value)


class Stream:
    """Results written one after another, each by ``encode``; nothing is known of earlier runs."""

    def __init__(self, descriptor: int, encode: Callable[[Outcome], bytes], head: bytes = b"") -> None:
        self.to_terminal = os.isatty(descriptor)
        self._printer = Printer(descriptor)
        self._encode = encode
        self._head = head

    def take(self, record: Record, key: str, *, again: bool = False) -> State:  # noqa: ARG002
        """Return MISSING: nothing is known."""
        return State.MISSING

    def write(self, outcome: Outcome) -> None:
        """Write a result, the first after the head."""
        self._put(self._encode(outcome))

    def _put(self, data: bytes) -> None:
        self._printer.write((self._head + data).decode("utf-8", "surrogateescape"))
        self._head = b""

    def finish(self, total: int) -> None:  # noqa: ARG002
        """Write the head, if there was no result."""
        self._put(b"")

    def close(self) -> None:
        """Do nothing: the code that opened the descriptor closes it."""
