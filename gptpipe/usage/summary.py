"""Usage summed up: by day, model, session or program."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import NamedTuple

from gptpipe.usage.ledger import Entry

GROUPS = ("day", "model", "session", "program")


class Row(NamedTuple):
    """The sums over the requests of one group. ``usd`` is None if no request's price is known.

    ``unpriced`` counts the requests whose model has no known price: their tokens are not in ``usd``.
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

    ``price`` returns the USD of a request whose line does not have them.
    """
    rows: dict[str, Row] = {}
    for day, entry in entries:
        group = day if by == "day" else getattr(entry, by) or ""
        rows[group] = _sum(rows.get(group, Row(group)), _row(entry, price))
    return [rows[group] for group in sorted(rows)]


def total(rows: Iterable[Row]) -> Row:
    """Return the sum of rows, as the group ``total``."""
    return reduce(_sum, rows, Row("total"))


_SUMMED = ("requests", "input", "output", "cached", "reasoning", "seconds", "unpriced")


def _sum(one: Row, other: Row) -> Row:
    """Return the first row with the numbers of the other added."""
    usd = one.usd if other.usd is None else (one.usd or 0.0) + other.usd
    return one._replace(usd=usd, **{name: round(getattr(one, name) + getattr(other, name), 3) for name in _SUMMED})


def _row(entry: Entry, price: Callable[[Entry], float | None]) -> Row:
    free = not entry.input and not entry.output
    usd = entry.usd if entry.usd is not None or free else price(entry)
    tokens = (entry.input, entry.output, entry.cached, entry.reasoning)
    return Row("", 1, *tokens, entry.seconds, usd, int(usd is None and not free))
