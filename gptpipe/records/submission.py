"""Batches: requests in files for the provider's Batch API, or another engine that takes its format, and what came back.

What was submitted is remembered in a folder of its own, so that days later records and answers are put together: in
``batch.json`` the endpoint and the batches, in ``records.jsonl`` a line for each record. Result files are kept there
too once they are fetched. The files' format: https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple, TextIO

from gptpipe.asking import tokens
from gptpipe.errors import Failure, NoInput, OverLimit, WriteError
from gptpipe.records import input, request
from gptpipe.records.input import Record
from gptpipe.records.request import Maker
from gptpipe.settings.settings import Paths, Settings
from gptpipe.storage import failing, make_folder, open_regular, replace
from gptpipe.text.strict_json import compact
from gptpipe.wire import batch_api
from gptpipe.wire.client import Client
from gptpipe.wire.protocol import Protocol
from gptpipe.wire.request import Request

MAX_REQUESTS = 50_000  # in a file, https://platform.openai.com/docs/guides/batch#rate-limits
MAX_BYTES = 200_000_000
WITHOUT = ("stream",)  # what a request in a file lacks

_STATE = "batch.json"
_RECORDS = "records.jsonl"
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)  # of a batch or file at the provider, that may be one here


class Part(NamedTuple):
    """A batch at the provider, and the last record that is in it."""

    id: str
    last: int


class Submission(NamedTuple):
    """What was submitted under one name: that of its first batch.

    ``endpoint`` is what ``settings.resolve`` takes as that of a session. ``records`` counts them, ``failed`` those of
    them that could not be made requests. ``entered`` says whether its usage is booked.
    """

    folder: Path
    at: str
    endpoint: dict[str, Any]
    want: dict[str, Any]
    records: int
    failed: int
    parts: list[Part]
    entered: bool = False

    @property
    def name(self) -> str:
        """The name of the submission."""
        return self.folder.name

    def save(self) -> None:
        """Write what is known, in one step.

        :raises WriteError: if that fails.
        """
        found = self._asdict()
        del found["folder"]
        with failing(WriteError, f"cannot write {self.folder / _STATE}"):
            replace(str(self.folder / _STATE), compact(found).encode() + b"\n", 0o600)


class _Files:
    """The request files of a submission, each within the API's limits; with ``single`` there is but one."""

    def __init__(self, folder: Path, *, single: bool) -> None:
        self._folder = folder
        self._single = single
        self._file: TextIO | None = None
        self._requests = self._bytes = 0
        self.paths: list[Path] = []
        self.last: list[int] = []  # the number of the last record in each

    def add(self, number: int, line: str) -> None:
        size = len(line.encode())
        full = self._requests == MAX_REQUESTS or self._bytes + size > MAX_BYTES
        if self._file is None or (full and not self._single):
            self.close()
            self.paths.append(self._folder / f"requests-{len(self.paths) + 1}.jsonl")
            self.last.append(number)
            self._file = open(_private(self.paths[-1]), "w", encoding="utf-8")  # noqa: SIM115
            self._requests = self._bytes = 0
        self._file.write(line)
        self._requests += 1
        self._bytes += size
        self.last[-1] = number

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _private(path: Path) -> int:
    """Make a file that is the user's alone, under any umask, and return its descriptor."""
    return open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


class Prepared(NamedTuple):
    """A submission that is on disk and not yet sent, and its request files."""

    submission: Submission
    spoken: Protocol
    files: list[Path]
    last: list[int]


def prepare(paths: Paths, source: Iterable[Record], maker: Maker, want: dict[str, Any], *, single: bool) -> Prepared:
    """Write the requests of the records to files.

    :raises NoInput: if no record can be made a request, or the records cannot be read.
    :raises OverLimit: if one would send more than the user's limit.
    :raises WriteError: if the files cannot be written. After a failure nothing is left of them.
    """
    # Not by the number of the process: containers that share the folder have the same ones.
    name = f"requests-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"
    folder = paths.batches / name
    try:
        return _prepare(folder, paths, source, maker, want, single=single)
    except BaseException:
        discard(folder)
        raise


