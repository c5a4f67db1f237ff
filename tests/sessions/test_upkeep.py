from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gptpipe.console.output import silent
from gptpipe.errors import NoInput, Temporary, UsageError, WriteError
from gptpipe.sessions import upkeep
from gptpipe.sessions.store import SessionStore, damaged_path
from gptpipe.sessions.upkeep import Damage, Summary, copy, damages, oldest_first, remove, rename, repair, summary
from tests.harness.conversations import (
    bare,
    bytes_read,
    content,
    in_thread,
    line,
    locked,
    questions,
    turn,
    write,
)

GOOD = [line("one", n=1, total_tokens=10), line("two", n=2, total_tokens=20, at="2026-11-22T05:11:07.500Z")]


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    store = SessionStore(tmp_path / "sessions")
    write(store, b"".join(GOOD))
    return store


def act(
    what: Callable[..., object], store: SessionStore, *names: str, timeout: float | None = 0, **more: object
) -> object:
    if what in (copy, rename):
        more.setdefault("force", False)
    return what(store, *names, timeout=timeout, **more)


def files(store: SessionStore) -> list[str]:
    return sorted(os.listdir(store.directory))


# Summaries and reading


def test_a_summary_is_what_the_last_line_tells(store: SessionStore) -> None:
    size = store.path("s").stat().st_size
    assert summary(store, "s") == Summary("s", 2, 1795324267.5, "m", 20, size)


@pytest.mark.parametrize("at", [{}, {"at": "yesterday"}, {"at": 5}])
def test_without_a_date_the_last_use_is_that_of_the_file(store: SessionStore, at: dict[str, object]) -> None:
    path = write(store, bare("one") + bare("two", **at))
    os.utime(path, (5, 1000.5))
    assert summary(store, "s") == Summary("s", 2, 1000.5, None, 0, path.stat().st_size)


def test_a_summary_of_nothing_but_damage_has_no_turns(store: SessionStore) -> None:
    os.utime(write(store, b"damaged\n"), (5, 5))
    assert summary(store, "s") == Summary("s", 0, 5, None, 0, 8)


def test_a_summary_reads_the_end_of_a_file_only(store: SessionStore) -> None:
    path = write(store, b"")
    os.truncate(path, 1 << 30)
    with path.open("ab") as file:
        file.write(b"\n" + line("x", n=3))
    before = bytes_read()
    assert summary(store, "s").turns == 3
    assert bytes_read() - before < 100_000


def test_turns_come_oldest_first_and_numbered(store: SessionStore) -> None:
    path = write(store, bare("a") + b"damaged\n" + bare("b") + line("c", n=7) + bare("d") + b'{"torn')
    warnings: list[str] = []
    records = list(oldest_first(store, "s", warnings.append))
    assert [(record.turn.n, *questions(iter([record.turn]))) for record in records] == [
        (1, "a"),
        (2, "b"),
        (7, "c"),
        (8, "d"),
    ]
    assert warnings == [f"{path}: damaged line at byte {len(bare('a'))} skipped"]
    assert [path.read_bytes()[record.offset :].startswith(record.data + b"\n") for record in records] == [True] * 4


# Copy and rename


def test_a_copy_is_a_fork(store: SessionStore) -> None:
    act(copy, store, "s", "t")
    for name in ("s", "t"):
        with locked(store, name) as session:
            session.append(turn(f"only in {name}"))
    assert content(store, "s") == ["one", "two", "only in s"]
    assert content(store, "t") == ["one", "two", "only in t"]
    assert store.path("t").stat().st_mode & 0o777 == 0o600
    assert files(store) == ["s.jsonl", "t.jsonl"]


def test_a_copy_holds_every_byte(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "COPY_BLOCK", 7)
    path = write(store, b"damaged\n\n" + GOOD[0] + GOOD[1].rstrip(b"\n"))
    act(copy, store, "s", "t")
    assert store.path("t").read_bytes() == path.read_bytes()


def test_a_renamed_session_is_the_same_file(store: SessionStore) -> None:
    before = store.path("s").stat()
    act(rename, store, "s", "t")
    assert os.path.samestat(store.path("t").stat(), before)
    assert files(store) == ["t.jsonl"]


@pytest.mark.parametrize("what", [copy, rename])
def test_nothing_is_put_in_the_place_of_a_session(store: SessionStore, what: Callable[..., object]) -> None:
    write(store, GOOD[0], "t")
    with pytest.raises(UsageError, match="session t exists"):
        act(what, store, "s", "t")
    assert (content(store, "s"), content(store, "t")) == (["one", "two"], ["one"])
    assert files(store) == ["s.jsonl", "t.jsonl"]


