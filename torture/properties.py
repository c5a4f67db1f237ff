"""Properties that hold for any input: settings, roles, sessions, texts, tables, and the bytes that a server sends.

``make check`` tries them with few examples (``tests/test_properties.py``), ``make torture`` with many.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from gptpipe import message
from gptpipe.asking import cache, schema
from gptpipe.console.output import silent
from gptpipe.errors import Absent, Failure, UsageError
from gptpipe.records.rows import extended, rows
from gptpipe.sessions import upkeep
from gptpipe.sessions.store import SessionStore, damaged_path
from gptpipe.settings import file, roles
from gptpipe.settings.resolve import resolve
from gptpipe.settings.settings import Budget
from gptpipe.text import fences, names, template
from gptpipe.usage import budget, ledger
from gptpipe.wire import chat, faults, responses
from torture.decoder import agree

TEXT = st.text(max_size=40)
HEADER = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


def allowed(call: Callable[[], object], kind: type[Failure] = Failure) -> Any:
    """Return what a call returns, or None if it fails as it may: with a message of some words."""
    try:
        return call()
    except kind as failure:
        said = failure.message
    assert said.strip()
    return None


# Files


_KEYS = sorted({*file.SHAPE, *file.PROFILE, "day_usd", "question", "nonsense"})
_VALUES = st.one_of(
    JSON.map(lambda value: json.dumps(value)),
    st.sampled_from(
        ['"~/x"', "-1", "nan", "inf", "1e400", "1979-05-27", "[[1]]", "'''", '"\\ud800"', "0x10", "{a = 1}"]
    ),
)
_LINES = st.one_of(
    st.tuples(st.sampled_from(_KEYS), _VALUES).map(" = ".join),
    st.sampled_from(_KEYS).map("[{}]".format),
    st.tuples(st.sampled_from(["profiles", "aliases", "prices", "a"]), TEXT).map(
        lambda pair: f"[{pair[0]}.{json.dumps(pair[1])}]"
    ),
    TEXT,
)
SETTINGS = st.binary(max_size=60) | st.lists(_LINES, max_size=6).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
)


def _settings(folder: Path) -> Callable[[bytes], None]:
    path = folder / "config.toml"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        found = allowed(lambda: file.load(path, required=True))
        if found is not None:
            allowed(lambda: resolve({}, {}, {}, {}, found))

    return check


def _roles(folder: Path) -> Callable[[bytes, bytes], None]:
    def check(front: bytes, body: bytes) -> None:
        (folder / "r.md").write_bytes(b"+++\n" + front + b"\n+++\n" + body)
        allowed(lambda: roles.load(folder, "r", {}))

    return check


_TURN = b'{"n":%d,"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"finish_reason":"stop"}'


def _sharing(number: int, other: Any) -> bytes:
    """Return a turn with a system message, or that of another turn."""
    content = {"content": "Be brief."} if other == number else {"content": None, "same_as": other}
    messages = [{"role": "system", **content}, {"role": "user", "content": "q"}]
    return json.dumps({"n": number, "messages": messages}).encode()


_SESSION_LINES = st.one_of(
    st.integers(-1, 9).map(lambda n: _TURN % n),
    st.tuples(st.integers(0, 90), st.binary(min_size=1, max_size=3)).map(lambda cut: _spliced(_TURN % 1, *cut)),
    st.tuples(st.integers(-1, 9), st.integers(-1, 9) | JSON).map(lambda pair: _sharing(*pair)),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(
        st.sampled_from(
            ["n", "at", "model", "messages", "finish_reason", "usage", "tokens", "total_tokens", "base_url"]
        ),
        JSON,
    ).map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=20),
)


def _spliced(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece + data[at + len(piece) :]


def _sessions(folder: Path) -> Callable[[list[bytes], bool], None]:
    store = SessionStore(folder / "sessions")
    store.directory.mkdir()
    path = store.path("s")

    def check(lines: list[bytes], ended: bool) -> None:
        data = b"\n".join(lines) + b"\n" * ended
        path.write_bytes(data)
        damaged_path(path).unlink(missing_ok=True)
        if not data:
            return  # no session
        before = list(store.history("s", silent))
        upkeep.summary(store, "s")
        damaged = allowed(lambda: upkeep.repair(store, "s", timeout=0)) or []
        if not path.read_bytes():
            assert damaged
            assert not before
            return
        assert list(upkeep.damages(store, "s")) == []
        assert [turn.messages for turn in store.history("s", silent)] == [turn.messages for turn in before]
        aside = damaged_path(path).read_bytes() if damaged else b""
        assert all(data[damage.offset : damage.offset + damage.length] in aside for damage in damaged)
        with store.lock("s", 0) as session:
            last = session.last()
            added = session.append(message.Turn([{"role": "user", "content": "q"}]))
        assert added.n == (last.n if last else 0) + 1
        assert next(store.history("s", silent)).n == added.n
        for turn in before:
            assert message.from_line(message.to_line(turn)) == turn

    return check


def _usage(folder: Path) -> Callable[[bytes], None]:
    path = folder / "2026-01-01.jsonl"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        allowed(lambda: list(ledger.read(folder)))
        allowed(lambda: budget.require_left(folder, Budget(1, 1, 1.0, 1.0)))

    return check


def _cache(folder: Path) -> Callable[[bytes], None]:
    key = "0" * 64

    def check(data: bytes) -> None:
        (folder / f"{key}.json").write_bytes(data)
        found = cache.get(folder, key)
        assert found is None or isinstance(found, dict)

    return check


# Texts


def _name(text: str) -> None:
    name = allowed(lambda: names.check_name(text), UsageError)
    if name is not None:
        assert name == names.check_name(name) == unicodedata.normalize("NFC", text)
        assert len(name.encode()) <= names.LONGEST
        assert name[0] not in ".-"
        assert not re.search(r"[\s/\\\0-\x1f\x7f-\x9f*?\[\]{}$`'\"]", name)
        assert SessionStore(Path("/s")).path(name).parent == Path("/s")


def _template(text: str, value: str) -> None:
    assert template.fill(template.parse(template.escape(text), "it"), lambda _: "") == text
    parsed = allowed(lambda: template.parse(text, "it"), UsageError)
    if parsed is not None:
        filled = template.fill(parsed, lambda _: value)
        assert filled.count(value) >= len(template.fields(parsed)) or not value


def _fence(text: str) -> None:
    assert (fences.block(text, "first") is None) == (fences.block(text, "last") is None)
    fences.whole_fence(text)


def _schema(text: str) -> None:
    allowed(lambda: schema.validate(text, {"type": "object", "properties": {"a": {"type": "string"}}}), Absent)


def _refusal(status: int, text: str, body: Any, headers: dict[str, str]) -> None:
    for failure in (
        faults.from_response(status, headers, text, "http://x"),
        faults.from_response(status, headers, json.dumps(body), "http://x"),
        faults.from_event(body),
    ):
        assert "\n" not in failure.message
        assert failure.message


# The decoder


_DELTA = st.dictionaries(
    st.sampled_from(["role", "content", "reasoning_content", "reasoning", "refusal", "tool_calls"]),
    st.sampled_from(["<think>", "</think>", "<th", "ink>", "\ud83d", "\udc08", "\u2028", "é", "```", " ", ""]) | JSON,
    max_size=3,
)
_CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "index": st.sampled_from([0, 1, None]),
        "delta": _DELTA | JSON,
        "message": _DELTA | JSON,
        "finish_reason": st.sampled_from(["stop", "length", "error", "", "null", None]) | JSON,
        "error": JSON,
    },
)
CHUNKS = st.fixed_dictionaries(
    {},
    optional={
        "id": TEXT | JSON,
        "model": TEXT | JSON,
        "object": st.sampled_from(["error", "chat.completion.chunk"]),
        "choices": st.lists(_CHOICE | JSON, max_size=2) | JSON,
        "usage": JSON,
        "error": JSON,
    },
)
_RESPONSE = st.fixed_dictionaries(
    {},
    optional={
        "object": st.just("response"),
        "status": st.sampled_from(["completed", "incomplete", "failed", "cancelled", "x"]) | JSON,
        "output": st.lists(JSON, max_size=2) | JSON,
        "incomplete_details": st.fixed_dictionaries({"reason": st.just("max_output_tokens")}) | JSON,
        "error": JSON,
        "usage": JSON,
        "model": TEXT | JSON,
    },
)
_PART = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["output_text", "refusal", "message", "function_call", "reasoning"]) | JSON,
        "text": TEXT | JSON,
        "refusal": TEXT | JSON,
        "content": st.lists(JSON, max_size=2) | JSON,
        "phase": st.sampled_from(["commentary", "final_answer"]) | JSON,
        "name": TEXT | JSON,
        "call_id": TEXT | JSON,
        "arguments": TEXT | JSON,
    },
)
_KINDS = [
    "response.created",
    "response.output_text.delta",
    "response.output_text.done",
    "response.output_item.added",
    "response.output_item.done",
    "response.content_part.done",
    "response.refusal.delta",
    "response.refusal.done",
    "response.reasoning_text.delta",
    "response.reasoning_summary_text.delta",
    "response.output_text.annotation.added",
    "response.function_call_arguments.delta",
    "response.completed",
    "response.incomplete",
    "response.failed",
    "error",
]
_SAID = st.fixed_dictionaries(
    {"type": st.sampled_from(_KINDS)},
    optional={
        "delta": TEXT | JSON,
        "text": TEXT | JSON,
        "output_index": st.integers(-1, 2) | JSON,
        "content_index": st.integers(-1, 2) | JSON,
        "item": _PART | JSON,
        "part": _PART | JSON,
        "annotation": JSON,
        "response": _RESPONSE | JSON,
        "code": TEXT | JSON,
        "message": TEXT | JSON,
    },
)


def _framed(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


_EVENTS = st.one_of(
    CHUNKS.map(_framed),
    _SAID.map(_framed),
    CHUNKS.map(
        lambda chunk: b"data:" + json.dumps(chunk, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\r\n\r\n"
    ),
    st.sampled_from(
        [b"data: [DONE]\n\n", b": ping\n\n", b"event: error\n", b"error: {}\n", b"\xef\xbb\xbf", b"\r", b"data\n"]
    ),
    st.binary(max_size=8),
)


def _completion(body: Any) -> None:
    if isinstance(body, dict):
        for event in (*chat.whole(body), *responses.whole(body)):
            json.dumps(event[:], ensure_ascii=False, allow_nan=False).encode()


# Tables


def _table(cells: list[list[str]], delimiter: str, dialect: tuple[str, Any], added: list[str]) -> None:
    """Check that a table is read as the csv module reads it, and that columns can be added to its text."""
    newline, quoting = dialect
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=newline, quoting=quoting).writerows(cells)
    lines = text.getvalue().removesuffix("\n").split("\n")
    found = list(rows(iter(lines), delimiter))
    assert [row.problem for row in found] == [None] * len(found)
    assert [row.cells for row in found] == [row for row in cells if row]
    longer = "".join(extended(row.text, added, delimiter, newline) for row in found)
    again = csv.reader(io.StringIO(longer, newline=""), delimiter=delimiter, strict=True)
    assert list(again) == [[*row.cells, *added] for row in found]


def _any_table(data: str, delimiter: str) -> None:
    """Check that the text of rows is the table, whatever it holds, but for empty lines."""
    found = list(rows(iter(data.split("\n")), delimiter))
    text = "".join(row.text for row in found)
    assert re.sub(r"[\r\n]", "", text) == re.sub(r"[\r\n]", "", data)


_CELL = st.text(st.sampled_from("a\"';,\t| \n\r\u2028\x0b\x85é\ufeff"), max_size=6)
_DELIMITER = st.sampled_from(",;\t|:")


class Property(NamedTuple):
    """A check, and the strategies for its arguments."""

    check: Callable[..., None]
    strategies: tuple[st.SearchStrategy[Any], ...]


def properties(folder: Path) -> dict[str, Property]:
    """Return all of them; those about files have a folder of their own below ``folder``."""

    def below(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    lines = st.lists(_SESSION_LINES, max_size=6)
    fences = st.text(alphabet="`~ \t\r\na>-1.", max_size=60)
    answers = TEXT | JSON.map(json.dumps) | st.text(alphabet='[{"a":1}]`', max_size=30)
    pages = TEXT | st.text(alphabet="<title>x/&\n", max_size=30)
    headers = st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "location"]), HEADER)
    entries = st.binary() | JSON.map(lambda value: json.dumps(value).encode())
    splits = st.binary(min_size=1, max_size=7)
    table = st.lists(st.lists(_CELL, min_size=1, max_size=4), max_size=5)
    # Without the quotes, \r would end a line: before Python 3.13 the csv module puts it into them only in these.
    dialects = st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)])
    found: dict[str, tuple[Any, ...]] = {
        "settings files": (_settings(below("settings")), SETTINGS),
        "role files": (_roles(below("roles")), SETTINGS, SETTINGS),
        "session files": (_sessions(below("sessions")), lines, st.booleans()),
        "usage files": (_usage(below("usage")), lines.map(b"\n".join)),
        "cache entries": (_cache(below("cache")), entries),
        "names": (_name, TEXT | st.text(alphabet="aé\u0301.-_@+/ 1x", max_size=150)),
        "templates": (_template, TEXT | st.text(alphabet="{}a1 _.-\n", max_size=20), TEXT),
        "fences": (_fence, TEXT | fences),
        "answers under a schema": (_schema, answers),
        "refusals": (_refusal, st.integers(300, 599), pages, JSON, headers),
        "streams": (agree, st.lists(_EVENTS, max_size=8).map(b"".join), splits, st.booleans()),
        "bytes for a stream": (agree, st.binary(max_size=200), splits, st.booleans()),
        "whole replies": (_completion, CHUNKS | _RESPONSE | JSON),
        "tables": (_table, table, _DELIMITER, dialects, st.lists(_CELL, min_size=1, max_size=3)),
        "texts for a table": (_any_table, st.text(st.sampled_from('a",\n\r '), max_size=30), _DELIMITER),
    }
    return {name: Property(check, tuple(strategies)) for name, (check, *strategies) in found.items()}
