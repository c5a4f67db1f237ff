"""Sessions: named conversations. Each is a file with one turn a line, as gptpipe-session(5) specifies.

Many processes may use one session at once. A process that adds to it holds the lock of its file from
before it reads the history until the turn is on disk. Reading needs no lock, since a line once written never changes.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from gptpipe.console import output
from gptpipe.console.output import silent
from gptpipe.errors import NoInput, Temporary, UsageError, WriteError
from gptpipe.message import Turn, parse, to_line
from gptpipe.sessions import system
from gptpipe.sessions.undo import standing
from gptpipe.storage import Line, append, backward, failing, listed, make_folder, open_regular, stands_at
from gptpipe.text.names import check_name

SUFFIX = ".jsonl"
SHORTEST_PAUSE = 0.001
LONGEST_PAUSE = 0.05

Warn = Callable[[str], object]
Waiting = Callable[[str], AbstractContextManager[object]]


class NoSession(NoInput):
    """A session that does not exist; an empty file is not a session."""


class Record(NamedTuple):
    """A line of a session that holds a turn: its offset in bytes, its bytes without the newline, and the turn."""

    offset: int
    data: bytes
    turn: Turn


class SessionStore:
    """The sessions in a folder, which need not exist yet; ``waiting`` announces a wait for a lock.

    ``warn`` gets a text for each damaged line that is met and skipped. UsageError for what cannot be a session's name.
    """

    def __init__(self, directory: Path, waiting: Waiting = output.waiting) -> None:
        self.directory = directory
        self.waiting = waiting

    def path(self, name: str) -> Path:
        """Return the file of a session; its name is UTF-8 whatever the locale."""
        return self.directory / os.fsdecode(check_name(name, "session name").encode() + SUFFIX.encode())

    def names(self) -> list[str]:
        """Return the names of all sessions, sorted; NoInput if the folder cannot be read."""
        with failing(NoInput, f"cannot read {self.directory}"):
            return sorted(filter(None, map(self._name_of, listed(self.directory))))

    def _name_of(self, file: str) -> str | None:
        """Return the name of the session that a file is, or None. An empty file is not a session."""
        if not file.endswith(SUFFIX):
            return None
        try:
            name = os.fsencode(file.removesuffix(SUFFIX)).decode()
            status = os.stat(self.directory / file, follow_symlinks=False)
            return name if check_name(name) == name and stat.S_ISREG(status.st_mode) and status.st_size else None
        except (UnicodeDecodeError, UsageError, FileNotFoundError):
            return None

    @contextmanager
    def reading(self, name: str) -> Iterator[int]:
        """Open a session to look at it, without the lock; the block gets the descriptor.

        :raises NoInput: if the session does not exist or cannot be read; also from the block.
        :raises WriteError: if it is not a regular file.
        """
        with failing(NoInput, f"cannot read session {name}: {self.path(name)}"):
            try:
                fd = open_regular(self.path(name), os.O_RDONLY)
            except FileNotFoundError:
                raise NoSession(f"no session {name}") from None
            try:
                if os.fstat(fd).st_size == 0:
                    raise NoSession(f"no session {name}")
                yield fd
            finally:
                os.close(fd)

    def records(self, name: str, warn: Warn) -> Iterator[Record]:
        """Yield a session's records from the newest, no more than are used. Raises as :meth:`reading`, when begun."""
        with self.reading(name) as fd:
            path = self.path(name)
            yield from system.resolved(fd, valid(backward(fd), path, warn, locked=False), path, warn)

    def history(self, name: str, warn: Warn) -> Iterator[Turn]:
        """Yield the turns of :meth:`records`, without those that were taken back."""
        return (record.turn for record in standing(self.records(name, warn)))

    @contextmanager
    def lock(self, name: str, timeout: float | None, warn: Warn = silent, *, create: bool = True) -> Iterator[Session]:
        """Lock a session for the block, to continue or to change it.

        ``timeout`` is in seconds: 0 does not wait for another process, None has no limit. ``create`` begins a session
        that does not exist; without a turn it is removed again.

        :raises Temporary: if another process has kept the lock.
        :raises NoInput: if the session does not exist and ``create`` is false.
        :raises WriteError: if the session is not a regular file, or cannot be made, written to or locked.
        """
        session = Session(self, name, timeout, warn, create)
        session.acquire(timeout)
        try:
            if not create and os.fstat(session.fd).st_size == 0:
                raise NoSession(f"no session {name}")
            yield session
        finally:
            session.release()


