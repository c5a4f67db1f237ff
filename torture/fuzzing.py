"""Hostile input: settings, sessions, names, arguments, templates, fences, and the bytes that a server sends."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptpipe import message
from gptpipe.asking import cache, schema
from gptpipe.errors import Absent, Failure, Status, UsageError
from gptpipe.sessions import repair, upkeep
from gptpipe.sessions.store import SessionStore, damaged_path, silent
from gptpipe.settings import file, roles
from gptpipe.settings.resolve import resolve
from gptpipe.settings.settings import Budget
from gptpipe.text import fences, names, template
from gptpipe.usage import budget, ledger
from gptpipe.wire import chat, faults
from torture.decoder import agree
from torture.frame import ROOT, Case, Rig, execute, manners, parallel
from torture.wire import recordings

TITLE = "Fuzzing"

EXAMPLES = 1000  # of each property in this process
RUNS = 1000  # of programs with arguments that make no sense
SECONDS = 40  # of atheris
_ENV = ROOT / "torture/.envs/atheris"

TEXT = st.text(max_size=40)
HEADER = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


def fuzzed(name: str, check: Callable[..., None], *strategies: st.SearchStrategy[Any]) -> Case:
    """Return the case of a check that hypothesis tries with values of the strategies."""
    inputs = 0

    @settings(max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(*strategies))
    def run(values: tuple[Any, ...]) -> None:
        nonlocal inputs
        inputs += 1
        check(*values)

    try:
        run()
    except BaseException as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        return Case(name, False, f"{error!r}: {notes}", inputs)
    return Case(name, True, inputs=inputs)


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
_SESSION_LINES = st.one_of(
    st.integers(-1, 9).map(lambda n: _TURN % n),
    st.tuples(st.integers(0, 90), st.binary(min_size=1, max_size=3)).map(lambda cut: _spliced(_TURN % 1, *cut)),
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
        list(upkeep.summaries(store, silent))
        damaged = allowed(lambda: repair.repair(store, "s", timeout=0)) or []
        if not path.read_bytes():
            assert damaged
            assert not before
            return
        assert list(repair.find(store, "s")) == []
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
_EVENTS = st.one_of(
    CHUNKS.map(lambda chunk: b"data: " + json.dumps(chunk).encode() + b"\n\n"),
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
        for event in chat.whole(body):
            json.dumps(event[:], ensure_ascii=False, allow_nan=False).encode()


def _atheris(folder: Path) -> Case:
    """Let atheris look for a split that makes a difference, guided by what the decoder's code does."""
    name = "the decoder, by atheris"
    python = _ENV / "bin/python"
    if not python.exists():
        made = execute(folder, sys.executable, "-m", "venv", str(_ENV))
        made = execute(folder, str(python), "-m", "pip", "install", "--quiet", "atheris>=3,<4", timeout=300)
        if made.status:
            return Case(name, False, f"cannot install atheris: {made}")
    seeds = folder / "seeds"
    seeds.mkdir()
    for recording in [*recordings("chat"), *recordings("responses")]:
        body = recording.data[recording.head :]
        (seeds / f"{recording.api}-{recording.framing}").write_bytes(b"\x05\1\0\x1f\2\3\7\0" + body)
    words = ('"data: "', '"<think>"', '"</think>"', r'"\\ud83d"', r'"\x0a\x0a"', r'"\x0d\x0a"', '"[DONE]"', '"error"')
    (folder / "words").write_text("\n".join(words) + "\n")
    options = [f"-max_total_time={SECONDS}", "-max_len=1500", "-dict=words", "-verbosity=1", "-timeout=10"]
    result = execute(
        folder,
        *(str(python), "-m", "torture.decoder", *options, str(seeds)),
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=SECONDS + 60,
    )
    done = re.search(r"Done (\d+) (?:runs|in)", result.err)
    return Case(name, result.status == 0 and done is not None, result.err[-900:], int(done[1]) if done else 0)


# Arguments


