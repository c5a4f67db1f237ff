"""What requests cost: a line for each, a file for each day, and the budgets that are kept by them.

The folder holds ``YYYY-MM-DD.jsonl`` (local date), and two files that can be made again from what they sum up:
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from gptpipe.console.output import replace
from gptpipe.errors import NoInput, OverLimit, WriteError
from gptpipe.message import compact, counts
from gptpipe.storage import failing, forward, make_folder, open_regular

_DAY_FILE = re.compile(r"(\d{4}-\d{2}-\d{2})\.jsonl", re.ASCII)
_WORTH_KEEPING = 1 << 16  # bytes of today's lines that are summed anew by each call, before the sum is kept
_MOST = 10**15
_ANYWAY = "--over-budget asks all the same"

GROUPS = ("day", "model", "session", "program")

Budget = Mapping[str, float | None]  # day_tokens, month_tokens, day_usd, month_usd; None is no limit


class Entry(NamedTuple):
    """One request. ``at`` is UTC, ``seconds`` how long it took, ``status`` what it ended with.

    ``input`` and ``output`` are tokens; ``cached`` are among the first, ``reasoning`` among the second.
    ``estimated`` says that the server counted nothing. ``usd`` is there if a budget in USD was set.
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
    usd: float | None = None


class Account(NamedTuple):
    """In whose name a request is entered."""

    program: str
    profile: str | None
    model: str
    session: str | None = None


def counted(
    usage: Mapping[str, Any] | None, estimate: tuple[int, int], account: Account, seconds: float, status: int
) -> Entry:
    """Return the entry of a request that ends now, by the server's ``usage``, or if it gave none by the estimate.

    ``estimate`` are the tokens of prompt and answer.
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


def append(directory: Path, entry: Entry) -> None:
    """Add an entry to today's file.

    :raises WriteError: if that fails.
    """
    with closing(Log(directory)) as log:
        log.append(entry)


class Log:
    """Today's file, which stays open from one entry to the next. Several threads may use it at once."""

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
            path = _today(self._directory)
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
        """See that the file of the day is open, and return its status."""
        if self._descriptor >= 0:
            status = os.fstat(self._descriptor)
            if path == self._path and status.st_nlink and status.st_size >= self._end:
                return status
            self.close()
        self._path, self._descriptor = path, _open(path)
        return os.fstat(self._descriptor)

    def close(self) -> None:
        """Close the file; the next entry opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self._end = -1, 0


def _today(directory: Path) -> Path:
    return directory / "{:04}-{:02}-{:02}.jsonl".format(*_date())


def _date() -> tuple[int, int, int]:
    """Return year, month and day here and now."""
    return time.localtime()[:3]


def _open(path: Path) -> int:
    make_folder(path.parent)
    return open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)


def read(directory: Path, since: str = "", warn: Callable[[str], None] = lambda _: None) -> Iterator[tuple[str, Entry]]:
    """Yield day and entry of each request, oldest day first, from the day ``since`` on (``YYYY-MM-DD``).

    A damaged line is skipped, and ``warn`` told its file and byte; a file whose name is no date is none of ours.

    :raises NoInput: if a file cannot be read.
    """
    for day, path in _days(directory):
        if day >= since and is_date(day):
            yield from ((day, entry) for entry in _entries(path, warn))


def is_date(text: str) -> bool:
    """Return whether a text is a day of the calendar, ``YYYY-MM-DD``."""
    from datetime import date  # what a call with a budget does without

    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _days(directory: Path) -> list[tuple[str, Path]]:
    with failing(NoInput, f"cannot read {directory}"):
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return []
    return sorted((match[1], directory / name) for name in names if (match := _DAY_FILE.fullmatch(name)))


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
    """Return the entry in a line; keys that are not known are ignored.

    :raises ValueError: TypeError: if it is damaged.
    """
    value = json.loads(line)
    if not isinstance(value, dict):
        raise TypeError
    from datetime import datetime  # only whoever prints a table reads whole entries

    entry = Entry(**{key: item for key, item in value.items() if key in Entry._fields})
    for number in (entry.input, entry.output, entry.cached, entry.reasoning, entry.seconds, entry.usd or 0):
        _sound(number)
    "".join((entry.program, entry.model, entry.profile or "", entry.session or "")).encode()
    datetime.fromisoformat(entry.at)
    return entry


def _sound(number: Any) -> int | float:
    """Return a number that can be added to others.

    :raises ValueError: if it is none: negative, not finite, or larger than what any request uses.
    """
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= _MOST:
        raise ValueError
    return number


class Row(NamedTuple):
    """What the requests of one group came to. ``usd`` is None if no request's price is known.

    ``unpriced`` counts the requests with tokens of which no price is known: they are not in ``usd``.
    """

    group: str
    requests: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    seconds: float = 0.0
    usd: float | None = None
    unpriced: int = 0


def table(
    entries: Iterable[tuple[str, Entry]], by: str, price: Callable[[Entry], float | None] = lambda _: None
) -> list[Row]:
    """Return a row for each day, model, session or program, in order of its name.

    ``price`` is asked for the USD of a request of which the line does not say them.
    """
    rows: dict[str, Row] = {}
    for day, entry in entries:
        group = day if by == "day" else getattr(entry, by) or ""
        rows[group] = _added(rows.get(group, Row(group)), entry, price)
    return [rows[group] for group in sorted(rows)]


def total(rows: Iterable[Row]) -> Row:
    """Return the sum of rows, as the group ``total``."""
    result = Row("total")
    for row in rows:
        usd = result.usd if row.usd is None else (result.usd or 0.0) + row.usd
        sums = {name: getattr(result, name) + getattr(row, name) for name in _SUMMED}
        result = result._replace(usd=usd, **sums)
    return result


_SUMMED = ("requests", "input", "output", "cached", "reasoning", "seconds", "unpriced")


def _added(row: Row, entry: Entry, price: Callable[[Entry], float | None]) -> Row:
    free = not entry.input and not entry.output
    usd = entry.usd if entry.usd is not None or free else price(entry)
    return Row(
        row.group,
        row.requests + 1,
        row.input + entry.input,
        row.output + entry.output,
        row.cached + entry.cached,
        row.reasoning + entry.reasoning,
        round(row.seconds + entry.seconds, 3),
        row.usd if usd is None else (row.usd or 0.0) + usd,
        row.unpriced + (usd is None and not free),
    )


class _Sum(NamedTuple):
    """What the first ``size`` bytes of a day's file come to."""

    size: int = 0
    tokens: int = 0
    usd: float = 0.0


