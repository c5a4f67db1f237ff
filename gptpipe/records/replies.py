"""The results of a batch, brought back into the order of the input."""

from __future__ import annotations

import json
import os
import stat
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from gptpipe.asking.answer import Answer
from gptpipe.asking.want import Want
from gptpipe.errors import BadInput, Failure, NoInput, ProtocolError, Status, Temporary, Unavailable
from gptpipe.message import counts
from gptpipe.records import request
from gptpipe.records.input import Record
from gptpipe.records.results import Outcome
from gptpipe.records.submission import NAME, Part, Submission, load_all, private, remembered
from gptpipe.settings.settings import Settings
from gptpipe.storage import failing, forward
from gptpipe.text import strict_json
from gptpipe.text.strict_json import compact
from gptpipe.usage import ledger, prices
from gptpipe.wire import batch_api
from gptpipe.wire.batch_api import Batch
from gptpipe.wire.client import Client

_LATER = ("batch_expired", "batch_cancelled")  # codes of requests that were not tried
_SOME = 1000  # replies by which the submission of a file of results is found
_DIGITS = 18  # of a record's number, at most


def find(directory: Path, results: Path) -> Submission:
    """Return the submission that a file of results belongs to: the newest that has one of its first requests.

    :raises NoInput: if there is none, or the file cannot be read.
    """
    names = {name for _, name, _ in islice(_replies(_opened(results)), _SOME)}
    for found in load_all(directory)[::-1]:
        if any(name in names for name, _ in remembered(found)):
            return found
    raise NoInput(f"{results} belongs to nothing that was submitted from here")


class Replies:
    """Files of results, in any order; memory holds 16 bytes for each record up to number ``last``.

    :raises NoInput: if a file cannot be read.
    """

    def __init__(self, paths: Iterable[Path], last: int) -> None:
        self._paths = list(paths)
        # By the number of the record: the reply's place, its length (0 if there is none) and its file.
        self._offsets, self._lengths = array("Q", bytes(8 * (last + 1))), array("I", bytes(4 * (last + 1)))
        self._files = array("I", bytes(4 * (last + 1)))
        self._reading: tuple[int, int] | None = None  # a file and its descriptor: there may be more than can be open
        for number, path in enumerate(self._paths):
            descriptor = _opened(path)
            for offset, name, length in _replies(descriptor):
                record = _number(name)
                if record <= last:
                    self._offsets[record], self._lengths[record], self._files[record] = offset, length, number
            os.close(descriptor)

    def get(self, name: str | None) -> dict[str, Any] | None:
        """Return the reply to a request, or None if there is none."""
        number = _number(name) if name else 0
        if name is None or not self._lengths[number]:
            return None
        descriptor = self._descriptor(self._files[number])
        found = json.loads(os.pread(descriptor, self._lengths[number], self._offsets[number]))
        # The body is made valid Unicode where it is read as an answer.
        return found | {"error": strict_json.clean(found.get("error"))} if found["custom_id"] == name else None

    def _descriptor(self, number: int) -> int:
        if self._reading is None or self._reading[0] != number:
            if self._reading is not None:
                os.close(self._reading[1])
            self._reading = number, _opened(self._paths[number])
        return self._reading[1]


def _number(name: str) -> int:
    """Return the number of the record that a request belongs to; 0 if it is not a request of ours."""
    digits = name.partition("-")[0][:_DIGITS]
    return int(digits) if digits.isdecimal() else 0


