"""The requests of a submission on disk: all of them in one file, and the next batch cut out of it."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from gptpipe.asking import tokens
from gptpipe.errors import Failure, NoInput, OverLimit, WriteError
from gptpipe.records import input, request, submission
from gptpipe.records.input import Record
from gptpipe.records.keys import Keys, packed
from gptpipe.records.request import IsOpen, Maker
from gptpipe.records.submission import RECORDS, REQUESTS, Part, Plan, Submission, custom_id, private
from gptpipe.settings.settings import Paths
from gptpipe.storage import failing, make_folder
from gptpipe.text.strict_json import compact
from gptpipe.wire import batch_api

WITHOUT = ("stream",)  # what a request in a file lacks
_PART = "part.jsonl"


def prepare(
    paths: Paths, records: Iterable[Record], maker: Maker, plan: Plan, is_open: IsOpen | None, *, dedupe: bool
) -> tuple[Submission | None, Counter[str]]:
    """Write the requests of the records to a folder of their own, and what is to be remembered of each record.

    Of all records or those that are open; with ``dedupe`` one request for equal ones.
    Return the submission, or None if every record was left out, and counts: also how many records are the ``same`` as
    others, or ``skipped``.

    :raises NoInput: if no record can be made a request, or the records cannot be read.
    :raises OverLimit: if one would send more than the user's limit.
    :raises WriteError: if the files cannot be written. After a failure nothing is left of them.
    """
    chosen, want = maker.settings, maker.want
    endpoint = {"model": chosen.model, "profile": chosen.profile, "base_url": chosen.base_url}
    kept = {"schema": want.schema, "extract": want.extract}
    now = time.gmtime()
    # Not by the number of the process: containers that share the folder have the same ones.
    folder = paths.batches / f"requests-{time.strftime('%Y%m%dT%H%M%S', now)}-{os.urandom(4).hex()}"
    made = None
    try:
        with failing(WriteError, f"cannot write {folder}"):
            make_folder(folder)
            counted = _write(folder, paths.cache, records, maker, is_open, dedupe)
        if counted["requests"]:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", now)
            number, failed = counted["records"], counted["failed"]
            found = Submission(
                folder, at, endpoint, kept, plan, number, failed, counted["requests"], counted["last"], parts=[]
            )
            found.save()
            made = found
        elif counted["records"] or not counted["skipped"]:
            raise NoInput("no record can be asked")
        return made, counted
    finally:
        if made is None:
            submission.discard(folder)


def _write(
    folder: Path, cache: Path, records: Iterable[Record], maker: Maker, is_open: IsOpen | None, dedupe: bool
) -> Counter[str]:
    chosen = maker.settings
    url = batch_api.endpoint_of(maker.spoken)
    counted: Counter[str] = Counter()
    first = Keys()  # the number of the first record of each request
    with _new(folder / RECORDS) as remembered, _new(folder / REQUESTS) as requests:
        for record in records:
            note: dict[str, Any] = {"index": record.number, "key": None, "record": input.displayed(record.value)}
            try:
                asked = maker.request(record)
                key = note["key"] = request.key_of(asked)
                if is_open is not None and not is_open(record, key):
                    counted["skipped"] += 1
                    continue
                equal = first.get(packed(key)) if dedupe else None
                if equal is None:
                    if chosen.max_input_tokens is not None:
                        tokens.check(asked.messages, chosen.max_input_tokens, chosen.model, cache)
                    body = maker.spoken.body(asked, chosen, WITHOUT)
                    line = {"custom_id": custom_id(record.number, key), "method": "POST", "url": url, "body": body}
                    requests.write(compact(line) + "\n")
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
