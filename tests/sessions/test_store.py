from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gptpipe.console.output import silent
from gptpipe.errors import NoInput, Temporary, UsageError, WriteError
from gptpipe.message import Turn
from gptpipe.sessions.store import Session, SessionStore
from tests.harness.conversations import (
    bare,
    bytes_read,
    content,
    in_thread,
    line,
    locked,
    questions,
    telling,
    turn,
    write,
)


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "data/sessions")


# Turns and what they are numbered


def test_turns_are_numbered_summed_and_dated(store: SessionStore) -> None:
    for question in ("one", "two"):
        with locked(store) as session:
            done = session.append(turn(question))
    assert (done.n, done.total_tokens) == (2, 20)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", done.at)
    assert next(store.history("s", pytest.fail)) == done
    assert content(store) == ["one", "two"]
    assert store.path("s").read_bytes().endswith(b'"total_tokens":20}\n')


def test_a_date_that_a_turn_has_is_kept(store: SessionStore) -> None:
    with locked(store) as session:
        assert session.append(turn("x")._replace(at="2026-01-01T00:00:00.000Z")).at == "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("lines", "n", "total"),
    [
        ([], 1, 10),
        ([line("a", n=7, total_tokens=90)], 8, 100),
        ([bare("a"), bare("b")], 3, 10),
        ([line("a", n=7, total_tokens=90), bare("b", usage={"total_tokens": 5}), bare("c")], 10, 105),
        ([bare("a", usage={"total_tokens": 5}), bare("b", usage={"total_tokens": "?"}), bare("c", usage=None)], 4, 15),
        ([line("a", n=1, total_tokens=5), b"damaged\n"], 2, 15),
        ([b"damaged\n", bare("a")], 2, 10),
    ],
)
def test_the_count_goes_on_from_the_last_line_that_has_one(
    store: SessionStore, lines: list[bytes], n: int, total: int
) -> None:
    write(store, b"".join(lines))
    with locked(store) as session:
        done = session.append(turn("x"))
        last = session.last()
    assert (done.n, done.total_tokens) == (n, total)
    assert last == done


def test_the_last_turn_has_the_count_of_a_file_that_has_none(store: SessionStore) -> None:
    write(store, bare("a", usage={"total_tokens": 5}) + bare("b", usage={"total_tokens": 6}))
    with locked(store) as session:
        assert (session.last().n, session.last().total_tokens) == (2, 11)


def test_an_unfinished_turn_is_kept_and_counts(store: SessionStore) -> None:
    with locked(store) as session:
        session.append(turn("one")._replace(finish_reason=None))
        assert session.append(turn("two")).n == 2
        assert questions(session.history()) == ["two", "one"]


def test_any_thread_may_append(store: SessionStore) -> None:
    with locked(store) as session:
        thread = threading.Thread(target=session.append, args=[turn("from a thread")])
        thread.start()
        thread.join()
    assert content(store) == ["from a thread"]


# Names


def test_a_name_is_normalised_and_its_file_is_utf_8(store: SessionStore) -> None:
    assert store.path("e\u0301") == store.path("\u00e9")
    assert os.fsencode(store.path("\u00e9").name) == b"\xc3\xa9.jsonl"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".x", "-x", "a b", "a\0", "a\n", "x" * 129])
def test_a_bad_name_is_a_usage_error_and_makes_nothing(store: SessionStore, name: str) -> None:
    with pytest.raises(UsageError), locked(store, name):
        pass
    with pytest.raises(UsageError):
        next(store.history(name, silent))
    assert not store.directory.exists()


def test_the_names_of_a_folder_are_those_that_gptpipe_would_give(store: SessionStore) -> None:
    for name in ("b", "a@x.y", "中文", "x" * 128):
        write(store, line("x"), name)
    write(store, b"", "empty")
    for other in ("notes.txt", ".hidden.jsonl", "a b.jsonl", "s.jsonl.damaged", "e\u0301.jsonl", "-x.jsonl"):
        (store.directory / other).write_bytes(line("x"))
    (store.directory / os.fsdecode(b"\xff.jsonl")).write_bytes(line("x"))
    (store.directory / "folder.jsonl").mkdir()
    (store.directory / "link.jsonl").symlink_to("b.jsonl")
    os.mkfifo(store.directory / "fifo.jsonl")
    assert store.names() == ["a@x.y", "b", "x" * 128, "中文"]


