"""Writing: every byte to a descriptor, text that cannot drive a terminal, files that change only when complete."""

from __future__ import annotations

import fcntl
import os
import re
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from gptpipe.console import sigpipe
from gptpipe.errors import WriteError

STDIN = 0
STDOUT = 1
STDERR = 2
_NAMES = {STDOUT: "standard output", STDERR: "standard error"}

# Control characters, and bytes of file names that are not UTF-8, which Python keeps as U+DC80 to U+DCFF.
_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\udc80-\udcff]"
_program = "gptpipe"
_above: Callable[[], AbstractContextManager[None]] = nullcontext
_open_lines: set[int] = set()  # of standard output and standard error, those whose last line has not ended


class Lost(WriteError):
    """Standard output cannot be written: every further answer would be paid for and lost."""


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
    :raises WriteError: for every other error; for one of standard output it is a Lost.
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
            kind = Lost if descriptor == STDOUT else WriteError
            raise kind(f"cannot write {name or _NAMES.get(descriptor)}: {error.strerror}") from error


def check_stdout() -> None:
    """Raise WriteError if standard output is closed. Call this before anything is asked."""
    if fcntl.fcntl(STDOUT, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise WriteError("cannot write standard output: it is closed")


def visible(text: str) -> str:
    """Return text with visible control characters, ``^[`` and ``\\x9b``; newline and tab stay."""
    return re.sub(_CONTROL, lambda match: _caret(ord(match[0])), text)


def _caret(code: int) -> str:
    return f"\\x{code & 0xFF:02x}" if code >= 0x80 else "^" + chr(code ^ 0x40)


def encode(text: str) -> bytes:
    """Return text as UTF-8, whatever the locale; a file name's undecodable bytes come back as they were."""
    return text.encode("utf-8", "surrogateescape")


def show_error(text: str) -> None:
    """Write text to standard error in visible form. A failure is ignored: there is nowhere to report it."""
    with suppress(WriteError, BrokenPipeError):
        write_all(STDERR, visible(text).encode("utf-8", "backslashreplace"))


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
    is_first = first.acquire(blocking=False)
    try:
        with waiting(message) if is_first else nullcontext():
            yield
    finally:
        if is_first:
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
    """Write a whole text to standard output at once, with a newline at its end."""
    if text:
        Printer().write(text.removesuffix("\n") + "\n")


def print_json(value: object) -> None:
    """Write JSON as one line to standard output."""
    from gptpipe.text.strict_json import compact  # most calls print none

    print_text(compact(value))
