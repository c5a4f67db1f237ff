"""System messages, kept once: a turn refers to that of an earlier turn instead of repeating it.

Where the system message of a turn would stand, the line has ``{"role":"system","content":null,"same_as":N}``: it is the
one of turn N, the last before this line that has a system message of its own. gptpipe-session(5) specifies it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gptpipe.message import SYSTEM_ROLES, Message, Turn, parse
from gptpipe.storage import backward
from gptpipe.text.strict_json import compact

if TYPE_CHECKING:
    from gptpipe.sessions.store import Record

NEAR = 1 << 20  # bytes: a message that stands further back is repeated, so that reading stays cheap

_SAME = "same_as"
_REFERENCE = b',"same_as":'  # what no string in JSON can hold: its quotes are escaped


class Origin(NamedTuple):
    """A system message, and the turn that has it: its number, and its offset in bytes."""

    number: int
    offset: int
    message: Message


def resolved(fd: int, records: Iterable[Record], path: Path, warn: Callable[[str], object]) -> Iterator[Record]:
    """Yield the records of the file ``fd``, in either order, each turn with its whole system message."""
    origin: Origin | None = None
    lost: set[int] = set()
    for record in records:
        number = _number(record.turn)
        if number is None:
            yield record
            continue
        if origin is None or origin.number != number or origin.offset > record.offset:
            origin = None if number in lost else _origin(fd, record.offset, number)
        if origin is None and number not in lost:
            lost.add(number)
            warn(f"{path}: the system message of turn {number} is lost, and with it that of later turns")
        rest = record.turn.messages[1:]
        yield record._replace(turn=record.turn._replace(messages=[origin.message, *rest] if origin else rest))


def whole(record: Record) -> bytes:
    """Return the line of a resolved record, with the system message in place of a reference."""
    if _REFERENCE not in record.data:
        return record.data
    value = json.loads(record.data)
    return compact({**value, "messages": record.turn.messages}).encode()


def shortened(fd: int, turns: Iterable[Turn], last: Record | None, size: int) -> Iterator[Turn]:
    """Yield the turns as they are written at the end of the file, ``size``; ``last`` is its last record."""
    origin = _origin_of(fd, last) if last else None
    for turn in turns:
        message = _message(turn)
        if message is None:
            yield turn
            continue
        if origin and origin.message == message and origin.number > 0 and size - origin.offset < NEAR:
            reference = {"role": message["role"], "content": None, _SAME: origin.number}
            if len(compact(reference)) < len(compact(message)):
                turn = turn._replace(messages=[reference, *turn.messages[1:]])
        else:
            origin = Origin(turn.n, size, message)
        yield turn


def _origin_of(fd: int, record: Record) -> Origin | None:
    """Return the system message that a record has or refers to, None without one."""
    number = _number(record.turn)
    if number is not None:
        return _origin(fd, record.offset, number)
    message = _message(record.turn)
    return None if message is None else Origin(record.turn.n, record.offset, message)


def _origin(fd: int, before: int, number: int) -> Origin | None:
    """Return the last system message that stands before an offset, or None if it is not that of the turn."""
    for line in backward(fd, before):
        if _REFERENCE in line.data:
            continue
        turn = parse(line.data)
        message = _message(turn) if turn else None
        if turn and message:
            return Origin(number, line.offset, message) if turn.n == number else None
    return None


def _message(turn: Turn) -> Message | None:
    """Return the system message at the beginning of a turn."""
    return next((message for message in turn.messages[:1] if message.get("role") in SYSTEM_ROLES), None)


def _number(turn: Turn) -> int | None:
    """Return the number of the turn that a turn refers to, None without a reference."""
    message = _message(turn)
    number = message.get(_SAME) if message and message.get("content") is None else None
    return number if isinstance(number, int) else None
