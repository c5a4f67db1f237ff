from __future__ import annotations

import json
import os
import random
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache as remember
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptpipe.asking import history, tokens
from gptpipe.asking.tokens import ATTACHMENT, FRAME, PRIMING, Meter, meter
from gptpipe.errors import OverLimit, ProtocolError, WriteError
from gptpipe.message import Message, Turn, counts, from_line, to_line
from tests.harness.processes import Result, execute
from tests.harness.talks import CHINESE, Counting, Server, Talk, passage, thought, usage
from tests.harness.vocabulary import put_vocabulary, vocabulary

ENCODINGS = ("o200k_base", "cl100k_base")
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache")
    put_vocabulary(path)
    return path


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def turn(question: str, answer: str, **more: Any) -> Turn:
    return Turn([user(question), {"role": "assistant", "content": answer}], **{"finish_reason": "stop", **more})


# --- the vocabularies


def test_the_vocabularies_are_those_of_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    source = import_module("tiktoken_ext.openai_public")
    asked = []
    monkeypatch.setattr(source, "load_tiktoken_bpe", lambda url, expected_hash: asked.append((url, expected_hash)))
    for encoding in tokens.VOCABULARIES:
        source.ENCODING_CONSTRUCTORS[encoding]()
    assert asked == list(tokens.VOCABULARIES.values())


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_vocabulary_is_installed_privately(tmp_path: Path, encoding: str) -> None:
    assert not tokens.installed(encoding, tmp_path)
    path = tokens.install(encoding, vocabulary(encoding), tmp_path)
    assert tokens.installed(encoding, tmp_path)
    assert path == tokens.vocabulary_path(encoding, tmp_path)
    assert os.listdir(path.parent) == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_is_not_the_vocabulary_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="is not the vocabulary o200k_base"):
        tokens.install("o200k_base", b"<html>please log in", tmp_path)
    assert not (tmp_path / "tiktoken").exists()


def test_a_vocabulary_that_cannot_be_written_is_74(tmp_path: Path) -> None:
    (tmp_path / "tiktoken").write_text("a file where the folder should be")
    with pytest.raises(WriteError):
        tokens.install("cl100k_base", vocabulary("cl100k_base"), tmp_path)


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_a_folder_that_the_user_named_for_tiktoken_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    put_vocabulary(tmp_path, "cl100k_base")
    assert len(os.listdir(tmp_path / "own")) == 1
    assert meter("gpt-4", tmp_path).prompt([user("hello world")]) == 2 + FRAME + PRIMING


def test_a_damaged_vocabulary_is_as_good_as_none(tmp_path: Path) -> None:
    put_vocabulary(tmp_path, "o200k_base")
    path = tokens.vocabulary_path("o200k_base", tmp_path)
    os.truncate(path, 1000)
    assert meter("gpt-5", tmp_path).length is None
    assert path.exists()  # tiktoken would have removed it, and asked the network for another


def test_a_vocabulary_in_a_write_protected_folder_counts(tmp_path: Path) -> None:
    put_vocabulary(tmp_path, "cl100k_base")
    folder = tokens.vocabulary_path("cl100k_base", tmp_path).parent
    folder.chmod(0o500)
    assert meter("gpt-4", tmp_path).length is not None
    folder.chmod(0o700)


def test_only_the_vocabulary_of_the_model_counts_for_it(tmp_path: Path) -> None:
    put_vocabulary(tmp_path, "o200k_base")
    assert meter("gpt-4", tmp_path).length is None
    assert meter("gpt-5", tmp_path).length is not None


# --- counting


