"""Damaged lines of a session: find them, and move them into a file beside it. What is raised is as in ``upkeep``."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gptpipe.errors import WriteError
from gptpipe.message import parse
from gptpipe.sessions.store import SessionStore, damaged_path
from gptpipe.sessions.upkeep import new_file
from gptpipe.storage import append, failing, forward, open_regular, sync_folder


class Damage(NamedTuple):
    """A damaged line: its number from 1, its offset and length in bytes, and whether a newline ends it."""

    number: int
    offset: int
    length: int
    ended: bool


def find(store: SessionStore, name: str) -> Iterator[Damage]:
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
        damages = list(_damaged(session.fd))
        if damages:
            _set_aside(session.fd, damages, damaged_path(session.path))
            with new_file(session.fd, _between(damages, os.fstat(session.fd).st_size), store.directory) as new:
                os.chmod(new, os.fstat(session.fd).st_mode & 0o777)
                os.rename(new, session.path)  # in one step: a reader meanwhile, or after a crash, sees all turns
            sync_folder(store.directory)
    return damages


def _set_aside(fd: int, damages: list[Damage], path: Path) -> None:
    """Copy the damaged lines before they leave the session. After a crash in between they are in both files."""
    lines = b"".join(os.pread(fd, damage.length, damage.offset) + b"\n" for damage in damages)
    aside = open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        append(aside, path.parent, lines)
    finally:
        os.close(aside)


def _between(damages: list[Damage], size: int) -> Iterator[tuple[int, int]]:
    start = 0
    for damage in damages:
        yield start, damage.offset
        start = damage.offset + damage.length + damage.ended
    yield start, size
