"""Budgets: whether a day's or a month's tokens or dollars are used up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gptpipe.errors import NoInput, OverLimit, WriteError
from gptpipe.settings.settings import Budget, Paths, Settings
from gptpipe.storage import failing, make_folder, open_regular, replace
from gptpipe.text.address import stored
from gptpipe.text.strict_json import compact
from gptpipe.usage.ledger import days, open_log, read_json, sound, today_as_numbers, todays_file

_WORTH_KEEPING = 1 << 16  # bytes of today's lines that are summed anew by each call, before the sum is kept
_ANYWAY = "--over-budget asks all the same"


class _Sum(NamedTuple):
    """The sums over the first ``size`` bytes of a day's file."""

    size: int = 0
    tokens: int = 0
    usd: float = 0.0


def require_left(directory: Path, budget: Budget) -> None:
    """Raise a failure if a budget is used up, or if usage cannot be booked.

    Requests without a price in their line count as nothing in a budget in USD.

    :raises OverLimit: if one is; the message names it and says when it ends.
    :raises WriteError: if today's file cannot be written; NoInput: if a file cannot be read.
    """
    limits = {name: limit for name, limit in budget._asdict().items() if limit is not None}
    if not limits:
        return
    path = todays_file(directory)
    with failing(WriteError, f"cannot write {path}, and a budget is set"):
        os.close(open_log(path))
    today = path.stem
    spent = _spent(directory, today)
    for name, limit in limits.items():
        period, unit = name.split("_")
        used = sum(getattr(sums, unit) for day, sums in spent.items() if period == "month" or day == today)
        if used >= limit:
            raise OverLimit(f"{name} = {_amount(limit)} is used up ({_amount(used)}); it ends {_end(period)}", _ANYWAY)


def _amount(number: float) -> str:
    return f"{number:.4f}".rstrip("0").rstrip(".") if isinstance(number, float) else str(number)


def _end(period: str) -> str:
    year, month, day = today_as_numbers()
    year, month, day = (year, month, day + 1) if period == "day" else (year, month + 1, 1)
    return time.strftime("on %Y-%m-%d at 00:00", time.localtime(time.mktime((year, month, day, 0, 0, 0, 0, 0, -1))))


def _spent(directory: Path, today: str) -> dict[str, _Sum]:
    """Return what was spent on each day of this month. Only bytes behind the kept sums are read."""
    kept = _kept_sums(directory)
    sums: dict[str, _Sum] = {}
    for day, path in days(directory):
        if day[:7] == today[:7]:
            sums[day] = _continued(path, kept.get(day, _Sum()))
    grown = {day: sums[day].size - kept.get(day, _Sum()).size for day in sums}
    if any(not 0 <= more <= (_WORTH_KEEPING if day == today else 0) for day, more in grown.items()):
        with suppress(OSError):  # they are summed anew the next time
            replace(directory / "sums.json", compact(sums).encode())
    return sums


def _kept_sums(directory: Path) -> dict[str, _Sum]:
    value = read_json(directory / "sums.json")
    try:
        return {
            day: _Sum(int(sound(size)), int(sound(tokens)), sound(usd)) for day, (size, tokens, usd) in value.items()
        }
    except (AttributeError, TypeError, ValueError):
        return {}


def _continued(path: Path, known: _Sum) -> _Sum:
    """Return the sum over a day's lines. Only bytes behind the known sum are read, all if the file became shorter."""
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
            both = int(sound(value["input"]) + sound(value["output"]))
            price = sound(value.get("usd") or 0)
            tokens, usd = tokens + both, usd + price
    return _Sum(known.size + len(data), tokens, usd)


def require_price(directory: Path, settings: Settings, known: Callable[[], bool]) -> None:
    """Raise a failure if a budget in USD is set and the price of the settings' model is not known.

    ``known`` looks the price up. A price that was found is not looked up again, since that imports a library.

    :raises OverLimit: if it is not known.
    """
    if not settings.budget.in_usd:
        return
    path = directory / "priced.json"
    priced = read_json(path)
    priced = priced if isinstance(priced, list) else []
    asked = [settings.base_url and stored(settings.base_url), settings.model, settings.params.get("service_tier")]
    if asked in priced:
        return
    if not known():
        raise OverLimit(
            f"the price of {settings.model} is not known, and a budget in USD is set",
            f"[prices] in the settings file can give it; {_ANYWAY}",
        )
    with suppress(OSError):  # it is asked again the next time
        make_folder(directory)
        replace(path, compact([*priced, asked]).encode())


def check_budget(settings: Settings, paths: Paths, *, over: bool) -> None:
    """Raise a failure if a budget is used up, unless ``over`` allows it. Nothing is imported for it.

    The built-in model costs nothing, so it spends no budget.

    :raises OverLimit: if one is.
    :raises WriteError: if a budget is set, and usage cannot be booked.
    """
    if settings.base_url is None:
        return
    try:
        require_left(paths.usage, settings.budget)
    except OverLimit:
        if not over:
            raise