def test_there_are_no_names_without_a_folder(store: SessionStore) -> None:
    assert store.names() == []


def test_a_folder_that_is_none_is_told(store: SessionStore) -> None:
    store.directory.parent.mkdir()
    store.directory.touch()
    with pytest.raises(NoInput, match="Not a directory"):
        store.names()


# What is private, what is refused


@pytest.mark.parametrize("umask", [0, 0o022, 0o777], ids=oct)
def test_a_session_is_private_under_any_umask(store: SessionStore, umask: int) -> None:
    old = os.umask(umask)
    try:
        with locked(store) as session:
            session.append(turn("x"))
    finally:
        os.umask(old)
    path = store.path("s")
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


ODD: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "folder": os.mkdir,
    "symlink": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_a_session_that_is_no_regular_file_is_refused(store: SessionStore, make: Callable[[Path], object]) -> None:
    store.directory.mkdir(parents=True)
    make(store.path("s"))
    with pytest.raises(WriteError, match="is not a regular file"), locked(store):
        pass
    with pytest.raises(WriteError, match="is not a regular file"):
        next(store.history("s", silent))


@contextmanager
def unprivileged() -> Iterator[None]:
    """Let permissions hold for root too."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)


@pytest.fixture
def foreign() -> Iterator[SessionStore]:
    """A folder that anybody may read, and nobody write to; it holds the session ``old``."""
    with tempfile.TemporaryDirectory() as folder:
        store = SessionStore(Path(folder))
        write(store, line("x"), "old").chmod(0o444)
        os.chmod(folder, 0o555)
        yield store
        os.chmod(folder, 0o755)


@pytest.mark.parametrize("name", ["old", "new"])
def test_a_session_that_cannot_be_written_is_refused_by_the_lock(foreign: SessionStore, name: str) -> None:
    with unprivileged(), pytest.raises(WriteError, match=rf"cannot open session {name}: .*Permission denied"):
        foreign.lock(name, 0).__enter__()


def test_looking_needs_no_right_to_write(foreign: SessionStore) -> None:
    with unprivileged():
        assert content(foreign, "old") == ["x"]


def test_a_session_that_cannot_be_read_is_like_a_missing_one(foreign: SessionStore) -> None:
    foreign.path("old").chmod(0)
    with unprivileged(), pytest.raises(NoInput, match=r"cannot read session old: .*/old.jsonl: Permission denied"):
        next(foreign.history("old", silent))


# What is no session


@pytest.mark.parametrize("empty", [False, True])
def test_a_missing_or_empty_file_is_no_session(store: SessionStore, empty: bool) -> None:
    if empty:
        write(store, b"")
    with pytest.raises(NoInput, match="no session s"):
        next(store.history("s", silent))
    with pytest.raises(NoInput, match="no session s"), locked(store, create=False):
        pass
    assert not store.path("s").exists()


def test_a_session_whose_first_request_fails_is_removed(store: SessionStore) -> None:
    with locked(store) as session:
        assert session.last() is None
        assert list(session.history()) == []
        assert store.path("s").exists()
    assert list(store.directory.iterdir()) == []


def test_a_session_that_someone_began_instead_is_not_removed(store: SessionStore) -> None:
    with locked(store) as session:
        session.path.unlink()
        session.path.touch()
    assert store.path("s").exists()


# Damage

DAMAGED = {
    "no JSON": b"{",
    "no object": b"[1]",
    "no messages": b'{"n":1}',
    "no UTF-8": b'{"messages":[{"role":"user","content":"\xff"}]}',
    "half a surrogate pair": rb'{"messages":[{"role":"user","content":"\ud83d"}]}',
    "not a number": b'{"messages":[{"role":"user","content":[{"x":NaN}]}]}',
    "NUL bytes": b"\0" * 9,
    "deep": b"[" * 100_000,
    "a long number": b'{"messages":[{"role":"user"}],"n":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_skipped_with_a_warning_and_kept(store: SessionStore, damage: bytes) -> None:
    first = line("one")
    path = write(store, first + damage + b"\n" + line("two"))
    expected = [f"{path}: damaged line at byte {len(first)} skipped"]
    warnings: list[str] = []
    assert questions(store.history("s", warnings.append)) == ["two", "one"]
    assert warnings == expected
    warnings.clear()
    with locked(store, warn=warnings.append) as session:
        assert questions(session.history()) == ["two", "one"]
        session.append(turn("three"))
    assert warnings == expected
    assert path.read_bytes().startswith(first + damage + b"\n" + line("two"))


def test_no_warning_comes_for_lines_that_are_not_read(store: SessionStore) -> None:
    write(store, b"damaged\n" + line("one"))
    assert questions(iter([next(store.history("s", pytest.fail))])) == ["one"]


def test_an_unterminated_line_is_being_written_unless_the_lock_is_held(store: SessionStore) -> None:
    first = line("one")
    path = write(store, first + line("two")[:-9])
    assert content(store) == ["one"]
    warnings: list[str] = []
    with locked(store, warn=warnings.append) as session:
        assert questions(session.history()) == ["one"]
        assert warnings == [f"{path}: damaged line at byte {len(first)} skipped"]
        session.append(turn("three"))
    assert path.read_bytes().startswith(first + line("two")[:-9] + b"\n{")
    assert questions(store.history("s", silent)) == ["three", "one"]


def test_a_last_line_without_newline_that_is_whole_is_a_turn(store: SessionStore) -> None:
    write(store, line("one", n=4, total_tokens=50).rstrip(b"\n"))
    assert content(store) == ["one"]
    with locked(store, warn=pytest.fail) as session:
        assert questions(session.history()) == ["one"]
        assert session.append(turn("two")).n == 5
    assert content(store) == ["one", "two"]


def test_blank_lines_are_no_damage(store: SessionStore) -> None:
    write(store, b"\n" + line("one") + b"\n \r\n" + line("two") + b"\n")
    assert content(store) == ["one", "two"]


# The lock


def test_a_locked_session_is_temporary_and_named(store: SessionStore) -> None:
    waits: list[str] = []
    with locked(store):
        for timeout in (0, 0.05):
            with (
                pytest.raises(Temporary, match="session s is in use") as caught,
                locked(store, timeout=timeout, waiting=telling(waits.append)),
            ):
                pass
            assert "--lock-timeout" in str(caught.value.hint)
    assert waits == ["waiting for another process in session s, 0.05 s at most (--lock-timeout)"]


def test_a_free_session_is_not_waited_for(store: SessionStore) -> None:
    with locked(store, timeout=None, waiting=pytest.fail) as session:
        session.append(turn("x"))


def test_looking_takes_no_lock(store: SessionStore) -> None:
    with locked(store) as session:
        session.append(turn("one"))
        assert content(store) == ["one"]
        assert store.names() == ["s"]


def test_who_waits_sees_the_turn_that_it_waited_for(store: SessionStore) -> None:
    seen: list[list[str]] = []
    with locked(store) as session:
        thread = in_thread(store, lambda waiter: seen.append(questions(waiter.history())))
        session.append(turn("one"))
    thread.join()
    assert seen == [["one"]]


CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "replaced": (lambda path: Path(f"{path}.new").rename(path), ["other"]),
    "removed": (os.unlink, []),
    "renamed": (lambda path: path.rename(path.with_name("t.jsonl")), []),
    "folder renamed": (lambda path: path.parent.rename(path.parent.with_name("away")), []),
}


@pytest.mark.parametrize(("change", "there"), CHANGES.values(), ids=CHANGES)
def test_who_waits_follows_to_the_file_that_is_there_then(
    store: SessionStore, change: Callable[[Path], object], there: list[str]
) -> None:
    path = write(store, line("one"))
    Path(f"{path}.new").write_bytes(line("other", n=7, total_tokens=90))
    seen: list[list[str]] = []
    done: list[Turn] = []

    def use(waiter: Session) -> None:
        seen.append(questions(waiter.history()))
        done.append(waiter.append(turn("new")))

    with locked(store):
        thread = in_thread(store, use)
        change(path)
    thread.join()
    assert seen == [there]
    assert content(store) == [*there, "new"]
    assert (done[0].n, done[0].total_tokens) == ((8, 100) if there else (1, 10))


@pytest.mark.parametrize(("change", "there"), CHANGES.values(), ids=CHANGES)
def test_a_turn_goes_to_the_file_that_is_there_now(
    store: SessionStore, change: Callable[[Path], object], there: list[str]
) -> None:
    path = write(store, line("one"))
    Path(f"{path}.new").write_bytes(line("other", n=7, total_tokens=90))
    with locked(store) as session:
        old = os.dup(session.fd)
        change(path)
        done = session.append(turn("new"))
        with pytest.raises(Temporary), locked(store):
            pass
    assert content(store) == [*there, "new"]
    assert (done.n, done.total_tokens) == ((8, 100) if there else (1, 10))
    assert os.pread(old, 9999, 0) == line("one")
    os.close(old)


def test_a_file_that_is_replaced_between_open_and_lock_is_not_used(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(store, line("one"))
    new = write(store, line("other", n=7), "new")
    flock = fcntl.flock

    def replace_and_lock(fd: int, operation: int) -> None:
        if new.exists():
            new.rename(path)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", replace_and_lock)
    with locked(store, timeout=20) as session:
        assert questions(session.history()) == ["other"]


def test_a_turn_waits_for_the_lock_of_the_file_that_is_there_now(store: SessionStore) -> None:
    path = write(store, line("one"))
    waits = threading.Event()
    with locked(store, timeout=20, waiting=telling(lambda _: waits.set())) as session:
        path.unlink()
        with locked(store) as other:
            thread = threading.Thread(target=session.append, args=[turn("two")])
            thread.start()
            assert waits.wait(20)
            other.append(turn("other"))
        thread.join()
    assert content(store) == ["other", "two"]


def test_a_turn_in_a_hurry_does_not_wait(store: SessionStore) -> None:
    path = write(store, line("one"))
    with locked(store, timeout=None, waiting=pytest.fail) as session:
        path.unlink()
        with locked(store), pytest.raises(Temporary):
            session.extend([turn("two")], wait=False)


def test_a_turn_that_could_not_follow_can_be_appended_later(store: SessionStore) -> None:
    path = write(store, line("one"))
    with locked(store) as session:
        path.unlink()
        with locked(store) as other:
            with pytest.raises(Temporary):
                session.append(turn("two"))
            other.append(turn("other"))
        session.append(turn("two"))
    assert content(store) == ["other", "two"]


def test_a_folder_that_became_a_file_is_a_write_error(store: SessionStore) -> None:
    with locked(store) as session:
        store.directory.rename(store.directory.with_name("away"))
        store.directory.touch()
        with pytest.raises(WriteError, match=r"cannot open session s: .*/s.jsonl: Not a directory"):
            session.append(turn("two"))


# Size


def test_the_end_of_a_gigabyte_costs_what_the_end_of_a_kilobyte_costs(store: SessionStore) -> None:
    path = write(store, b"")
    os.truncate(path, 1 << 30)  # a hole: a damaged line of a gigabyte, if anyone read it
    with path.open("ab") as file:
        file.write(b"\n" + b"".join(line(f"{n}", n=n) for n in range(100, 1000)))
    before = bytes_read()
    history = store.history("s", pytest.fail)
    assert questions(iter([next(history), next(history)])) == ["999", "998"]
    with locked(store, warn=pytest.fail) as session:
        assert questions(iter([next(session.history())])) == ["999"]
        assert session.append(turn("x")).n == 1000
    assert bytes_read() - before < 200_000


def test_a_single_long_line_is_read_once(store: SessionStore) -> None:
    size = 50_000_000
    write(store, line("x" * size))
    before = bytes_read()
    assert len(content(store)[0]) == size
    assert bytes_read() - before < 1.1 * size
