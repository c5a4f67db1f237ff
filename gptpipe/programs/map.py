"""``gptpipe-map``: one request for each record, many at once."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext, suppress
from functools import partial
from math import inf
from threading import Event, Lock
from typing import Any, NamedTuple

import click

from gptpipe.asking.asker import Asker, check_spending
from gptpipe.asking.context import Context, given, here
from gptpipe.asking.link import connect, key_for
from gptpipe.console import consent, output, signals
from gptpipe.console.progress import Progress
from gptpipe.errors import Interrupted, Status, UsageError
from gptpipe.programs import options
from gptpipe.programs.cli import Command, option
from gptpipe.records import input
from gptpipe.records.bar import Bar
from gptpipe.records.form import Form, Lines, Table
from gptpipe.records.input import CSV, Record, Source
from gptpipe.records.pace import Pace
from gptpipe.records.pool import Pool, possible_jobs
from gptpipe.records.request import Maker, Rehearsal, maker_of
from gptpipe.records.result_file import ResultFile, Sink, opened
from gptpipe.records.results import State, Stream, bare
from gptpipe.records.sample import Estimate, selected
from gptpipe.records.tally import Tally
from gptpipe.records.worker import Equals, Worker
from gptpipe.wire.client import preload

_GRACE = 1.0  # seconds after --max-time in which what is there can still be written

_count = click.IntRange(1)


@click.command("gptpipe-map", cls=Command, options_metavar="[OPTION]...")
@click.argument("template", required=False)
@options.records
@option("--limit", group="input", metavar="N", type=_count, help="only the first N records")
@option("--sample", group="input", metavar="N", type=_count, help="only N records, at random")
@option("--seed", group="input", **options.WHOLE, help="the same sample again")
@options.instructions
@option("-j", "--jobs", group="run", metavar="N", type=click.IntRange(1, 256), default=8, help="requests at once (8)")
@option("--rpm", group="run", **options.NUMBER, help="requests a minute, at most")
@option("--tpm", group="run", **options.NUMBER, help="tokens a minute, at most")
@option("--max-failures", group="run", metavar="N", type=_count, help="stop after N failures")
@option("--no-dedupe", group="run", is_flag=True, help="ask for equal records each, not once for all")
@option("--progress", group="run", **options.SECONDS, help="seconds between two lines that tell how far")
@option("-o", "--output", group="output", metavar="PATH", help="write the results to PATH, a new file")
@option("--to", group="output", type=click.Choice(["jsonl", "csv", "tsv"]), help="results as lines of JSON, or a table")
@option("--resume", group="output", is_flag=True, help="go on with PATH: ask what has no answer there")
@option("--retry-failed", group="output", is_flag=True, help="ask again what was truncated or refused, too")
@option("--prune", group="output", is_flag=True, help="drop results whose records are not in the input")
@option("--unordered", group="output", is_flag=True, help="results as they come, not in the input's order")
@option("--text", group="output", is_flag=True, help="bare answers, one a line, newlines in them escaped")
@option("--no-record", group="output", is_flag=True, help="leave the record out of its result")
@options.schema
@options.check
@options.model
@options.tools
@options.run
@option("--dry-run", group="other", is_flag=True, help="count records and tokens, show a request; send nothing")
@option("--ask", group="other", is_flag=True, help="with --dry-run --sample: ask these, and estimate the whole")
@options.verbose
def command(template: str | None, **values: Any) -> int:
    """Ask a language model once for each record, many at once; one JSON object for each comes out.

    In TEMPLATE {} is the record, {NAME} a field of it, {{ and }} are braces; @PATH reads it from a file. Without any
    field the record follows after a blank line. The manual is gptpipe-map(1).
    """
    _check(values)
    if values["output"] is None and not values["dry_run"]:
        output.check_stdout()
    context = here("gptpipe-map", values)
    maker = maker_of(template, given(values), context)
    descriptor = input.open_input(values["file"])
    source = maker.read(descriptor)
    run = _Run(values, context, maker, source, descriptor, _form(values, maker, source))
    if values["dry_run"]:
        return _rehearse(run)
    records = selected(source.records, values["limit"], values["sample"], values["seed"])
    return _ended(_ask(run, records, _sink(run)))


def _check(values: dict[str, Any]) -> None:
    """Check that the options go together; standard output is not a file of its own."""
    if values["output"] in ("-", "/dev/stdout"):
        values["output"] = None
    for name in ("resume", "ask"):
        if values[name] and values["output"] is None:
            raise UsageError(f"--{name} needs --output PATH")
    if values["text"] and (values["resume"] or values["to"]):
        raise UsageError("--text stands alone: bare answers do not say whose they are", "not with --resume or --to")
    for name in ("retry_failed", "prune"):
        if values[name] and not values["resume"]:
            raise UsageError(f"--{name.replace('_', '-')} needs --resume")
    if values["ask"] and not (values["dry_run"] and values["sample"]):
        raise UsageError("--ask needs --dry-run and --sample")
    if values["seed"] is not None and values["sample"] is None:
        raise UsageError("--seed needs --sample")
    for name in ("rpm", "tpm", "progress"):
        if values[name] is not None and not 0 < values[name] < inf:
            raise UsageError(f"--{name} must be a number above 0")
    if values["file"] and values["output"]:
        with suppress(OSError, ValueError):
            if os.path.samefile(values["file"], values["output"]):
                raise UsageError("--output is the input file")


class _Run(NamedTuple):
    """What was decided before anything is asked."""

    values: dict[str, Any]
    context: Context
    maker: Maker
    source: Source
    descriptor: int
    form: Form


def _form(values: dict[str, Any], maker: Maker, source: Source) -> Form:
    """Return how results are written: as lines of JSON, or as the table that went in."""
    kind = "tsv" if values["tsv"] else "csv"
    to = values["to"]
    if to is None and maker.how.form == CSV and not values["text"] and (values["output"] or "").endswith(f".{kind}"):
        to = kind
    if to in (None, "jsonl"):
        return Lines(with_record=not values["no_record"])
    if maker.how.form != CSV or to != kind:
        raise UsageError(f"--to {to} needs --{to}: the columns are kept as they are")
    if values["no_record"]:
        raise UsageError(f"--no-record and --to {to} exclude each other")
    return Table(source.header, maker.want.schema, keyed=values["output"] is not None)


def _sink(run: _Run) -> Sink:
    """Return where the results go."""
    values, path = run.values, run.values["output"]
    if path is not None and not values["text"]:
        whole = values["limit"] is None and values["sample"] is None
        share, resume, prune = not values["no_dedupe"], values["resume"], values["prune"]
        return ResultFile(path, run.form, resume=resume, share=share, whole=whole, prune=prune)
    descriptor = output.STDOUT if path is None else opened(path, path, "give another path")
    if values["text"]:
        return Stream(descriptor, partial(bare, null=values["null"]))
    return Stream(descriptor, run.form.encode, run.form.head)


# A rehearsal


def _rehearse(run: _Run) -> int:
    """Print what the run would send; with ``--ask`` some of it is sent, and the whole is estimated by that."""
    values, path = run.values, run.values["output"]
    is_open = None
    if values["resume"] and os.path.exists(path):
        file = ResultFile(path, run.form, resume=True, share=not values["no_dedupe"], look=True)

        def is_open(record: Record, key: str) -> bool:
            return file.take(record, key, again=values["retry_failed"]) is State.MISSING

    rehearsal = Rehearsal(run.maker, run.context, is_open)
    part = values["limit"], values["sample"], values["seed"]
    some: list[Record] = []
    if values["ask"]:
        some = list(selected(map(rehearsal.add, run.source.records), *part))
    else:
        for record in selected(run.source.records, *part):
            rehearsal.add(record)
    found = rehearsal.found()
    ending = None
    if values["ask"]:
        estimate = Estimate(run.maker.settings)
        begun = time.monotonic()
        ending = _ask(run, some, _sink(run), estimate.add)
        found |= estimate.found(rehearsal, time.monotonic() - begun, values["jobs"])
    output.print_json(found)
    return _ended(ending)


# The run


def _ask(run: _Run, records: Any, sink: Sink, counted: Any = lambda _: None) -> BaseException | None:
    """Ask for each record and write what comes; return the signal or the failure with which the run ends, if any."""
    values, context, maker = run.values, run.context, run.maker
    settings, want = maker.settings, maker.want
    key = None
    if not want.stored:
        check_spending(context, settings, want)
        preload(settings)
        key = key_for(context, settings)
    number = possible_jobs(values["jobs"])
    tally = Tally(number, values["max_failures"])
    # Beside what is typed at the terminal a bar would only be in the way.
    wanted = not os.isatty(run.descriptor)
    progress = Progress(lambda: values["limit"] or input.count(run.descriptor, maker.how), "records", wanted=wanted)
    bar = Bar(progress, tally, settings, verbose=values["verbose"], every=values["progress"], most=values["max_cost"])
    if want.approve:
        want = want._replace(approve=partial(consent.agrees, aside=progress.aside))
    pace = Pace(values["rpm"], values["tpm"], context.deadline.at)
    waiting = partial(output.waiting_together, first=Lock())
    asker = Asker(context, settings, want, partial(connect, context, settings, key, waiting=waiting, gate=pace))
    equals = None if values["no_dedupe"] else Equals(context.paths.cache)
    worker = Worker(maker, asker, pace, sink, equals, values["retry_failed"])
    ordered = isinstance(sink, Stream) and not values["unordered"]
    pool = Pool(records, worker.answer, number, ordered=ordered, stopping=lambda: _stop(pace))
    signalled = signals.catch_once(pool.stop)
    written = Event()
    with context.deadline.ending(lambda: _expire(pool, written)):
        try:
            _pass_on(pool, tally, sink, bar, counted)
        finally:
            bar.end()
            sink.close()
        written.set()
    signum = signalled()
    return Interrupted(signum) if signum else tally.fatal or pace.over or tally.verdict()


def _stop(pace: Pace) -> None:
    """Send no further request, and end the tools that run: their records could not be answered."""
    pace.stop()
    signals.end_groups()


def _pass_on(pool: Pool, tally: Tally, sink: Sink, bar: Bar, counted: Any) -> None:
    """Write each result as it comes, and end the results if all have come."""
    for outcome in map(tally.judge, pool):
        with bar.aside() if sink.to_terminal else nullcontext():
            sink.write(outcome)
        bar.add(outcome)
        counted(outcome)
        if tally.over:
            pool.stop()
    if not pool.stopped:
        sink.finish(tally.total)


def _expire(pool: Pool, written: Event) -> None:
    """Wait a moment for the results to be written, not longer: their reader may have stopped reading."""
    pool.abandon()
    written.wait(_GRACE)


def _ended(ending: BaseException | None) -> int:
    """Raise the signal or the failure with which the run ended, or return the status 0."""
    if ending is not None:
        raise ending
    return Status.OK
