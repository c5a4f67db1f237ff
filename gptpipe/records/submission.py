"""What is remembered of records that were submitted, so that days later records and answers are put together.

Each submission has a folder. ``batch.json`` holds the endpoint, the limits and the batches. ``records.jsonl`` has a
line for each record. ``requests.jsonl`` has a line for each request, as long as one of them may still be sent: the
form is https://platform.openai.com/docs/guides/batch. Result files that were fetched are kept there too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

from gptpipe.errors import NoInput, WriteError
from gptpipe.storage import failing, open_regular, replace
from gptpipe.text.strict_json import compact

MAX_REQUESTS = 50_000  # in a file, https://platform.openai.com/docs/guides/batch#rate-limits
MAX_BYTES = 200_000_000
NAME = re.compile(r"\w[\w.-]*", re.ASCII)  # of a batch or file at the provider, that may be one here

_STATE = "batch.json"
RECORDS = "records.jsonl"
REQUESTS = "requests.jsonl"


class Plan(NamedTuple):
    """How requests become batches of an endpoint (a path such as ``/v1/responses``), done within a ``window``.

    A file has at most so many ``requests`` and ``bytes``. At most ``queued`` batches are unfinished at once; None is
    no limit.
    """

    endpoint: str
    window: str = "24h"
    requests: int = MAX_REQUESTS
    queued: int | None = None
    bytes: int = MAX_BYTES


class Part(NamedTuple):
    """A batch at the provider: the ``requests`` of some of the records from ``first`` to ``last``.

    They stand in ``requests.jsonl`` from byte ``start`` to ``stop``. Before the batch is made, ``id`` is its file's.
    """

    id: str
    first: int
    last: int
    start: int
    stop: int
    requests: int


class Submission(NamedTuple):
    """What was submitted under one name: that of its first batch.

    ``endpoint`` is what ``settings.resolve`` takes as that of a session, ``want`` what the answers must be. ``records``
    counts the records, ``failed`` those that could not be made requests, ``requests`` the requests; ``last`` is the
    number of the last record. ``pending`` is a file that was sent; whether its batch was made is not known. ``booked``
    says whether the usage is booked.

    :raises WriteError: in the methods that write, if that fails.
    """

    folder: Path
    at: str
    endpoint: dict[str, Any]
    want: dict[str, Any]
    plan: Plan
    records: int
    failed: int
    requests: int
    last: int
    parts: list[Part]
    pending: Part | None = None
    booked: bool = False

    @property
    def name(self) -> str:
        """The name of the submission."""
        return self.folder.name

    @property
    def path(self) -> Path:
        """The file of the requests; it is removed when none of them will be sent any more."""
        return self.folder / REQUESTS

    @property
    def open(self) -> bool:
        """Whether requests may still be sent."""
        return self.path.exists()

    @property
    def left(self) -> int:
        """The number of requests that are in no batch."""
        return self.requests - sum(part.requests for part in self.parts)

    def save(self) -> None:
        """Write what is known, in one step."""
        found = self._asdict()
        del found["folder"]
        with failing(WriteError, f"cannot write {self.folder / _STATE}"):
            replace(self.folder / _STATE, compact(found).encode() + b"\n")

    def settle(self) -> None:
        """Send no more of the requests."""
        self.path.unlink(missing_ok=True)

    def renamed(self) -> Submission:
        """Return the submission under the name of its first batch, if a folder can have that name."""
        name = self.parts[0].id
        if not NAME.fullmatch(name):
            return self
        with failing(WriteError, f"cannot rename {self.folder}"):
            return self._replace(folder=self.folder.rename(self.folder.parent / name))


def private(path: Path) -> int:
    """Make a file that is the user's alone, under any umask, and return its descriptor."""
    return open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def discard(folder: Path) -> None:
    """Forget a submission."""
    rmtree(folder, ignore_errors=True)


def load_all(directory: Path) -> list[Submission]:
    """Return all submissions, the oldest first."""
    folders = directory.iterdir() if directory.is_dir() else []
    found = []
    for folder in folders:
        with suppress(NoInput):
            found.append(read(folder))
    return sorted(found, key=lambda each: (each.at, each.name))


def load(directory: Path, name: str) -> Submission:
    """Return a submission by its name, or by that of one of its batches.

    :raises NoInput: if there is none.
    """
    for found in load_all(directory):
        if name == found.name or name in (part.id for part in found.parts):
            return found
    raise NoInput(f"no such batch: {name}", "gptpipe-batch list names them")


def read(folder: Path) -> Submission:
    """Return the submission in a folder.

    :raises NoInput: if there is none that can be read.
    """
    try:
        found = json.loads((folder / _STATE).read_bytes())
        found["plan"], found["parts"] = Plan(*found["plan"]), [Part(*part) for part in found["parts"]]
        found["pending"] = found["pending"] and Part(*found["pending"])
        return Submission(folder, **found)
    except (OSError, ValueError, KeyError, TypeError):
        raise NoInput(f"{folder} does not hold a batch that can be read") from None


def custom_id(number: int, key: str) -> str:
    """Return the id of the request of a record in the files."""
    return f"{number}-{key}"


def remembered(submission: Submission) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield the id of the request that each record has, or shares with an equal one, and what is known of the record.

    That is ``index``, ``key`` and ``record``; and ``same_as``, the index of the equal record, or ``error``.
    """
    with (submission.folder / RECORDS).open(encoding="utf-8") as file:
        for line in file:
            note = json.loads(line)
            yield note["key"] and custom_id(note.get("same_as", note["index"]), note["key"]), note
