"""System messages that many turns share: kept once, given back whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptpipe.console.output import silent
from gptpipe.message import Turn
from gptpipe.sessions import system, upkeep
from gptpipe.sessions.store import SessionStore

LONG = "Answer in the manner of a lighthouse keeper. " * 20
OTHER = "Answer in the manner of a cook. " * 20


def turn(question: str, instruction: str | None) -> Turn:
    first = [] if instruction is None else [{"role": "system", "content": instruction}]
    messages = [*first, {"role": "user", "content": question}, {"role": "assistant", "content": "yes"}]
    return Turn(messages, finish_reason="stop")


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def add(store: SessionStore, *turns: Turn) -> None:
    with store.lock("s", 0) as session:
        session.extend(turns)


def written(store: SessionStore) -> list[Any]:
    return [json.loads(line) for line in store.path("s").read_text().splitlines()]


def systems(store: SessionStore) -> list[str | None]:
    return [found.system for found in store.history("s", silent)][::-1]


def kept(store: SessionStore) -> list[Any]:
    firsts = [line["messages"][0] for line in written(store) if line["messages"]]
    return [first.get("same_as") or first["content"][:25] for first in firsts if first["role"] == "system"]


TURNS = [LONG, LONG, LONG, OTHER, OTHER, LONG, None, LONG, "Be brief.", "Be brief."]


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "at once"])
def test_a_system_message_is_kept_once_and_read_whole(store: SessionStore, together: bool) -> None:
    turns = [turn(str(number), instruction) for number, instruction in enumerate(TURNS)]
    for part in [turns] if together else [[each] for each in turns]:
        add(store, *part)
    assert systems(store) == TURNS
    assert kept(store)[:6] == [LONG[:25], 1, 1, OTHER[:25], 4, LONG[:25]]
    assert kept(store)[-2:] == ["Be brief.", "Be brief."]  # a reference would be longer


def test_a_turn_returns_whole_from_being_added(store: SessionStore) -> None:
    add(store, turn("a", LONG))
    with store.lock("s", 0) as session:
        assert session.append(turn("b", LONG)).system == LONG
        assert [found.system for found in session.history()] == [LONG, LONG]


def test_a_message_far_behind_is_repeated(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "NEAR", 3000)
    for number in range(20):
        add(store, turn(str(number) + "x" * 200, LONG))
    assert systems(store) == [LONG] * 20
    own = [number for number, found in enumerate(kept(store)) if isinstance(found, str)]
    assert len(own) in range(2, 8)


def test_what_was_taken_back_or_repaired_stays_what_it_is(store: SessionStore) -> None:
    add(store, turn("a", OTHER), turn("b", LONG))
    with store.lock("s", 0) as session:
        session.append(Turn([], undo=1))
    add(store, turn("c", LONG))
    with store.path("s").open("a") as file:
        file.write("damaged\n")
    add(store, turn("d", LONG))
    assert kept(store_without_damage(store)) == [OTHER[:25], LONG[:25], 2, 2]
    assert systems(store) == [OTHER, LONG, LONG]


def store_without_damage(store: SessionStore) -> SessionStore:
    upkeep.repair(store, "s", timeout=0)
    return store


def test_a_lost_message_is_not_replaced_by_another(store: SessionStore) -> None:
    add(store, turn("a", OTHER), turn("b", LONG), turn("c", LONG), turn("d", LONG))
    lines = store.path("s").read_text().splitlines()
    store.path("s").write_text("\n".join([lines[0], *lines[2:], ""]))
    warnings: list[str] = []
    found = [each.system for each in store.history("s", warnings.append)]
    assert found == [None, None, OTHER]
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "the system message of turn 2 is lost, and with it that of later turns"
    ]


def test_words_in_a_question_are_not_taken_for_a_reference(store: SessionStore) -> None:
    words = '{"role":"system","content":null,"same_as":1}'
    add(store, turn(words, LONG), turn(words, LONG))
    assert systems(store) == [LONG, LONG]
    assert [each.question[0]["content"] for each in store.history("s", silent)] == [words, words]


def test_a_call_goes_on_with_it_and_show_gives_it_back(run: Any, home: Path) -> None:
    for question in ("a", "b", "c"):
        assert run("gptpipe", "-n", "-m", "echo", "-s", "s", "-S", LONG, question).status == 0
    path = home / ".local/share/gptpipe/sessions/s.jsonl"
    assert path.read_text().count("lighthouse") == 20
    body = run("gptpipe", "-n", "-m", "echo", "-s", "s", "--dry-run", "d").json()["body"]
    assert body["messages"][0] == {"role": "system", "content": LONG}
    shown = [json.loads(line) for line in run("gptpipe-sessions", "show", "--json", "s").text.splitlines()]
    assert [line["messages"][0]["content"] for line in shown] == [LONG] * 3
    assert [line["n"] for line in shown] == [1, 2, 3]
    assert run("gptpipe-sessions", "show", "s").text.count("lighthouse") == 20
    assert run("gptpipe-sessions", "search", "lighthouse").text.count("\n") == 1