def _opened(path: Path) -> int:
    """Open a file of results, a regular one: it is read from its start more than once."""
    with failing(NoInput, f"cannot read {path}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise NoInput(f"cannot read {path}: it is not a regular file")
    return descriptor


def _replies(descriptor: int) -> Iterator[tuple[int, str, int]]:
    """Yield of each reply in a file its offset, the id of its request, and its length."""
    for line in forward(descriptor):
        with suppress(ValueError, KeyError, TypeError, RecursionError):  # a line cut at the end of a file
            reply = json.loads(line.data)
            name = reply["custom_id"]
            if ("response" in reply or "error" in reply) and isinstance(name, str):  # else it is a file of requests
                yield line.offset, name, len(line.data)


def collect(submission: Submission, states: list[Batch], client: Client) -> list[Path]:
    """Return the files of results of batches that have ended; what is not here yet is fetched."""
    found = []
    for state in states:
        for file in filter(None, (state.output, state.errors)):
            if not NAME.fullmatch(file):
                raise ProtocolError(f"{state.id} has a file whose name cannot be one here: {file}")
            path = submission.folder / f"results-{file}.jsonl"
            if not path.exists():
                new = path.with_suffix(".new")
                os.close(private(new))
                batch_api.download(client, file, str(new))
                new.rename(path)  # or a kill in the middle leaves a file that looks whole
            found.append(path)
    return found


def outcomes(submission: Submission, replies: Replies, states: list[Batch], want: Want) -> Iterator[Outcome]:
    """Yield the outcome of each record, in the order of the input.

    ``states`` are those of the submission's batches; without them another engine has answered.
    """
    parts = sorted(zip(submission.parts, states, strict=False), key=lambda each: each[0].first)
    for name, note in remembered(submission):
        record = Record(note["index"], note["record"])
        answer = Answer(want)
        failure: Failure | None
        if "error" in note:
            kind = NoInput if note["error"]["status"] == NoInput.status else BadInput
            failure = kind(note["error"]["message"])
        else:
            state = _state(parts, note.get("same_as", note["index"]))
            if states and state is None:
                failure = Temporary("it was not sent: submit broke off before")
            else:
                failure = _take(answer, replies.get(name), state)
        if failure is not None:
            answer.failure = failure
        outcome = request.outcome(record, note["key"], submission.endpoint["model"], answer)
        yield outcome._replace(same_as=note["same_as"], usage=None) if "same_as" in note else outcome


def _state(parts: list[tuple[Part, Batch]], number: int) -> Batch | None:
    """Return the batch that has the request of a record, or None."""
    place = bisect_right(parts, number, key=lambda each: each[0].first) - 1
    return parts[place][1] if place >= 0 and number <= parts[place][0].last else None


def book(submission: Submission, outcomes: Iterator[Outcome], settings: Settings, directory: Path) -> Iterator[Outcome]:
    """Pass the outcomes on, and book their usage in the folder when all were passed on for the first time.

    :raises WriteError: if that fails.
    """
    if submission.booked:
        yield from outcomes
        return
    tier = prices.batch_tier(submission.plan.window)
    account = ledger.account_of("gptpipe-batch", settings, None)._replace(service_tier=tier)
    in_usd = settings.budget.day_usd is not None or settings.budget.month_usd is not None
    import tempfile

    with tempfile.TemporaryFile("w+", dir=submission.folder) as entries:
        # Until the last outcome is out: a reader that goes before is one who fetches again.
        for outcome in outcomes:
            if outcome.usage:
                status = outcome.failure.status if outcome.failure else Status.OK
                entry = ledger.counted(outcome.usage, (0, 0), account, 0.0, status)
                if in_usd:
                    entry = entry._replace(usd=prices.cost(counts(outcome.usage), settings, entry.at, tier))
                entries.write(compact(entry) + "\n")
            yield outcome
        entries.seek(0)
        log = ledger.Log(directory)
        for line in entries:
            log.append(ledger.Entry(*json.loads(line)))
    submission._replace(booked=True).save()


def _take(answer: Answer, reply: dict[str, Any] | None, state: Batch | None) -> Failure | None:
    """Fill the answer with a reply; return why the answer is not complete, or None."""
    if reply is None:
        if state is not None and (state.crowded or state.too_large):
            again = "'gptpipe-batch submit --continue ID' sends its requests again"
            return Temporary(f"the batch was not accepted: {state.problem}", again)
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
