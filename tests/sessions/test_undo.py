"""Turns that were taken back: what the line is, and who passes them over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gptpipe.message import Turn, from_line, to_line
from gptpipe.sessions.store import SessionStore
from gptpipe.sessions.undo import take_back
from tests.harness.conversations import content, line, locked, turn, write


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def say(store: SessionStore, *steps: str) -> None:
    """Append a turn for each word, and take one back for each ``-``."""
    for step in steps:
        with locked(store) as session:
            if step == "-":
                take_back(session)
            else:
                session.append(turn(step))


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        pytest.param("a b -", "a", id="one"),
        pytest.param("a b - -", "", id="two"),
        pytest.param("a b - c", "a c", id="and another in its place"),
        pytest.param("a b - c - -", "", id="more than were in its place"),
        pytest.param("a - - b", "b", id="nothing is left to take back"),
    ],
)
def test_what_was_taken_back_is_not_history(store: SessionStore, steps: str, left: str) -> None:
    say(store, *steps.split())
    assert content(store) == left.split()
    with locked(store) as session:
        assert [turn.question[0]["content"] for turn in session.history()] == left.split()[::-1]


def test_the_line_keeps_the_count_and_the_sum(store: SessionStore) -> None:
    say(store, "a", "b", "-")
    last = json.loads(store.path("s").read_bytes().splitlines()[-1])
    assert last | {"at": ""} == {
        "n": 2,
        "at": "",
        "profile": None,
        "model": "m",
        "messages": [],
        "finish_reason": None,
        "usage": None,
        "tokens": None,
        "total_tokens": 20,
        "undo": 1,
    }
    say(store, "c")
    with locked(store) as session:
        assert (session.last().n, session.last().total_tokens) == (3, 30)


def test_several_turns_in_one_line(store: SessionStore) -> None:
    write(store, line("a") + line("b") + line("c") + to_line(Turn([], undo=2)))
    assert content(store) == ["a"]


@pytest.mark.parametrize("undo", [b"0", b"-1", b"true", b'"1"', b"1.5", b"null"])
def test_a_line_without_messages_that_takes_nothing_back_is_damaged(undo: bytes) -> None:
    with pytest.raises(ValueError, match="no messages"):
        from_line(b'{"messages":[],"undo":%b}' % undo)


def test_a_turn_is_a_turn_whatever_it_says_of_undo() -> None:
    assert from_line(b'{"messages":[{"role":"user"}],"undo":1}').undo == 0
