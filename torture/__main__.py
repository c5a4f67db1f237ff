"""Run the kinds of trouble, or those that are named: ``python -m torture [--markdown] [KIND]...``."""

from __future__ import annotations

import argparse
import compileall
import importlib
import sys
import time
from pathlib import Path
from typing import NamedTuple

import gptpipe
from torture.frame import Case, Rig

# The order is that of docs/RELIABILITY.md.
KINDS = (
    "wire",
    "fuzzing",
    "machine",
    "cron",
    "sessions",
    "tools",
    "results",
    "outputs",
    "early",
    "talks",
    "networks",
    "security",
    "shells",
    "others",
    "packages",
)
LIMIT = 1200  # seconds for one kind, on a machine that does other things too; one that takes longer has failed
PLAIN = "{0}: {1:,} cases, {2:.0f} s, {3} failures"
MARKDOWN = "| {0} | {1:,} | {2:.0f} | {3} |"
SHOWN = 10  # failures of a kind that are shown in full


class Row(NamedTuple):
    """A line of the table."""

    title: str
    cases: int
    seconds: float
    failures: int


def torture(kind: str, rig: Rig) -> Row:
    """Run one kind; show what fails."""
    module = importlib.import_module(f"torture.{kind}")
    started = time.monotonic()
    count = failures = 0
    for case in module.cases(rig):
        count += case.inputs
        if time.monotonic() - started > LIMIT:
            case = Case("all of it", False, f"not done within {LIMIT} s")
        if not case.ok:
            failures += 1
            if failures <= SHOWN:
                print(f"FAILED {kind}: {case.name}: {case.detail}", file=sys.stderr, flush=True)
        if time.monotonic() - started > LIMIT:
            break
    return Row(module.TITLE, count, time.monotonic() - started, failures)


def main() -> int:
    """Run, print the table, and return the status: 0 if every promise held."""
    parser = argparse.ArgumentParser(prog="torture", description="Faults, hostile input, real surroundings.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/RELIABILITY.md has it")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"no kind {', '.join(sorted(unknown))}")
    if options.markdown:
        print("| kind | cases | seconds | failures |\n|---|---:|---:|---:|")
    compileall.compile_dir(Path(gptpipe.__file__).parent, quiet=2)  # or a fault in writing hits a module's bytecode
    rows = []
    with Rig() as rig:
        for kind in options.kinds or KINDS:
            rows.append(row := torture(kind, rig))
            print((MARKDOWN if options.markdown else PLAIN).format(*row), flush=True)
    numbers = zip(*(row[1:] for row in rows), strict=True)
    total = Row(f"all {len(rows)} kinds", *map(sum, numbers))
    print((MARKDOWN if options.markdown else PLAIN).format(*total), flush=True)
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
