"""Failures and exit statuses: the one table that every program obeys.

Small numbers speak of the answer, the BSD ``sysexits`` numbers of the run (``os.EX_*``; systemd knows
them by name). A published number keeps its meaning for ever. ``gptpipe(1)`` prints this table as EXIT STATUS.
"""

from __future__ import annotations

from enum import IntEnum
from errno import EMFILE, ENFILE
from signal import SIGPIPE
from typing import ClassVar


def clause(words: object) -> str:
    """Return a library's sentence as our messages have it: no capital at the start, no full stop at the end.

    A word in capitals stays, such as EOF.
    """
    text = str(words).strip().rstrip(".")
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


class Status(IntEnum):
    """What a program ends with."""

    OK = 0
    BUG = 1
    USAGE = 2
    TRUNCATED = 3
    REFUSED = 4
    ABSENT = 5
    LIMIT = 6
    DATAERR = 65
    NOINPUT = 66
    UNAVAILABLE = 69
    IOERR = 74
    TEMPFAIL = 75
    PROTOCOL = 76
    NOPERM = 77
    CONFIG = 78


class Failure(Exception):
    """The end of a run, or of one of its records, with a status of its own.

    ``message`` is one line, lower case, without a full stop; ``hint``, if given, is a second line that says
    what to do about it. Both may quote others, so control characters are made visible when they are printed.
    A class below this one names its ``status``, or has that of the class above it.
    """

    status: ClassVar[Status] = Status.BUG

    def __init_subclass__(cls, *, status: Status | None = None) -> None:
        cls.status = cls.status if status is None else status

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(Failure, status=Status.USAGE):
    """The command line does not make sense."""


class Truncated(Failure, status=Status.TRUNCATED):
    """The answer reached a length limit."""


class Refused(Failure, status=Status.REFUSED):
    """The model or a filter refused; the message is the refusal."""


class Absent(Failure, status=Status.ABSENT):
    """The answer is complete, but what was asked for is not in it."""


class OverLimit(Failure, status=Status.LIMIT):
    """A limit of the user's own was reached."""


class BadInput(Failure, status=Status.DATAERR):
    """The input is not text, or too large, or a record that the API rejects."""


class NoInput(Failure, status=Status.NOINPUT):
    """A file, role, session or stored answer that is not there."""


class Unavailable(Failure, status=Status.UNAVAILABLE):
    """The API refused the request itself: asking again will not help.

    ``every`` says whether it would refuse every other request too: an unknown model, no quota left.
    """

    def __init__(self, message: str, hint: str | None = None, *, every: bool = True) -> None:
        super().__init__(message, hint)
        self.every = every


class WriteError(Failure, status=Status.IOERR):
    """The output or the session could not be written."""


class Temporary(Failure, status=Status.TEMPFAIL):
    """A failure that may pass: later the same call may work.

    ``retry_after`` is what the server asked for, in seconds; ``repeat`` says whether trying again at once is
    safe (it is not when the work may already have been done and paid for). ``busy`` says that the server wants
    fewer requests, so that a map should hold all of its own; ``away`` that no server is there, or none is ready.
    """

    def __init__(
        self, message: str, hint: str | None = None, *, repeat: bool = False, busy: bool = False, away: bool = False
    ) -> None:
        super().__init__(message, hint)
        self.repeat = repeat
        self.busy = busy
        self.away = away
        self.retry_after: float | None = None


class ProtocolError(Failure, status=Status.PROTOCOL):
    """The reply does not follow the protocol."""


class KeyRefused(Failure, status=Status.NOPERM):
    """The server refused the key."""


class ConfigError(Failure, status=Status.CONFIG):
    """No key, or a faulty config, role, schema or certificate."""


class Interrupted(BaseException):
    """A signal asked the run to end; the program settles what is open and dies of ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def exhausted(error: BaseException) -> Temporary | None:
    """Return the failure for an error that says: no more threads, processes or files. None for other errors."""
    if isinstance(error, RuntimeError) and str(error) == "can't start new thread":
        return Temporary("no more threads can be started", "a limit on processes is reached: ulimit -u, or TasksMax=")
    if isinstance(error, BlockingIOError):
        return Temporary("no more processes can be started", "a limit on processes is reached: ulimit -u, or TasksMax=")
    if isinstance(error, OSError) and error.errno in (EMFILE, ENFILE):
        return Temporary("no more files can be opened", "a limit is reached: ulimit -n")
    return None


def status_of(ending: BaseException | None) -> int:
    """Return the status of a run, or of a request, that ended by this exception; as a shell shows it for a signal."""
    match ending:
        case None:
            return Status.OK
        case Failure():
            return ending.status
        case Interrupted():
            return 128 + ending.signum
        case BrokenPipeError():
            return 128 + SIGPIPE
    return Status.BUG