@pytest.fixture(scope="module")
def independent() -> Callable[[str, str], int]:
    """Count with the tokenizer of bpe-openai: another implementation of the same encodings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        other = import_module("bpe_openai")
    return lambda encoding, text: len(other.get_encoding(encoding).encode(text, disallowed_special=()))


@pytest.mark.parametrize(
    ("model", "encoding", "native"),
    [
        ("gpt-5.5", "o200k_base", True),
        ("gpt-4o-mini", "o200k_base", True),
        ("gpt-oss-20b", "o200k_base", True),
        ("gpt-4-0613", "cl100k_base", True),
        ("gpt-3.5-turbo", "cl100k_base", True),
        ("llama-3.3-70b", "o200k_base", False),
        ("text-davinci-003", "o200k_base", False),
        ("echo", "o200k_base", False),
    ],
)
def test_a_model_is_counted_with_its_encoding(
    cache: Path, independent: Callable[[str, str], int], model: str, encoding: str, native: bool
) -> None:
    found = meter(model, cache)
    assert found.count([user(CHINESE)]) == independent(encoding, CHINESE) + FRAME
    assert found.exact([user(CHINESE)]) == native


TEXTS = [
    pytest.param("", id="empty"),
    pytest.param("hello world", id="words"),
    pytest.param(CHINESE * 50, id="chinese"),
    pytest.param("def f(x):\n    return  x**2\n\n\n# 😀 naïve\r\n\t1234567", id="code"),
    pytest.param("<|endoftext|><|im_start|>", id="special tokens are text"),
    pytest.param("The quick brown fox jumps over 12 lazy dogs.\n" * 2000, id="longer than a piece"),
]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("text", TEXTS)
def test_counts_are_those_of_another_tokenizer(
    cache: Path, independent: Callable[[str, str], int], encoding: str, text: str
) -> None:
    found = meter({"o200k_base": "gpt-5", "cl100k_base": "gpt-4"}[encoding], cache)
    expected = independent(encoding, text)
    assert found.count([user(text)] * 3) == 3 * (expected + FRAME)
    assert found.prompt([user(text)]) == expected + FRAME + PRIMING


@pytest.mark.parametrize("run", ["a", " ", "é", "\n\t", "="])
def test_a_long_run_without_a_word_is_counted(cache: Path, run: str) -> None:
    found, text = meter("gpt-5", cache), run * (1_500_000 // len(run))
    assert found.length is not None
    pieces = len(text) / 10_000
    # 9,600 is a multiple of every token that is such a run
    assert found.length(text) == pytest.approx(found.length(text[:9_600]) * len(text) / 9_600, abs=16 * pieces)


@given(st.text())
def test_the_bound_is_never_below_the_count(encodings: tuple[Meter, Meter], text: str) -> None:
    for found in encodings:
        assert found.prompt([user(text)]) <= tokens.bound(user(text))


@pytest.fixture(scope="module")
def encodings(cache: Path) -> tuple[Meter, Meter]:
    return meter("gpt-5", cache), meter("gpt-4", cache)


def test_an_attachment_is_an_estimate(cache: Path) -> None:
    found = meter("gpt-5", cache)
    message = {"role": "user", "content": [{"type": "text", "text": "hello world"}, IMAGE, IMAGE]}
    assert found.count([message]) == 2 + FRAME + 2 * ATTACHMENT
    assert tokens.bound(message) == len("hello world") + 8 + 2 * ATTACHMENT
    assert not found.exact([message])


def test_preview_adds_up(cache: Path) -> None:
    system = [{"role": "system", "content": "be brief"}]
    past = [user("one"), {"role": "assistant", "content": "two three"}]
    found = tokens.preview(system, [*system, *past, user("hello world")], "gpt-5", cache)
    assert found == {
        "tokens": {
            "system": 2 + FRAME,
            "history": 3 + 2 * FRAME,
            "message": 2 + FRAME,
            "total": 7 + 4 * FRAME + PRIMING,
        },
        "tokens_estimated": False,
    }


def test_preview_without_a_vocabulary_shows_the_bound(tmp_path: Path) -> None:
    assert tokens.preview([], [user("hello")], "gpt-5", tmp_path) == {
        "tokens": {"system": 0, "history": 0, "message": 13, "total": 13},
        "tokens_estimated": True,
    }


# --- limits


def test_the_length_settles_what_it_can(tmp_path: Path) -> None:
    tokens.check([user("a" * 92)], 100, "gpt-5", tmp_path)


def test_without_a_vocabulary_the_bound_refuses(tmp_path: Path) -> None:
    with pytest.raises(OverLimit, match="may have up to 101 tokens, and --max-input-tokens allows 100") as caught:
        tokens.check([user("a" * 93)], 100, "gpt-5", tmp_path)
    assert caught.value.hint is not None
    assert "gptpipe-config tokenizer" in caught.value.hint


def test_the_count_decides_what_the_length_does_not(cache: Path) -> None:
    asked = [user("hello world " * 100)]  # 1,208 bytes and frame, 201 tokens and 7
    tokens.check(asked, 208, "gpt-5", cache)
    with pytest.raises(OverLimit, match="has 208 tokens, and --max-input-tokens allows 207"):
        tokens.check(asked, 207, "gpt-5", cache)
    with pytest.raises(OverLimit, match="has about 208 tokens"):
        tokens.check(asked, 207, "llama", cache)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(10_000, 4), (4 * 210 + 15, 4), (4 * 210 + 14, 3), (2 * 210 + 15, 2), (15, 0), (3, 0)],
)
def test_history_is_trimmed_until_the_prompt_passes(cache: Path, limit: int, kept: int) -> None:
    past = [turn("hello world " * 100, "yes") for _ in range(4)]  # 201 + 1 + two frames: 210 tokens
    fixed = [{"role": "system", "content": "be brief"}, user("hello world")]  # 2 + 2 + two frames + 3: 15 tokens
    sent = history.trim(past, fixed, limit, "gpt-5", cache)
    assert sent == past[4 - kept :]
    if limit >= 15:
        tokens.check([*fixed, *(message for one in sent for message in one.history)], limit, "gpt-5", cache)


def test_trimming_without_a_vocabulary_goes_by_the_bound(tmp_path: Path) -> None:
    past = [turn("a" * 50, "b" * 34)] * 3
    assert len(history.trim(past, [user("c" * 92)], 399, "gpt-5", tmp_path)) == 2
    assert len(history.trim(past, [user("c" * 92)], 400, "gpt-5", tmp_path)) == 3


# --- fitting history


def test_fit_takes_the_latest_whole_turns_that_fit() -> None:
    past = [turn(str(number), "yes", tokens=number) for number in range(5, 0, -1)]
    assert [one.tokens for one in history.fit(past, tokens=12)] == [3, 4, 5]
    assert [one.tokens for one in history.fit(past, tokens=11)] == [4, 5]
    assert [one.tokens for one in history.fit(past, turns=2)] == [4, 5]
    assert [one.tokens for one in history.fit(past, tokens=5, turns=2)] == [5]
    assert [one.tokens for one in history.fit(past)] == [1, 2, 3, 4, 5]
    assert history.fit(past, tokens=4) == []


def test_fit_skips_what_must_not_be_sent() -> None:
    cut, empty, whole = turn("a", "b", finish_reason=None), turn("a", " \n"), turn("a", "b")
    assert history.fit([cut, empty, whole, cut, whole], turns=2) == [whole, whole]


@pytest.mark.parametrize(
    ("limits", "read"),
    [({"turns": 0}, 0), ({"turns": 2}, 2), ({"tokens": 25}, 3), ({"tokens": 25, "turns": 1}, 1)],
    ids=str,
)
def test_fit_reads_no_more_than_it_needs(limits: dict[str, int], read: int) -> None:
    taken = []

    def past() -> Iterator[Turn]:
        while True:
            taken.append(turn("a", "b", tokens=10))
            yield taken[-1]

    history.fit(past(), **limits)
    assert len(taken) == read


@pytest.mark.parametrize(("said", "weight"), [(7, 7), (None, 5 + 3 + 16), (0, 24), (-9, 24)])
def test_a_turn_that_does_not_say_weighs_its_bytes_and_16(said: int | None, weight: int) -> None:
    assert history.weight(turn("hello", "yes", tokens=said)) == weight


# --- what the server counted


def from_cache(cached: int) -> dict[str, Any]:
    return {"prompt_tokens_details": {"cached_tokens": cached}}


NO_DETAILS: dict[str, Any] = {"completion_tokens_details": None, "prompt_tokens_details": []}
NONSENSE = {"prompt_tokens": "10", "completion_tokens": -5, "total_tokens": True}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param(None, (0, 0, 0, 0), id="nothing"),
        pytest.param({}, (0, 0, 0, 0), id="empty"),
        pytest.param(usage(10, 5), (10, 5, 0, 0), id="plain"),
        pytest.param(usage(10, 50) | thought(40) | from_cache(8), (10, 50, 8, 40), id="details"),
        pytest.param(usage(10, 5) | NO_DETAILS, (10, 5, 0, 0), id="no details"),
        pytest.param(NONSENSE, (0, 0, 0, 0), id="nonsense"),
        pytest.param(usage(10, 5, total=55) | thought(40), (10, 45, 0, 40), id="reasoning beside the answer, as xAI"),
        pytest.param(usage(10, 5, total=55), (10, 45, 0, 40), id="reasoning in the total alone, as Gemini"),
        pytest.param(usage(10, 5, total=55) | from_cache(9), (10, 5, 9, 0), id="a total that explains nothing"),
        pytest.param(usage(10, 5) | from_cache(40), (50, 5, 40, 0), id="only what was not cached"),
    ],
)
def test_usage_of_many_servers(said: dict[str, Any] | None, expected: tuple[int, ...]) -> None:
    assert counts(said) == expected


SYSTEM: Message = {"role": "system", "content": "ssss"}


@pytest.mark.parametrize(
    ("said", "reasoning", "system", "expected"),
    [
        pytest.param(usage(12, 5), "", True, (11, False, 6), id="shared by bytes with the system message"),
        pytest.param(usage(12, 5), "", False, (17, False, 0), id="all of the prompt without one"),
        pytest.param(usage(13, 5), "", False, (17, True, 1), id="a question above its bytes and 8"),
        pytest.param(usage(8, 13), "", False, (20, True, 0), id="an answer above its bytes and 8"),
        pytest.param(usage(8, 50) | thought(46), "", False, (12, False, 0), id="an answer less its reasoning"),
        pytest.param(usage(8, 46) | thought(46), "", False, (20, True, 0), id="nothing but reasoning"),
        pytest.param(usage(8, 40), "r" * 36, False, (12, False, 0), id="reasoning by its bytes"),
        pytest.param(usage(8, 40) | thought(0), "r" * 36, False, (12, False, 0), id="reasoning, and no tokens of it"),
        pytest.param({"prompt_tokens": 8}, "", False, (20, True, 0), id="only the prompt"),
        pytest.param({"completion_tokens": 4}, "", False, (16, True, None), id="only the answer"),
        pytest.param(None, "", False, (24, True, None), id="nothing, and no vocabulary"),
    ],
)
def test_weigh_a_first_turn(
    tmp_path: Path, said: dict[str, Any] | None, reasoning: str, system: bool, expected: tuple[int, bool, int | None]
) -> None:
    asked = turn("qqqq", "aaaa", usage=said)
    if system:
        asked.messages.insert(0, SYSTEM)
    weighed = history.weigh(asked, reasoning, [], tmp_path)
    assert (weighed.tokens, weighed.tokens_estimated, weighed.system_tokens) == expected


@pytest.mark.parametrize(
    ("prompt", "before", "expected"),
    [
        pytest.param(122, {}, (7, False, 18), id="what the system message took before"),
        pytest.param(122, {"model": "other"}, (14, False, 11), id="another model shares by bytes"),
        pytest.param(122, {"base_url": "http://other/v1"}, (14, False, 11), id="another endpoint"),
        pytest.param(122, {"system_tokens": None}, (14, False, 11), id="a turn that does not say"),
        pytest.param(117, {}, (2, True, 18), id="a turn before that was counted too high"),
        pytest.param(115, {}, (15, True, 3), id="too little even for that"),
        pytest.param(90, {}, (15, True, -22), id="a server that left something out"),
        pytest.param(140, {}, (15, True, 28), id="a question above its bytes and 8"),
    ],
)
def test_weigh_a_later_turn(
    tmp_path: Path, prompt: int, before: dict[str, Any], expected: tuple[int, bool, int | None]
) -> None:
    past = [turn("x", "y", tokens=40), turn("x", "y", **{"model": "m", "tokens": 60, "system_tokens": 18, **before})]
    past[1].messages.insert(0, SYSTEM)
    asked = turn("qqqq", "aaaa", model="m", usage=usage(prompt, 3))
    asked.messages.insert(0, SYSTEM)
    weighed = history.weigh(asked, "", past, tmp_path)
    assert (weighed.tokens, weighed.tokens_estimated, weighed.system_tokens) == expected


def test_the_calls_of_a_turn_and_their_results_are_a_part_of_what_it_adds(tmp_path: Path) -> None:
    asked = turn("qqqq", "aaaa", usage=usage(8, 500))
    call = {"id": "call_0", "type": "function", "function": {"name": "lookup", "arguments": "{}"}}
    asked.messages[1:1] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "r" * 500},
    ]
    weighed = history.weigh(asked, "", [], tmp_path)
    assert (weighed.tokens, weighed.tokens_estimated) == (508, False)
    silent = history.weigh(asked._replace(usage=None), "", [], tmp_path)
    assert silent.tokens == tokens.bound_all(asked.messages) > 500 + len("lookup")


def test_a_question_with_an_image_may_have_any_number(tmp_path: Path) -> None:
    asked = turn("", "yes", usage=usage(9000, 1))
    asked.messages[0]["content"] = [{"type": "text", "text": "what is this?"}, IMAGE]
    assert history.weigh(asked, "", [], tmp_path).tokens == 9001


@pytest.mark.parametrize(
    ("model", "finish_reason", "expected"),
    [
        pytest.param("gpt-5", "stop", (3 + 2 * FRAME, False), id="counted"),
        pytest.param("llama", "stop", (3 + 2 * FRAME, True), id="counted for a model that is not known"),
        pytest.param("gpt-5", None, (11 + 3 + 16, True), id="a cut answer is not worth it"),
    ],
)
def test_weigh_without_usage(cache: Path, model: str, finish_reason: str | None, expected: tuple[int, bool]) -> None:
    weighed = history.weigh(turn("hello world", "yes", model=model, finish_reason=finish_reason), "", [], cache)
    assert (weighed.tokens, weighed.tokens_estimated) == expected


# --- sessions of 400 turns: the true weight of what is sent, in tokens of o200k_base


class Simulation:
    """A session that talks to a server, with nothing between them but the functions of ``tokens``."""

    def __init__(self, talk: Talk, encodings: dict[str, Callable[[str], int]], cache: Path) -> None:
        self.talk, self.cache = talk, cache
        self.dice = random.Random(20261122)
        self.system = [passage(self.dice, talk.system[0], talk.system[1], talk.system[1])] if talk.system[1] else []
        self.history: list[Turn] = []
        self.counting = Counting(encodings)

    def weights(self, turns: int = 400) -> Iterator[float]:
        """Yield the true weight of the history sent, as a part of the limit, wherever some of it was left out."""
        for number in range(turns):
            server = self.talk.first if self.talk.first and number < turns // 2 else self.talk.server
            sent = history.fit(reversed(self.history), tokens=self.talk.limit)
            if len(sent) < number:
                yield sum(self.true(server, one) for one in sent) / self.talk.limit
            self.history.append(self.ask(server, sent))

    def true(self, server: Server, one: Turn) -> int:
        return sum(self.counting.true(server, message["content"]) for message in one.history)

    def ask(self, server: Server, sent: list[Turn]) -> Turn:
        asked, answer = passage(self.dice, *self.talk.asks), passage(self.dice, *self.talk.answers)
        thoughts = passage(self.dice, "english", 20, 500) if server.reasoning else ""
        system: list[Message] = [{"role": "system", "content": text} for text in self.system]
        prompt = [*self.system, *(message["content"] for past in sent for message in past.history), asked]
        one = Turn(
            [*system, user(asked), {"role": "assistant", "content": answer}],
            model="then" if server is self.talk.server else "first",
            finish_reason="stop",
            usage=self.counting.said(server, prompt, answer, thoughts),
        )
        seen = thoughts if server.reasoning == "text" else ""
        return from_line(to_line(history.weigh(one, seen, sent, self.cache)))


@pytest.fixture(scope="module")
def lengths(encodings: tuple[Meter, Meter]) -> dict[str, Callable[[str], int]]:
    found = dict(zip(ENCODINGS, encodings, strict=True))
    return {name: remember(one.length) for name, one in found.items() if one.length}


SHORT = Talk(limit=8_000, system=("english", 15_000), asks=("english", 5, 15), answers=("english", 20, 80))
OLD = Server(encoding="cl100k_base")


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(Talk(), id="plain"),
        pytest.param(Talk(Server(frame=0, hidden=0)), id="a server that counts text alone"),
        pytest.param(Talk(asks=("code", 10, 300)), id="questions of code"),
        pytest.param(Talk(Server(reasoning="tokens")), id="reasoning"),
        pytest.param(Talk(Server(reasoning="text")), id="reasoning without a number"),
        pytest.param(Talk(system=("english", 15_000)), id="a system message of 20,000 tokens"),
        pytest.param(Talk(system=("chinese", 18_000)), id="a Chinese system message of 20,000 tokens"),
        pytest.param(Talk(system=("english", 15_000), asks=("code", 10, 300)), id="such a one, and questions of code"),
        pytest.param(SHORT, id="such a one, and short turns"),
        pytest.param(Talk(Server(reasoning="text"), system=("english", 15_000)), id="such a one, and reasoning"),
        pytest.param(Talk(first=Server(hidden=700)), id="a change of model"),
        pytest.param(Talk(first=Server(hidden=0), system=("english", 15_000)), id="such a one, and a change of model"),
        pytest.param(Talk(first=OLD), id="a change to another encoding"),
        pytest.param(Talk(first=OLD, system=("english", 15_000)), id="such a one, and another encoding"),
        pytest.param(Talk(Server(encoding=None), vocabulary=True), id="no usage"),
        pytest.param(Talk(first=Server(encoding=None), vocabulary=True), id="no usage at first"),
    ],
)
def test_what_is_sent_stays_within_3_percent(
    talk: Talk, lengths: dict[str, Callable[[str], int]], cache: Path, tmp_path: Path
) -> None:
    weights = list(Simulation(talk, lengths, cache if talk.vocabulary else tmp_path).weights())
    assert len(weights) > 100
    assert min(weights) >= 0.97
    assert max(weights) <= 1.03


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(Talk(Server(only_uncached=True)), id="only uncached tokens"),
        pytest.param(
            Talk(Server(only_uncached=True), asks=("code", 10, 600)), id="only uncached tokens, questions of code"
        ),
        pytest.param(
            Talk(Server(only_uncached=True), system=("english", 15_000)),
            id="only uncached tokens, and a system message",
        ),
        pytest.param(Talk(Server(encoding=None)), id="neither usage nor a vocabulary"),
        pytest.param(Talk(first=Server(encoding=None)), id="no usage at first, and no vocabulary"),
        pytest.param(Talk(first=Server(only_uncached=True)), id="only uncached tokens at first"),
    ],
)
def test_where_less_is_known_less_is_sent(talk: Talk, lengths: dict[str, Callable[[str], int]], tmp_path: Path) -> None:
    weights = list(Simulation(talk, lengths, tmp_path).weights())
    assert len(weights) > 100
    assert min(weights) > 0.1
    assert max(weights) <= 1.03


# --- what a run imports


@pytest.mark.parametrize(
    ("code", "loads"),
    [
        pytest.param("tokens.check([message], 1000, 'gpt-5', cache)", False, id="the length settles it"),
        pytest.param("tokens.check([message], 18, 'gpt-5', cache)", True, id="the length does not"),
        pytest.param("history.fit([turn], tokens=1)", False, id="fitting"),
        pytest.param("history.weigh(turn, '', [], cache)", False, id="weighing what the server counted"),
        pytest.param("history.weigh(turn._replace(usage=None), '', [], cache)", True, id="weighing what it did not"),
        pytest.param(
            "history.weigh(turn._replace(usage=None), '', [], cache / 'none')", False, id="without a vocabulary"
        ),
    ],
)
def test_the_tokenizer_is_loaded_only_to_count(cache: Path, code: str, loads: bool) -> None:
    program = f"""