def check(directory: Path, budget: Budget) -> None:
    """See that no budget is used up, and that what will be spent can be entered.

    Requests without a price in their line count as nothing in a budget in USD.

    :raises OverLimit: if one is: names it and says when it ends.
    :raises WriteError: if today's file cannot be written; NoInput: if a file cannot be read.
    """
    limits = {name: limit for name, limit in budget.items() if limit is not None}
    if not limits:
        return
    path = _today(directory)
    with failing(WriteError, f"cannot write {path}, and a budget is set"):
        os.close(_open(path))
    today = path.stem
    days = _spent(directory, today)
    for name, limit in limits.items():
        period, unit = name.split("_")
        used = sum(getattr(sums, unit) for day, sums in days.items() if period == "month" or day == today)
        if used >= limit:
            raise OverLimit(f"{name} = {_amount(limit)} is used up ({_amount(used)}); it ends {_end(period)}", _ANYWAY)


def _amount(number: float) -> str:
    return f"{number:.4f}".rstrip("0").rstrip(".") if isinstance(number, float) else str(number)


def _end(period: str) -> str:
    year, month, day = _date()
    year, month, day = (year, month, day + 1) if period == "day" else (year, month + 1, 1)
    return time.strftime("on %Y-%m-%d at 00:00", time.localtime(time.mktime((year, month, day, 0, 0, 0, 0, 0, -1))))


def _spent(directory: Path, today: str) -> dict[str, _Sum]:
    """Return what was spent on each day of today's month; only bytes that no kept sum holds are read."""
    kept = _kept_sums(directory)
    sums: dict[str, _Sum] = {}
    for day, path in _days(directory):
        if day[:7] == today[:7]:
            sums[day] = _continued(path, kept.get(day, _Sum()))
    grown = {day: sums[day].size - kept.get(day, _Sum()).size for day in sums}
    if any(not 0 <= more <= (_WORTH_KEEPING if day == today else 0) for day, more in grown.items()):
        with suppress(OSError):  # they are summed anew the next time
            replace(str(directory / "sums.json"), compact(sums).encode(), 0o600)
    return sums


def _kept_sums(directory: Path) -> dict[str, _Sum]:
    value = _read_json(directory / "sums.json")
    try:
        return {
            day: _Sum(int(_sound(size)), int(_sound(tokens)), _sound(usd)) for day, (size, tokens, usd) in value.items()
        }
    except (AttributeError, TypeError, ValueError):
        return {}


def _read_json(path: Path) -> Any:
    """Return what a file holds that can be made again, or None."""
    try:
        with open(open_regular(path, os.O_RDONLY), "rb") as file:
            return json.loads(file.read())
    except (OSError, WriteError, ValueError, RecursionError):
        return None


def _continued(path: Path, known: _Sum) -> _Sum:
    """Return the sum of a day's whole lines, of which the first are known; all over again if the file is shorter."""
    with failing(NoInput, f"cannot read {path}"):
        fd = open_regular(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            if size < known.size:
                known = _Sum()
            data = os.pread(fd, size - known.size, known.size)
        finally:
            os.close(fd)
    data = data[: data.rfind(b"\n") + 1]
    tokens, usd = known.tokens, known.usd
    for line in data.split(b"\n"):
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):  # a damaged line
            value = json.loads(line)
            both = int(_sound(value["input"]) + _sound(value["output"]))
            price = _sound(value.get("usd") or 0)
            tokens, usd = tokens + both, usd + price
    return _Sum(known.size + len(data), tokens, usd)


def check_price(directory: Path, budget: Budget, profile: str | None, model: str, known: Callable[[], bool]) -> None:
    """See that the model has a price, if a budget in USD is set.

    ``known`` finds that out, and is asked once for a model that has one: it may import a library to do so.

    :raises OverLimit: if it has none.
    """
    if budget.get("day_usd") is None and budget.get("month_usd") is None:
        return
    path = directory / "priced.json"
    priced = _read_json(path)
    priced = priced if isinstance(priced, list) else []
    if [profile, model] in priced:
        return
    if not known():
        raise OverLimit(
            f"the price of {model} is not known, and a budget in USD is set",
            f"[prices] in the settings file can give it; {_ANYWAY}",
        )
    with suppress(OSError):  # it is asked again the next time
        make_folder(directory)
        replace(str(path), compact([*priced, [profile, model]]).encode(), 0o600)
