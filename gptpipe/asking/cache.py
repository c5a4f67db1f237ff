"""Answers kept to be given again: a file for each, named by what was asked.

An entry is ``{"key": …, "answer": …}``, where the key is its own name, so a file that was cut, renamed or
changed counts as missing. Its age is that of the file. NoInput says that the folder cannot be read.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gptpipe.errors import WriteError
from gptpipe.storage import failing, listed, make_folder, open_regular, replace
from gptpipe.text.strict_json import compact

_ENTRY = r"([0-9a-f]{64})\.json|\.[0-9a-f]{64}\.json\..*"  # an entry, or what a kill left of its writing


def key_of(endpoint: str, request: Mapping[str, Any]) -> str:
    """Return the name of a request's answer: SHA-256 of the endpoint and the request, in hexadecimal digits.

    The order of the request's fields makes no difference.
    """
    from hashlib import sha256  # 4 ms for OpenSSL, not paid without --cache

    return sha256(json.dumps([endpoint, request], sort_keys=True, allow_nan=False).encode()).hexdigest()


def get(directory: Path, key: str, max_age: float | None = None) -> dict[str, Any] | None:
    """Return the answer stored under the key at most ``max_age`` seconds ago, or None. An unreadable one is None."""
    try:
        with open(open_regular(directory / f"{key}.json", os.O_RDONLY), "rb") as file:
            if max_age is not None and time.time() - os.fstat(file.fileno()).st_mtime > max_age:
                return None
            entry = json.loads(file.read())
    except (OSError, WriteError, ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or entry.get("key") != key or not isinstance(entry.get("answer"), dict):
        return None
    return dict(entry["answer"])


def put(directory: Path, key: str, answer: Mapping[str, Any]) -> None:
    """Store the answer, or raise OSError. It replaces an older one in one step."""
    make_folder(directory)
    replace(directory / f"{key}.json", compact({"key": key, "answer": answer}).encode())


def clear(directory: Path, older_than: float | None = None) -> int:
    """Remove the entries, or those older than ``older_than`` seconds; return how many. WriteError if one stays."""
    removed = 0
    for path in _entries(directory):
        with failing(WriteError, f"cannot remove {path}"), suppress(FileNotFoundError):  # another process was quicker
            if older_than is None or time.time() - path.stat(follow_symlinks=False).st_mtime > older_than:
                path.unlink()
                removed += 1
    return removed


def size(directory: Path) -> tuple[int, int]:
    """Return how many entries there are, and their bytes."""
    sizes = []
    for path in _entries(directory):
        with suppress(FileNotFoundError):  # another process has removed it
            sizes.append(path.stat(follow_symlinks=False).st_size)
    return len(sizes), sum(sizes)


def _entries(directory: Path) -> Iterator[Path]:
    return (directory / name for name in listed(directory) if re.fullmatch(_ENTRY, name))
