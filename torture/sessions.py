"""Sessions that many programs use at once, are killed in, and that are moved, mended and edited meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.harness.contention import NAMES, Kills, Moves, Start
from tests.harness.processes import Process
from torture.frame import Case, Rig

TITLE = "Sessions under kills, and all at once"

KILLS = 500
PROCESSES = 50  # in each session
ROUNDS = 4


def cases(rig: Rig) -> Iterator[Case]:
    """Yield the two cases, each of many runs."""
    with _place(rig) as (start, home):
        yield _case("kills", Kills(start, home).all(KILLS), KILLS)
    with _place(rig) as (start, home):
        yield _case("moves", Moves(start, home).all(PROCESSES, ROUNDS), PROCESSES * ROUNDS * len(NAMES))


@contextmanager
def _place(rig: Rig) -> Iterator[tuple[Start, Path]]:
    """Give a home, and what starts a program there."""
    with rig.home() as home, ExitStack() as stack:

        def start(*argv: str) -> Process:
            return stack.enter_context(rig.spawn(home, *argv))

        yield start, home


def _case(name: str, problems: list[str], inputs: int) -> Case:
    return Case(name, not problems, "; ".join(problems[:5]), inputs)
