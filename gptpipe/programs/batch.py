"""``gptpipe-batch``: the records of ``gptpipe-map`` through the provider's Batch API, or another engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gptpipe.asking.asker import check_spending
from gptpipe.asking.context import Context, connect, here
from gptpipe.asking.want import Want
from gptpipe.console import output
from gptpipe.console.progress import Progress
from gptpipe.errors import Failure, Status, Temporary, UsageError
from gptpipe.programs import options
from gptpipe.programs.cli import Group, option
from gptpipe.programs.options import given, together
from gptpipe.records import input, replies, submission
from gptpipe.records.replies import Replies
from gptpipe.records.request import Rehearsal, check_columns, maker_of
from gptpipe.records.results import Outcome, line
from gptpipe.records.submission import Submission
from gptpipe.records.tally import Tally
from gptpipe.settings import resolve
from gptpipe.text.strict_json import compact
from gptpipe.wire import batch_api
from gptpipe.wire.batch_api import Batch
from gptpipe.wire.client import Client, Patient

_FIRST_POLL, _LONGEST_POLL = 1.0, 30.0  # seconds between two looks at a batch


@click.group("gptpipe-batch", cls=Group)
def command() -> None:
    """Ask a language model once for each record by the provider's Batch API: later, and cheaper.

    'gptpipe-batch COMMAND -h' says what each takes. The manual is gptpipe-batch(1).
    """


_shared = together(options.limits, options.network, options.config, options.verbose)  # of every word with the network


@command.command("submit")
@click.argument("template", required=False)
@options.records
@options.system
@options.role
@options.schema
@options.model
@options.web
@options.over_budget
@option("--dry-run", group="other", is_flag=True, help="count records and tokens, show a request; send nothing")
@option("--requests-only", group="output", is_flag=True, help="write the request file to standard output; send nothing")
@_shared
def submit(template: str | None, **values: Any) -> int:
    """Send a request for each record, and print the name of the batch."""
    output.check_stdout()
    place = here("gptpipe-batch", values)
    maker = maker_of(template, given(values), place, tools=False)
    chosen, want = maker.settings, maker.want
    if chosen.base_url is None and not (values["requests_only"] or values["dry_run"]):
        raise UsageError("the model echo has no Batch API", "--requests-only writes the requests")
    source = input.read(input.open_input(values["file"]), maker.how, output.say)
    check_columns(maker.template, source.header)
    if values["dry_run"]:
        rehearsal = Rehearsal(maker, place)
        for record in source.records:
            rehearsal.add(record)
        output.print_json(rehearsal.found(submission.WITHOUT))
        return Status.OK
    kept = {"schema": want.schema, "extract": want.extract}
    client = None
    if not values["requests_only"]:
        check_spending(place, chosen, want)
        client = connect(place, chosen, gate=Patient())
    prepared = submission.prepare(place.paths, source.records, maker, kept, single=client is None)
    if client is None:
        _write_file(prepared.files[0])
        return Status.OK
    found = submission.submit(prepared, client)
    output.print_text(found.name)
    if found.failed:
        output.say(f"{found.failed} of {found.records} records cannot be asked; fetch has their errors")
    return Status.OK


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
    place = here("gptpipe-batch", values)
    named = [submission.load(place.paths.batches, name) for name in names]
    sent = (found for found in submission.load_all(place.paths.batches) if found.parts)  # others have no status
    problem: Failure | None = None
    for found in named or sent:
        try:
            client = _reconnect(found, values, place)
            states = _states(found, client)
            client.close()
        except Failure as failure:  # the others may be somewhere else
            output.say(f"{found.name}: {failure.message}", failure.hint)
            problem = problem or failure
            continue
        for state in states:
            row = [found.name, state.id, state.status, state.completed, state.failed, state.total]
            output.print_text("\t".join(map(str, row)))
    return problem.status if problem else Status.OK


@command.command("list")
@options.config
def list_batches(config: str | None) -> int:
    """List what was submitted: name, time, model, records, batches."""
    place = here("gptpipe-batch", {"config": config})
    for found in submission.load_all(place.paths.batches):
        row = [found.name, found.at, found.endpoint["model"], found.records, len(found.parts)]
        output.print_text("\t".join(map(str, row)))
    return Status.OK


@command.command("cancel")
@click.argument("name", metavar="ID")
@_shared
def cancel(name: str, **values: Any) -> int:
    """Cancel a batch; what it has done can be fetched."""
    place = here("gptpipe-batch", values)
    found = submission.load(place.paths.batches, name)
    client = _reconnect(found, values, place)
    for state in _states(found, client):
        if not state.ended and state.status != "cancelling":
            batch_api.cancel(client, state.id)
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
    place = here("gptpipe-batch", values)
    states: list[Batch] = []
    if results is not None:
        path = Path(results)
        found = submission.load(place.paths.batches, name) if name else replies.find(place.paths.batches, path)
        brought = Replies([path])
    elif name is None:
        raise UsageError("fetch needs the ID of a batch, or --results", "gptpipe-batch list names them")
    else:
        found = submission.load(place.paths.batches, name)
        client = _reconnect(found, values, place)
        states = _ended(found, client, wait=values["wait"])
        brought = Replies(replies.collect(found, states, client))
    outcomes = replies.outcomes(found, brought, states, Want(found.want["extract"], found.want["schema"]))
    chosen = resolve.resolve(given(values), {}, found.endpoint, place.env, place.config)
    if chosen.usage and found.parts:
        outcomes = replies.enter(found, outcomes, place.paths.usage)
    return _print(outcomes, values)


def _print(outcomes: Iterator[Outcome], values: dict[str, Any]) -> int:
    tally = Tally(0, None)
    printer = output.Printer()
    for outcome in map(tally.judge, outcomes):
        if not values["failed_records"]:
            printer.write(line(outcome, with_record=not values["no_record"]) + "\n")
        elif outcome.failure is not None:
            printer.write(compact(outcome.record.value) + "\n")
    if not values["failed_records"] and (failure := tally.verdict()):
        raise failure
    return Status.OK


def _ended(found: Submission, client: Client, *, wait: bool) -> list[Batch]:
    """Return the batches of a submission once all have ended.

    :raises Temporary: if they have not, and are not waited for.
    """
    if wait:
        return _awaited(found, client)
    states = _states(found, client)
    if not all(state.ended for state in states):
        done, total = _done(states), found.records - found.failed
        raise Temporary(f"{found.name} has not ended: {done} of {total} requests are done", "--wait waits for it")
    return states


def _awaited(found: Submission, client: Client) -> list[Batch]:
    """Wait until all batches of a submission have ended. After the first look a failure that may pass ends nothing."""
    progress = Progress(lambda: found.records - found.failed, "requests")
    pause, shown, lost = _FIRST_POLL, 0, False
    states: list[Batch] = []
    try:
        while not states or not all(state.ended for state in states):
            if states:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_POLL)
            try:
                states = _states(found, client)
            except Temporary as failure:
                if not states:
                    raise
                if not lost:
                    output.say(f"{failure.message}; the wait goes on, --max-time would end it")
                lost = True
                continue
            lost = False
            progress.advance(_done(states) - shown, ", ".join(sorted({state.status for state in states})))
            shown = _done(states)
    finally:
        progress.close()
    return states


def _done(states: list[Batch]) -> int:
    return sum(state.completed + state.failed for state in states)


def _states(found: Submission, client: Client) -> list[Batch]:
    return [batch_api.retrieve(client, part.id) for part in found.parts]


def _reconnect(found: Submission, values: dict[str, Any], place: Context) -> Client:
    """Return a client for the endpoint that a submission went to."""
    if not found.parts:
        raise UsageError(
            f"{found.name} was not sent: --requests-only wrote it, or submit was killed",
            "fetch --results PATH reads what came",
        )
    chosen = resolve.resolve(given(values), {}, found.endpoint, place.env, place.config)
    return connect(place, chosen, gate=Patient())
