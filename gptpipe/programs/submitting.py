"""How ``gptpipe-batch submit`` sends the requests of its records, at once or in parts."""

from __future__ import annotations

import os
from errno import ENOENT
from typing import Any

from gptpipe.asking.asker import check_spending
from gptpipe.asking.context import Context, given
from gptpipe.asking.link import connect
from gptpipe.asking.want import Want
from gptpipe.console import output
from gptpipe.errors import Failure, NoInput, Status, Temporary, UsageError
from gptpipe.records import submission
from gptpipe.records.form import Lines
from gptpipe.records.queue import Queue, repeated
from gptpipe.records.request import IsOpen
from gptpipe.records.result_file import ResultFile
from gptpipe.records.results import State
from gptpipe.records.submission import Plan, Submission
from gptpipe.settings.settings import Settings
from gptpipe.wire.client import Client, Patient


def planned(plan: Plan, values: dict[str, Any]) -> Plan:
    """Return the plan with what the options change in it."""
    options = {"requests": "batch_size", "queued": "queued", "window": "completion_window"}
    return plan._replace(**{field: values[name] for field, name in options.items() if values[name] is not None})


def unanswered(path: str | None) -> IsOpen | None:
    """Return a function that says whether a record has no answer in a file of results; None without a file.

    :raises NoInput: if it cannot be read; BadInput: if it is not a file of results.
    """
    if path is None:
        return None
    if not os.path.exists(path):
        raise NoInput(f"cannot read {path}: {os.strerror(ENOENT)}")
    results = ResultFile(path, Lines(with_record=False), resume=True, look=True)
    return lambda record, key: results.take(record, key) is State.MISSING


def go_on(template: str | None, values: dict[str, Any], context: Context) -> int:
    """Submit what is left of an earlier submission."""
    if template is not None or any(values[name] for name in ("file", "resume", "dry_run", "requests_only")):
        raise UsageError("--continue takes no template and no input: the requests are made already")
    found = submission.load(context.paths.batches, values["going_on"])
    if found.parts and not found.open:
        return Status.OK
    check_spending(context, resolved(found, values, context), Want(over_budget=values["over_budget"]))
    client = reconnect(found, values, context)
    return send(found._replace(plan=planned(found.plan, values)), client, values)


def send(found: Submission, client: Client, values: dict[str, Any]) -> int:
    """Start as many batches of a submission as may run now, and print its name."""
    fresh = values["going_on"] is None
    queue = Queue(found, client)
    try:
        if fresh:
            queue.start()
            queue.found = queue.found.renamed()
            output.print_text(queue.found.name)
            queue.fill()
        else:
            queue.step()
        if values["wait"] and not queue.done:
            with output.waiting(f"waiting for batches of {queue.found.name} to end: --max-time bounds it"):
                repeated(queue.step, lambda: queue.ended)
    except Failure as failure:
        found = queue.found
        if fresh and not found.parts and found.pending is None:
            submission.discard(found.folder)
        else:
            again, back = (f"'gptpipe-batch {words} {found.name}'" for words in ("submit --continue", "cancel"))
            failure.hint = f"{again} goes on, {back} takes back what was submitted"
        raise
    if left := queue.found.left:
        name = queue.found.name
        raise Temporary(
            f"{left} of {found.requests} requests of {name} are not submitted yet",
            f"'gptpipe-batch submit --continue {name}' submits more when batches have ended; --wait waits for that",
        )
    return Status.OK


def reconnect(found: Submission, values: dict[str, Any], context: Context) -> Client:
    """Return a client for the endpoint that a submission went to."""
    if not found.parts and not found.open:
        raise UsageError(f"{found.name} was not sent: --requests-only wrote it", "fetch --results PATH reads what came")
    return connect(context, resolved(found, values, context), gate=Patient())


def resolved(found: Submission, values: dict[str, Any], context: Context) -> Settings:
    """Return the settings for the endpoint that a submission went to."""
    return context.resolve(given(values), session=found.endpoint)
