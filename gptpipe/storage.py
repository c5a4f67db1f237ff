"""Files that keep what was paid for: private ones, opened with care, read by lines, appended to whole.

Nothing here knows what a line means. Line ends are ``\\n`` alone.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from gptpipe.errors import Failure, WriteError

FIRST_BLOCK = 1 << 13
LARGEST_BLOCK = 1 << 20

# What open says of a symlink, of a folder to be written to, and of a socket or a FIFO without a reader.
_NOT_REGULAR = (errno.ELOOP, errno.EISDIR, errno.ENXIO)


@contextmanager
def failing(kind: type[Failure], what: str) -> Iterator[None]:
    """Turn an OSError of the block into a failure of ``kind``: ``what``, a colon, and the system's words."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error.strerror}") from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing: 0700 under any umask.

    :raises OSError: if that fails.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):  # another process was quicker
        os.mkdir(folder, 0o700)
        os.chmod(folder, 0o700)
        sync_folder(folder.parent)  # or a crash loses the new folder, with all that was synced inside it


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk.

    :raises OSError: if that fails, but not if the file system cannot do it for folders (EINVAL).
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def open_regular(path: Path, flags: int) -> int:
    """Open a file that must be a regular one; never wait for it, as opening a FIFO would.

    A symbolic link is refused too: what is appended through it, or read and sent, would be a file that nobody
    meant to be gptpipe's. With ``O_CREAT`` the file gets mode 0600 under any umask.

    :raises WriteError: if something else is there.
    :raises OSError: if it cannot be opened.
    """
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    except OSError as error:
        if error.errno in _NOT_REGULAR:
            raise WriteError(f"{path} is not a regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise WriteError(f"{path} is not a regular file")
    if flags & os.O_CREAT:
        os.fchmod(fd, 0o600)
    return fd


def stands_at(fd: int, path: Path) -> bool:
    """Whether the open file is the one at the path."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)


class Line(NamedTuple):
    """A line without its newline. ``offset`` is that of its first byte; ``ended`` says whether a newline follows."""

    offset: int
    data: bytes
    ended: bool


def backward(fd: int) -> Iterator[Line]:
    """Yield the lines of a file from its end, reading no more than they need, and some blocks.

    The file may grow meanwhile, and a writer may take back what it could not write whole.
    """
    position = os.fstat(fd).st_size
    block = FIRST_BLOCK
    pieces: list[bytes] = []  # of the line whose beginning is not yet read, the last first
    ended = False
    while position > 0:
        start = max(0, position - block)
        data = _read(fd, start, position)
        if len(data) < position - start:  # the end was cut off meanwhile, so the pieces are no more
            pieces, ended = [], False
        end = len(data)
        while (newline := data.rfind(b"\n", 0, end)) >= 0:
            pieces.append(data[newline + 1 : end])
            if ended or any(pieces):
                yield Line(start + newline + 1, b"".join(reversed(pieces)), ended)
            pieces, ended, end = [], True, newline
        pieces.append(data[:end])
        position, block = start, min(2 * block, LARGEST_BLOCK)
    if pieces:
        yield Line(0, b"".join(reversed(pieces)), ended)


def _read(fd: int, start: int, end: int) -> bytes:
    """Return the bytes from start to end, fewer only where the file ends."""
    data = os.pread(fd, end - start, start)
    while len(data) < end - start and (more := os.pread(fd, end - start - len(data), start + len(data))):
        data += more
    return data


def forward(fd: int) -> Iterator[Line]:
    """Yield the lines of a file from its beginning, up to one without its newline: the rest of that may follow yet."""
    offset = 0
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        for data in file:
            line = Line(offset, data.removesuffix(b"\n"), data.endswith(b"\n"))
            yield line
            if not line.ended:
                return
            offset += len(data)


def append(fd: int, folder: Path, lines: bytes) -> None:
    """Add whole lines to a file of ``folder`` that is open with ``O_APPEND``; on disk when this returns, or not at all.

    A last line that lacks its newline gets one first.

    :raises OSError: if that fails; then the file is as it was.
    """
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        lines = b"\n" + lines
    try:
        written = os.write(fd, lines)
        if written < len(lines):
            raise OSError(errno.EIO, f"only {written} of {len(lines)} bytes could be written")
        os.fsync(fd)  # or a crash loses the turn that the status 0 is about to promise
        if size == 0:
            sync_folder(folder)  # or a crash loses the name of a new file, and so the turn in it
    except OSError:
        with suppress(OSError):  # nothing more can be done: what is left is skipped as a damaged line
            os.ftruncate(fd, size)
        raise


def replace(path: str, data: bytes | Iterable[bytes], mode: int | None = None) -> None:
    """Put ``data``, whole or in blocks, at ``path`` in one step: a reader sees the old content or the new, after a
    crash too.

    It gets ``mode``; without one an existing file keeps its own, and a new one has 0666 less the umask. The data goes
    into a file without a name where the system has such (``O_TMPFILE``), so that a kill leaves nothing behind.

    :raises OSError: if that fails; the old content stays.
    """
    folder = os.path.dirname(path) or "."
    try:
        kept = os.stat(path).st_mode & 0o7777 if mode is None else mode
    except FileNotFoundError:
        kept = None
    name = os.path.join(folder, f".{os.path.basename(path)[:200]}.{os.getpid()}.{threading.get_ident():x}")
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o666 if mode is None else mode)
        unnamed = True
    except (OSError, AttributeError):  # not every file system has it, and macOS has it not at all
        descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else mode)
        unnamed = False
    try:
        try:
            for block in [data] if isinstance(data, bytes) else data:
                rest = memoryview(block)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            if kept is not None:
                os.fchmod(descriptor, kept)
            os.fsync(descriptor)  # or a crash after the rename leaves an empty file where the old one was
            if unnamed:
                # With a src_dir_fd, whichever, Python calls linkat, which follows the link, not link, which does not.
                os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor, follow_symlinks=True)
        finally:
            os.close(descriptor)
        os.rename(name, path)
    except BaseException:
        try:
            os.unlink(name)
        except OSError:
            pass
        raise