@pytest.mark.parametrize("what", [copy, rename])
def test_what_is_in_use_exists_without_waiting(store: SessionStore, what: Callable[..., object]) -> None:
    write(store, GOOD[0], "t")
    with locked(store, "t"), pytest.raises(UsageError, match="session t exists"):
        act(what, store, "s", "t")


@pytest.mark.parametrize("what", [copy, rename])
def test_a_session_that_is_begun_in_between_is_not_replaced(
    store: SessionStore, what: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def begin_and_link(old: Path, new: Path) -> None:
        write(store, GOOD[0], "t")
        link(old, new)

    monkeypatch.setattr(os, "link", begin_and_link)
    with pytest.raises(UsageError, match="session t exists"):
        act(what, store, "s", "t")
    assert (content(store, "s"), content(store, "t")) == (["one", "two"], ["one"])
    assert files(store) == ["s.jsonl", "t.jsonl"]


@pytest.mark.parametrize("what", [copy, rename])
@pytest.mark.parametrize("there", [b"", None, GOOD[0]], ids=["empty", "absent", "a session"])
def test_force_replaces(store: SessionStore, what: Callable[..., object], there: bytes | None) -> None:
    if there is not None:
        write(store, there, "t")
    act(what, store, "s", "t", force=True)
    assert content(store, "t") == ["one", "two"]
    assert store.path("s").exists() == (what is copy)
    assert len(files(store)) == 1 + (what is copy)


@pytest.mark.parametrize("what", [copy, rename])
def test_an_empty_file_is_no_session_that_exists(store: SessionStore, what: Callable[..., object]) -> None:
    write(store, b"", "t")
    act(what, store, "s", "t")
    assert content(store, "t") == ["one", "two"]


@pytest.mark.parametrize("what", [copy, rename])
@pytest.mark.parametrize("force", [False, True])
def test_a_missing_session_can_be_neither_copied_nor_renamed(
    store: SessionStore, what: Callable[..., object], force: bool
) -> None:
    with pytest.raises(NoInput, match="no session x"):
        act(what, store, "x", "t", force=force)
    assert files(store) == ["s.jsonl"]


@pytest.mark.parametrize("what", [copy, rename])
@pytest.mark.parametrize("force", [False, True])
def test_a_session_cannot_take_its_own_place(store: SessionStore, what: Callable[..., object], force: bool) -> None:
    with pytest.raises(UsageError, match="same session"):
        act(what, store, "s", "s", force=force)
    assert content(store) == ["one", "two"]


def test_a_copy_that_cannot_be_written_leaves_nothing(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WriteError, match="cannot copy session s: No space left on device"):
        act(copy, store, "s", "t")
    assert files(store) == ["s.jsonl"]


# Locks

CHANGING: dict[str, tuple[Callable[..., object], list[str], dict[str, bool]]] = {
    "copy": (copy, ["s", "t"], {}),
    "forced copy onto it": (copy, ["t", "s"], {"force": True}),
    "rename": (rename, ["s", "u"], {}),
    "forced rename onto it": (rename, ["t", "s"], {"force": True}),
    "remove": (remove, ["s"], {}),
    "repair": (repair, ["s"], {}),
}


@pytest.mark.parametrize(("what", "names", "more"), CHANGING.values(), ids=CHANGING)
def test_a_change_waits_for_the_turn_in_flight(
    store: SessionStore, what: Callable[..., object], names: list[str], more: dict[str, bool]
) -> None:
    if names[0] == "t":
        write(store, GOOD[0], "t")
    with locked(store):
        before = files(store)
        with pytest.raises(Temporary, match="session s is in use"):
            act(what, store, *names, **more)
        assert files(store) == before
    assert content(store) == ["one", "two"]
    act(what, store, *names, **more)


def test_two_that_replace_each_other_do_not_wait_for_each_other(store: SessionStore) -> None:
    write(store, GOOD[0], "t")
    threads = [
        threading.Thread(target=act, args=(copy, store, *names), kwargs={"force": True, "timeout": 20})
        for names in [("s", "t"), ("t", "s")] * 10
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(store, "s") == content(store, "t")


AFTER = {"copy": ["one", "two", "new"], "forced copy onto it": ["one", "new"], "rename": ["new"]}
AFTER |= {"forced rename onto it": ["one", "new"], "remove": ["new"], "repair": ["one", "two", "new"]}


@pytest.mark.parametrize("case", CHANGING)
def test_who_waits_for_a_change_adds_to_what_is_there_after_it(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    what, names, more = CHANGING[case]
    write(store, b"".join([*GOOD, b"damaged\n"]))
    if names[0] == "t":
        write(store, GOOD[0], "t")
    threads: list[threading.Thread] = []

    def with_a_waiter(change: Callable[..., None]) -> Callable[..., None]:
        def changed(*arguments: object, **options: object) -> None:
            if not threads:
                threads.append(in_thread(store, lambda session: session.append(turn("new"))))
            change(*arguments, **options)

        return changed

    for name in ("link", "rename", "unlink"):
        monkeypatch.setattr(os, name, with_a_waiter(getattr(os, name)))
    act(what, store, *names, **more)
    threads[0].join()
    assert questions(store.history("s", silent))[::-1] == AFTER[case]


# Remove


def test_a_removed_session_is_gone_with_what_was_moved_out_of_it(store: SessionStore) -> None:
    write(store, GOOD[0] + b"damaged\n")
    act(repair, store, "s")
    assert act(remove, store, "s") is True
    assert files(store) == []


def test_a_missing_session_cannot_be_removed(store: SessionStore) -> None:
    with pytest.raises(NoInput, match="no session x"):
        act(remove, store, "x")


@pytest.mark.parametrize(("since", "removed"), [(1795324267.0, False), (1795324268.0, True)])
def test_a_session_that_was_used_since_is_kept(store: SessionStore, since: float, removed: bool) -> None:
    assert act(remove, store, "s", unused_since=since) is removed
    assert store.path("s").exists() is not removed


# Check and repair


def damaged(store: SessionStore, end: bytes = b"") -> list[Damage]:
    """Make a session with damaged lines, and return where they are."""
    parts = [GOOD[0], b"{\n", b"\n", GOOD[1], b"\0\0\n", *([end] if end else [])]
    write(store, b"".join(parts))
    offsets = [sum(map(len, parts[:i])) for i in range(len(parts))]
    found = [Damage(2, offsets[1], 1, True), Damage(5, offsets[4], 2, True)]
    return found + ([Damage(6, offsets[5], len(end), False)] if end else [])


def test_check_names_the_damaged_lines(store: SessionStore) -> None:
    assert list(damages(store, "s")) == []
    expected = damaged(store)
    assert list(damages(store, "s")) == expected


def test_a_torn_last_line_is_damage_only_if_nobody_writes(store: SessionStore) -> None:
    expected = damaged(store, end=b'{"n":')
    assert list(damages(store, "s")) == expected
    with locked(store):
        assert list(damages(store, "s")) == expected[:2]


def test_a_last_line_whose_end_comes_meanwhile_is_no_damage(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(store, GOOD[0] + GOOD[1][:9])
    flock = fcntl.flock

    def finish_and_lock(fd: int, operation: int) -> None:
        path.write_bytes(b"".join(GOOD))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", finish_and_lock)
    assert list(damages(store, "s")) == []


def test_repair_moves_the_damaged_lines_and_touches_nothing_else(store: SessionStore) -> None:
    expected = damaged(store, end=b'{"n":')
    path = store.path("s")
    path.chmod(0o640)
    assert act(repair, store, "s") == expected
    assert path.read_bytes() == GOOD[0] + b"\n" + GOOD[1]
    assert path.stat().st_mode & 0o777 == 0o640
    aside = damaged_path(path)
    assert aside.read_bytes() == b'{\n\0\0\n{"n":\n'
    assert aside.stat().st_mode & 0o777 == 0o600
    assert files(store) == ["s.jsonl", "s.jsonl.damaged"]
    assert list(damages(store, "s")) == []


def test_a_second_repair_adds_to_what_the_first_moved(store: SessionStore) -> None:
    for damage in (b"first\n", b"second\n"):
        write(store, GOOD[0] + damage)
        act(repair, store, "s")
    assert damaged_path(store.path("s")).read_bytes() == b"first\nsecond\n"


def test_a_whole_last_line_without_newline_is_kept_as_it_is(store: SessionStore) -> None:
    path = write(store, b"damaged\n" + GOOD[0].rstrip(b"\n"))
    act(repair, store, "s")
    assert path.read_bytes() == GOOD[0].rstrip(b"\n")


def test_nothing_is_written_where_nothing_is_damaged(store: SessionStore) -> None:
    before = store.path("s").stat()
    assert act(repair, store, "s") == []
    assert os.path.samestat(store.path("s").stat(), before)
    assert files(store) == ["s.jsonl"]


def test_what_is_moved_goes_into_a_regular_file_only(store: SessionStore) -> None:
    path = write(store, GOOD[0] + b"damaged\n")
    damaged_path(path).symlink_to("elsewhere")
    with pytest.raises(WriteError, match="is not a regular file"):
        act(repair, store, "s")
    assert path.read_bytes() == GOOD[0] + b"damaged\n"
    assert not (store.directory / "elsewhere").exists()


def test_a_repair_that_cannot_write_leaves_the_session(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(store, GOOD[0] + b"damaged\n")

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WriteError, match="cannot repair session s: No space left on device"):
        act(repair, store, "s")
    assert path.read_bytes() == GOOD[0] + b"damaged\n"
