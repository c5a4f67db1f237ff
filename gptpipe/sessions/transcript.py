"""Sessions as text: the table of all, the turns of one, the lines that match a pattern.

The text came from models, servers and editors: its control characters are made visible when it is printed.
What reads a session raises what :meth:`SessionStore.reading` does, at its first step.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from sys import maxsize

from gptpipe.console.output import silent
from gptpipe.errors import Absent, Failure, Truncated
from gptpipe.message import LENGTH_REASONS, SYSTEM_ROLES, Message, Turn
from gptpipe.sessions import attachments, system
from gptpipe.sessions.store import Record, SessionStore, Warn, timestamp
from gptpipe.sessions.undo import standing
from gptpipe.sessions.upkeep import Summary, asked_at, oldest_first
from gptpipe.text import table as columns
from gptpipe.text.fences import block as code_block
from gptpipe.text.strict_json import compact

_NUMBERS = ("turns", "tokens", "size")


def table(summaries: Iterable[Summary], *, header: bool) -> str:
    """Return one line for each session: columns of words without white space in them.

    The last use is in local time, the size in bytes, an unknown model ``-``.
    """
    rows = [_row(summary) for summary in summaries]
    if header:
        rows.insert(0, [name.replace("_", "-") for name in Summary._fields])
    return columns.table(rows, [name in _NUMBERS for name in Summary._fields])


def _row(summary: Summary) -> list[str]:
    shown = summary._replace(model=re.sub(r"\s", "_", summary.model or "-"))._asdict()
    return [str(value) for value in {**shown, "last_use": _minute(summary.last_use)}.values()]


def _minute(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M", time.localtime(seconds))


def as_json(summary: Summary) -> str:
    """Return the summary as one line of JSON; the last use is in UTC, as a session's line has it."""
    return compact({**summary._asdict(), "last_use": timestamp(summary.last_use)}) + "\n"


def json_line(record: Record) -> str:
    """Return the line of a record as the file has it, but with its whole system message."""
    return f"{system.whole(record).decode()}\n"


def latest(store: SessionStore, name: str, count: int, warn: Warn) -> list[Record]:
    """Return the last records that were not taken back, the oldest first, each turn with its number."""
    most = min(max(count, 1), maxsize)  # 0 needs a session too
    records = list(islice(standing(store.records(name, warn)), most))[:count][::-1]
    if all(record.turn.n for record in records):
        return records
    last = {record.offset for record in records}  # lines of another program without numbers: count them
    return [record for record in oldest_first(store, name, silent) if record.offset in last]


def transcript(records: Iterable[Record]) -> Iterator[str]:
    """Yield the turns as text: a heading with number, time and model, then the messages.

    A system message that is that of the turn before is not repeated.
    """
    separator = ""
    for turn, texts in _told(records):
        messages = [f"{_line(message.get('role'))}: {text}" for message, text in texts]
        yield separator + "\n\n".join([_heading(turn), *messages]) + "\n"
        separator = "\n"


def _heading(turn: Turn) -> str:
    if turn.undo:
        taken = "the last turn was taken back" if turn.undo == 1 else f"the last {turn.undo} turns were taken back"
        return f"== {', '.join(filter(None, [_local(turn), taken]))} =="
    state = turn.finish_reason or "unfinished"
    facts = [str(turn.n), _local(turn), _line(turn.model), "" if state == "stop" else _line(state)]
    return f"== {', '.join(filter(None, facts))} =="


def _local(turn: Turn) -> str:
    at = asked_at(turn)
    return "" if at is None else _minute(at)


def _line(found: object) -> str:
    return " ".join(str(found or "").split())


def _told(records: Iterable[Record]) -> Iterator[tuple[Turn, list[tuple[Message, str]]]]:
    """Yield each turn, and its messages with their texts, but no system message that is that of the turn before."""
    before: str | None = None
    for _, _, turn in records:
        said = [said for said in turn.messages if said.get("role") not in SYSTEM_ROLES or turn.system != before]
        yield turn, [(message, _text(message)) for message in said]
        before = before if turn.undo else turn.system


def _text(message: Message) -> str:
    content = message.get("content") or message.get("refusal") or ""
    text = "\n".join(map(_part, content)) if isinstance(content, list) else str(content)
    calls = message.get("tool_calls")
    lines = [text.removesuffix("\n"), *map(_call, calls if isinstance(calls, list) else ())]
    return "\n".join(filter(None, lines))


def _call(call: object) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    return f"[calls {function.get('name')} {function.get('arguments')}]" if isinstance(function, dict) else ""


def _part(part: object) -> str:
    if not isinstance(part, dict):
        return ""
    text = part.get("text")
    return text if isinstance(text, str) else f"[{attachments.reference(part) or part.get('type')}]"


def matches(store: SessionStore, name: str, pattern: re.Pattern[str], warn: Warn) -> Iterator[tuple[int, str]]:
    """Yield the lines of :func:`transcript` that match, each after the number of its turn; headings are left out."""
    for turn, texts in _told(oldest_first(store, name, warn)):
        for _, text in texts:
            yield from ((turn.n, line) for line in text.split("\n") if pattern.search(line))


def answer(turn: Turn, *, block: bool) -> tuple[str, Failure | None]:
    """Return a turn's answer or its first code block, and a failure if it is not complete."""
    text = code_block(turn.answer, "first") or "" if block else turn.answer
    if turn.finish_reason is None:
        return text, Absent("the last answer did not finish")
    if turn.finish_reason.lower() in LENGTH_REASONS:
        return text, Truncated("the last answer is truncated: it reached the length limit")
    if not text.strip():
        return text, Absent("the last answer has no code block" if block else "the last answer is empty")
    return text, None
