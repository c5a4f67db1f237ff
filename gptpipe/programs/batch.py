"""``gptpipe-batch``: the records of ``gptpipe-map`` through the provider's Batch API, or another engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from gptpipe.asking.asker import check_spending
from gptpipe.asking.context import given, here
from gptpipe.asking.link import connect
from gptpipe.asking.want import Want
from gptpipe.console import output
from gptpipe.console.progress import Progress
from gptpipe.errors import Failure, Status, Temporary, UsageError
from gptpipe.programs import options
from gptpipe.programs.cli import Group, option
from gptpipe.programs.options import together
from gptpipe.programs.submitting import go_on, planned, reconnect, resolved, send, unanswered
from gptpipe.records import input, replies, requests_file, submission
from gptpipe.records.form import Lines
from gptpipe.records.queue import repeated
from gptpipe.records.replies import Replies
from gptpipe.records.request import Rehearsal, maker_of
from gptpipe.records.results import Outcome
from gptpipe.records.submission import Plan, Submission
from gptpipe.records.tally import Tally
from gptpipe.text.strict_json import compact
from gptpipe.usage import prices
from gptpipe.wire import batch_api
from gptpipe.wire.batch_api import Batch
from gptpipe.wire.client import Client, Patient


@click.group("gptpipe-batch", cls=Group)
def command() -> None:
    """Ask a language model once for each record by the provider's Batch API: later, and cheaper.

    'gptpipe-batch COMMAND -h' says what each takes. The manual is gptpipe-batch(1).
    """


_shared = together(options.call, options.verbose)  # of every word with the network

_count = click.IntRange(1)


@command.command("submit")
@click.argument("template", required=False)
@options.records
@option("--resume", group="input", metavar="RESULTS", help="only the records that have no answer in this file")
@option("--no-dedupe", group="input", is_flag=True, help="ask for equal records each, not once for all")
@options.instructions
@options.schema
@options.model
@option("--batch-size", group="batches", metavar="N", type=_count, help="requests in a batch, at most (50000)")
@option("--queued", group="batches", metavar="N", type=_count, help="batches that have not ended at once, at most")
@option("--wait", group="batches", is_flag=True, help="stay until all is submitted")
@option("--continue", "going_on", group="batches", metavar="ID", help="submit what was left of ID")
@option("--completion-window", group="batches", metavar="TIME", help="when they are to be done (24h)")
@options.over_budget
@option("--dry-run", group="other", is_flag=True, help="count records and tokens, show a request; send nothing")
@option("--requests-only", group="output", is_flag=True, help="write the request file to standard output; send nothing")
@_shared
def submit(template: str | None, **values: Any) -> int:
    """Send a request for each record, and print the name of the batch."""
    output.check_stdout()
    context = here("gptpipe-batch", values)
    if values["going_on"] is not None:
        return go_on(template, values, context)
    maker = maker_of(template, given(values), context, tools=False)
    chosen = maker.settings
    if chosen.base_url is None and not (values["requests_only"] or values["dry_run"]):
        raise UsageError("the model echo has no Batch API", "--requests-only writes the requests")
    source = maker.read(input.open_input(values["file"]))
    plan = planned(Plan(batch_api.endpoint_of(maker.spoken)), values)
    is_open = unanswered(values["resume"])
    if values["dry_run"]:
        rehearsal = Rehearsal(maker, context, is_open, prices.batch_tier(plan.window))
        for record in source.records:
            rehearsal.add(record)
        output.print_json(rehearsal.found(requests_file.WITHOUT))
        return Status.OK
    client = None
    if not values["requests_only"]:
        check_spending(context, chosen, maker.want)
        client = connect(context, chosen, gate=Patient())
    dedupe = not values["no_dedupe"]
    found, counted = requests_file.prepare(context.paths, source.records, maker, plan, is_open, dedupe=dedupe)
    context.note(
        f"{counted['requests']} requests, {counted['same']} equal records, {counted['skipped']} with an answer"
    )
    if found is None:
        return Status.OK
    if client is None:
        _write_file(found.path)
        return Status.OK
    if found.failed:
        output.say(f"{found.failed} of {found.records} records cannot be asked; fetch has their errors")
    return send(found, client, values)


def _write_file(path: Path) -> None:
    """Write a request file to standard output, and remove it."""
    with path.open("rb") as file:
        path.unlink()
        while block := file.read(1 << 20):
            output.write_all(output.STDOUT, block)


@command.command("status")
@click.argument("names", nargs=-1, metavar="[ID]...")
@_shared
def status(names: tuple[str, ...], **values: Any) -> int:
    """Say how far batches are, of all that were submitted or of those named.

    A line for each: name, batch, status, requests that are done, failed, in all.
    """
    context = here("gptpipe-batch", values)
    named = [submission.load(context.paths.batches, name) for name in names]
    sent = (found for found in submission.load_all(context.paths.batches) if found.parts)  # others have no status
    problem: Failure | None = None
    for found in named or sent:
        try:
            client = reconnect(found, values, context)
            states = _states(found, client)
            client.close()
        except Failure as failure:  # the others may be somewhere else
            output.say(f"{found.name}: {failure.message}", failure.hint)
            problem = problem or failure
            continue
        rows = [[state.id, state.status, state.completed, state.failed, state.total] for state in states]
        if found.open and found.left:
            rows.append(["-", "unsubmitted", 0, 0, found.left])
        for row in rows:
            output.print_text("\t".join(map(str, [found.name, *row])))
    return problem.status if problem else Status.OK


@command.command("list")
@options.config
def list_batches(config: str | None) -> int:
    """List what was submitted: name, time, model, records, batches."""
    context = here("gptpipe-batch", {"config": config})
    for found in submission.load_all(context.paths.batches):
        row = [found.name, found.at, found.endpoint["model"], found.records, len(found.parts)]
        output.print_text("\t".join(map(str, row)))
    return Status.OK


@command.command("cancel")
@click.argument("name", metavar="ID")
@_shared
def cancel(name: str, **values: Any) -> int:
    """Cancel a batch; what it has done can be fetched."""
    context = here("gptpipe-batch", values)
    found = submission.load(context.paths.batches, name)
    client = reconnect(found, values, context)
    found.settle()
    for state in _states(found, client):
        if not state.ended and state.status != "cancelling":
            batch_api.cancel(client, state.id)
    if found.pending and (unknown := batch_api.find(client, found.pending.id)):
        batch_api.cancel(client, unknown.id)
    return Status.OK


@command.command("fetch")
@click.argument("name", required=False, metavar="[ID]")
@option("--wait", group="output", is_flag=True, help="wait for the end of the batch")
@option("--results", group="output", metavar="PATH", help="read a result file that another engine wrote; ask nobody")
@option("--failed-records", group="output", is_flag=True, help="print the records that failed, to ask again")
@option("--no-record", group="output", is_flag=True, help="leave the record out of its result")
@_shared
def fetch(name: str | None, results: str | None, **values: Any) -> int:
    """Print the results of a batch that has ended, as gptpipe-map prints them."""
    output.check_stdout()
    context = here("gptpipe-batch", values)
    states: list[Batch] = []
    if results is not None:
        path = Path(results)
        found = submission.load(context.paths.batches, name) if name else replies.find(context.paths.batches, path)
        files = [path]
    elif name is None:
        raise UsageError("fetch needs the ID of a batch, or --results", "gptpipe-batch list names them")
    else:
        found = submission.load(context.paths.batches, name)
        client = reconnect(found, values, context)
        states = _ended(found, client, wait=values["wait"])
        files = replies.collect(found, states, client)
        if not found.left and not any(state.crowded or state.too_large for state in states):
            found.settle()
    want = Want(found.want["extract"], found.want["schema"])
    outcomes = replies.outcomes(found, Replies(files, found.last), states, want)
    chosen = resolved(found, values, context)
    if chosen.usage and found.parts and not found.open:
        outcomes = replies.book(found, outcomes, chosen, context.paths.usage)
    return _print(outcomes, values)


def _print(outcomes: Iterator[Outcome], values: dict[str, Any]) -> int:
    tally = Tally(0, None)
    printer = output.Printer()
    lines = Lines(with_record=not values["no_record"])
    for outcome in map(tally.judge, outcomes):
        if not values["failed_records"]:
            printer.write(lines.encode(outcome).decode())
        elif outcome.failure is not None:
            printer.write(compact(outcome.record.value) + "\n")
    if not values["failed_records"] and (failure := tally.verdict()):
        raise failure
    return Status.OK


def _ended(found: Submission, client: Client, *, wait: bool) -> list[Batch]:
    """Return the batches of a submission, all ended; raise Temporary if they have not, unless they are waited for."""
    if not found.parts:
        raise Temporary(f"nothing of {found.name} is submitted yet", f"'gptpipe-batch submit --continue {found.name}'")
    if wait:
        return _awaited(found, client)
    states = _states(found, client)
    if not all(state.ended for state in states):
        done, total = _done(states), found.requests
        raise Temporary(f"{found.name} has not ended: {done} of {total} requests are done", "--wait waits for it")
    return states


def _awaited(found: Submission, client: Client) -> list[Batch]:
    """Wait until all batches of a submission have ended. After the first look a failure that may pass ends nothing."""
    progress = Progress(lambda: found.requests, "requests")
    states: list[Batch] = []

    def look() -> bool:
        nonlocal states
        before = _done(states)
        states = _states(found, client)
        progress.advance(_done(states) - before, ", ".join(sorted({state.status for state in states})))
        return all(state.ended for state in states)

    try:
        with nullcontext() if progress.shown else output.waiting(f"waiting for {found.name}: --max-time bounds it"):
            repeated(look, lambda: _done(states))
    finally:
        progress.close()
    return states


def _done(states: list[Batch]) -> int:
    return sum(state.completed + state.failed for state in states)


def _states(found: Submission, client: Client) -> list[Batch]:
    return [batch_api.retrieve(client, part.id) for part in found.parts]
