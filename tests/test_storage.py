from __future__ import annotations

import itertools
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptpipe import storage
from gptpipe.errors import WriteError
from gptpipe.storage import Line, backward, forward, make_folder, open_regular
from tests.harness.processes import ROOT


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


def lines_of(data: bytes) -> list[Line]:
    parts = re.findall(rb"[^\n]*\n|[^\n]+", data)
    starts = [0, *itertools.accumulate(map(len, parts))]
    return [Line(start, part.strip(b"\n"), part.endswith(b"\n")) for start, part in zip(starts, parts, strict=False)]


@given(st.lists(st.sampled_from([b"\n", b"a", b"bcd", b"\r", b"\xc2\x85", b"\0"])).map(b"".join), st.integers(1, 5))
def test_lines_are_the_same_from_both_ends(data: bytes, block: int) -> None:
    with tempfile.TemporaryFile() as file, mock.patch.multiple(storage, FIRST_BLOCK=block, LARGEST_BLOCK=4):
        file.write(data)
        file.flush()
        assert list(forward(file.fileno())) == lines_of(data)
        assert list(backward(file.fileno())) == lines_of(data)[::-1]


def test_a_line_taken_back_while_it_is_read_leaves_nothing_behind(file: int) -> None:
    os.write(file, b"first\n" + b"x" * 50_000 + b"\nlast\n")
    lines = backward(file)
    assert next(lines).data == b"last"
    os.ftruncate(file, 100)
    assert list(lines) == [Line(6, b"x" * 94, False), Line(0, b"first", True)]


def test_appending_to_a_line_without_end_ends_it(file: int, tmp_path: Path) -> None:
    for data in (b"one\n", b"two\n"):
        storage.append(file, tmp_path, data)
    os.write(file, b"torn")
    storage.append(file, tmp_path, b"three\n")
    assert (tmp_path / "file").read_bytes() == b"one\ntwo\ntorn\nthree\n"


@pytest.mark.parametrize("umask", [0, 0o022, 0o777], ids=oct)
def test_what_is_made_is_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        make_folder(tmp_path / "a/b")
        os.close(open_regular(tmp_path / "a/b/c", os.O_RDWR | os.O_CREAT))
    finally:
        os.umask(old)
    modes = [(tmp_path / path).stat().st_mode & 0o777 for path in ("a", "a/b", "a/b/c")]
    assert modes == [0o700, 0o700, 0o600]


def test_the_mode_that_a_file_or_folder_has_is_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    path = tmp_path / "file"
    path.touch()
    path.chmod(0o640)
    make_folder(tmp_path)
    os.close(open_regular(path, os.O_RDWR | os.O_APPEND))
    assert (tmp_path.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o750, 0o640)


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


ODD: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "folder": os.mkdir,
    "symlink to a file": lambda path: path.symlink_to(ROOT / "LICENSE"),
    "symlink to nothing": lambda path: path.symlink_to("nothing"),
    "symlink to a device": lambda path: path.symlink_to("/dev/null"),
    "socket": bind,
}


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_APPEND])
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_only_a_regular_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], flags: int
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = tmp_path / "odd"
    make(path)
    with pytest.raises(WriteError, match="odd is not a regular file"):
        open_regular(path, flags)
    assert not (tmp_path / "nothing").exists()
