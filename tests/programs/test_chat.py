"""The chat: scripted through a pipe, and held by a person on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Spawn
from tests.harness.processes import Process
from tests.harness.screen import Screen
from tests.harness.server import Server, chunk, finish, say

ECHO = ("gptpipe-chat", "-m", "echo")


def lines(home: Path, session: str) -> list[Any]:
    path = home / f".local/share/gptpipe/sessions/{session}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def asked(server: Server) -> list[list[str]]:
    """Return what each request held: its messages' texts."""
    return [[message["content"] for message in request.body["messages"]] for request in server.requests]


def model(server: Server) -> tuple[str, ...]:
    return ("gptpipe-chat", "--base-url", server.url, "-m", "m")


# Lines from a pipe


@pytest.mark.parametrize(
    ("typed", "answers"),
    [
        pytest.param(b"one\ntwo\nQUIT\n", b"one\ntwo\n", id="QUIT"),
        pytest.param(b"one\ntwo", b"one\ntwo\n", id="end of input"),
        *(
            pytest.param(b"one\n%b\ntwo\n" % word, b"one\n", id=f"nothing is asked after {word.decode()}")
            for word in (b"QUIT", b"exit", b"quit", b" quit ", b"/exit", b"/quit", b"/bye")
        ),
        pytest.param(b"exit now\n//exit\n", b"exit now\n/exit\n", id="exit in a question"),
        pytest.param(b"\n \none\n\n", b"one\n", id="blank lines"),
        pytest.param(b"I QUIT\n", b"I QUIT\n", id="QUIT in a line"),
        pytest.param(b"//etc/fstab\n", b"/etc/fstab\n", id="slash"),
        pytest.param("é 你好\n".encode(), "é 你好\n".encode(), id="UTF-8"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
def test_each_line_is_a_question(run: Run, typed: bytes, answers: bytes) -> None:
    assert run(*ECHO, stdin=typed) == (0, answers, "")


def test_a_line_is_answered_before_the_next_is_there(spawn: Spawn) -> None:
    process = spawn(*ECHO, stdin=b"")
    process.write(b"one\n")
    assert process.read(until=b"\n") == b"one\n"
    process.write(b"two\n")
    assert process.read(until=b"\n") == b"two\n"


def test_the_conversation_is_sent_along(run: Run, server: Server) -> None:
    run(*model(server), "-S", "be brief", stdin=b"one\ntwo\nthree\n")
    assert asked(server)[-1] == ["be brief", "one", "one", "two", "two", "three"]


@pytest.mark.parametrize(
    ("typed", "status", "answers", "said"),
    [
        pytest.param("/model echo:status=400\na\n/model echo\nb\n", 69, b"b\n", "the API refused", id="a failed turn"),
        pytest.param("/model echo:finish=length\na\n", 3, b"a\n", "the answer is truncated", id="a truncated one"),
        pytest.param("/model echo:refuse\na\n", 4, b"", "", id="a refused one"),
        pytest.param("/model echo:status=400\na\n/model echo:empty\nb\n", 5, b"", "is empty", id="the last of two"),
        pytest.param("/nope\na\n", 2, b"a\n", "no such command: /nope\n/help lists", id="no such command"),
        pytest.param("/help me\na\n", 2, b"a\n", "nothing can follow /help", id="too much"),
        pytest.param("/save\na\n", 2, b"a\n", "/save needs NAME after it", id="too little"),
        pytest.param("/history x\na\n", 2, b"a\n", "/history takes a number of turns, not x", id="no number"),
        pytest.param("/retry\na\n", 2, b"a\n", "nothing was asked yet", id="nothing to repeat"),
        pytest.param("/save x\na\n", 2, b"a\n", "there is nothing to save yet", id="nothing to save"),
        pytest.param("/file nowhere\na\n", 66, b"a\n", "cannot read nowhere: No such file", id="no such file"),
        pytest.param("/edit\na\n", 2, b"a\n", "the editor needs a terminal", id="no terminal to edit on"),
        pytest.param("a\udcff\nb\n", 65, b"b\n", "the message is not UTF-8 text: byte 1 is 0xff", id="not UTF-8"),
        pytest.param("a\0\nb\n", 65, b"b\n", "the message is not text: byte 1 is NUL", id="NUL"),
    ],
)
def test_a_failure_is_told_and_the_loop_goes_on(run: Run, typed: str, status: int, answers: bytes, said: str) -> None:
    result = run(*ECHO, stdin=typed.encode(errors="surrogateescape"))
    assert (result.status, result.out) == (status, answers)
    assert result.err.startswith("gptpipe-chat: ")
    assert said in result.err


def test_a_file_in_another_encoding(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff")  # and there is no --encoding to point to
    assert run(*ECHO, stdin=b"/file a\n").err == "gptpipe-chat: a is not UTF-8 text: byte 0 is 0xff\n"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        pytest.param(["--history", "-1"], 2, id="option"),
        pytest.param(["-p", "nope"], 78, id="profile"),
        pytest.param(["-S", "@nowhere"], 66, id="system message"),
        pytest.param(["hello"], 2, id="a prompt"),
    ],
)
def test_what_cannot_begin_does_not(run: Run, options: list[str], status: int) -> None:
    result = run("gptpipe-chat", *options, stdin=b"one\n")
    assert (result.status, result.out) == (status, b"")


def test_closed_output_is_seen_before_anything_is_asked(shell: Run, server: Server) -> None:
    script = f"echo hi | gptpipe-chat --base-url {server.url} -m m >&-; echo $? >&2"
    assert shell(script).err == "gptpipe-chat: cannot write standard output: it is closed\n74\n"
    assert server.requests == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_answer_that_cannot_be_written_ends_the_chat(shell: Run, server: Server, home: Path) -> None:
    script = f"printf 'one\\ntwo\\n' | gptpipe-chat --base-url {server.url} -m m -s trip >/dev/full; echo $? >&2"
    assert shell(script).err == "gptpipe-chat: cannot write standard output: No space left on device\n74\n"
    assert asked(server) == [["one"]]
    assert [turn["messages"][0]["content"] for turn in lines(home, "trip")] == ["one"]


def test_a_scripted_chat_loads_no_line_editor(fresh: Callable[..., Any]) -> None:
    result = fresh(*ECHO, stdin=b"one\n")
    assert result.out == b"one\n"
    assert not {name for name in result.modules if name.startswith("prompt_toolkit")}


# Commands


def test_model(run: Run, server: Server) -> None:
    result = run(*model(server), stdin=b"/model\none\n/model other\n/model\ntwo\n")
    assert result.err == "m\nother\n"
    assert [request.body["model"] for request in server.requests] == ["m", "other"]


def test_system(run: Run, server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from a file")
    result = run(*model(server), stdin=b"/system\none\n/system be brief\n/system\ntwo\n/system @file\nthree\n")
    assert result.err == "no system message\nbe brief\n"
    assert [texts[0] for texts in asked(server)] == ["one", "be brief", "from a file"]


def test_history(run: Run, server: Server) -> None:
    run(*model(server), stdin=b"one\ntwo\n/history 1\nthree\n/history 0\nfour\n")
    assert asked(server)[2:] == [["two", "two", "three"], ["four"]]


def test_file(run: Run, server: Server, home: Path) -> None:
    (home / "notes of today").write_text("buy milk\n")
    result = run(*model(server), stdin=b"/file ~/notes of today\nwhat is to be done?\nthanks\n")
    path = home / "notes of today"
    assert result.err == f"{path} goes along with the next question\n"
    assert asked(server)[0] == [f"what is to be done?\n\n==> {path} <==\nbuy milk\n"]
    assert asked(server)[1][-1] == "thanks"


def test_a_file_that_is_no_text(run: Run, server: Server, home: Path, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    run(*model(server), stdin=b"/file dot.png\nwhat is it?\n/retry\n/save trip\n")
    for request in server.requests:
        (message,) = request.body["messages"]
        assert [part["type"] for part in message["content"]] == ["text", "image_url"]
    assert all(
        turn["messages"][0]["content"][1]["image_url"]["url"].startswith("attachment:") for turn in lines(home, "trip")
    )
    assert len(list((home / ".local/share/gptpipe/attachments").glob("[0-9a-f]*"))) == 1


def test_role(run: Run, server: Server, home: Path) -> None:
    path = home / ".config/gptpipe/roles/cook.md"
    path.parent.mkdir(parents=True)
    path.write_text("+++\ntemperature = 0.1\n+++\nCook {dish}.\n")
    run(*model(server), "-r", "cook", "-V", "dish=soup", stdin=b"one\n")
    assert asked(server) == [["Cook soup.", "one"]]
    assert server.requests[0].body["temperature"] == 0.1


def test_each_answer_is_counted_and_bound_by_the_budget(run: Run, server: Server, home: Path) -> None:
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[budget]\nday_tokens = 2\n")
    result = run(*model(server), stdin=b"one\ntwo\n")
    assert (result.status, result.out) == (6, b"one\n")
    assert run(*model(server), "--over-budget", stdin=b"one\ntwo\n").out == b"one\ntwo\n"
    (entries,) = (home / ".local/state/gptpipe/usage").glob("*.jsonl")
    assert [json.loads(line)["program"] for line in entries.read_text().splitlines()] == ["gptpipe-chat"] * 3


def test_the_cost_is_that_of_the_whole_chat(run: Run, server: Server, home: Path) -> None:
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[prices.m]\ninput = 10000\noutput = 0\n")  # 0.01 USD a token
    cheap = run(*model(server), "--max-cost", "0.1", stdin=b"one\n")
    assert (cheap.status, cheap.out) == (0, b"one\n")
    result = run(*model(server), "--max-cost", "0.1", "--history", "0", stdin=b"one\n" * 9)
    asked = len(server.requests) - 1
    assert result.status == 6
    assert 1 < asked < 9
    assert result.out == b"one\n" * asked
    assert result.err.count("the next request could pass --max-cost 0.1 ") == 9 - asked


def test_retry_asks_anew_where_an_answer_is_stored(run: Run, server: Server) -> None:
    run(*model(server), "--cache", "1h", stdin=b"one\n")
    run(*model(server), "--cache", "1h", stdin=b"one\n/retry\n")
    assert len(server.requests) == 2


def test_verbose(run: Run) -> None:
    assert "turns: 1 sent, 0 left out" in run(*ECHO, "-v", stdin=b"one\ntwo\n").err
    failed = run("gptpipe-chat", "-m", "echo:cut=1", "--retry", "0", "-v", stdin=b"one\n").err
    assert failed.startswith("gptpipe-chat: model echo:cut=1, built in")


def test_retry_sends_what_was_before_the_question(run: Run, server: Server) -> None:
    run(*model(server), stdin=b"one\ntwo\n/retry\n/retry\nthree\n")
    assert asked(server)[1:4] == [["one", "one", "two"]] * 3
    assert asked(server)[4] == ["one", "one", "two", "two", "two", "two", "two", "two", "three"]


@pytest.mark.parametrize("session", [[], ["-s", "trip"]], ids=["memory", "session"])
def test_undo_takes_the_last_turn_back(run: Run, server: Server, session: list[str]) -> None:
    server.reply(say("Ah"))
    typed = b"/undo\n/undo\n/undo\nthree\n/undo\n/undo\n/retry\n"
    result = run(*model(server), *session, stdin=b"cut\none\ntwo\n" + typed)
    assert asked(server) == [["cut"], ["one"], ["one", "one", "two"], ["three"]]
    assert [line for line in result.err.splitlines() if "taken back" in line] == [
        "taken back: two",
        "taken back: one",
        "taken back: cut",
        "taken back: three",
    ]
    assert result.err.endswith("no turn to take back\ngptpipe-chat: nothing was asked yet\n")


def test_what_was_taken_back_stays_in_the_file_and_is_not_sent(run: Run, server: Server, home: Path) -> None:
    question = "two " + "and more " * 20
    result = run(*model(server), "-s", "trip", stdin=f"one\n{question}\n/undo\n".encode())
    assert result.err == f"taken back: {question[:60]}…\n"
    assert [(turn["n"], turn.get("undo"), len(turn["messages"])) for turn in lines(home, "trip")] == [
        (1, None, 2),
        (2, None, 2),
        (2, 1, 0),
    ]
    run(*model(server), "-s", "trip", stdin=b"three\n")
    assert asked(server)[-1] == ["one", "one", "three"]
    assert lines(home, "trip")[-1]["n"] == 3
    assert run("gptpipe-sessions", "check").status == 0


def test_tools_are_listed(run: Run, tmp_path: Path) -> None:
    tool = tmp_path / "clock"
    described = {"name": "clock", "description": "Tell\nthe time.", "parameters": {"type": "object"}}
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(described)}\nEND\n")
    tool.chmod(0o700)
    assert run(*ECHO, "--tool", str(tool), stdin=b"/tools\n").err == "clock             Tell the time.\n"
    assert run(*ECHO, stdin=b"/tools\n").err == "no tools; --tool PATH or a role names them\n"


def test_undo_waits_for_the_session(run: Run, spawn: Spawn, server: Server) -> None:
    run(*model(server), "-s", "trip", stdin=b"one\n")
    server.reply(say("Hel"), hang=True)
    other = spawn("gptpipe", "--base-url", server.url, "-m", "m", "-s", "trip", "-n", "two")
    other.read(until=b"Hel")
    result = run(*model(server), "-s", "trip", "--lock-timeout", "0", stdin=b"/undo\n")
    assert (result.status, result.err.splitlines()[0]) == (
        75,
        "gptpipe-chat: session trip is in use by another process",
    )


def test_clear_begins_anew(run: Run, server: Server) -> None:
    result = run(*model(server), stdin=b"one\n/clear\n/retry\ntwo\nthree\n")
    assert asked(server) == [["one"], ["two"], ["two", "two", "three"]]
    assert result.err == "a new conversation begins\ngptpipe-chat: nothing was asked yet\n"


@pytest.mark.parametrize("by", ["option", "environment"])
def test_clear_leaves_the_session_with_its_model(run: Run, server: Server, home: Path, by: str) -> None:
    run("gptpipe", "--base-url", server.url, "-m", "old", "-s", "trip", "-S", "be brief", "zero")
    option, env = (("-s", "trip"), {}) if by == "option" else ((), {"GPTPIPE_SESSION": "trip"})
    config = home / ".config/gptpipe/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'base_url = "{server.url}"\nmodel = "new"\n')
    result = run("gptpipe-chat", *option, "--base-url", server.url, stdin=b"/clear\none\n/save other\n", env=env)
    assert result.err == (
        "a new conversation begins; session trip stays as it is\nkept as session other, with what follows\n"
    )
    assert asked(server)[-1] == ["be brief", "one"]
    assert server.requests[-1].body["model"] == "old"
    assert (len(lines(home, "trip")), len(lines(home, "other"))) == (1, 1)


def test_retry_asks_the_last_question_of_a_session_again(run: Run, server: Server, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    run("gptpipe", "--base-url", server.url, "-m", "m", "-s", "trip", "-n", "one")
    run("gptpipe", "--base-url", server.url, "-m", "m", "-s", "trip", "-n", "-f", "dot.png", "two")
    run(*model(server), "-s", "trip", stdin=b"/retry\n")
    before, again = (request.body["messages"] for request in server.requests[1:])
    assert again == before
    assert [part["type"] for part in again[-1]["content"]] == ["text", "image_url"]


def test_retry_after_a_failure(run: Run, server: Server) -> None:
    server.json(500, {"error": {"message": "no"}})
    result = run(*model(server), "--retry", "0", stdin=b"one\n/retry\n")
    assert (result.status, result.out) == (75, b"one\n")


def test_help_names_every_command_once(run: Run) -> None:
    heads = [line.split()[0] for line in run(*ECHO, stdin=b"/help\n").err.splitlines()]
    assert " ".join(heads) == "/model /system /history /file /edit /retry /undo /clear /tools /save /help /exit"


# Where it is kept


def test_without_a_session_nothing_is_kept(run: Run, home: Path) -> None:
    run(*ECHO, stdin=b"one\n")
    assert [path for path in home.rglob("*") if path.is_file() and "usage" not in path.parts] == []


def test_save_keeps_what_was_said_and_what_follows(run: Run, home: Path) -> None:
    result = run(*ECHO, stdin=b"one\ntwo\n/save trip\nthree\n")
    assert result.err == "kept as session trip, with what follows\n"
    turns = lines(home, "trip")
    assert [(turn["n"], turn["messages"][0]["content"]) for turn in turns] == [(1, "one"), (2, "two"), (3, "three")]
    assert turns[-1]["total_tokens"] == sum(turn["usage"]["total_tokens"] for turn in turns)
    assert run("gptpipe", "-s", "trip", "--json", "four").json()["turns_sent"] == 3


def test_save_refuses_a_name_that_is_taken(run: Run, home: Path) -> None:
    run("gptpipe", "-m", "echo", "-s", "trip", "zero")
    result = run(*ECHO, stdin=b"one\n/save trip\n/save ../x\n/save other\n/save third\n")
    assert result.err == (
        "gptpipe-chat: there is a session trip already\ntake another name\n"
        "gptpipe-chat: '../x' cannot be a session name\n"
        "letters, digits, '.', '_', '-', '@' and '+', 128 bytes at most, neither '.' nor '-' first\n"
        "kept as session other, with what follows\n"
        "gptpipe-chat: the conversation is kept already, as other\ngptpipe-sessions copy makes another of it\n"
    )
    assert len(lines(home, "trip")) == 1


def test_a_session_is_held_during_a_turn_only_and_read_anew(run: Run, spawn: Spawn, server: Server, home: Path) -> None:
    process = spawn(*model(server), "-s", "trip", stdin=b"")
    process.write(b"one\n")
    process.read(until=b"one\n")
    other = ("gptpipe", "--base-url", server.url, "-m", "m", "-s", "trip", "--lock-timeout", "5", "-n")
    assert run(*other, "from elsewhere").status == 0
    process.write(b"two\n")
    process.read(until=b"two\n")
    assert asked(server)[-1] == ["one", "one", "from elsewhere", "from elsewhere", "two"]
    assert [turn["n"] for turn in lines(home, "trip")] == [1, 2, 3]


def test_a_folder_that_cannot_be_written_is_seen_before_asking(run: Run, home: Path, server: Server) -> None:
    (home / ".local/share").mkdir(parents=True)
    (home / ".local/share/gptpipe").touch()
    assert run(*model(server), "-s", "trip", stdin=b"one\n").status == 74
    assert server.requests == []


# The way to the server


def test_all_questions_go_over_one_connection(run: Run, server: Server) -> None:
    result = run(*model(server), "-s", "trip", stdin=b"one\ntwo\n/retry\nthree\n")
    assert (result.text, server.connections) == ("one\ntwo\ntwo\nthree\n", 1)


def test_what_follows_an_answer_is_not_the_next_one(run: Run, server: Server) -> None:
    one, two = (
        b'{"choices": [{"message": {"content": "%b"}, "finish_reason": "stop"}]}' % word for word in (b"one", b"two")
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    server.reply(b"".join(head % len(body) + body for body in (one, two)), raw=True, hang=True)
    result = run(*model(server), stdin=b"first\nsecond\n")
    assert (result.text, server.connections) == ("one\nsecond\n", 2)


def test_a_connection_that_the_server_closed_is_replaced(spawn: Spawn, server: Server) -> None:
    server.reply(say("Hel"), finish(), headers={"connection": "close"})
    process = spawn(*model(server), "--retry", "0", stdin=b"")
    process.write(b"one\n")
    assert process.read(until=b"\n") == b"Hel\n"
    process.write(b"two\n")
    assert process.read(until=b"\n") == b"two\n"
    assert server.connections == 2


def test_what_was_refused_is_not_sent_again(run: Run, server: Server) -> None:
    server.json(400, {"error": {"message": "unknown field", "param": "stream_options"}})
    result = run(*model(server), stdin=b"one\ntwo\n")
    assert result == (0, b"one\ntwo\n", "")
    assert ["stream_options" in request.body for request in server.requests] == [True, False, False]


def test_retries_are_those_of_each_answer(run: Run, server: Server) -> None:
    server.json(503, {"error": {"message": "busy"}}, headers={"retry-after": "0"})
    notes = run(*model(server), "-v", stdin=b"one\ntwo\n").err
    assert re.findall(r"retries: (\d+)", notes) == ["1", "0"]


def test_a_change_of_model_goes_to_where_it_leads(run: Run, server: Server) -> None:
    assert (
        run(*model(server), stdin=b"one\n/model echo:text=other\ntwo\n/model m\nthree\n").out == b"one\nother\nthree\n"
    )
    assert asked(server)[-1] == ["one", "one", "two", "other", "three"]


def test_the_key_is_looked_for_once_and_again_when_it_was_refused(run: Run, server: Server, home: Path) -> None:
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True)
    command = '["/bin/sh", "-c", "echo k >>~/keys; echo key-$(wc -l <~/keys)"]'
    path.write_text(f'[profiles.here]\nbase_url = "{server.url}"\nmodel = "m"\napi_key_command = {command}\n')
    server.reply(say("Ah"), finish(), times=2)
    server.json(401, {"error": {"message": "expired"}})
    result = run("gptpipe-chat", "-p", "here", stdin=b"one\ntwo\nthree\nfour\n")
    assert result.text == "Ah\nAh\nfour\n"
    keys = [request.headers["authorization"] for request in server.requests]
    assert keys == [f"Bearer key-{number}" for number in (1, 1, 1, 2)]


def test_each_answer_has_a_deadline_of_its_own_for_its_tries(spawn: Spawn, server: Server) -> None:
    process = spawn(*model(server), "--max-time", "1", stdin=b"")
    process.write(b"one\n")
    assert process.read(until=b"\n") == b"one\n"
    time.sleep(1)  # the first answer's time is over
    server.json(503, {"error": {"message": "busy"}}, headers={"retry-after": "0"})
    process.write(b"two\n")
    assert process.read(until=b"\n") == b"two\n"


def test_a_long_chat_leaves_nothing_open(spawn: Spawn, server: Server) -> None:
    process = spawn(*model(server), "--history", "0", stdin=b"")

    def opened() -> int:
        process.write(b"one\n")
        process.read(until=b"one\n")
        return len(os.listdir(f"/proc/{process.pid}/fd"))

    first = opened()
    assert max(opened() for _ in range(10)) <= first + 1  # that of the answer which has just come


# Ending an answer


def test_max_time_bounds_each_answer(run: Run) -> None:
    typed = b"/model echo:stall=2\nhello\n/model echo\nhi\n"
    result = run(*ECHO, "--max-time", "2", stdin=typed)
    assert result == (75, b"he\nhi\n", "gptpipe-chat: the answer took longer than 2 s (--max-time)\n")


@pytest.mark.parametrize(
    "where", ["before the reply", "in the reply", "in its reasoning", "between tries", "the lock", "the key command"]
)
def test_max_time_bounds_an_answer_wherever_it_waits(
    spawn: Spawn, server: Server, home: Path, tmp_path: Path, where: str
) -> None:
    config = home / ".config/gptpipe/config.toml"
    config.parent.mkdir(parents=True)
    os.mkfifo(tmp_path / "held")  # open as long as what the key command has started runs
    held = os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)
    command = f"cd {tmp_path}; [ -e went ] || {{ touch went; sleep 60 >held & wait; }}; echo k"
    ways = f"api_key_command = {json.dumps(['/bin/sh', '-c', command])}\n" if where == "the key command" else ""
    config.write_text(f'[profiles.here]\nbase_url = "{server.url}"\nmodel = "m"\n{ways}')
    match where:
        case "before the reply":
            server.reply(hang=True)
        case "in the reply":
            server.reply(say("Hel"), hang=True)
        case "in its reasoning":
            server.reply(chunk({"reasoning_content": "hm"}), hang=True)
        case "between tries":
            server.json(503, {"error": {"message": "busy"}}, headers={"retry-after": "2"}, times=2)
        case "the lock":
            server.reply(say("Hel"), hang=True)
            other = spawn("gptpipe", "-p", "here", "-s", "trip", "-n", "zero")
            other.read(until=b"Hel")
    process = spawn("gptpipe-chat", "-p", "here", "-s", "trip", "--max-time", "3", stdin=b"")
    process.write(b"one\n")
    process.read(until=b"--max-time", stream="stderr")
    if where == "the lock":
        other.kill(signal.SIGKILL)
        other.wait()
    process.write(b"two\n")
    process.read(until=b"two\n")
    process.close_stdin()
    assert process.wait() == 75
    assert os.read(held, 1) == b""
    os.close(held)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_a_scripted_chat(spawn: Spawn, home: Path, server: Server, number: signal.Signals) -> None:
    server.reply(say("Hel"), hang=True)
    process = spawn(*model(server), "-s", "trip", stdin=b"")
    process.write(b"one\ntwo\n")
    process.read(until=b"Hel")
    process.kill(number)
    assert process.wait() == 128 + number
    (turn,) = lines(home, "trip")
    assert (turn["finish_reason"], turn["messages"][-1]["content"]) == (None, "Hel")


def test_a_reader_that_is_gone_ends_it(shell: Run) -> None:
    script = "{ echo one; yes | head -c 300000 | tr -d '\\n'; echo; } | gptpipe-chat -m echo | head -n 1"
    assert shell(f"{script}; echo ${{PIPESTATUS[@]}}") == (0, b"one\n0 141 0\n", "")


# On a terminal


@pytest.fixture
def person(spawn: Spawn) -> Callable[..., Process]:
    """Start a chat on terminals, one for each stream; no answer comes to what is asked about the cursor."""

    def start(*argv: str, env: dict[str, str] | None = None) -> Process:
        process = spawn(*argv, tty=True, env={"PROMPT_TOOLKIT_NO_CPR": "1", **(env or {})})
        process.read(until=b">", stream="stderr")
        return process

    return start


Person = Callable[..., Process]


def end(process: Process) -> tuple[int, bytes, bytes]:
    """Quit, and return the status, and what is left of both streams."""
    process.write(b"QUIT\r")
    shown = process.read(until=b"Bye!\n", stream="stderr")
    status = process.wait()
    return status, process.read(), shown


def test_answers_are_on_standard_output_alone(person: Person) -> None:
    process = person(*ECHO)
    process.write(b"hello\r")
    assert process.read(until=b"\n") == b"hello\n"
    process.write(b"/nope\r")
    process.read(until=b"written with two\n", stream="stderr")
    status, answers, _ = end(process)
    assert (status, answers) == (0, b"")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        pytest.param(b"one\x1b\rtwo\r", b"one\ntwo\n", id="Alt-Enter"),
        pytest.param(b"\x1b[200~one\ntwo\x1b[201~ three\r", b"one\ntwo three\n", id="paste"),
        pytest.param(b"wrong\x03right\r", b"right\n", id="^C begins anew"),
        pytest.param(b"a\xffb\rright\r", b"right\n", id="not UTF-8"),
        pytest.param("été\r".encode(), "été\n".encode(), id="UTF-8"),
    ],
)
def test_what_is_typed(person: Person, typed: bytes, answer: bytes) -> None:
    process = person(*ECHO)
    process.write(typed)
    assert process.read(until=answer) == answer


def test_the_end_of_input_ends_it(person: Person) -> None:
    process = person(*ECHO)
    process.write(b"\x04")
    assert process.read(until=b"Bye!\n", stream="stderr").endswith(b"Bye!\n")
    assert process.wait() == 0


def test_break_stops_the_answer_and_keeps_the_program(person: Person, server: Server, home: Path) -> None:
    server.reply(say("Hel"), hang=True)
    process = person(*model(server), "-s", "trip")
    process.write(b"one\r")
    process.read(until=b"Hel")
    process.write(b"\x03")
    assert process.read(until=b"\n") == b"\n"
    process.read(until=b">", stream="stderr")
    process.write(b"two\r")
    assert process.read(until=b"\n") == b"two\n"
    assert end(process)[0] == 0
    assert [turn["finish_reason"] for turn in lines(home, "trip")] == [None, "stop"]
    assert asked(server) == [["one"], ["two"]]


def test_break_before_the_first_word(person: Person, server: Server, home: Path) -> None:
    server.reply(hang=True)
    process = person(*model(server), "-s", "trip")
    process.write(b"one\r")
    server.wait_for_requests(1)
    process.write(b"\x03")
    process.read(until=b">", stream="stderr")
    process.write(b"/retry\r")
    assert process.read(until=b"\n") == b"one\n"
    assert [turn["n"] for turn in lines(home, "trip")] == [1]


def test_break_ends_the_wait_for_the_session(run: Run, spawn: Spawn, person: Person, server: Server) -> None:
    server.reply(say("Hel"), hang=True)
    first = spawn("gptpipe", "--base-url", server.url, "-m", "m", "-s", "trip", "-n", "zero")
    first.read(until=b"Hel")
    process = person(*model(server), "-s", "trip")
    process.write(b"one\r")
    process.read(until=b"waiting for another process", stream="stderr")
    process.write(b"\x03")
    process.read(until=b">", stream="stderr")
    assert end(process)[0] == 0


@pytest.mark.parametrize("where", ["prompt", "answer"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_other_signals_end_it_and_leave_the_terminal_as_it_was(
    spawn: Spawn, server: Server, home: Path, number: signal.Signals, where: str
) -> None:
    server.reply(say("Hel"), hang=True)
    process = spawn(*model(server), "-s", "trip", tty=True, env={"PROMPT_TOOLKIT_NO_CPR": "1"})
    before = termios.tcgetattr(process.stdin)
    process.read(until=b">", stream="stderr")
    assert termios.tcgetattr(process.stdin) != before
    if where == "answer":
        process.write(b"one\r")
        process.read(until=b"Hel")
    process.kill(number)
    assert process.wait() == 128 + number
    assert termios.tcgetattr(process.stdin) == before
    if where == "answer":
        assert [turn["finish_reason"] for turn in lines(home, "trip")] == [None]


@pytest.mark.parametrize(
    ("env", "config", "question", "answer"),
    [
        pytest.param({"LC_ALL": "zh_CN.UTF-8"}, "", "问: ", "答: ", id="Chinese"),
        pytest.param({"LC_ALL": "", "LANG": "zh_TW.UTF-8"}, "", "问: ", "答: ", id="by LANG"),
        pytest.param({"LC_ALL": "fr_FR.UTF-8", "LANG": "zh_CN.UTF-8"}, "", "> ", "", id="LC_ALL is stronger"),
        pytest.param({"LC_ALL": "zh_CN.UTF-8"}, '[chat]\nquestion = "Q> "\nanswer = "A> "\n', "Q> ", "A> ", id="set"),
    ],
)
def test_prompts(spawn: Spawn, home: Path, env: dict[str, str], config: str, question: str, answer: str) -> None:
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(config)
    process = spawn(*ECHO, tty=True, env={"PROMPT_TOOLKIT_NO_CPR": "1", **env})
    process.read(until=question.encode().strip(), stream="stderr")
    process.write(b"hello\r")
    assert process.read(until=b"\n") == b"hello\n"
    if answer:
        process.read(until=answer.encode(), stream="stderr")


@pytest.mark.parametrize(
    ("options", "session"),
    [pytest.param([], b"no session", id="none"), pytest.param(["-s", "trip"], b"session trip", id="one")],
)
def test_a_chat_begins_with_a_line(spawn: Spawn, run: Run, options: list[str], session: bytes) -> None:
    run("gptpipe", "-m", "echo:text=x", "-n", "-s", "trip", "one")
    process = spawn("gptpipe-chat", *options, tty=True, env={"PROMPT_TOOLKIT_NO_CPR": "1"})
    begun = b"echo:text=x" if options else b"gpt-5.5"
    line, _, _ = process.read(until=b"\n", stream="stderr").partition(b"\n")  # the prompt may be there already
    assert line == begun + b", " + session + b"; /help lists the commands, exit or ^D leaves"


MARKDOWN = b"**bold** and `code`\n- \x1b[31mitem\n"


@pytest.mark.parametrize(
    ("options", "env", "shown"),
    [
        pytest.param([], {}, b"\x1b[1mbold\x1b[22m and \x1b[36mcode\x1b[39m\n\xe2\x80\xa2 ^[[31mitem\n", id="markdown"),
        pytest.param(["--plain"], {}, b"**bold** and `code`\n- ^[[31mitem\n", id="--plain"),
        pytest.param([], {"NO_COLOR": "1"}, b"**bold** and `code`\n- ^[[31mitem\n", id="NO_COLOR"),
        pytest.param([], {"TERM": "dumb"}, b"**bold** and `code`\n- ^[[31mitem\n", id="dumb"),
    ],
)
def test_markdown_on_a_terminal(
    spawn: Spawn, server: Server, options: list[str], env: dict[str, str], shown: bytes
) -> None:
    server.reply(say(MARKDOWN.decode()))
    process = spawn(*model(server), *options, tty=True, env={"PROMPT_TOOLKIT_NO_CPR": "1", **env})
    process.read(until=b"leaves\n", stream="stderr")
    process.write(b"one\n" if "TERM" in env else b"one\r")
    assert process.read(until=b"item\n") == shown


def test_markdown_comes_as_it_arrives_and_ends_with_the_answer(person: Person, server: Server) -> None:
    server.reply(say("so **bo"), hang=True)
    process = person(*model(server))
    process.write(b"one\r")
    assert process.read(until=b"so ") == b"so "
    process.write(b"\x03")
    assert process.read(until=b"\n") == b"**bo\n"


def test_a_pipe_gets_the_bytes(run: Run, server: Server) -> None:
    server.reply(say(MARKDOWN.decode()))
    assert run(*model(server), stdin=b"one\n").out == MARKDOWN


def test_a_dumb_terminal_gets_no_line_editor(run: Run) -> None:
    assert run(*ECHO, stdin=b"one\n", tty=True, env={"TERM": "dumb"}) == (
        0,
        b"one\n",
        "echo, no session; /help lists the commands, exit or ^D leaves\nBye!\n",
    )


def test_prompts_are_not_shown_where_nobody_types(run: Run) -> None:
    assert run(*ECHO, stdin=b"one\n", env={"LC_ALL": "zh_CN.UTF-8"}).err == ""


@pytest.mark.parametrize(
    ("tabs", "answer"),
    [
        pytest.param([(b"/ret", b"ry")], b"one\n", id="a command"),
        pytest.param([(b"/file note", b"today")], b"two\n\n==> notes of today <==\nbuy milk\n", id="a file"),
        pytest.param([(b"/fi", b"le"), (b" note", b"today")], b"two\n\n==> notes", id="a command and a file"),
        pytest.param([(b"/file pla", b"ces/"), (b"li", b"st")], b"two\n\n==> places/list <==\nhere\n", id="a folder"),
        pytest.param([(b"/model sh", b"ort")], b"short\n", id="a model"),
    ],
)
def test_completion(person: Person, home: Path, tmp_path: Path, tabs: list[tuple[bytes, bytes]], answer: bytes) -> None:
    (tmp_path / "notes of today").write_text("buy milk\n")
    (tmp_path / "places").mkdir()
    (tmp_path / "places/list").write_text("here\n")
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text('[aliases]\nshort = "echo:text=short"\n')
    process = person(*ECHO)
    process.write(b"one\r")
    process.read(until=b"one\n")
    for typed, completed in tabs:
        process.write(typed + b"\t")
        process.read(until=completed, stream="stderr")
    process.write(b"\rtwo\r")
    assert process.read(until=answer).startswith(answer)


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        pytest.param(b"\x1b[A\x1b[A\r", b"second\n", id="up"),
        pytest.param(b"\x12irs\r\r", b"first\nof two\n", id="search"),
    ],
)
@pytest.mark.parametrize("umask", [0o022, 0o777], ids=oct)
def test_what_was_typed_is_found_again(person: Person, home: Path, umask: int, keys: bytes, answer: bytes) -> None:
    before = person(*ECHO)
    before.write(b"first\x1b\rof two\r")
    before.read(until=b"two\n")
    before.write(b"second\r")
    before.read(until=b"second\n")
    assert end(before)[0] == 0
    path = home / ".local/state/gptpipe/chat-history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    after = person(*ECHO)
    after.write(keys)
    assert after.read(until=answer) == answer


@pytest.mark.parametrize(
    ("option", "config"),
    [
        pytest.param(["--no-history"], "", id="option"),
        pytest.param([], "[chat]\nhistory = false\n", id="setting"),
    ],
)
def test_what_is_typed_is_not_kept(person: Person, home: Path, option: list[str], config: str) -> None:
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(config)
    process = person(*ECHO, *option)
    process.write(b"secret\r")
    assert process.read(until=b"secret\n") == b"secret\n"
    process.write(b"\x1b[A\r")  # in the same chat it is found again
    assert process.read(until=b"secret\n") == b"secret\n"
    assert end(process)[0] == 0
    assert not (home / ".local/state/gptpipe/chat-history").exists()


def test_without_a_place_for_what_was_typed(spawn: Spawn, home: Path) -> None:
    (home / ".local").mkdir()
    (home / ".local/state").touch()
    process = spawn(*ECHO, tty=True, env={"PROMPT_TOOLKIT_NO_CPR": "1"})
    shown = process.read(until=b">", stream="stderr")
    assert b"\ngptpipe-chat: what is typed is not kept: cannot write " in shown
    process.write(b"hello\r")
    assert process.read(until=b"\n") == b"hello\n"


@pytest.mark.parametrize(
    ("editor", "typed", "answer"),
    [
        pytest.param('printf "one\\ntwo\\n" >', b"/edit\r", b"one\ntwo\n", id="empty"),
        pytest.param("sed -i s/cat/dog/", b"/edit a cat\r", b"a dog\n", id="a text to begin with"),
        pytest.param("true", b"/edit same\rnext\r", b"next\n", id="unchanged"),
        pytest.param("false", b"/edit same\rnext\r", b"next\n", id="failed"),
        pytest.param("kill -INT $PPID;", b"/edit same\rnext\r", b"next\n", id="interrupted"),
    ],
)
@pytest.mark.parametrize("variable", ["VISUAL", "EDITOR"])
def test_edit(person: Person, variable: str, editor: str, typed: bytes, answer: bytes) -> None:
    process = person(*ECHO, env={"EDITOR": "false", variable: editor})
    process.write(typed)
    assert process.read(until=answer) == answer


# As it looks


def test_on_a_screen(screen: Screen, home: Path) -> None:
    send, until = screen.send, screen.until
    send("clear; gptpipe-chat -m echo:delay=0.05", "Enter")
    until(">")
    send("hello", "Enter")
    until("hello\nhello\n>")
    send("a message", "M-Enter", "of two lines", "Enter")
    until("a message\nof two lines\n>")
    send("this one " + "is long and " * 20, "Enter")
    until("long and is long")
    send("C-c")
    assert "^C" in until(">")
    send("/history 0", "Enter", "short", "Enter")
    until("short\n>")
    send("/retry", "Enter")
    until("/retry\nshort\n>")
    send("no more", "Enter")
    until("no more\n>")
    send("/undo", "Enter")
    until("taken back: no more\n>")
    send("/save trip", "Enter")
    until("kept as session trip, with what follows\n>")
    send("exit", "Enter")
    shown = until("Bye!\n$")
    assert "> a message\n  of two lines\na message\nof two lines\n> this one" in shown
    turns = lines(home, "trip")
    assert [turn["finish_reason"] for turn in turns] == ["stop", "stop", None, "stop", "stop"]
    assert turns[1]["messages"][0]["content"] == "a message\nof two lines"
