"""A file that the user names for what a run writes: tried at once, changed only when that is complete."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from contextlib import AbstractContextManager, suppress

from gptpipe.console.output import STDERR, STDOUT, encode, visible, waiting, write_all
from gptpipe.errors import WriteError
from gptpipe.storage import beside, failing, overwrite

_LARGEST_DESCRIPTOR = 2**31 - 1  # what the system's calls take


class Target:
    """A file named by the user for ``-o`` or ``--meta``: tried when this is made, changed only by :meth:`write`.

    ``-``, ``/dev/stdout``, ``/dev/stderr`` and ``/dev/fd/N`` mean that descriptor, without truncation. What exists
    and is not a regular file is written to directly, a terminal in visible form. A regular file gets its new content
    as :func:`gptpipe.storage.overwrite` does it.

    :raises WriteError: if it cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._name = path  # as the user gave it
        self._path = os.path.realpath(path)
        with self._failing():
            self._descriptor = self._opened()

    def _failing(self) -> AbstractContextManager[None]:
        return failing(WriteError, f"cannot write {self._name or repr(self._name)}")

    def _opened(self) -> int | None:
        """Return the descriptor to write to, or None for a regular file that can be written; else raise OSError."""
        if not self._name:  # realpath takes it for the working directory
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        number = _descriptor_number(self._name)
        if number is not None:
            descriptor = os.dup(number)
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return descriptor
        try:
            mode = os.stat(self._path).st_mode
        except FileNotFoundError:
            trial = beside(self._path)
            os.close(os.open(trial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            os.unlink(trial)
            return None
        if stat.S_ISREG(mode):
            os.close(os.open(self._path, os.O_WRONLY))  # where a rename fails in the end, this is how it is written
            return None
        with waiting(f"waiting until {self._name} is opened to be read"):  # as opening a FIFO does
            return os.open(self._path, os.O_WRONLY | os.O_NOCTTY)

    def write(self, data: bytes) -> None:
        """Make ``data`` the content.

        :raises WriteError: if that fails; the hint names the file that holds the data instead.
        :raises BrokenPipeError: if a pipe's reader is gone.
        """
        try:
            if self._descriptor is None:
                with self._failing():
                    overwrite(self._path, lambda: [data])
                return
            shown = encode(visible(data.decode("utf-8", "surrogateescape"))) if os.isatty(self._descriptor) else data
            write_all(self._descriptor, shown, self._name)
        except WriteError as failure:
            raise WriteError(failure.message, _rescued(data)) from failure


def _rescued(data: bytes) -> str | None:
    """Write the data to a file elsewhere and return a hint that names it, or None if that fails too."""
    import tempfile  # only for a disk that was full at the last moment

    for folder in (tempfile.gettempdir(), os.path.expanduser("~")):
        with suppress(OSError):
            descriptor, path = tempfile.mkstemp(".txt", "gptpipe-", folder)
            try:
                write_all(descriptor, data)
                return f"the answer is in {path}"
            except WriteError:
                os.unlink(path)
            finally:
                os.close(descriptor)
    return None


def _descriptor_number(path: str) -> int | None:
    if match := re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", path):
        return min(int(match[1]), _LARGEST_DESCRIPTOR)
    return {"-": STDOUT, "/dev/stdout": STDOUT, "/dev/stderr": STDERR}.get(path)
