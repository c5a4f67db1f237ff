"""Upkeep of sessions: list, copy, rename and remove them, find damaged lines and move them into a file beside.

A function that reads a session raises what :meth:`SessionStore.reading` does, at its first step. One that changes
a session takes its lock, with the timeout of a process that continues it, and raises what :meth:`SessionStore.lock`
does, and WriteError if the change fails. A target that exists without ``force``, or is the source, is a UsageError.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from gptpipe.console.output import silent
from gptpipe.errors import NoInput, UsageError, WriteError
from gptpipe.message import Turn, parse
from gptpipe.sessions import system
from gptpipe.sessions.store import Record, SessionStore, Warn, damaged_path, last_turn, valid
from gptpipe.storage import append, backward, failing, forward, open_regular, sync_folder

COPY_BLOCK = 1 << 20


class Summary(NamedTuple):
    """A session in short, from its last line: ``last_use`` is in seconds since 1970, ``size`` in bytes."""

    name: str
    turns: int
    last_use: float
    model: str | None
    tokens: int
    size: int


def summary(store: SessionStore, name: str) -> Summary:
    """Return the summary of one session. Only the last line of its file is read."""
    with store.reading(name) as fd:
        return _summary(name, fd, store.path(name))


def _summary(name: str, fd: int, path: Path) -> Summary:
    status = os.fstat(fd)
    turns = (record.turn for record in valid(backward(fd), path, silent, locked=False))
    last = last_turn(turns) or Turn([])
    used = asked_at(last)
    last_use = status.st_mtime if used is None else used
    return Summary(name, last.n, last_use, last.model, last.total_tokens, status.st_size)


def asked_at(turn: Turn) -> float | None:
    """Return when the turn was asked, in seconds since 1970; None if its line does not say."""
    try:
        return datetime.fromisoformat(turn.at or "").timestamp()
    except (ValueError, OverflowError):
        return None


def oldest_first(store: SessionStore, name: str, warn: Warn) -> Iterator[Record]:
    """Yield all records of a session from the first, each turn with its number, without the lock."""
    number = 0
    with store.reading(name) as fd:
        path = store.path(name)
        for record in system.resolved(fd, valid(forward(fd), path, warn, locked=False), path, warn):
            number = record.turn.n or number + 1
            yield record._replace(turn=record.turn._replace(n=number))


def copy(store: SessionStore, source: str, target: str, *, force: bool, timeout: float | None) -> None:
    """Make ``target`` a session with the turns of ``source``; later turns of one do not reach the other."""
    with _locked(store, source, target, force, timeout) as fd, failing(WriteError, f"cannot copy session {source}"):
        with new_file(fd, [(0, os.fstat(fd).st_size)], store.directory) as new:
            _give_name(new, store, target, force)
        sync_folder(store.directory)  # or a crash loses the name of the copy


def rename(store: SessionStore, source: str, target: str, *, force: bool, timeout: float | None) -> None:
    """Give a session another name. A process that waits for the old name begins a new session."""
    old = store.path(source)
    with _locked(store, source, target, force, timeout), failing(WriteError, f"cannot rename session {source}"):
        _give_name(old, store, target, force)
        if not force:
            sync_folder(store.directory)  # or a crash after the next line may leave the session without any name
            old.unlink()


@contextmanager
def _locked(store: SessionStore, source: str, target: str, force: bool, timeout: float | None) -> Iterator[int]:
    """Lock the source, and with ``force`` the target too; the block gets the source's descriptor."""
    if store.path(source) == store.path(target):
        raise UsageError(f"{source} and {target} are the same session")
    if not force:
        with suppress(NoInput), store.reading(target):
            raise _exists(target)
        with suppress(NoInput), store.lock(target, timeout, create=False):
            raise _exists(target)  # an empty file, which a signal may have left, is not a session, and is gone by now
    with ExitStack() as stack:
        # In the order of their names: of two that lock both, each would wait for the other's for ever. Without the
        # target's lock the turn that a process is about to add to it would be lost with it.
        for name in sorted({source, target} if force else {source}):
            session = stack.enter_context(store.lock(name, timeout, create=name == target))
            if name == source:
                fd = session.fd
        yield fd


