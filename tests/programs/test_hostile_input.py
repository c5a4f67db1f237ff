"""What ``make torture`` found, each fault once mended and kept as a test."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import needs
from tests.harness.tools import needs_right_to


def test_nothing_is_written_after_a_write_that_failed(shell: Any) -> None:
    needs("strace")
    script = "strace -f -qq -o /dev/null -e inject=write:error=ENOSPC:when=1 gptpipe -n -m echo hi; echo $?"
    result = shell(script)
    assert result.out == b"74\n"
    assert result.err == "gptpipe: cannot write standard output: No space left on device\n"


def test_a_home_that_is_no_folder_has_no_settings(run: Any) -> None:
    env = {"HOME": "/dev/null", "XDG_CONFIG_HOME": None, "XDG_STATE_HOME": None}
    assert run("gptpipe", "-m", "echo", "hi", env=env)[:2] == (0, b"hi\n")


@pytest.mark.parametrize("value", ["", None], ids=["empty", "unset"])
def test_an_empty_home_is_no_home(shell: Any, value: str | None) -> None:
    needs_right_to("unshare", "--map-user=54321", "true")
    folders = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"))
    script = "unshare --map-user=54321 gptpipe -n -m echo hi; echo $?"  # as a user who is in no list
    result = shell(script, env={**folders, "HOME": value})
    assert (result.out, result.err) == (b"78\n", "gptpipe: this user has no home directory\nset HOME\n")


NOT_UTF8 = {
    "system message": (("gptpipe", "-m", "echo", "-S", "\udcff", "hi"), 65),
    "model": (("gptpipe", "--base-url", "http://127.0.0.1:9", "--retry", "0", "-m", "\udcff", "hi"), 2),
    "field": (("gptpipe", "-m", "echo", "-O", "a=\udcff", "hi"), 2),
    "template": (("gptpipe-map", "-m", "echo", "\udcff"), 65),
    "encoding": (("gptpipe", "-m", "echo", "--encoding", "\udcff"), 2),
    "encoding of records": (("gptpipe-map", "-m", "echo", "--encoding", "\udcff", "{}"), 2),
}


@pytest.mark.parametrize(("call", "status"), NOT_UTF8.values(), ids=NOT_UTF8)
def test_arguments_that_are_not_utf8_are_refused(run: Any, call: tuple[str, ...], status: int) -> None:
    result = run(*call, stdin=b"a\n")
    assert (result.status, result.out) == (status, b"")
    assert "Traceback" not in result.err


def test_a_chat_does_not_offer_an_option_that_it_has_not(run: Any) -> None:
    result = run("gptpipe-chat", "-m", "echo", stdin=b"\xff\n")
    assert result.status == 65
    assert result.err == "gptpipe-chat: the message is not UTF-8 text: byte 0 is 0xff\n"
