"""The usage of requests: a line for each, a file for each day.

The folder holds ``YYYY-MM-DD.jsonl`` (local date), and two files that are made again if they are removed:
``sums.json``, what a day's file held up to a byte, and ``priced.json``, the models whose price is known. Lines are
appended without a lock and without waiting for the disk: each is one write, which the system does not mix with
others. The format is specified in gptpipe-usage(1).
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from gptpipe.errors import NoInput, WriteError
from gptpipe.message import counts
from gptpipe.settings.settings import Settings
from gptpipe.storage import failing, forward, listed, make_folder, open_regular
from gptpipe.text.address import stored
from gptpipe.text.strict_json import compact

_DAY_FILE = r"(?a)(\d{4}-\d{2}-\d{2})\.jsonl"
_MOST = 10**15


class Entry(NamedTuple):
    """One request. ``at`` is UTC, ``seconds`` how long it took, ``status`` what it ended with.

    ``input`` and ``output`` are tokens; ``cached`` are among the first, ``reasoning`` among the second.
    ``estimated`` says that the server counted nothing. ``base_url`` is the endpoint that answered, without user,
    password and query. ``usd`` is there if a budget in USD was set.
    """

    at: str
    program: str
    profile: str | None
    model: str
    session: str | None
    input: int
    output: int
    cached: int
    reasoning: int
    seconds: float
    status: int
    estimated: bool = False
    base_url: str | None = None
    service_tier: str | None = None
    usd: float | None = None


class Account(NamedTuple):
    """The names under which the usage of a request is booked."""

    program: str
    profile: str | None
    model: str
    session: str | None = None
    base_url: str | None = None
    service_tier: str | None = None


def account_of(program: str, settings: Settings, session: str | None) -> Account:
    """Return the names under which a call with these settings is booked."""
    tier = settings.params.get("service_tier")
    where = stored(settings.base_url) if settings.base_url else None
    return Account(program, settings.profile, settings.model, session, where, tier if isinstance(tier, str) else None)


def counted(
    usage: Mapping[str, Any] | None, estimate: tuple[int, int], account: Account, seconds: float, status: int
) -> Entry:
    """Return the entry of a request that ends now, by the server's ``usage`` or else by an estimate.

    ``estimate`` holds the tokens of prompt and answer.
    """
    used = counts(usage)
    known = bool(used.input or used.output)
    return Entry(
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **account._asdict(),
        input=used.input if known else estimate[0],
        output=used.output if known else estimate[1],
        cached=used.cached,
        reasoning=used.reasoning,
        seconds=round(seconds, 3),
        status=status,
        estimated=not known,
    )


class Log:
    """Today's file, kept open between entries. Several threads may use it at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = Lock()
        self._path: Path | None = None  # of the file that is open
        self._descriptor = -1
        self._end = 0  # up to here the file is known to hold whole lines

    def append(self, entry: Entry) -> None:
        """Add an entry.

        :raises WriteError: if that fails.
        """
        usual = Entry._field_defaults
        value = {key: item for key, item in entry._asdict().items() if key not in usual or item != usual[key]}
        line = compact(value).encode("utf-8", "replace") + b"\n"
        with self._lock:
            path = todays_file(self._directory)
            with failing(WriteError, f"cannot write {path}"):
                self._write(path, line)

    def _write(self, path: Path, line: bytes) -> None:
        status = self._open(path)
        size = status.st_size
        if size > self._end and os.pread(self._descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # a full disk cut the line before
        if os.write(self._descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._end = size + len(line)

    def _open(self, path: Path) -> os.stat_result:
        """Open the file of the day, if it is not open yet, and return its status."""
        if self._descriptor >= 0:
            status = os.fstat(self._descriptor)
            if path == self._path and status.st_nlink and status.st_size >= self._end:
                return status
            self.close()
        self._path, self._descriptor = path, open_log(path)
        return os.fstat(self._descriptor)

    def close(self) -> None:
        """Close the file; the next entry opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self._end = -1, 0


def todays_file(directory: Path) -> Path:
    """Return the file of today's usage."""
    return _file_of(directory, today_as_numbers())


@lru_cache(1)
def _file_of(directory: Path, date: tuple[int, int, int]) -> Path:
    return directory / "{:04}-{:02}-{:02}.jsonl".format(*date)


def today_as_numbers() -> tuple[int, int, int]:
    """Return year, month and day here and now."""
    return time.localtime()[:3]


def open_log(path: Path) -> int:
    """Open a file of usage to append to it; return its descriptor."""
    make_folder(path.parent)
    return open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)


def read(directory: Path, since: str = "", warn: Callable[[str], None] = lambda _: None) -> Iterator[tuple[str, Entry]]:
    """Yield day and entry of each request, oldest day first, from the day ``since`` on (``YYYY-MM-DD``).

    Skips a damaged line: ``warn`` gets a text that names its file and byte. Ignores a file whose name is not a date.

    :raises NoInput: if a file cannot be read.
    """
    for day, path in days(directory):
        if day >= since and is_date(day):
            yield from ((day, entry) for entry in _entries(path, warn))


def is_date(text: str) -> bool:
    """Return whether a text is a day of the calendar, ``YYYY-MM-DD``."""
    from datetime import date  # a call with a budget does without it

    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def days(directory: Path) -> list[tuple[str, Path]]:
    """Return each day with usage and its file, oldest first."""
    return sorted(
        (match[1], directory / name) for name in listed(directory) if (match := re.fullmatch(_DAY_FILE, name))
    )


def _entries(path: Path, warn: Callable[[str], None]) -> Iterator[Entry]:
    with failing(NoInput, f"cannot read {path}"):
        fd = open_regular(path, os.O_RDONLY)
        try:
            for line in forward(fd):
                try:
                    if line.data:
                        yield _entry(line.data)
                except (ValueError, TypeError, RecursionError):
                    warn(f"{path}: the line at byte {line.offset} is damaged and not counted")
        finally:
            os.close(fd)


def _entry(line: bytes) -> Entry:
    """Return the entry in a line. Unknown keys are ignored.

    :raises ValueError: TypeError: if it is damaged.
    """
    value = json.loads(line)
    if not isinstance(value, dict):
        raise TypeError
    from datetime import datetime  # only a table of usage needs whole entries

    entry = Entry(**{key: item for key, item in value.items() if key in Entry._fields})
    for number in (entry.input, entry.output, entry.cached, entry.reasoning, entry.seconds, entry.usd or 0):
        sound(number)
    "".join((entry.program, entry.model, entry.profile or "", entry.session or "", entry.base_url or "")).encode()
    datetime.fromisoformat(entry.at)
    return entry


def sound(number: Any) -> int | float:
    """Return a number that can be added to others.

    :raises ValueError: if it is negative, not finite, or larger than what any request uses.
    """
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= _MOST:
        raise ValueError
    return number


def read_json(path: Path) -> Any:
    """Return the JSON value that a file holds, or None."""
    try:
        with open(open_regular(path, os.O_RDONLY), "rb") as file:
            return json.loads(file.read())
    except (OSError, WriteError, ValueError, RecursionError):
        return None