def _prepare(
    folder: Path, paths: Paths, source: Iterable[Record], maker: Maker, want: dict[str, Any], *, single: bool
) -> Prepared:
    chosen = maker.settings
    found = failed = 0
    with failing(WriteError, f"cannot write {folder}"):
        make_folder(folder)
        files = _Files(folder, single=single)
        with open(_private(folder / _RECORDS), "w", encoding="utf-8") as remembered:
            for record in source:
                found += 1
                note: dict[str, Any] = {"index": record.number, "key": None, "record": input.displayed(record.value)}
                try:
                    asked = maker.request(record)
                    note["key"] = request.key(asked)
                    if chosen.max_input_tokens is not None:
                        tokens.check(asked.messages, chosen.max_input_tokens, chosen.model, paths.cache)
                    files.add(
                        record.number,
                        _request(custom_id(record.number, note["key"]), maker.spoken, asked, chosen),
                    )
                except OverLimit:
                    raise
                except Failure as failure:
                    failed += 1
                    note["error"] = {"status": failure.status, "message": failure.message}
                remembered.write(compact(note) + "\n")
        files.close()
    if not files.paths:
        raise NoInput("no record can be asked")
    endpoint = {"model": chosen.model, "profile": chosen.profile, "base_url": chosen.base_url}
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    submission = Submission(folder, at, endpoint, want, found, failed, [])
    submission.save()
    return Prepared(submission, maker.spoken, files.paths, files.last)


def custom_id(number: int, key: str) -> str:
    """Return the id of a request in the files."""
    return f"{number}-{key}"


def _request(name: str, spoken: Protocol, asked: Request, chosen: Settings) -> str:
    body = spoken.body(asked, chosen, WITHOUT)
    return compact({"custom_id": name, "method": "POST", "url": batch_api.endpoint_of(spoken), "body": body}) + "\n"


def submit(prepared: Prepared, client: Client) -> Submission:
    """Send the files and start a batch of each; what is started is on disk before the next is sent.

    :raises Failure: as the client does; what was started until then is remembered.
    """
    submission = prepared.submission
    for path, last in zip(prepared.files, prepared.last, strict=True):
        try:
            file = batch_api.upload(client, str(submission.folder / path.name))
            started = batch_api.create(client, file, prepared.spoken)
        except Failure as failure:
            if not submission.parts:
                discard(submission.folder)
            else:
                failure.hint = f"'gptpipe-batch cancel {submission.name}' cancels what was submitted before"
            raise
        submission = submission._replace(parts=[*submission.parts, Part(started.id, last)])
        submission.save()  # before all else: from here on a kill does not lose a batch that must be paid
        if len(submission.parts) == 1 and _NAME.fullmatch(started.id):
            with failing(WriteError, f"cannot rename {submission.folder}"):
                submission = submission._replace(folder=submission.folder.rename(submission.folder.parent / started.id))
        (submission.folder / path.name).unlink()
    return submission


def discard(folder: Path) -> None:
    """Forget a submission."""
    rmtree(folder, ignore_errors=True)


# What is remembered


def load_all(directory: Path) -> list[Submission]:
    """Return all submissions, the oldest first."""
    folders = directory.iterdir() if directory.is_dir() else []
    found = []
    for folder in folders:
        with suppress(NoInput):
            found.append(_load(folder))
    return sorted(found, key=lambda each: (each.at, each.name))


def load(directory: Path, name: str) -> Submission:
    """Return a submission by its name, or by that of one of its batches.

    :raises NoInput: if there is none.
    """
    for found in load_all(directory):
        if name == found.name or name in (part.id for part in found.parts):
            return found
    raise NoInput(f"no such batch: {name}", "gptpipe-batch list names them")


def _load(folder: Path) -> Submission:
    try:
        found = json.loads((folder / _STATE).read_bytes())
        parts = [Part(*part) for part in found["parts"]]
        counted = found["records"], found["failed"]
        return Submission(folder, found["at"], found["endpoint"], found["want"], *counted, parts, found["entered"])
    except (OSError, ValueError, KeyError, TypeError):
        raise NoInput(f"{folder} does not hold a batch that can be read") from None


def _remembered(submission: Submission) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield what a file of results calls each record, and what is remembered of it."""
    with (submission.folder / _RECORDS).open(encoding="utf-8") as file:
        for line in file:
            note = json.loads(line)
            yield note["key"] and custom_id(note["index"], note["key"]), note
