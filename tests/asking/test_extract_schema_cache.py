"""Answers that programs can use: code blocks, files that are whole or not there, JSON by a schema, stored answers."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.harness.server import DONE, Server, finish, say
from tests.text.test_fences import ANSWERS, SPECIFICATION

ECHO = ("gptpipe", "-m", "echo")
USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}


def asking(server: Server, *options: str) -> tuple[str, ...]:
    return ("gptpipe", "--base-url", server.url, "-m", "m", "--retry", "0", *options)


def answers(server: Server, *texts: str) -> None:
    for text in texts:
        server.reply(say(text), finish(), finish(usage=USAGE), DONE)


def turns(home: Path, name: str = "s") -> list[Any]:
    path = home / f".local/share/gptpipe/sessions/{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def used(home: Path) -> list[Any]:
    paths = sorted(home.rglob("usage/*-*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


# Code blocks

BLOCKS = {f"example {number}": case for number, case in SPECIFICATION.items()} | ANSWERS


@pytest.mark.parametrize(("text", "block"), BLOCKS.values(), ids=BLOCKS)
def test_extract_over_the_fence_table(run: Any, text: str, block: str | None) -> None:
    result = run(*ECHO, "-x", stdin=text.encode())
    if block:
        assert (result.status, result.text) == (0, block if block.endswith("\n") else f"{block}\n")
    elif text:
        assert (result.status, result.out) == (5, b"")


TWO = "a\n```py\none\n```\nb\n~~~~\ntwo\n~~~~\n"


@pytest.mark.parametrize(
    ("option", "block"), [("-x", "one\n"), ("--extract", "one\n"), ("--extract-last", "two\n")], ids=str
)
def test_the_first_and_the_last_block(run: Any, tmp_path: Path, option: str, block: str) -> None:
    assert run(*ECHO, option, stdin=TWO.encode()).text == block
    assert run(*ECHO, option, "--no-stream", stdin=TWO.encode()).text == block
    assert run(*ECHO, option, "--json", stdin=TWO.encode()).json()["answer"] == block
    assert run(*ECHO, option, "-o", "file", stdin=TWO.encode()) == (0, b"", "")
    assert (tmp_path / "file").read_text() == block


def test_a_block_is_held_back_until_the_answer_is_complete(spawn: Any, server: Server) -> None:
    server.reply(say("Run:\n```sh\nls\n```\n"), hang=True)
    process = spawn(*asking(server, "-x", "--idle-timeout", "1", "hi"))
    result = process.communicate()
    assert (result.status, result.out) == (75, b"")


def test_without_a_block_the_answer_is_still_in_the_session(run: Any, home: Path) -> None:
    result = run(*ECHO, "-x", "-s", "s", "no code")
    assert (result.status, result.out) == (5, b"")
    assert "no code block" in result.err
    assert turns(home)[0]["messages"][-1]["content"] == "no code"


@pytest.mark.parametrize(
    ("packets", "status"),
    [
        pytest.param([say("```\nls\n"), finish("length")], 3, id="truncated"),
        pytest.param([say("```\nls\n"), finish("content_filter")], 4, id="refused"),
        pytest.param([say("```\nls\n")], 75, id="cut"),
    ],
)
def test_of_an_answer_that_is_not_complete_a_script_gets_no_half_block(
    run: Any, server: Server, packets: list[bytes], status: int
) -> None:
    server.reply(*packets, times=2)
    for option in ("-x", "--extract-last"):
        assert run(*asking(server, option, "hi"))[:2] == (status, b"")


def test_before_the_block_began_a_cut_answer_is_tried_again(run: Any, server: Server) -> None:
    server.reply(say("Now\n```\nold"), broken=True)
    server.reply(say("Now:\n"), broken=True)
    answers(server, "```\nnew\n```\n")
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "--extract-last", "hi")
    assert (result.status, result.text) == (0, "new\n")


# Files that change only when the answer is complete


@pytest.mark.parametrize("model", ["echo:empty", "echo:cut=1", "echo:finish=length", "echo:refuse", "echo:status=401"])
def test_an_output_file_changes_only_when_the_answer_is_complete(run: Any, tmp_path: Path, model: str) -> None:
    call = ("gptpipe", "-m", model, "--retry", "0", "-o", "f", "hello")
    assert run(*call).status != 0
    assert list(tmp_path.glob("f*")) == []
    (tmp_path / "f").write_text("old")
    assert run(*call).status != 0
    assert (tmp_path / "f").read_text() == "old"


def test_a_kill_leaves_no_file_behind(spawn: Any, server: Server, tmp_path: Path) -> None:
    server.reply(say("Hel"), hang=True)
    (tmp_path / "folder").mkdir()
    process = spawn(*asking(server, "-o", "folder/f", "hi"))
    server.wait_for_requests(1)
    process.kill(9)
    assert process.wait() == 137
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("option", ["--no-stream", "-o"])
def test_a_cut_answer_is_tried_again_if_nothing_was_printed(
    run: Any, server: Server, tmp_path: Path, option: str
) -> None:
    server.reply(say("rm -rf /tmp/x"), broken=True)
    answers(server, "rm -rf /tmp/x/y")
    how = ("-o", "f") if option == "-o" else (option,)
    result = run("gptpipe", "--base-url", server.url, "-m", "m", *how, "hi")
    assert result.status == 0
    assert (result.text or (tmp_path / "f").read_text()) == "rm -rf /tmp/x/y\n"


def test_half_a_script_is_never_run(shell: Any, tmp_path: Path) -> None:
    script = "gptpipe -m echo:cut=12 --retry 0 --no-stream -n 'touch half; touch whole' | sh"
    shell(script)
    assert list(tmp_path.glob("ha*")) == []


# JSON by a schema

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "n.json"
    path.write_text(json.dumps(SCHEMA))
    return path


def test_the_schema_is_asked_for(run: Any, server: Server, schema: Path) -> None:
    answers(server, '```json\n{"n": 1}\n```')
    assert run(*asking(server, "--schema", "n.json", "hi")) == (0, b'{"n": 1}\n', "")
    wanted = {"name": "answer", "strict": True, "schema": SCHEMA}
    assert server.requests[0].body["response_format"] == {"type": "json_schema", "json_schema": wanted}


def test_wrong_then_right(run: Any, server: Server, schema: Path, home: Path) -> None:
    answers(server, '{"n": "one"}', '{"n": 1}')
    result = run(*asking(server, "--schema", "n.json", "--json", "-s", "s", "hi"))
    assert (result.status, result.json()["answer"]) == (0, {"n": 1})
    assert result.json()["usage"] == {"prompt_tokens": 20, "completion_tokens": 4, "total_tokens": 24}
    first, second = (request.body["messages"] for request in server.requests)
    assert second[:-2] == first
    assert second[-2] == {"role": "assistant", "content": '{"n": "one"}'}
    assert "$.n" in second[-1]["content"]
    (turn,) = turns(home)
    assert [message["content"] for message in turn["messages"]] == ["hi", '{"n": 1}']
    assert turn["total_tokens"] == 24
    assert [(line["input"], line["output"], line["status"]) for line in used(home)] == [(10, 2, 5), (10, 2, 0)]


def test_wrong_for_ever(run: Any, server: Server, schema: Path, home: Path) -> None:
    answers(server, *['{"n": []}'] * 4)
    result = run(*asking(server, "--schema", "n.json", "--repair", "3", "-s", "s", "hi"))
    assert (result.status, result.out) == (5, b"")
    assert "$.n" in result.err
    assert len(server.requests) == 4
    assert len(turns(home)) == 1


def test_no_repair(run: Any, server: Server, schema: Path) -> None:
    answers(server, "no JSON")
    assert run(*asking(server, "--schema", "n.json", "--repair", "0", "hi")).status == 5
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        pytest.param(400, {"message": "bad", "param": "response_format"}, id="named"),
        pytest.param(400, {"message": "This response_format type is unavailable now"}, id="in the sentence"),
        pytest.param(400, {"message": "This model does not support response format `json_schema`"}, id="in words"),
        pytest.param(
            500,
            {
                "message": "1 validation error: {'type': 'literal_error', 'loc': ('body', 'response_format', 'type')}",
                "type": "internal_server_error",
                "param": None,
            },
            id="llama-cpp-python",
        ),
    ],
)
def test_an_endpoint_that_refuses_the_field_gets_the_schema_in_the_system_message(
    run: Any, server: Server, schema: Path, status: int, error: Any
) -> None:
    server.json(status, {"error": error})
    answers(server, '{"n": 2}')
    assert run(*asking(server, "--schema", "n.json", "-S", "Be brief.", "hi")).text == '{"n": 2}\n'
    body = server.requests[1].body
    assert "response_format" not in body
    assert body["messages"][0]["content"].startswith("Be brief.\n\n")
    assert '"additionalProperties":false' in body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        pytest.param('{"type": 1}', 78, id="no schema"),
        pytest.param("[", 78, id="no JSON"),
        pytest.param('{"$ref": "http://127.0.0.1/x.json"}', 78, id="outside"),
        pytest.param(None, 66, id="missing"),
    ],
)
def test_a_faulty_schema_is_found_before_anything_is_sent(
    run: Any, server: Server, tmp_path: Path, content: str | None, status: int
) -> None:
    if content is not None:
        (tmp_path / "bad.json").write_text(content)
    assert run(*asking(server, "--schema", "bad.json", "hi")).status == status
    assert server.requests == []


@pytest.mark.parametrize("options", [["--schema", "-"], ["--schema", "n.json", "-x"], ["--repair", "-1"]], ids=str)
def test_options_that_make_no_sense(run: Any, schema: Path, options: list[str]) -> None:
    assert run(*ECHO, *options, "x").status == 2


def test_a_truncated_answer_is_not_repaired(run: Any, server: Server, schema: Path) -> None:
    server.reply(say('{"n":'), finish("length"), DONE)
    assert run(*asking(server, "--schema", "n.json", "hi"))[:2] == (3, b"")
    assert len(server.requests) == 1


# Stored answers


def test_the_second_call_asks_nobody(run: Any, server: Server, home: Path) -> None:
    answers(server, "one")
    call = asking(server, "--cache", "1d", "--json", "-s", "s", "--history", "0", "hi")
    first, second = run(*call).json(), run(*call).json()
    assert (first["cached"], first["usage"]) == (False, USAGE)
    assert (second["cached"], second["usage"]) == (True, None)
    assert first["answer"] == second["answer"] == "one"
    assert len(server.requests) == len(used(home)) == 1
    assert [(turn["n"], turn["total_tokens"], turn["tokens"]) for turn in turns(home)] == [(1, 12, 12), (2, 12, 12)]


def test_with_the_server_down(run: Any, fresh: Any, home: Path) -> None:
    with Server() as server:
        answers(server, "one")
        assert run(*asking(server, "--cache", "1d", "hi")).text == "one\n"
    result = fresh(*asking(server, "--cache-only", "-n", "hi"))
    assert (result.status, result.out) == (0, b"one\n")
    assert not result.modules & {"openai", "h11", "httpx2"}
    other = run(*asking(server, "--cache-only", "--temperature", "1", "hi"))
    assert (other.status, other.out) == (66, b"")


def test_without_a_key_a_stored_answer_is_given(run: Any, server: Server) -> None:
    answers(server, "one")
    run(*asking(server, "--cache", "1d", "hi"), env={"OPENAI_API_KEY": "sk-1"})
    assert run(*asking(server, "--cache-only", "hi")).text == "one\n"


def test_a_stored_answer_is_looked_for_before_a_key(run: Any, home: Path, tmp_path: Path, server: Server) -> None:
    settings = home / ".config/gptpipe/config.toml"
    settings.parent.mkdir(parents=True)
    mark = tmp_path / "mark"
    command = json.dumps(["sh", "-c", f"echo x >>{mark}; echo key"])
    settings.write_text(f'[profiles.p]\nbase_url = "{server.url}"\nmodel = "m"\napi_key_command = {command}\n')
    answers(server, "one", "two")
    call = ("gptpipe", "-n", "-p", "p", "--cache", "1d")
    for _ in range(2):
        assert run(*call, "hi").text == "one\n"
    (tmp_path / "records").write_text("a\n")
    for _ in range(2):
        assert run("gptpipe-map", "-p", "p", "--cache", "1d", "-f", "records", "--text", "{}").text == "two\n"
    assert mark.read_text() == "x\nx\n"


def test_an_old_answer_is_asked_for_again(run: Any, server: Server, home: Path) -> None:
    answers(server, "one", "two", "three")
    for wanted in ("one", "one"):
        assert run(*asking(server, "--cache", "1h", "hi")).text == f"{wanted}\n"
    (path,) = home.rglob("answers/*")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    os.utime(path, (0, 0))
    assert run(*asking(server, "--cache-only", "hi")).text == "one\n"
    assert run(*asking(server, "--cache", "1h", "hi")).text == "two\n"


@pytest.mark.parametrize("model", ["echo:empty", "echo:finish=length", "echo:refuse", "echo:cut=1"])
def test_only_complete_answers_are_stored(run: Any, home: Path, model: str) -> None:
    assert run("gptpipe", "-m", model, "--retry", "0", "--cache", "1d", "hello").status != 0
    assert list(home.rglob("answers/*")) == []


def test_an_answer_that_will_not_do_is_asked_for_again(run: Any, server: Server) -> None:
    answers(server, "no code", "```\ncode\n```")
    assert run(*asking(server, "--cache", "1d", "hi")).text == "no code\n"
    assert run(*asking(server, "--cache", "1d", "-x", "hi")).text == "code\n"


@pytest.mark.parametrize("age", ["1", "x", "-1d", "1.5h"])
def test_what_is_no_age(run: Any, age: str) -> None:
    assert run(*ECHO, "--cache", age, "hi").status == 2


def test_an_answer_that_cannot_be_stored_is_an_answer(run: Any, home: Path) -> None:
    (home / ".cache").write_text("")
    assert run(*ECHO, "--cache", "1d", "hi") == (0, b"hi\n", "")
    assert "not stored" in run(*ECHO, "--cache", "1d", "-v", "hi").err
