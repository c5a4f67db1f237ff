"""Programs that a run starts: what they print, and that nothing of them is left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptpipe.console import children, signals
from gptpipe.console.children import Ended
from tests.harness.leash import Leash


@pytest.fixture
def leash(tmp_path: Path) -> Iterator[Leash]:
    leash = Leash(tmp_path)
    yield leash
    leash.close()


def sh(script: str, data: bytes | None = b"", *, most: int = 65536, until: float | None = None) -> Ended:
    return children.run(["sh", "-c", script], env=os.environ, data=data, most=most, until=until)


@pytest.mark.parametrize(
    ("script", "data", "ended"),
    [
        pytest.param("cat", b"in", Ended(0, b"in", b"", False), id="reads and prints"),
        pytest.param("cat; echo x >&2", None, Ended(0, b"", b"x\n", False), id="no input"),
        pytest.param("echo no >&2; exit 3", b"", Ended(3, b"", b"no\n", False), id="fails"),
        pytest.param("kill -9 $$", b"", Ended(137, b"", b"", False), id="is killed"),
        pytest.param("exec <&-; echo x", b"i" * 200_000, Ended(0, b"x\n", b"", False), id="closes its input"),
        pytest.param("exec >&- 2>&-; exit 2", b"", Ended(2, b"", b"", False), id="closes its output"),
        pytest.param("head -c 70000 /dev/zero | tr '\\0' x >&2", b"", Ended(0, b"", b"x" * 8192, False), id="errors"),
        pytest.param("printf 1234567", b"", Ended(0, b"1234", b"", True), id="prints too much"),
        pytest.param("printf 1234", b"", Ended(0, b"1234", b"", False), id="prints just enough"),
    ],
)
def test_a_program_ends(script: str, data: bytes | None, ended: Ended) -> None:
    assert sh(script, data, most=4) == ended


def test_much_goes_in_and_comes_out() -> None:
    data = os.urandom(300_000)
    assert sh("cat", data, most=300_000).out == data


def test_what_floods_ends_as_before_head() -> None:
    assert sh("yes") == Ended(141, b"y\n" * 32768, b"", cut=True)


def test_the_children_that_it_leaves_end_with_it(leash: Leash) -> None:
    assert sh(f"{leash.hold}; sleep 60 & yes >&2 & echo done").out == b"done\n"
    leash.check_released()


def test_a_program_that_does_not_end_in_time_ends_with_its_children(leash: Leash) -> None:
    with pytest.raises(TimeoutError):
        sh(f"{leash.hold}; trap '' TERM INT HUP; sleep 60 & sleep 60", until=time.monotonic() + 0.3)
    leash.check_released()
    assert not signals.groups


def test_it_has_no_terminal() -> None:
    assert sh("exec </dev/tty").status != 0


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        children.run(["/nonexistent/tool"], env={})
