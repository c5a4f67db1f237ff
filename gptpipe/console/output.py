"""Writing: every byte to a descriptor, text that cannot drive a terminal, files that change only when complete."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import stat
import threading
from types import TracebackType

from gptpipe.errors import WriteError
from gptpipe.storage import replace
from gptpipe.text.strict_json import compact

STDOUT = 1
STDERR = 2
_LARGEST_DESCRIPTOR = 2**31 - 1  # what the system's calls take
_NAMES = {STDOUT: "standard output", STDERR: "standard error"}

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_program = "gptpipe"


def named(program: str) -> None:
    """Set the name that begins every line on standard error."""
    global _program
    _program = program


def write_all(descriptor: int, data: bytes, name: str | None = None) -> None:
    """Write all of ``data``: a short count goes on, a full non-blocking pipe is waited for.

    ``name`` is what a failure calls the descriptor.

    :raises BrokenPipeError: when the reader is gone.
    :raises WriteError: for every other error.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise WriteError(f"cannot write {name or _NAMES.get(descriptor)}: {error.strerror}") from error


def check_stdout() -> None:
    """Find out that standard output is closed before anything is asked.

    :raises WriteError: if it is.
    """
    if fcntl.fcntl(STDOUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise WriteError("cannot write standard output: it is closed")


def visible(text: str) -> str:
    """Return text in which control characters other than newline and tab are seen, not obeyed: ``^[``, ``\\x9b``."""
    return _CONTROL.sub(lambda match: _caret(ord(match[0])), text)


def _caret(code: int) -> str:
    return f"\\x{code:02x}" if code >= 0x80 else "^" + chr(code ^ 0x40)


def encode(text: str) -> bytes:
    """Return text as UTF-8, whatever the locale; a file name's undecodable bytes come back as they were."""
    return text.encode("utf-8", "surrogateescape")


def show_error(text: str) -> None:
    """Write text to standard error in visible form; nothing can be done if that fails."""
    try:
        write_all(STDERR, visible(text).encode("utf-8", "backslashreplace"))
    except (WriteError, BrokenPipeError):
        pass


def say(message: str, hint: str | None = None) -> None:
    """Write ``program: message`` to standard error, and the hint as a line of its own."""
    lines = [f"{_program}: {message}"] + ([hint] if hint else [])
    show_error("".join(" ".join(line.splitlines()) + "\n" for line in lines))


def patience() -> float:
    """Return for how many seconds a wait may stay unannounced: cron mails every line, a person wonders."""
    return 2.0 if os.isatty(STDERR) else 60.0


class waiting:
    """Announce ``message`` on standard error if the block lasts longer than :func:`patience`."""

    def __init__(self, message: str) -> None:
        self._timer = threading.Timer(patience(), say, (message,))
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._timer.cancel()


class Printer:
    """Standard output as the answer sees it: text as it arrives, and one newline at the end if it has none.

    ``printed`` is true once a byte may have left.
    """

    def __init__(self, descriptor: int = STDOUT) -> None:
        self._descriptor = descriptor
        self._terminal = os.isatty(descriptor)
        self._newline = True
        self.printed = False

    def write(self, text: str) -> None:
        """Write text; on a terminal control characters are shown."""
        if text:
            self.printed = True
            self._newline = text.endswith("\n")
            try:
                write_all(self._descriptor, encode(visible(text) if self._terminal else text))
            except (WriteError, BrokenPipeError):
                self._newline = True  # for end, which is to write nothing more; not so after a signal
                raise

    def end(self) -> bool:
        """End the last line, if anything was printed and it is open; return whether it was."""
        was_open = not self._newline
        if was_open:
            self.write("\n")
        return was_open


def print_text(text: str) -> None:
    """Write a whole text to standard output as an answer is written."""
    printer = Printer()
    printer.write(text)
    printer.end()


def print_json(value: object) -> None:
    """Write JSON as one line to standard output."""
    print_text(compact(value))


class Target:
    """A file named by the user for ``-o`` or ``--meta``: tried when made, changed by :meth:`write` only.

    ``-``, ``/dev/stdout``, ``/dev/stderr`` and ``/dev/fd/N`` mean that descriptor, without truncation. What exists
    and is no regular file is written to directly, a terminal in visible form; a regular file is replaced by rename and
    keeps its mode.

    :raises WriteError: if it cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        try:
            self._try()
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> WriteError:
        return WriteError(f"cannot write {self._path or repr(self._path)}: {error.strerror}")

    def _try(self) -> None:
        if not self._path:  # realpath would take it for the folder this runs in
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        number = _descriptor_number(self._path)
        if number is not None:
            self._descriptor = os.dup(number)
            if fcntl.fcntl(self._descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return
        self._path = os.path.realpath(self._path)
        try:
            mode = os.stat(self._path).st_mode
        except FileNotFoundError:
            _check_folder(self._path)
            return
        if stat.S_ISREG(mode):
            os.close(os.open(self._path, os.O_WRONLY))
            _check_folder(self._path)
        else:
            with waiting(f"waiting until {self._path} is opened to be read"):  # as opening a FIFO does
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_NOCTTY)

    def write(self, data: bytes) -> None:
        """Make ``data`` the content: all of it, or on failure nothing.

        :raises WriteError: if that fails; :raises BrokenPipeError: if a pipe's reader is gone.
        """
        if self._descriptor is not None:
            if os.isatty(self._descriptor):
                data = encode(visible(data.decode("utf-8", "surrogateescape")))
            write_all(self._descriptor, data, self._path)
            return
        try:
            replace(self._path, data)
        except OSError as error:
            raise self._failure(error) from error


def _descriptor_number(path: str) -> int | None:
    if path in ("-", "/dev/stdout"):
        return STDOUT
    if path == "/dev/stderr":
        return STDERR
    match = re.fullmatch(r"/dev/fd/(\d+)|/proc/self/fd/(\d+)", path)
    return min(int(match[1] or match[2]), _LARGEST_DESCRIPTOR) if match else None


def _check_folder(path: str) -> None:
    """See that a file can be put at the path, as :func:`replace` does.

    :raises OSError: if not.
    """
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
