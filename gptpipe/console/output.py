"""Writing: every byte to a descriptor, text that cannot drive a terminal, files that change only when complete."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from gptpipe.console import sigpipe
from gptpipe.errors import WriteError
from gptpipe.storage import beside, overwrite

STDIN = 0
STDOUT = 1
STDERR = 2
_LARGEST_DESCRIPTOR = 2**31 - 1  # what the system's calls take
_NAMES = {STDOUT: "standard output", STDERR: "standard error"}

# Control characters, and bytes of file names that are not UTF-8, which Python keeps as U+DC80 to U+DCFF.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\udc80-\udcff]")
_program = "gptpipe"
_above: Callable[[], AbstractContextManager[None]] = nullcontext
_open_lines: set[int] = set()  # of standard output and standard error, those whose last line has not ended


def named(program: str) -> None:
    """Set the name that begins every line on standard error."""
    global _program
    _program = program


def write_above(hidden: Callable[[], AbstractContextManager[None]]) -> None:
    """Write each message while the context that ``hidden`` returns is open: a bar stands below the messages."""
    global _above
    _above = hidden


def write_all(descriptor: int, data: bytes, name: str | None = None) -> None:
    """Write all of ``data``. Goes on after a short count, and waits for a full non-blocking pipe.

    ``name`` is what a failure calls the descriptor.

    :raises BrokenPipeError: when the reader is gone, unless SIGPIPE was ignored at the start.
    :raises WriteError: for every other error.
    """
    if data and descriptor in _NAMES:
        (_open_lines.discard if data.endswith(b"\n") else _open_lines.add)(descriptor)
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError as error:
            if isinstance(error, BrokenPipeError) and not sigpipe.was_ignored():
                raise
            raise WriteError(f"cannot write {name or _NAMES.get(descriptor)}: {error.strerror}") from error


def check_stdout() -> None:
    """Raise a failure if standard output is closed. Call this before anything is asked.

    :raises WriteError: if it is.
    """
    if fcntl.fcntl(STDOUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise WriteError("cannot write standard output: it is closed")


def visible(text: str) -> str:
    """Return text with visible control characters, ``^[`` and ``\\x9b``; newline and tab stay."""
    return _CONTROL.sub(lambda match: _caret(ord(match[0])), text)


def _caret(code: int) -> str:
    return f"\\x{code & 0xFF:02x}" if code >= 0x80 else "^" + chr(code ^ 0x40)


def encode(text: str) -> bytes:
    """Return text as UTF-8, whatever the locale; a file name's undecodable bytes come back as they were."""
    return text.encode("utf-8", "surrogateescape")


def show_error(text: str) -> None:
    """Write text to standard error in visible form. A failure is ignored: there is nowhere to report it."""
    try:
        write_all(STDERR, visible(text).encode("utf-8", "backslashreplace"))
    except (WriteError, BrokenPipeError):
        pass


def silent(_: str) -> None:
    """Say nothing: for those who take a function that says."""


def say(message: str, hint: str | None = None) -> None:
    """Write ``program: message`` to standard error, and the hint as a line of its own."""
    lines = [f"{_program}: {message}"] + ([hint] if hint else [])
    text = "".join(" ".join(line.splitlines()) + "\n" for line in lines)
    with _above():
        show_error(_ended_line() + text)


def _ended_line() -> str:
    """Return a newline if a message needs one to begin on a line of its own, else nothing.

    It needs one if the last line there has not ended. If standard output is the same file, its last line counts too."""
    shared = STDOUT in _open_lines and os.path.samestat(os.fstat(STDOUT), os.fstat(STDERR))
    if not shared and STDERR not in _open_lines:
        return ""
    _open_lines.clear()
    return "\n"


def prompt(question: str) -> bytes:
    """Ask a question on standard error and return the line that is typed on standard input."""
    show_error(question)
    line = os.read(STDIN, 1024)
    _open_lines.discard(STDERR)  # by the Return that was typed
    return line


def patience() -> float:
    """Return after how many seconds a wait is announced. Cron mails every line; a person begins to wonder."""
    return 2.0 if os.isatty(STDERR) else 60.0


@contextmanager
def waiting(message: str) -> Iterator[None]:
    """Announce ``message`` on standard error if the block lasts longer than :func:`patience`."""
    timer = threading.Timer(patience(), say, (message,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def waiting_together(message: str, first: threading.Lock) -> Iterator[None]:
    """Announce a wait as :func:`waiting` does; of several that share the lock ``first``, only the first."""
    if not first.acquire(blocking=False):
        yield
        return
    try:
        with waiting(message):
            yield
    finally:
        first.release()


def waiting_for(path: str, what: str = "to end") -> AbstractContextManager[None]:
    """Announce the wait for a file as :func:`waiting` does: only a pipe or a device keeps one waiting."""
    return nullcontext() if os.path.isfile(path) else waiting(f"waiting for {path} {what}: --max-time bounds it")


class Printer:
    """Writes an answer to standard output as it arrives, and one newline at the end if it has none.

    ``styled`` turns text into what a terminal shows, after control characters were made visible. ``printed`` is true
    once a byte may have left.
    """

    def __init__(self, descriptor: int = STDOUT, styled: Callable[[str], str] = str) -> None:
        self._descriptor = descriptor
        self._styled = styled
        self._terminal = os.isatty(descriptor)
        self._newline = True
        self.printed = False

    def write(self, text: str) -> None:
        """Write text; on a terminal control characters are shown."""
        if text:
            self.printed = True
            self._newline = text.endswith("\n")
            try:
                write_all(self._descriptor, encode(self._styled(visible(text)) if self._terminal else text))
            except (WriteError, BrokenPipeError):
                self._newline = True  # so that end writes nothing more; after a signal it does
                raise

    def end(self) -> bool:
        """End the last line, if anything was printed and it is open; return whether it was."""
        was_open = not self._newline and (self._descriptor not in _NAMES or self._descriptor in _open_lines)
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
    from gptpipe.text.strict_json import compact  # most calls print none

    print_text(compact(value))


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
        try:
            self._descriptor = self._opened()
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> WriteError:
        return WriteError(f"cannot write {self._name or repr(self._name)}: {error.strerror}")

    def _opened(self) -> int | None:
        """Return the descriptor to write to, or None for a regular file that can be written.

        :raises OSError: if it cannot be written.
        """
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
                overwrite(self._path, lambda: [data])
                return
            shown = encode(visible(data.decode("utf-8", "surrogateescape"))) if os.isatty(self._descriptor) else data
            write_all(self._descriptor, shown, self._name)
        except BrokenPipeError:
            raise
        except WriteError as failure:
            raise WriteError(failure.message, _rescued(data)) from failure
        except OSError as error:
            raise WriteError(self._failure(error).message, _rescued(data)) from error


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
    if path in ("-", "/dev/stdout"):
        return STDOUT
    if path == "/dev/stderr":
        return STDERR
    match = re.fullmatch(r"/dev/fd/(\d+)|/proc/self/fd/(\d+)", path)
    return min(int(match[1] or match[2]), _LARGEST_DESCRIPTOR) if match else None
