"""``gptpipe-map``: one request for each record, many at once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from math import inf
from threading import Event, Lock
from typing import Any

import click

from gptpipe.asking.asker import Asker, check_spending
from gptpipe.asking.context import Context, connect, here, key_for
from gptpipe.asking.want import Want
from gptpipe.console import output, signals
from gptpipe.console.progress import Progress
from gptpipe.errors import Interrupted, Status, UsageError
from gptpipe.message import Counts, counts
from gptpipe.programs import options
from gptpipe.programs.cli import Command, option
from gptpipe.programs.options import given
from gptpipe.records import input
from gptpipe.records.input import Record
from gptpipe.records.pace import Pace
from gptpipe.records.pool import Pool
from gptpipe.records.request import Maker, maker_of, rehearse
from gptpipe.records.results import Outcome, ResultFile, State, bare, line, new_file
from gptpipe.records.tally import Tally
from gptpipe.records.worker import Worker, unknown
from gptpipe.settings.settings import Settings
from gptpipe.usage import prices
from gptpipe.wire.client import preload

_GRACE = 1.0  # seconds after --max-time in which what is there can still be written


@click.command("gptpipe-map", cls=Command, options_metavar="[OPTION]...")
@click.argument("template", required=False)
@options.records
@options.system
@options.role
@option("-j", "--jobs", group="run", metavar="N", type=click.IntRange(1, 256), default=8, help="so many at once (8)")
@option("--rpm", group="run", metavar="N", type=float, help="requests a minute, at most")
@option("--tpm", group="run", metavar="N", type=float, help="tokens a minute, at most")
@option("--max-failures", group="run", metavar="N", type=click.IntRange(1), help="stop when so many have failed")
@option("-o", "--output", group="output", metavar="PATH", help="write the results to PATH, a new file")
@option("--resume", group="output", is_flag=True, help="go on with PATH: ask what has no answer there")
@option("--retry-failed", group="output", is_flag=True, help="ask again what was truncated or refused, too")
@option("--unordered", group="output", is_flag=True, help="results as they come, not in the input's order")
@option("--text", group="output", is_flag=True, help="bare answers, one a line, newlines in them escaped")
@option("--no-record", group="output", is_flag=True, help="leave the record out of its result")
@options.schema
@options.model
@options.web
@options.tools
@options.limits
@options.cost
@options.network
@options.config
@option("--dry-run", group="other", is_flag=True, help="count records and tokens, show a request; send nothing")
@options.verbose
def command(template: str | None, **values: Any) -> int:
    """Ask a language model once for each record, many at once; one JSON object for each comes out.

    In TEMPLATE {} is the record, {NAME} a field of it, {{ a brace; @PATH reads it from a file. Without any the record
    follows after a blank line. The manual is gptpipe-map(1).
    """
    _check(values)
    if values["output"] is None and not values["dry_run"]:
        output.check_stdout()
    place = here("gptpipe-map", values)
    maker, want = maker_of(template, given(values), place)
    descriptor = input.open_input(values["file"])
    if values["dry_run"]:
        output.print_json(rehearse(input.read(descriptor, maker.how, output.say), maker, place))
        return Status.OK
    return _run(values, maker, want, place, descriptor)


def _check(values: dict[str, Any]) -> None:
    """See that the options go together; standard output is no file of its own."""
    if values["output"] in ("-", "/dev/stdout"):
        values["output"] = None
    if values["resume"] and values["output"] is None:
        raise UsageError("--resume needs --output PATH")
    if values["resume"] and values["text"]:
        raise UsageError("--resume and --text exclude each other: bare answers do not say whose they are")
    if values["retry_failed"] and not values["resume"]:
        raise UsageError("--retry-failed needs --resume")
    for name in ("rpm", "tpm"):
        if values[name] is not None and not 0 < values[name] < inf:
            raise UsageError(f"--{name} must be a number above 0")


class _Writer:
    """Where the results go: a file that can be resumed, or standard output, or a new file of bare answers."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._bare: bool = values["text"]
        self._null: bool = values["null"]
        self._with_record = not values["no_record"]
        path = values["output"]
        to_file = path is not None
        self._file = ResultFile(path, resume=values["resume"]) if to_file and not self._bare else None
        descriptor = new_file(path) if to_file and self._bare else output.STDOUT
        self._printer = output.Printer(descriptor)
        self.to_terminal = self._file is None and os.isatty(descriptor)
        self.ordered = self._file is None and not values["unordered"]
        self.known = self._file.state if self._file else unknown

    def write(self, outcome: Outcome) -> None:
        if outcome.known is not State.MISSING:
            return
        text = bare(outcome, null=self._null) if self._bare else line(outcome, with_record=self._with_record)
        if self._file:
            self._file.add(outcome, text)
        else:
            self._printer.write(text + ("\0" if self._bare and self._null else "\n"))

    def finish(self, total: int) -> None:
        """Be told that the input has ended, with so many records."""
        if self._file:
            self._file.finish(total)


def _run(values: dict[str, Any], maker: Maker, want: Want, place: Context, descriptor: int) -> int:
    """Ask for each record, write what comes, and return the status if nothing failed."""
    chosen = maker.settings
    key = None
    if not want.stored:
        check_spending(place, chosen, want)
        preload()
        key = key_for(place, chosen)
    # Beside what is typed at the terminal a bar would only be in the way.
    progress = Progress(lambda: input.count(descriptor, maker.how), "records", wanted=not os.isatty(descriptor))
    report = _Report(progress, chosen, values["verbose"])
    pace = Pace(values["rpm"], values["tpm"], report.say, output.patience(), place.deadline.at)
    asker = Asker(place, chosen, want, partial(connect, place, chosen, key, waiting=report.waiting, gate=pace))
    writer = _Writer(values)
    worker = Worker(maker, asker, want, pace, writer.known, values["retry_failed"])
    source = input.read(descriptor, maker.how, report.say)
    jobs: int = values["jobs"]
    pool: Pool[Record, Outcome] = Pool(
        source, worker.answer, jobs, ordered=writer.ordered, stopping=lambda: _stop(pace)
    )
    tally = Tally(jobs, values["max_failures"])
    signalled = signals.catch_once(pool.stop)
    written = Event()
    with place.deadline.ending(lambda: _expire(pool, written)):
        try:
            _pass_on(pool, tally, writer, report, progress)
        finally:
            progress.close()
        report.end(tally, time.monotonic() - place.deadline.started)
        written.set()
    if (signum := signalled()) is not None:
        raise Interrupted(signum)
    if failure := tally.fatal or pace.over or tally.verdict():
        raise failure
    return Status.OK


def _stop(pace: Pace) -> None:
    """Let no request be sent any more, and no tool go on: its record could not be answered."""
    pace.stop()
    signals.end_groups()


def _pass_on(pool: Pool[Record, Outcome], tally: Tally, writer: _Writer, report: _Report, progress: Progress) -> None:
    """Write each result as it comes, and end the file of results if all have come."""
    for outcome in map(tally.judge, pool):
        with progress.aside() if writer.to_terminal else nullcontext():
            writer.write(outcome)
        report.add(outcome, tally)
        if tally.over:
            pool.stop()
    if not pool.stopped:
        writer.finish(tally.total)


def _expire(pool: Pool[Record, Outcome], written: Event) -> None:
    """Let what is there be written, for a moment: the reader of the results may have stopped reading."""
    pool.abandon()
    written.wait(_GRACE)


class _Report:
    """What is said on standard error: the bar on a terminal, the summary under ``--verbose``."""

    def __init__(self, progress: Progress, chosen: Settings, verbose: bool) -> None:
        self._progress = progress
        self._settings = chosen
        self._verbose = verbose
        self._used = Counts()
        self._cost: float | None = 0.0
        self._quiet = Lock()
        self.say = progress.say

    @contextmanager
    def waiting(self, message: str) -> Iterator[None]:
        """Announce a wait that lasts; of several at once only the first."""
        first = self._quiet.acquire(blocking=False)
        try:
            with output.waiting(message) if first else nullcontext():
                yield
        finally:
            if first:
                self._quiet.release()

    def add(self, outcome: Outcome, tally: Tally) -> None:
        """Count what a record used."""
        if not (self._progress.shown or self._verbose):
            return
        used = counts(outcome.answer.usage)
        self._used = Counts(*map(sum, zip(self._used, used, strict=True)))
        chosen = self._settings
        cost = prices.cost(used, chosen)
        self._cost = None if cost is None or self._cost is None else self._cost + cost
        self._progress.advance(1, f"{tally.failed} failed, {self._spent()}")

    def _spent(self) -> str:
        tokens = f"{self._used.input} tokens in, {self._used.output} out"
        return tokens if self._cost is None else f"{tokens}, ${self._cost:.4f}"

    def end(self, tally: Tally, seconds: float) -> None:
        """Write the summary."""
        if self._verbose:
            self.say(
                f"records: {tally.answered} answered, {tally.failed} failed, {tally.known} known before; "
                f"{self._spent()}; {seconds:.1f} s"
            )
