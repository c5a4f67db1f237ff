"""Messages on standard error: on a line of their own, every character visible; an answer in one piece."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.harness.processes import Zygote, environment

STALLED = ("gptpipe", "-n", "-m", "echo:stall=1", "--max-time", "4", "abc")


def test_a_message_begins_on_a_new_line_of_a_terminal(shell: Any) -> None:
    result = shell(f"python3 -c 'import pty, sys; pty.spawn(sys.argv[1:])' {' '.join(STALLED)}")
    assert result.out.startswith(b"a\r\ngptpipe: the run took longer")
    assert result.out.count(b"\n") == 2


def test_a_message_begins_on_a_new_line_of_a_file_that_both_streams_write(shell: Any) -> None:
    result = shell(f"{' '.join(STALLED)} 2>&1")
    assert result.text.startswith("a\ngptpipe: the run took longer")


def test_two_streams_that_are_not_one_get_no_line_end_of_each_other(shell: Any) -> None:
    result = shell(f"{' '.join(STALLED)}; true")
    assert result.text == "a"
    assert result.err.startswith("gptpipe: the run took longer")


def test_reasoning_and_a_message_do_not_share_a_line(run: Any, server: Any) -> None:
    server.reply(b'data: {"choices":[{"delta":{"reasoning_content":"think"}}]}\n\n', hang=True)
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "-n", "--reasoning", "--max-time", "4", "hi")
    assert result.err.startswith("think\ngptpipe: the run took longer")


def test_an_answer_ends_with_one_newline_whatever_was_said_meanwhile(shell: Any) -> None:
    result = shell("gptpipe -n -v -m echo hi 2>&1")
    assert "\nhi\ngptpipe: " in result.text
    assert "\n\n" not in result.text


@pytest.mark.parametrize("option", ["-f", "-o"])
def test_a_name_that_is_not_utf8_is_shown_byte_by_byte(run: Any, option: str) -> None:
    result = run("gptpipe", "-n", "-m", "echo", option, os.fsdecode(b"nowhere/\xff"), "hi")
    assert "nowhere/\\xff" in result.err
    assert "udc" not in result.err


def test_an_answer_in_one_piece_is_one_write(zygote: Zygote, home: Path, tmp_path: Path) -> None:
    """Or what another process writes into the same pipe could stand before its newline. A datagram is a write."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, open(os.devnull, "r+b") as null:
        argv = ("gptpipe", "-m", "echo", "-n", "--no-stream", "hi")
        child = zygote.fork(argv, environment(None), str(tmp_path), (null.fileno(), theirs.fileno(), null.fileno()))
        ours.settimeout(20)
        assert ours.recv(64) == b"hi\n"
        assert child.ended(20) == 0