_PROGRAMS: dict[str, str] = {
    "gptpipe": "-f -n -S --encoding -s --history --history-tokens --no-save --lock-timeout -m -p --temperature -O -o "
    "--max-tokens --reasoning-effort --no-stream --json --meta --reasoning --max-time --idle-timeout --retry "
    "--max-input-tokens --cache --cache-only --base-url --proxy --cacert --config --dry-run -h --version -r -V -x "
    "--extract-last --schema --repair -e --save-role --over-budget --",
    "gptpipe-sessions": "list show search path copy rename remove check --json --header --last -n -x --yes --force "
    "--older-than --repair --lock-timeout -h --",
    "gptpipe-usage": "--json --since --by -h --header --config",
    "gptpipe-config": "show path check roles cache tokenizer -h --",
    "gptpipe-chat": "-s -S -m --history --reasoning --retry --max-time --cache --no-save -h --",
    "gptpipe-map": "-m {} {a} a {{ --json --jsonl --csv --input -j --retry --max-time --resume -o -x --schema -h --",
    "gptpipe-batch": "submit status fetch cancel list --requests-only --results --failed-records --wait --csv --jsonl "
    "-m {} {a} --text -o --force --schema -x --base-url -h --",
    "gptpipe-models": "-p --base-url --json -h --config",
}
_WORDS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["echo", "echo:cut=1", "echo:status=429", "echo:x=", "s", "answer", "-", "@answer", "0", "-1", "1e9", "nan"]
    ),
    st.sampled_from(
        ["a=1", "a={", "=", "30m", "http://127.0.0.1:9", "[", "../x", "~", "\udcff", "x" * 300, "/dev/null"]
    ),
)
CALLS = st.sampled_from(sorted(_PROGRAMS)).flatmap(
    lambda program: st.tuples(
        st.just(program),
        st.lists(st.sampled_from(_PROGRAMS[program].split()) | _WORDS, max_size=6),
        st.binary(max_size=20),
    )
)


def _call(rig: Rig, call: tuple[str, list[str], bytes]) -> Case:
    """Run a program with arguments that make no sense: it does something sensible, or says what is wrong."""
    program, words, stdin = call
    with rig.home() as home:
        rig.run(home, "gptpipe", "-n", "-m", "echo", "-s", "s", "-o", "answer", "hi")
        env = {"GPTPIPE_MODEL": "echo", "GPTPIPE_RETRY": "0", "GPTPIPE_MAX_TIME": "10"}
        result = rig.run(home, program, *words, stdin=stdin, env=env)
        if program == "gptpipe-chat" and "Traceback" not in result.err:  # it says more: each failure
            result = result._replace(err=result.err.partition("\n")[0] if result.status else "")
        no_match = program == "gptpipe-sessions" and result.status == Status.ABSENT and not result.err  # as in grep
        wrong = "" if no_match else manners(result)
        outside = [path.name for path in home.parent.iterdir() if not path.name.isdecimal()]
    return Case(f"{program} {words} {stdin!r}", not (wrong or outside), f"{wrong} {outside}")


def _drawn(count: int) -> list[Any]:
    """Return so many calls of programs as hypothesis draws them."""
    drawn: list[Any] = []

    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(CALLS)
    def draw(call: Any) -> None:
        drawn.append(call)

    draw()
    return drawn


def cases(rig: Rig) -> Iterator[Case]:
    """Try all of them."""
    fences = st.text(alphabet="`~ \t\r\na>-1.", max_size=60)
    splits = st.binary(min_size=1, max_size=7)
    with rig.home() as home:
        for name in ("settings", "roles", "sessions", "usage", "cache", "atheris"):
            (home / name).mkdir()
        lines = st.lists(_SESSION_LINES, max_size=6)
        yield fuzzed("settings files", _settings(home / "settings"), SETTINGS)
        yield fuzzed("role files", _roles(home / "roles"), SETTINGS, SETTINGS)
        yield fuzzed("session files", _sessions(home / "sessions"), lines, st.booleans())
        yield fuzzed("usage files", _usage(home / "usage"), lines.map(b"\n".join))
        yield fuzzed("cache entries", _cache(home / "cache"), st.binary() | JSON.map(lambda v: json.dumps(v).encode()))
        yield fuzzed("names", _name, TEXT | st.text(alphabet="aé\u0301.-_@+/ 1x", max_size=150))
        yield fuzzed("templates", _template, TEXT | st.text(alphabet="{}a1 _.-\n", max_size=20), TEXT)
        yield fuzzed("fences", _fence, TEXT | fences)
        yield fuzzed(
            "answers under a schema", _schema, TEXT | JSON.map(json.dumps) | st.text(alphabet='[{"a":1}]`', max_size=30)
        )
        yield fuzzed(
            "refusals",
            _refusal,
            st.integers(300, 599),
            TEXT | st.text(alphabet="<title>x/&\n", max_size=30),
            JSON,
            st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "location"]), HEADER),
        )
        yield fuzzed("streams", agree, st.lists(_EVENTS, max_size=8).map(b"".join), splits, st.booleans())
        yield fuzzed("whole replies", _completion, CHUNKS | JSON)
        yield _atheris(home / "atheris")
    yield from parallel(lambda call: _call(rig, call), _drawn(RUNS))