import sys
from pathlib import Path
from gptpipe.asking import history, tokens
from gptpipe.message import Turn
message = {{"role": "user", "content": "hello world"}}
turn = Turn([message, {{"role": "assistant", "content": "yes"}}], finish_reason="stop",
            usage={{"prompt_tokens": 8, "completion_tokens": 2}})
cache = Path({str(cache)!r})
{code}
print("tiktoken" in sys.modules, "hashlib" in sys.modules)
"""
    result = execute([sys.executable, "-c", program], cwd=cache, timeout=60)
    assert (result.text.split()[0], result.err) == (str(loads), "")


# --- the programs


@pytest.fixture
def own_cache(home: Path) -> Path:
    """Put the vocabularies where the programs look."""
    path = home / ".cache/gptpipe"
    put_vocabulary(path)
    return path


@pytest.mark.usefixtures("own_cache")
def test_continuing_a_session_loads_no_tokenizer(fresh: Callable[..., Any]) -> None:
    for number in range(3):
        result = fresh("gptpipe", "-m", "echo", "-s", "s", "--json", "-n", "--history-tokens", "9", "hello")
        assert result.status == 0, result.err
        assert json.loads(result.out)["turns_sent"] == (number > 0) + (number > 1)
        assert "tiktoken" not in result.modules


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(("limit", "status", "loads"), [(200, 0, False), (30, 0, True), (27, 6, True)])
def test_a_limit_counts_when_it_must(fresh: Callable[..., Any], limit: int, status: int, loads: bool) -> None:
    words = "hello world " * 10  # 21 tokens and 7
    result = fresh("gptpipe", "-m", "echo", "-n", "--max-input-tokens", str(limit), words)
    assert (result.status, "tiktoken" in result.modules) == (status, loads)
    assert result.err == (
        "" if status == 0 else "gptpipe: the prompt has about 28 tokens, and --max-input-tokens allows 27\n"
    )


def test_a_limit_without_a_vocabulary_says_how_to_get_it(run: Callable[..., Result]) -> None:
    result = run("gptpipe", "-m", "echo", "-n", "--max-input-tokens", "12", "hello")
    assert (result.status, result.out) == (6, b"")
    assert result.err == (
        "gptpipe: the prompt may have up to 13 tokens, and --max-input-tokens allows 12\n"
        "gptpipe-config tokenizer fetches what an exact count needs\n"
    )


@pytest.mark.usefixtures("own_cache")
def test_history_gives_way_to_a_limit(run: Callable[..., Result]) -> None:
    asked = ("gptpipe", "-m", "echo", "-s", "s", "--json", "-n", "--max-input-tokens", "60", "hello world " * 4)
    sent = [run(*asked).json()["turns_sent"] for _ in range(4)]
    assert sent == [0, 1, 1, 1]  # a turn has 26 tokens, the question 13 and 3


@pytest.mark.usefixtures("own_cache")
def test_a_dry_run_shows_exact_tokens(run: Callable[..., Result]) -> None:
    shown = run("gptpipe", "-m", "gpt-4o", "-n", "--dry-run", "-S", "be brief", "hello world").json()
    assert shown["tokens"] == {"system": 6, "history": 0, "message": 6, "total": 15}
    assert shown["tokens_estimated"] is False