def _exists(name: str) -> UsageError:
    return UsageError(f"session {name} exists", "--force replaces it")


def _give_name(file: Path, store: SessionStore, name: str, force: bool) -> None:
    path = store.path(name)
    if force:
        os.rename(file, path)  # in one step: a crash loses neither the old session nor the new
        return
    try:
        os.link(file, path)  # where a rename would lose a session that was begun under this name meanwhile
    except FileExistsError:
        raise _exists(name) from None


@contextmanager
def new_file(source: int, spans: Iterable[tuple[int, int]], folder: Path) -> Iterator[Path]:
    """Copy spans of a file, given by pairs of offsets, into a new one. Unless the block renames it, it is removed.

    Its name begins with a dot, as no session's does.
    """
    path = folder / f".{os.urandom(8).hex()}"
    fd = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(fd, "wb"):
            for start, end in spans:
                while start < end and (data := os.pread(source, min(COPY_BLOCK, end - start), start)):
                    start += os.write(fd, data)
            os.fsync(fd)  # or a crash after it got its name leaves an empty session
        yield path
    finally:
        path.unlink(missing_ok=True)


def remove(store: SessionStore, name: str, *, timeout: float | None, unused_since: float | None = None) -> bool:
    """Remove a session and what ``repair`` moved out of it; return whether it was removed.

    With ``unused_since``, in seconds since 1970, one that was used later is kept.
    """
    path = store.path(name)
    # Under the lock, or the turn of an answer in flight would be lost after its process ended with 0.
    with store.lock(name, timeout, create=False) as session:
        if unused_since is not None and _summary(name, session.fd, path).last_use > unused_since:
            return False
        with failing(WriteError, f"cannot remove session {name}"):
            path.unlink()
            damaged_path(path).unlink(missing_ok=True)
    return True


class Damage(NamedTuple):
    """A damaged line: its number from 1, its offset and length in bytes, and whether a newline ends it."""

    number: int
    offset: int
    length: int
    ended: bool


def damages(store: SessionStore, name: str) -> Iterator[Damage]:
    """Yield the damaged lines of a session, without the lock."""
    with store.reading(name) as fd:
        for damage in _damaged(fd):
            if damage.ended or not _being_written(fd, damage):
                yield damage


def _damaged(fd: int) -> Iterator[Damage]:
    for number, line in enumerate(forward(fd), 1):
        if line.data.strip() and parse(line.data) is None:
            yield Damage(number, line.offset, len(line.data), line.ended)


def _being_written(fd: int, last: Damage) -> bool:
    """Whether another process is writing this last line. If the lock is free, the line is torn."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    grown = os.fstat(fd).st_size != last.offset + last.length
    fcntl.flock(fd, fcntl.LOCK_UN)
    return grown


def repair(store: SessionStore, name: str, *, timeout: float | None) -> list[Damage]:
    """Move the damaged lines of a session to the end of the file :func:`damaged_path`, and return which they were."""
    # Under the lock, or a turn appended to the old file while the new one is made would be lost.
    with store.lock(name, timeout, create=False) as session, failing(WriteError, f"cannot repair session {name}"):
        found = list(_damaged(session.fd))
        if found:
            _set_aside(session.fd, found, damaged_path(session.path))
            with new_file(session.fd, _between(found, os.fstat(session.fd).st_size), store.directory) as new:
                os.chmod(new, os.fstat(session.fd).st_mode & 0o777)
                os.rename(new, session.path)  # in one step: a reader meanwhile, or after a crash, sees all turns
            sync_folder(store.directory)
    return found


def _set_aside(fd: int, found: list[Damage], path: Path) -> None:
    """Copy the damaged lines before they leave the session. After a crash in between they are in both files."""
    lines = b"".join(os.pread(fd, damage.length, damage.offset) + b"\n" for damage in found)
    with open(open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "ab") as aside:
        append(aside.fileno(), path.parent, lines)


def _between(found: list[Damage], size: int) -> Iterator[tuple[int, int]]:
    start = 0
    for damage in found:
        yield start, damage.offset
        start = damage.offset + damage.length + damage.ended
    yield start, size
