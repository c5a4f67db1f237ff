"""The results of a batch, brought back into the order of the input."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from gptpipe.asking.answer import Answer
from gptpipe.asking.want import Want
from gptpipe.errors import BadInput, Failure, NoInput, ProtocolError, Status, Temporary, Unavailable
from gptpipe.records import request
from gptpipe.records.input import Record
from gptpipe.records.results import Outcome
from gptpipe.records.submission import _NAME, Submission, _private, _remembered, load_all
from gptpipe.storage import failing, forward
from gptpipe.text import strict_json
from gptpipe.text.address import stored
from gptpipe.usage import ledger
from gptpipe.wire import batch_api
from gptpipe.wire.batch_api import Batch
from gptpipe.wire.client import Client

_LATER = ("batch_expired", "batch_cancelled")  # codes of requests that were not tried


def find(directory: Path, results: Path) -> Submission:
    """Return the submission that a file of results belongs to: the newest that has its first request.

    :raises NoInput: if there is none, or the file cannot be read.
    """
    replies = Replies([results])
    for found in load_all(directory)[::-1]:
        if any(name in replies for name, _ in _remembered(found)):
            return found
    raise NoInput(f"{results} belongs to nothing that was submitted from here")


# What came back


class Replies:
    """Files of results, in any order; memory holds only the offset of each.

    :raises NoInput: if a file cannot be read.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        for path in paths:
            with failing(NoInput, f"cannot read {path}"):
                self._read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), path)

    def _read(self, descriptor: int, path: Path) -> None:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it is read from its start more than once
            raise NoInput(f"cannot read {path}: it is not a regular file")
        for line in forward(descriptor):
            with suppress(ValueError, KeyError, TypeError, RecursionError):  # a line cut at the end of a file
                reply = json.loads(line.data)
                if "response" in reply or "error" in reply:  # else it is the file of the requests
                    self._places[reply["custom_id"]] = (descriptor, line.offset)

    def __contains__(self, name: str | None) -> bool:
        return name in self._places

    def get(self, name: str | None) -> dict[str, Any] | None:
        """Return the reply to a request, or None if there is none."""
        if name is None or name not in self._places:
            return None
        descriptor, offset = self._places[name]
        with open(descriptor, "rb", closefd=False) as file:
            file.seek(offset)
            return dict(strict_json.clean(json.loads(file.readline())))


def collect(submission: Submission, states: list[Batch], client: Client) -> list[Path]:
    """Return the files of results of batches that have ended; what is not here yet is fetched.

    :raises Failure: as the client does.
    """
    found = []
    for state in states:
        for file in filter(None, (state.output, state.errors)):
            if not _NAME.fullmatch(file):
                raise ProtocolError(f"{state.id} has a file whose name cannot be one here: {file}")
            path = submission.folder / f"results-{file}.jsonl"
            if not path.exists():
                new = path.with_suffix(".new")
                os.close(_private(new))
                batch_api.download(client, file, str(new))
                new.rename(path)  # or a kill in the middle leaves a file that looks whole
            found.append(path)
    return found


def outcomes(submission: Submission, replies: Replies, states: list[Batch], want: Want) -> Iterator[Outcome]:
    """Yield the outcome of each record, in the order of the input."""
    left = list(zip(submission.parts, states, strict=False))
    sent = left[-1][0].last if left else submission.records
    for name, note in _remembered(submission):
        while len(left) > 1 and note["index"] > left[0][0].last:
            left.pop(0)
        record = Record(note["index"], note["record"])
        answer = Answer(want)
        failure: Failure | None
        if "error" in note:
            kind = NoInput if note["error"]["status"] == NoInput.status else BadInput
            failure = kind(note["error"]["message"])
        else:
            failure = _take(answer, replies.get(name), left[0][1] if left else None)
            if note["index"] > sent:
                failure = Temporary("it was not sent: submit broke off before")
        if failure is not None:
            answer.fail(failure)
        yield request.outcome(record, note["key"], submission.endpoint["model"], answer)


def enter(submission: Submission, outcomes: Iterator[Outcome], directory: Path) -> Iterator[Outcome]:
    """Pass the outcomes on, and book their usage in the folder when all were passed on for the first time.

    :raises WriteError: if that fails.
    """
    if submission.entered:
        yield from outcomes
        return
    account = ledger.Account(
        "gptpipe-batch",
        submission.endpoint["profile"],
        submission.endpoint["model"],
        base_url=stored(submission.endpoint["base_url"] or "") or None,
    )
    entries = []  # until the last outcome is out: a reader that goes before is one who fetches again
    for outcome in outcomes:
        if outcome.usage:
            status = outcome.failure.status if outcome.failure else Status.OK
            entries.append(ledger.counted(outcome.usage, (0, 0), account, 0.0, status))
        yield outcome
    log = ledger.Log(directory)
    for entry in entries:
        log.append(entry)
    submission._replace(entered=True).save()


def _take(answer: Answer, reply: dict[str, Any] | None, state: Batch | None) -> Failure | None:
    """Fill the answer with a reply; return why the answer is not complete, or None."""
    if reply is None:
        if state is not None and state.problem:
            return BadInput(f"the batch {state.status}: {state.problem}")
        return Temporary(f"no result came: the batch is {state.status}" if state else "no result came")
    error = reply.get("error")
    if isinstance(error, dict) and error.get("code") in _LATER:
        return Temporary(str(error.get("message") or error["code"]))
    try:
        for event in batch_api.answer(reply):
            answer.take(event)
    except Unavailable as failure:  # of the request: that is a failure of its record
        return BadInput(failure.message, failure.hint)
    except Failure as failure:
        return failure
    answer.judge()
    return answer.failure