class Session:
    """A session that this process has locked; :meth:`SessionStore.lock` makes it.

    Any thread may use it, one at a time. ``fd`` is the locked file, the one at ``path`` when last compared. WriteError
    if it cannot be read or written.
    """

    def __init__(self, store: SessionStore, name: str, timeout: float | None, warn: Warn, create: bool) -> None:
        self.name = name
        self.path = store.path(name)
        self.fd = -1
        self._timeout = timeout
        self._waiting = store.waiting
        self._warn = warn
        self._create = create

    def history(self) -> Iterator[Turn]:
        """Yield the turns from the newest, without those taken back. No more is read than is used."""
        with failing(WriteError, f"cannot read session {self.name}: {self.path}"):
            records = system.resolved(self.fd, self._lines(self._warn), self.path, self._warn)
            yield from (record.turn for record in standing(records))

    def last(self) -> Turn | None:
        """Return the newest turn, finished or not, with the ``n`` and ``total_tokens`` of the whole session."""
        return last_turn(record.turn for record in self._lines(silent))

    def _lines(self, warn: Warn) -> Iterator[Record]:
        """Yield the records as the file has them, the newest first."""
        with failing(WriteError, f"cannot read session {self.name}: {self.path}"):
            yield from valid(backward(self.fd), self.path, warn, locked=True)

    def append(self, turn: Turn) -> Turn:
        """Add a turn as :meth:`extend` does, and return it as it is on disk."""
        return self.extend([turn])[0]

    def extend(self, turns: Iterable[Turn], *, wait: bool = True) -> list[Turn]:
        """Add turns to the file at the path: all of them, or none. The result has their numbers, sums and dates.

        If the file was replaced or removed since it was locked, the one there now is locked; with ``wait`` that may
        take the lock's timeout once more.

        :raises WriteError: if it cannot be written; then it is as before.
        :raises Temporary: if the file now at the path is locked.
        """
        with failing(WriteError, f"cannot open session {self.name}: {self.path}"):
            stands = self.fd >= 0 and stands_at(self.fd, self.path)
        if not stands:  # then the turn would go into a file without a name and be lost
            self._close()
            self.acquire(self._timeout if wait else 0)
        added = _numbered(turns, self.last())
        newest = next((record for record in self._lines(silent) if not record.turn.undo), None)
        with failing(WriteError, f"cannot write session {self.name}: {self.path}"):
            shorter = system.shortened(self.fd, added, newest, os.fstat(self.fd).st_size)
            append(self.fd, self.path.parent, b"".join(map(to_line, shorter)))
        return added

    def acquire(self, timeout: float | None) -> None:
        """Lock the file at the path."""
        with failing(WriteError, f"cannot open session {self.name}: {self.path}"):
            if self._try() or (timeout != 0 and self._wait(timeout)):
                return
        raise Temporary(
            f"session {self.name} is in use by another process", "--lock-timeout SECONDS waits for it, or waits longer"
        )

    def _try(self) -> bool:
        with ExitStack() as failed:
            self.fd = self._open()
            failed.callback(self._close)
            with suppress(BlockingIOError):
                # Without the lock, of two processes that read the same history each would miss the other's turn.
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stands_at(self.fd, self.path):  # or a turn would go into a file that was renamed or removed
                    failed.pop_all()
        return self.fd >= 0

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND
        try:
            return open_regular(self.path, flags)
        except FileNotFoundError:
            if not self._create:
                raise NoSession(f"no session {self.name}") from None
        make_folder(self.path.parent)
        return open_regular(self.path, flags | os.O_CREAT)

    def _wait(self, timeout: float | None) -> bool:
        """Try until the lock is free. Each try opens the file anew: the old one may be renamed or removed meanwhile."""
        limit = "without a limit" if timeout is None else f"{timeout:g} s at most (--lock-timeout)"
        end = None if timeout is None else time.monotonic() + timeout
        pause = SHORTEST_PAUSE
        with self._waiting(f"waiting for another process in session {self.name}, {limit}"):
            while end is None or time.monotonic() < end:
                time.sleep(pause if end is None else max(0, min(pause, end - time.monotonic())))
                if self._try():
                    return True
                pause = min(2 * pause, LONGEST_PAUSE)
        return False

    def release(self) -> None:
        """Remove an empty file, whose first turn never came, and release the lock."""
        with suppress(OSError):  # an empty file is not a session anyway
            if self.fd >= 0 and stands_at(self.fd, self.path) and os.fstat(self.fd).st_size == 0:
                os.unlink(self.path)
        self._close()

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Memory:
    """A conversation that is not kept in a file. It is used like a locked session."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    def history(self) -> Iterator[Turn]:
        """Yield the turns from the newest."""
        return iter(self.turns[::-1])

    def append(self, turn: Turn) -> None:
        """Add a turn, numbered, summed, dated."""
        self.turns += _numbered([turn], self.turns[-1] if self.turns else None)


def _numbered(turns: Iterable[Turn], last: Turn | None) -> list[Turn]:
    """Return the turns with their numbers, sums and dates after the last one."""
    added: list[Turn] = []
    for turn in turns:
        n, total = (last.n, last.total_tokens) if last else (0, 0)
        n += not turn.undo
        last = turn._replace(n=n, total_tokens=total + _total_tokens(turn), at=turn.at or timestamp(time.time()))
        added.append(last)
    return added


def valid(lines: Iterable[Line], path: Path, warn: Warn, *, locked: bool) -> Iterator[Record]:
    """Yield the records among the lines of the file at ``path``; ``warn`` of each damaged line.

    Without the lock an unterminated line that is not whole is not damaged: it is a turn being written.
    """
    for line in lines:
        turn = parse(line.data)
        if turn is not None:
            yield Record(line.offset, line.data, turn)
        elif line.data.strip() and (line.ended or locked):
            warn(f"{path}: damaged line at byte {line.offset} skipped")


def last_turn(turns: Iterator[Turn]) -> Turn | None:
    """Return the first of ``turns``, which come newest first, with ``n`` and ``total_tokens`` of the whole session.

    Lines that gptpipe wrote hold both. For others the turns are counted, back to one that does.
    """
    last = next(turns, None)
    if last is None or last.n > 0:
        return last
    n, total = 1, _total_tokens(last)
    for turn in turns:
        if turn.n > 0:
            return last._replace(n=n + turn.n, total_tokens=total + turn.total_tokens)
        n += 1
        total += _total_tokens(turn)
    return last._replace(n=n, total_tokens=total)


def _total_tokens(turn: Turn) -> int:
    total = (turn.usage or {}).get("total_tokens")
    return total if isinstance(total, int) else 0


def timestamp(seconds: float) -> str:
    """Return a time, in seconds since 1970, as the lines have it: in UTC, as ``2026-11-22T05:11:07.123Z``."""
    milliseconds = round(seconds * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(milliseconds // 1000))}.{milliseconds % 1000:03d}Z"


def damaged_path(path: Path) -> Path:
    """Return the file to which :func:`repair` moves the damaged lines of a session."""
    return path.with_name(path.name + ".damaged")
