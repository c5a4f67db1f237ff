"""Private files that keep what was paid for: opened with care, read line by line, appended to in whole lines.

Nothing here knows what a line means. Line ends are ``\\n`` alone. What fails raises OSError, if nothing else is said.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from gptpipe.errors import Failure, NoInput, WriteError

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


def listed(folder: Path) -> list[str]:
    """Return the names in a folder, in any order: none if it does not exist. NoInput if it cannot be read."""
    with failing(NoInput, f"cannot read {folder}"):
        try:
            return os.listdir(folder)
        except FileNotFoundError:
            return []


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing: 0700 under any umask."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):  # another process was quicker
        os.mkdir(folder, 0o700)
        os.chmod(folder, 0o700)
        sync_folder(folder.parent)  # or a crash loses the new folder, with all that was synced inside it


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk, unless the file system cannot do that for folders (EINVAL)."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def open_regular(path: Path, flags: int) -> int:
    """Open a regular file. Anything else is refused, also a FIFO, for which this does not wait.

    A symbolic link is refused too: it could lead to a file that was never meant for gptpipe. With ``O_CREAT`` the file
    gets mode 0600 under any umask.

    :raises WriteError: if something else is there.
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


def backward(fd: int, before: int | None = None) -> Iterator[Line]:
    """Yield the lines of a file from its end, or those before a line's offset. No more blocks are read than needed.

    The file may grow meanwhile, and a writer may take back what it could not write whole.
    """
    position = os.fstat(fd).st_size if before is None else before
    block = FIRST_BLOCK
    pieces: list[bytes] = []  # of the line whose beginning is not yet read, the last first
    ended = False
    while position > 0:
        start = max(0, position - block)
        data = _read(fd, start, position)
        if len(data) < position - start:  # the end was cut off meanwhile, and the pieces with it
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
    """Yield the lines of a file from its beginning. A line without its newline is the last: its rest may follow yet."""
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

    A last line that lacks its newline gets one first. After an OSError the file is as it was.
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


def create(path: Path, data: bytes) -> None:
    """Make a private file with this content, and the folders above it; FileExistsError if something is there.

    After another OSError no file is left.
    """
    make_folder(path.parent)
    descriptor = open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        path.unlink(missing_ok=True)  # half a file would be taken for a whole one
        raise


def replace(path: Path, data: bytes) -> None:
    """Put a private file with this content at ``path``. There is the old content or the new, also after a crash."""
    _replace(str(path), [data], 0o600, None, 0o600)


def overwrite(path: str, blocks: Callable[[], Iterable[bytes]]) -> None:
    """Make what ``blocks`` returns the content of the file at ``path``, which is not a symbolic link.

    It happens in one step, by a rename, where that keeps what is there: owner, group, mode and hard links. Otherwise,
    and where the folder does not allow it, the file is written in place, as ``>`` in a shell would.
    """
    try:
        old = os.stat(path)
    except FileNotFoundError:
        _replace(path, blocks(), 0o666, None, None)
        return
    if old.st_nlink == 1 and os.geteuid() in (0, old.st_uid) and not _has_acl(path):
        try:
            _replace(path, blocks(), 0o600, (old.st_uid, old.st_gid), stat.S_IMODE(old.st_mode))
            return
        except OSError as error:
            if error.errno not in _NO_RENAME:
                raise
    _write_in_place(path, b"".join(blocks()))


# The errors of a folder that takes no new file, of chown to a group that is not the user's, of rename to a mount point.
_NO_RENAME = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV, errno.EINVAL)


def _has_acl(path: str) -> bool:
    return hasattr(os, "listxattr") and "system.posix_acl_access" in os.listxattr(path)


def beside(path: str) -> str:
    """Return the name of a temporary file in the folder of ``path``: another for each thread, and not too long."""
    start = os.fsdecode(os.fsencode(os.path.basename(path))[:200])
    return os.path.join(os.path.dirname(path), f".{start}.{os.getpid()}.{threading.get_ident():x}")


def _replace(path: str, blocks: Iterable[bytes], made: int, owner: tuple[int, int] | None, mode: int | None) -> None:
    """Replace a file. The new one is created with mode ``made``, then gets owner and group, and its final ``mode``."""
    name = beside(path)
    descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, made)
    try:
        with open(descriptor, "wb") as file:
            file.writelines(blocks)
            file.flush()
            status = os.fstat(descriptor)
            if owner and owner != (status.st_uid, status.st_gid):
                os.fchown(descriptor, *owner)
            if mode is not None:
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)  # or a crash after the rename leaves an empty file where the old one was
        os.rename(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _reserve(descriptor: int, size: int) -> None:
    """Fail on a full disk before the old content is gone."""
    before = os.fstat(descriptor).st_size
    try:
        if size > before and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        os.ftruncate(descriptor, before)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def _write_in_place(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    with open(descriptor, "wb") as file:
        _reserve(descriptor, len(data))
        file.write(data)
        file.truncate()
        os.fsync(descriptor)
