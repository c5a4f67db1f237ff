"""``-e``: what is checked before the editor opens, its time, and what becomes of a text whose call fails."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Spawn, needs
from tests.harness.processes import Process
from tests.harness.screen import Screen
from tests.harness.server import Server, finish, say

Edit = Callable[..., Process]

WRITES = 'printf "what I wrote\\n" >'
KEPT = re.compile(r"what was written is in (\S+/gptpipe-\w+\.md)")


@pytest.fixture
def edit(spawn: Spawn, tmp_path: Path) -> Edit:
    """Start a call with ``-e`` whose editor is the given one; its file is made in a folder of the test."""
    (tmp_path / "tmp").mkdir()

    def start(editor: str, *options: str, env: dict[str, str] | None = None, **more: Any) -> Process:
        env = {"EDITOR": editor, "TMPDIR": str(tmp_path / "tmp"), **(env or {})}
        return spawn("gptpipe", "-e", *options, tty="in err", env=env, **more)

    return start


def left(tmp_path: Path) -> list[str]:
    return [path.read_text() for path in (tmp_path / "tmp").iterdir()]


def at(server: Server, *options: str) -> tuple[str, ...]:
    return ("--base-url", server.url, "-m", "m", *options)


def test_an_answered_text_is_not_kept(edit: Edit, server: Server, tmp_path: Path) -> None:
    result = edit(WRITES, *at(server)).communicate(b"\n")
    assert (result.status, result.text) == (0, "what I wrote\n")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        pytest.param(77, [401, {"error": {"message": "no"}}], id="401"),
        pytest.param(69, [404, {"error": {"message": "no such model"}}], id="404"),
        pytest.param(75, None, id="cut"),
        pytest.param(3, "length", id="truncated"),
        pytest.param(5, "stop", id="empty"),
    ],
)
def test_a_text_whose_call_fails_is_kept_and_named(
    edit: Edit, server: Server, tmp_path: Path, status: int, answer: Any
) -> None:
    if isinstance(answer, list):
        server.json(*answer)
    elif answer is None:
        server.reply(say("Hel"))
    else:
        server.reply(*([say("Hel")] if answer == "length" else []), finish(answer))
    result = edit(WRITES, *at(server)).communicate(b"\n")
    assert result.status == status
    (path,) = KEPT.findall(result.err)
    assert Path(path).read_text() == "what I wrote\n"
    assert left(tmp_path) == ["what I wrote\n"]


def test_the_hint_of_the_failure_stays(edit: Edit, server: Server) -> None:
    server.json(401, {"error": {"message": "no"}})
    message, hint = edit(WRITES, *at(server)).communicate(b"\n").err.splitlines()
    assert "the key was refused" in message
    assert KEPT.search(hint)


@pytest.mark.parametrize(
    ("editor", "status", "said"),
    [
        pytest.param(f"{WRITES} $1; false", 2, "the editor failed", id="the editor failed after that"),
        pytest.param('printf "a\\0b" >', 65, "is not text: byte 1 is NUL", id="NUL"),
        pytest.param('printf "a\\377b" >', 65, "is not UTF-8 text: byte 1 is 0xff", id="not UTF-8"),
    ],
)
def test_a_text_that_cannot_be_asked_is_kept(edit: Edit, tmp_path: Path, editor: str, status: int, said: str) -> None:
    result = edit(editor.replace("$1; false", '"$1"; false #'), "-m", "echo").communicate(b"\n")
    assert (result.status, result.out) == (status, b"")
    assert said in result.err
    (path,) = KEPT.findall(result.err)
    assert Path(path).exists()


@pytest.mark.parametrize(
    ("editor", "words"),
    [
        pytest.param("true", ["same"], id="unchanged"),
        pytest.param("false", ["same"], id="unchanged, and failed"),
        pytest.param("truncate -s 0", ["same"], id="emptied"),
    ],
)
def test_a_text_with_nothing_new_is_not_kept(edit: Edit, tmp_path: Path, editor: str, words: list[str]) -> None:
    result = edit(editor, "-m", "echo", *words).communicate(b"\n")
    assert (result.status, result.out) == (2, b"")
    assert left(tmp_path) == []
    assert not KEPT.search(result.err)


@pytest.mark.parametrize(
    ("options", "env", "status", "said"),
    [
        pytest.param(["-m", "gpt-5.5"], {}, 78, "key", id="no key"),
        pytest.param(["-m", "echo", "-f", "nowhere"], {}, 66, "cannot read nowhere", id="no file"),
        pytest.param(["-m", "echo", "-r", "nobody"], {}, 66, "nobody", id="no role"),
        pytest.param(["-m", "echo", "--cache", "soon"], {}, 2, "'soon' is not an age", id="a faulty age"),
        pytest.param(["-m", "echo", "--schema", "nowhere"], {}, 66, "nowhere", id="no schema"),
        pytest.param(["-m", "echo", "-o", "nowhere/x"], {}, 74, "nowhere/x", id="no place for the answer"),
        pytest.param(["-m", "echo", "-p", "nobody", "--temperature", "x"], {}, 2, "x", id="a faulty option"),
        pytest.param([], {"GPTPIPE_MAX_TIME": "x"}, 2, "GPTPIPE_MAX_TIME", id="a faulty variable"),
        pytest.param(["--base-url", "http://127.0.0.1:1", "-s", "../x", "-m", "m"], {}, 2, "../x", id="a bad session"),
    ],
)
def test_what_can_be_checked_is_checked_before_the_editor_opens(
    edit: Edit, tmp_path: Path, options: list[str], env: dict[str, str], status: int, said: str
) -> None:
    result = edit("touch opened;", *options, env=env).communicate(b"\n")
    assert (result.status, result.out) == (status, b"")
    assert said in result.err
    assert not (tmp_path / "opened").exists()


def test_a_budget_is_checked_before_the_editor_opens(edit: Edit, server: Server, tmp_path: Path, home: Path) -> None:
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[budget]\nday_tokens = 1\n")
    assert edit(WRITES, *at(server)).communicate(b"\n").status == 0
    result = edit("touch opened;", *at(server)).communicate(b"\n")
    assert (result.status, (tmp_path / "opened").exists()) == (6, False)


def test_the_key_command_runs_once_and_first(edit: Edit, server: Server, tmp_path: Path, home: Path) -> None:
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True)
    command = f'["/bin/sh", "-c", "echo key >>{tmp_path}/steps; echo secret"]'
    path.write_text(f'[profiles.here]\nbase_url = "{server.url}"\nmodel = "m"\napi_key_command = {command}\n')
    assert edit(f"echo editor >>{tmp_path}/steps; {WRITES}", "-p", "here").communicate(b"\n").status == 0
    assert (tmp_path / "steps").read_text() == "key\neditor\n"


def test_the_editors_time_does_not_count(edit: Edit, server: Server) -> None:
    result = edit(f"sleep 1.2; {WRITES}", *at(server, "--max-time", "1")).communicate(b"\n")
    assert (result.status, result.text) == (0, "what I wrote\n")


def test_the_time_after_the_editor_counts(edit: Edit, server: Server, tmp_path: Path) -> None:
    server.reply(say("Hel"), hang=True)
    result = edit(WRITES, *at(server, "--max-time", "0.7")).communicate(b"\n")
    assert (result.status, result.text) == (75, "Hel")
    assert "the run took longer than 0.7 s (--max-time)" in result.err
    (path,) = KEPT.findall(result.err)
    assert Path(path).read_text() == "what I wrote\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("begun", [True, False], ids=["in the answer", "before the answer"])
def test_a_signal_leaves_the_text(edit: Edit, server: Server, number: signal.Signals, begun: bool) -> None:
    server.reply(*([say("Hel")] if begun else []), hang=True)
    process = edit(WRITES, *at(server))
    if begun:
        process.read(until=b"Hel")
    server.wait_for_requests(1)
    process.kill(number)
    result = process.communicate(b"\n")
    assert result.status == 128 + number
    (path,) = KEPT.findall(result.err)
    assert Path(path).read_text() == "what I wrote\n"


@pytest.mark.parametrize("refused", [False, True], ids=["answered", "401"])
def test_vi_on_a_screen(screen: Screen, server: Server, refused: bool) -> None:
    needs("vi")
    if refused:
        server.json(401, {"error": {"message": "no"}})
    limit = 5
    call = f"GPTPIPE_MAX_TIME={limit} EDITOR=vi gptpipe -e --base-url {server.url} -m m"
    screen.send(f"clear; {call}; echo =$?", "Enter")
    screen.until("All")  # the ruler of an empty file
    began = time.monotonic()
    screen.send("i", "written in vi", "Escape")
    if not refused:
        time.sleep(began + limit + 0.1 - time.monotonic())  # the time in the editor is what is tested
    screen.send(":wq", "Enter")
    shown = screen.until("=77\n$" if refused else "=0\n$")
    assert server.requests[0].body["messages"][-1]["content"] == "written in vi"
    if refused:
        (path,) = KEPT.findall("".join(shown.splitlines()))
        assert Path(path).read_text() == "written in vi\n"
        Path(path).unlink()
    else:
        assert shown == "written in vi\n=0\n$"
