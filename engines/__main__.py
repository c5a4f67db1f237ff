"""Ask each engine, or those that are named, and print the tables: ``python -m engines [NAME]...``."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Sequence

import pytest

from engines.asks import ASKS, Cell, Place
from engines.envs import Missing, say
from engines.rows import ENGINES
from engines.server import Engine, Running, running
from torture.frame import Rig


def answers(rig: Rig, engine: Engine, server: Running, api: str) -> dict[str, Cell]:
    """Ask a server all that it is asked in one protocol; the last kills it."""
    found = {}
    for name, row in ASKS.items():
        begun = time.monotonic()
        with rig.home() as home:
            try:
                cell = row.ask(Place(rig, home, engine, server, api))
            except pytest.fail.Exception as late:
                cell = Cell(None, "", str(late)[:300])
            except (ValueError, LookupError, TypeError) as error:  # what came back is not what it should be
                cell = Cell(None, "", repr(error))
        wanted = engine.wanted(name, api, row.usual)
        if cell.status is not None and cell.status not in wanted and not cell.wrong:
            cell = cell._replace(wrong=f"status {cell.status}, not {' or '.join(map(str, sorted(wanted)))}")
        say(f"{api}: {name}: {cell.wrong or 'as expected'}, {time.monotonic() - begun:.1f} s")
        found[name] = cell
    return found


def ask(rig: Rig, name: str, engine: Engine) -> dict[str, dict[str, Cell]]:
    """Ask an engine in each of its protocols, each time a fresh server; return the cells by protocol and ask."""
    found = {}
    for api in engine.apis:
        folder = rig.folder / f"{name}-{api}"
        with contextlib.ExitStack() as stack:
            say(f"{engine.name}: {api}")
            behind = ""
            if engine.behind:
                other = running(ENGINES[engine.behind], folder / "behind")
                behind = stack.enter_context(other).url
            found[api] = answers(rig, engine, stack.enter_context(running(engine, folder, behind)), api)
    return found


def table(cells: dict[str, dict[str, Cell]]) -> str:
    """Return the table of an engine, in Markdown: a row for each ask, a column for each protocol."""
    lines = [f"| asked | {' | '.join(cells)} |", "|---|" + "---|" * len(cells)]
    for name, row in ASKS.items():
        columns = [_text(found[name]) for found in cells.values()]
        lines.append(f"| {row.title} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    status = "" if cell.status is None else f"{cell.status}: "
    line = " ".join(cell.remark.split())[:110]
    remark = "".join(f"\\{char}" if char in "|<>*_`\\" else char for char in line)
    return f"**wrong** {status}{remark}" if cell.wrong else f"{status}{remark}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and return the status: 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(prog="engines", description="gptpipe against real servers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENGINES)} (default: all)")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(ENGINES):
        parser.error(f"no engine {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the servers on the way out
    wrong = asked = 0
    with Rig() as rig:
        for name in options.names or ENGINES:
            engine = ENGINES[name]
            try:
                cells = ask(rig, name, engine)
                number = engine.version(engine.install(), engine.package)
                print(f"\n### {engine.name} ({engine.package} {number})\n\n{table(cells)}", flush=True)
            except Missing as missing:
                print(f"\n### {engine.name}\n\nNot here: {missing}.", flush=True)
                continue
            found = [cell for column in cells.values() for cell in column.values()]
            asked += sum(cell.status is not None for cell in found)
            wrong += sum(bool(cell.wrong) for cell in found)
    print(f"\n{asked} asked, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
