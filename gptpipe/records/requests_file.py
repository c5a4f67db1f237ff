"""The requests of a submission on disk: all of them in one file, and the next batch cut out of it."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from gptpipe.asking import tokens
from gptpipe.errors import Failure, NoInput, OverLimit, WriteError
from gptpipe.records import input, request, submission
from gptpipe.records.input import Record
from gptpipe.records.keys import Keys, packed
from gptpipe.records.request import Maker
from gptpipe.records.submission import Part, Plan, Submission, custom_id, private
from gptpipe.storage import failing, make_folder
from gptpipe.text.strict_json import compact
from gptpipe.wire import batch_api
from gptpipe.wire.request import Request

WITHOUT = ("stream",)  # what a request in a file lacks

_PART = "part.jsonl"


class Choice(NamedTuple):
    """Which records are asked: those that ``is_open`` accepts by record and key; with ``dedupe`` equal ones once."""

    is_open: Callable[[Record, str], bool]
    dedupe: bool


def prepare(
    directory: Path, cache: Path, records: Iterable[Record], maker: Maker, choice: Choice, plan: Plan
) -> tuple[Submission | None, Counter[str]]:
    """Write the requests of the records to a folder of their own, and what is to be remembered of each record.

    Return the submission, or None if every record was left out, and counts: also how many records are the ``same`` as
    others, or ``skipped``. ``cache`` has the tokenizer's vocabularies.

    :raises NoInput: if no record can be made a request, or the records cannot be read.
    :raises OverLimit: if one would send more than the user's limit.
    :raises WriteError: if the files cannot be written. After a failure nothing is left of them.
    """
    # Not by the number of the process: containers that share the folder have the same ones.
    name = f"requests-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"
    chosen, want = maker.settings, maker.want
    endpoint = {"model": chosen.model, "profile": chosen.profile, "base_url": chosen.base_url}
    kept = {"schema": want.schema, "extract": want.extract}
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    found = Submission(directory / name, at, endpoint, kept, plan, 0, 0, 0, 0, [])
    try:
        with failing(WriteError, f"cannot write {found.folder}"):
            make_folder(found.folder)
            counted = _write(found, cache, records, maker, choice)
        if counted["skipped"] and not counted["records"]:
            submission.discard(found.folder)
            return None, counted
        if not counted["requests"]:
            raise NoInput("no record can be asked")
        made = found._replace(
            records=counted["records"], failed=counted["failed"], requests=counted["requests"], last=counted["last"]
        )
        made.save()
        return made, counted
    except BaseException:
        submission.discard(found.folder)
        raise


def _write(found: Submission, cache: Path, records: Iterable[Record], maker: Maker, choice: Choice) -> Counter[str]:
    counted: Counter[str] = Counter()
    first = Keys()  # the number of the first record of each request
    with _new(found.folder / submission.RECORDS) as remembered, _new(found.path) as requests:
        for record in records:
            note: dict[str, Any] = {"index": record.number, "key": None, "record": input.displayed(record.value)}
            try:
                asked = maker.request(record)
                key = note["key"] = request.key_of(asked)
                if not choice.is_open(record, key):
                    counted["skipped"] += 1
                    continue
                equal = first.get(packed(key)) if choice.dedupe else None
                if equal is None:
                    _check(asked, maker, cache)
                    requests.write(_line(custom_id(record.number, key), maker, asked))
                    first.set(packed(key), record.number)
                    counted["requests"] += 1
                else:
                    note["same_as"] = equal
                    counted["same"] += 1
            except OverLimit:
                raise
            except Failure as failure:
                note["error"] = {"status": failure.status, "message": failure.message}
                counted["failed"] += 1
            remembered.write(compact(note) + "\n")
            counted["records"] += 1
            counted["last"] = record.number
        for file in (remembered, requests):  # or a crash leaves batches that are paid for without their records
            file.flush()
            os.fsync(file.fileno())
    return counted


def _new(path: Path) -> TextIO:
    return open(private(path), "w", encoding="utf-8")


def _check(asked: Request, maker: Maker, cache: Path) -> None:
    chosen = maker.settings
    if chosen.max_input_tokens is not None:
        tokens.check(asked.messages, chosen.max_input_tokens, chosen.model, cache)


def _line(name: str, maker: Maker, asked: Request) -> str:
    body = maker.spoken.body(asked, maker.settings, WITHOUT)
    url = batch_api.endpoint_of(maker.spoken)
    return compact({"custom_id": name, "method": "POST", "url": url, "body": body}) + "\n"


def cut(found: Submission) -> tuple[Path, Part] | None:
    """Write the next requests that are in no batch to a file, as many as one may have; return None if none are left.

    :raises WriteError: if that fails.
    """
    path = found.folder / _PART
    ends: list[bytes] = []  # the first request and the last
    requests = 0
    with failing(WriteError, f"cannot write {path}"), found.path.open("rb") as source:
        start, end = _gap(found.parts, os.fstat(source.fileno()).st_size)
        if start == end:
            return None
        stop = source.seek(start)
        with open(private(path), "wb") as file:
            for line in source:
                full = requests == found.plan.requests or stop + len(line) - start > found.plan.bytes
                if stop == end or (full and requests):
                    break
                file.write(line)
                requests, stop = requests + 1, stop + len(line)
                ends = [*ends[:1], line]
    first, last = (int(json.loads(line)["custom_id"].partition("-")[0]) for line in (ends[0], ends[-1]))
    return path, Part("", first, last, start, stop, requests)


def _gap(parts: list[Part], size: int) -> tuple[int, int]:
    """Return from which byte to which no part stands in a file of this size."""
    start = 0
    for part in sorted(parts, key=lambda part: part.start):
        if start < part.start:
            return start, part.start
        start = part.stop
    return start, size
