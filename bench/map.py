"""The rows of gptpipe-map: how near it comes to what the server allows, and that its memory does not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from bench.measure import MIB, Command, run
from bench.rows import Finding, Place, Promise, Result, Row, measured

JOBS = 64
DELAY = 200  # milliseconds


def _records(place: Place, count: int) -> Path:
    path = place.folder / f"{count}-records"
    path.write_text("".join(f"{number}\n" for number in range(1, count + 1)))
    return path


def _command(place: Place, model: str, path: Path, *options: str) -> Command:
    tool = place.tools["gptpipe"]
    program, *options_of_endpoint = tool.ask(model, None)
    return Command([f"{program}-map", *options_of_endpoint, *options, "-f", str(path), "say {}"], tool.env)


def late(place: Place) -> Iterator[Finding]:
    """Ask for 2,000 records, 64 at once, from a server that takes 200 ms for each; the same by xargs and aichat."""
    path = _records(place, 2000)
    command = _command(place, f"late-{DELAY}", path, "-j", str(JOBS))
    found = measured("map, 200 ms", {"gptpipe-map": lambda: run(command, b'"index":2000,')}, 3)
    yield from found.values()
    ideal = 2000 * DELAY / 1000 / JOBS
    yield Promise("map, 200 ms", f"of 2,000 x 0.2 s / {JOBS}", found["gptpipe-map"].seconds / ideal, 1.15)
    if aichat := place.tools.get("aichat"):
        words = " ".join(aichat.ask(f"late-{DELAY}", None))
        shell = Command(["sh", "-c", f"xargs -P{JOBS} -I{{}} {words} 'say {{}}' < {path}"], aichat.env)
        other = run(shell, b"").seconds
        yield Result("map, 200 ms", f"xargs -P{JOBS} aichat", other, None, (other,))
        yield Promise("map, 200 ms", f"of xargs -P{JOBS} aichat", found["gptpipe-map"].seconds / other, 0.8)


def fast(place: Place) -> Iterator[Finding]:
    """Ask for 5,000 records, from a server without delay."""
    command = _command(place, "late-0", _records(place, 5000))
    found = measured("map, no delay", {"gptpipe-map": lambda: run(command, b'"index":5000,')}, 3)
    yield from found.values()
    yield Promise("map, no delay", "ms a request", found["gptpipe-map"].seconds / 5, 2.0)


def flat(place: Place) -> Iterator[Finding]:
    """Ask for 1,000 records and for 100,000, and compare the memory."""
    yield from _growth(place, "map, memory", lambda count: (_records(place, count), "--no-record"), "jsonl")


def flat_table(place: Place) -> Iterator[Finding]:
    """Ask for the first 1,000 rows of a table and for all 100,000, with a table as the result."""
    path = _records(place, 100_001)  # the first is the header
    yield from _growth(place, "map, memory of a table", lambda count: (path, "--csv", "--limit", str(count)), "csv")


def _growth(place: Place, row: str, asked: Callable[[int], tuple[Path | str, ...]], form: str) -> Iterator[Finding]:
    peaks = []
    for count in (1000, 100_000):
        path, *options = asked(count)
        command = _command(place, "late-0", Path(path), *map(str, options), "-o", f"{place.folder}/{count}.{form}")
        found = run(command, b"")
        peaks.append(found.memory)
        yield Result(row, f"{count} records", found.seconds, found.memory / MIB, (found.seconds,))
    yield Promise(row, "100,000 records to 1,000", peaks[1] / peaks[0], 1.2)


def equal(place: Place) -> Iterator[Finding]:
    """Ask for 100,000 equal records: one request, and its answer for all of them."""
    path = place.folder / "equal-records"
    path.write_text("the same\n" * 100_000)
    into = place.folder / "equal.jsonl"
    found = run(_command(place, "late-0", path, "-o", str(into)), b"")
    yield Result("map, equal records", "gptpipe-map", found.seconds, found.memory / MIB, (found.seconds,))
    with into.open() as results:
        asked = sum('"same_as":' not in line for line in results)
    yield Promise("map, equal records", "requests for 100,000 equal records", asked, 1)
    yield Promise("map, equal records", "seconds", found.seconds, 10)


def loop(place: Place) -> Iterator[Finding]:
    """Ask for 200 records, as a shell does it with xargs -P8, and as gptpipe-map does it with -j 8."""
    path = _records(place, 200)
    llm = place.tools.get("llm")
    if llm is None:
        return
    words = " ".join(llm.ask("chunks-20", None))  # without its log: eight at once find its database locked
    shell = Command(["sh", "-c", f"xargs -P8 -I{{}} {words} --no-log 'say {{}}' < {path}"], llm.env)
    command = _command(place, "chunks-20", path, "-j", "8")
    found = measured("map, a loop", {"gptpipe-map": lambda: run(command, b'"index":200,')}, 3)
    yield from found.values()
    run(llm.command("chunks-20", "once"), b"word20")  # it makes its database, at which eight at once would fail
    other = run(shell, b"word20").seconds
    yield Result("map, a loop", "xargs -P8 llm", other, None, (other,))
    yield Promise("map, a loop", "of xargs -P8 llm", found["gptpipe-map"].seconds / other, 1 / 40)


ROWS: dict[str, Row] = {
    "map, 200 ms": late,
    "map, no delay": fast,
    "map, a loop": loop,
    "map, equal records": equal,
    "map, memory": flat,
    "map, memory of a table": flat_table,
}
