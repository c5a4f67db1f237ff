"""``gptpipe-usage``: what requests used, and what that cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from shutil import get_terminal_size
from typing import Any

import click

from gptpipe.asking.context import Context, here
from gptpipe.console import output
from gptpipe.errors import Status, UsageError
from gptpipe.message import Counts
from gptpipe.programs import options
from gptpipe.programs.cli import Command, option
from gptpipe.settings import settings
from gptpipe.text import table
from gptpipe.text.age import parse_age
from gptpipe.text.strict_json import compact
from gptpipe.usage import ledger, prices, summary
from gptpipe.usage.ledger import Entry
from gptpipe.usage.summary import Row

_HEAD = ("requests", "input", "cached", "output", "reasoning", "seconds", "USD")


@click.command("gptpipe-usage", cls=Command, options_metavar="[OPTION]...")
@option("--by", group="output", type=click.Choice(summary.GROUPS), default="day", help="a row for each (default day)")
@option("--since", group="output", metavar="DATE", help="from this day on, YYYY-MM-DD, or an age: 7d, 4w")
@option("--json", group="output", is_flag=True, help="print each row as JSON")
@option("--plot", group="output", is_flag=True, help="draw a bar of tokens for each row")
@options.config
def command(by: str, since: str | None, plot: bool, **values: Any) -> int:
    """Print what requests used: tokens, time, and US dollars.

    Prices are those of today's tables, or of [prices] in the settings file. The manual is gptpipe-usage(1).
    """
    if plot and values["json"]:
        raise UsageError("--plot and --json exclude each other")
    output.check_stdout()
    context = here("gptpipe-usage", values)
    entries = ledger.read(context.paths.usage, _first_day(since), output.say)
    rows = summary.table(entries, by, _price(context))
    if values["json"]:
        output.print_text("".join(f"{compact(_object(by, row))}\n" for row in rows))
    elif plot:
        output.print_text(_plot(_every_day(rows, _first_day(since)) if by == "day" else rows))
    else:
        output.print_text(_table(by, rows))
    return Status.OK


def _first_day(since: str | None) -> str:
    """Return the first day to show, in local time."""
    if since is None or ledger.is_date(since):
        return since or ""
    try:
        age = parse_age(since)
    except UsageError:
        raise UsageError(
            f"{since!r} is neither a date nor an age", "--since takes YYYY-MM-DD, or an age such as 7d"
        ) from None
    return time.strftime("%Y-%m-%d", time.localtime(time.time() - age))


def _price(context: Context) -> Callable[[Entry], float | None]:
    """Return the function that prices a request whose line has no price."""
    own = settings.own_prices(context.config)

    def price(entry: Entry) -> float | None:
        used = Counts(entry.input, entry.output, entry.cached, entry.reasoning)
        base_url = entry.base_url or settings.profile_table(entry.profile, context.config).get("base_url")
        return prices.price(entry.model, used, base_url, own, entry.at, entry.service_tier)

    return price


def _object(by: str, row: Row) -> dict[str, Any]:
    return {by: row.group, **{key: value for key, value in row._asdict().items() if key != "group"}}


def _usd(row: Row) -> str:
    """Return the cost as text, with a + if some requests have no known price."""
    if row.usd is None:
        return "?" if row.unpriced else "-"
    return f"{row.usd:.4f}{'+' if row.unpriced else ''}"


def _cells(row: Row, number: Callable[[float], str]) -> tuple[str, ...]:
    numbers = (row.requests, row.input, row.cached, row.output, row.reasoning)
    seconds = f"{row.seconds:.1f}" if number is str else number(row.seconds)
    return (row.group or "-", *map(number, numbers), seconds, _usd(row))


def _table(by: str, rows: Sequence[Row]) -> str:
    """Return the table as wide as the terminal at most: long numbers are rounded, and then the groups cut."""
    width = get_terminal_size().columns
    for number in (str, table.short):
        cells = [(by, *_HEAD), *(_cells(row, number) for row in (*rows, summary.total(rows)))]
        excess = table.width_of(_aligned(cells)) - width
        if excess <= 0:
            return _aligned(cells)
    room = max(8, max(table.width_of(group) for group, *_ in cells) - excess)
    return _aligned([(table.cut(group, room), *rest) for group, *rest in cells])


def _aligned(cells: Sequence[Sequence[str]]) -> str:
    return output.visible(table.table(cells, [False, *[True] * len(_HEAD)]))


def _plot(rows: Sequence[Row]) -> str:
    def note(row: Row) -> str:
        return f"{table.short(row.input + row.output)}  {_usd(row)} USD" if row.requests else ""

    if not any(row.requests for row in rows):
        return "no requests"
    shown = [(row.group or "-", float(row.input + row.output), note(row)) for row in rows]
    return output.visible(table.bars(shown, get_terminal_size().columns))


def _every_day(rows: Sequence[Row], since: str) -> list[Row]:
    """Return the rows with one for each day without a request, from ``since`` or the first row up to today."""
    found = {date.fromisoformat(row.group): row for row in rows}
    if not found:
        return []
    first = date.fromisoformat(since) if since else min(found)
    days = (first + timedelta(number) for number in range((max(date.today(), *found) - first).days + 1))
    return [found.get(day, Row(day.isoformat())) for day in days]
