from __future__ import annotations

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gptpipe.asking import cache
from gptpipe.errors import NoInput, UsageError
from gptpipe.text.age import parse_age

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hé\ud800"}], "temperature": 0.5}
KEY = cache.key_of("https://api.example/v1", BODY)
ANSWER = {"text": "hallo 你好", "finish_reason": "stop", "usage": {"total_tokens": 3}}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("30m", 1800), ("12h", 43200), ("7d", 604800), ("2w", 1209600), ("0d", 0)],
)
def test_age(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5h", "7 d", "7D", "7d ", "٣d", "9999999999d", "7dd"])
def test_no_age(text: str) -> None:
    with pytest.raises(UsageError, match="is not an age"):
        parse_age(text)


def test_key_is_of_endpoint_and_request() -> None:
    assert cache.key_of("https://api.example/v1", dict(reversed(BODY.items()))) == KEY
    others = [
        cache.key_of("https://api.example/v2", BODY),
        cache.key_of("https://api.example/v1", BODY | {"temperature": 0.6}),
        cache.key_of("https://api.example/v1", BODY | {"seed": None}),
    ]
    assert len({KEY, *others}) == 4
    assert all(len(key) == 64 for key in others)


def test_put_and_get(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "answers"
    assert cache.get(folder, KEY) is None
    cache.put(folder, KEY, {"text": "old"})
    cache.put(folder, KEY, ANSWER)
    assert cache.get(folder, KEY) == ANSWER
    assert cache.get(folder, KEY, max_age=60) == ANSWER
    assert os.listdir(folder) == [f"{KEY}.json"]


def test_too_old(tmp_path: Path) -> None:
    cache.put(tmp_path, KEY, ANSWER)
    then = time.time() - 3600
    os.utime(tmp_path / f"{KEY}.json", (then, then))
    assert cache.get(tmp_path, KEY, max_age=3500) is None
    assert cache.get(tmp_path, KEY, max_age=3700) == ANSWER
    assert cache.get(tmp_path, KEY) == ANSWER


@pytest.mark.parametrize("umask", [0, 0o777])
def test_entries_are_private(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "a" / "b"
    before = os.umask(umask)
    try:
        cache.put(folder, KEY, ANSWER)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, folder / f"{KEY}.json")]
    assert modes == [0o700, 0o700, 0o600]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"key": "x', id="cut"),
        pytest.param(b"\xff", id="no text"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"key": "' + b"0" * 64 + b'", "answer": {}}', id="of another request"),
        pytest.param(b'{"key": "' + KEY.encode() + b'", "answer": "x"}', id="another shape"),
    ],
)
def test_damaged_entry_is_a_miss(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{KEY}.json").write_bytes(content)
    assert cache.get(tmp_path, KEY) is None
    cache.put(tmp_path, KEY, ANSWER)
    assert cache.get(tmp_path, KEY) == ANSWER


def make_symlink(path: Path) -> None:
    target = path.with_name("target")
    cache.put(path.parent, KEY, ANSWER)
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_symlink])
def test_other_kinds_of_file_are_misses(tmp_path: Path, make: Any) -> None:
    make(tmp_path / f"{KEY}.json")
    assert cache.get(tmp_path, KEY) is None


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        cache.put(tmp_path / "file" / "x", KEY, ANSWER)


def test_clear(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    keys = [cache.key_of("e", {"n": n}) for n in range(3)]
    for key in keys:
        cache.put(folder, key, ANSWER)
    left = folder / f".{KEY}.json.12.ab"
    left.touch()
    (folder / "mine").touch()
    then = time.time() - 100
    os.utime(folder / f"{keys[0]}.json", (then, then))
    assert cache.clear(folder, older_than=50) == 1
    assert cache.get(folder, keys[0]) is None
    assert cache.get(folder, keys[1]) == ANSWER
    assert cache.clear(folder) == 3
    assert os.listdir(folder) == ["mine"]
    assert cache.clear(folder / "none") == 0
    with pytest.raises(NoInput):
        cache.clear(folder / "mine")


def test_many_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "answers"

    def use(n: int) -> bool:
        cache.put(folder, KEY, {"n": n})
        answer = cache.get(folder, KEY)
        return answer is not None and answer["n"] in range(40)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(40)))
    assert os.listdir(folder) == [f"{KEY}.json"]
