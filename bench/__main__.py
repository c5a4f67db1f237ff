"""Install what is compared, start the server, run the rows, print the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import far, rows, server, tools
from bench import map as map_rows
from bench.rows import Finding, Place, Promise, Result

ROWS = {**rows.ROWS, "50 ms away": far.far, **map_rows.ROWS}


@contextmanager
def serving() -> Iterator[str]:
    """Run the server; yield its base URL."""
    with subprocess.Popen([sys.executable, server.__file__], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


def machine() -> str:
    return (
        f"{os.cpu_count()} cores, {platform.system()}, {platform.python_implementation()} {platform.python_version()}"
    )


def table(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the lines of the table, row by row: what was measured, then what is promised of it."""
    for row in dict.fromkeys(finding.row for finding in findings):
        results = [found for found in findings if isinstance(found, Result) and found.row == row]
        ours = results[0].seconds
        yield f"\n{row:<30} {'median':>10} {'gptpipe is':>12} {'memory':>10}"
        for found in results:
            of = f"{ours / found.seconds:.2f} of it" if found is not results[0] else ""
            memory = f"{found.memory:.0f} MiB" if found.memory else ""
            yield f"  {found.name:<28} {_time(found.seconds):>10} {of:>12} {memory:>10}".rstrip()
        for promise in findings:
            if isinstance(promise, Promise) and promise.row == row:
                verdict = "reached" if promise.kept else "MISSED"
                yield f"  {verdict}: {promise.text}: {promise.value:.3g}, at most {promise.limit:.3g}"


def _time(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 0.01 else f"{seconds * 1000:.3f} ms"


def report(versions: dict[str, str], findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the same for machines: seconds, and MiB."""
    return {
        "machine": machine(),
        "versions": versions,
        "results": [found._asdict() for found in findings if isinstance(found, Result)],
        "promises": [{**found._asdict(), "kept": found.kept} for found in findings if isinstance(found, Promise)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--row", action="append", choices=list(ROWS), help="only this row; may be repeated")
    parser.add_argument("--without", action="append", default=[], metavar="TOOL", help="leave a tool out")
    parser.add_argument("--runs", type=int, default=15, help="how often each command is run (default 15)")
    options = parser.parse_args()
    findings: list[Finding] = []
    with serving() as url, tempfile.TemporaryDirectory() as folder:
        found = tools.install(Path(folder) / "homes", url, options.without)
        versions = {name: tool.version for name, tool in found.items()}
        for name in options.row or ROWS:
            tools.say(f"{name}: {(ROWS[name].__doc__ or '').splitlines()[0]}")
            findings += ROWS[name](Place(found, Path(folder), options.runs))
    if options.json:
        print(json.dumps(report(versions, findings), indent=1))
        return
    print(machine())
    for name, version in versions.items():
        print(f"  {name}: {version}")
    print("\n".join(table(findings)))


if __name__ == "__main__":
    main()
