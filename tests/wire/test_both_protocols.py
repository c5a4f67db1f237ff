"""Both protocols: the same statuses, the same output and the same object of --json, whichever was spoken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness.responses import delta, ended, message, typed
from tests.harness.server import Server

PROTOCOLS = ("chat", "responses")


def common(found: dict[str, Any]) -> dict[str, Any]:
    """Return the object of --json without what differs in every run, and the details that only one API counts."""
    usage = {key: value for key, value in (found.pop("usage") or {}).items() if not key.endswith("details")}
    del found["seconds"]
    return {**found, "usage": usage}


KNOBS = {
    "echo": 0,
    "echo:text=one, two\nthree": 0,
    "echo:delay=0.01": 0,
    "echo:fails=1": 0,
    "echo:fails=1,status=429,after=0": 0,
    "echo:cut=3": 75,
    "echo:cut=0": 75,
    "echo:stall=3": 75,
    "echo:finish=length": 3,
    "echo:finish=length,empty": 3,
    "echo:finish=content_filter": 4,
    "echo:finish=SAFETY": 4,
    "echo:finish=abort": 75,
    "echo:finish=error": 75,
    "echo:finish=tool_calls": 5,
    "echo:refuse": 4,
    "echo:empty": 5,
    "echo:call=weather": 5,
    "echo:status=400": 69,
    "echo:status=401": 77,
    "echo:status=402": 69,
    "echo:status=404": 69,
    "echo:status=413": 65,
    "echo:status=429": 75,
    "echo:status=500": 75,
}


@pytest.mark.parametrize("option", [(), ("--json",), ("--no-stream",)], ids=["text", "json", "no-stream"])
@pytest.mark.parametrize(("model", "status"), KNOBS.items(), ids=KNOBS)
def test_a_knob_of_echo(run: Any, model: str, status: int, option: tuple[str, ...]) -> None:
    def ask(api: str) -> Any:
        retries = "1" if "fails" in model else "0"
        limits = ("--retry", retries, "--idle-timeout", "0.3")
        return run("gptpipe", "-n", "--api", api, "-m", model, *limits, *option, "Héllo <think> there\n")

    chat, responses = map(ask, PROTOCOLS)
    assert chat.status == responses.status == status
    assert chat.err == responses.err.replace(" (500): finish_reason", ": finish_reason")
    if option == ("--json",) and chat.out:
        assert common(chat.json()) == common(responses.json())
    else:
        assert chat.out == responses.out


def test_reasoning_is_told_from_the_answer(run: Any) -> None:
    for api in PROTOCOLS:
        result = run("gptpipe", "-n", "--api", api, "-m", "echo:text=<think>hm</think>\nhi", "--reasoning", "hi")
        assert (result.status, result.out) == (0, b"hi\n")
        assert "hm" in result.err


def sessions(home: Path) -> list[Any]:
    path = home / ".local/share/gptpipe/sessions/s.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_session_goes_on_in_the_other_protocol(run: Any, server: Server, home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes.fromhex("89504e470d0a1a0a") + b"x" * 40)
    for number in range(50):
        files = ("-f", "a.png") if number % 10 == 0 else ()
        call = ("gptpipe", "-n", "--base-url", server.url, "--api", PROTOCOLS[number % 2], "-m", "m", "-s", "s")
        result = run(*call, "-S", "Be brief.", *files, f"question {number}")
        assert (result.status, result.text) == (0, f"question {number}\n")
    last = server.requests[-1]
    assert last.path == "/v1/responses"
    assert last.body["instructions"] == "Be brief."
    assert len(last.body["input"]) == 99
    assert last.body["input"][0]["content"][1]["type"] == "input_image"
    before = server.requests[-2]
    assert before.path == "/v1/chat/completions"
    assert before.body["messages"][1]["content"][1]["type"] == "image_url"
    turns = sessions(home)
    assert [turn["n"] for turn in turns] == list(range(1, 51))
    assert {tuple(message["role"] for message in turn["messages"]) for turn in turns} == {
        ("system", "user", "assistant")
    }
    assert turns[0]["messages"][1]["content"][1]["type"] == turns[-10]["messages"][1]["content"][1]["type"]


REFUSAL = {"error": {"message": "This model is only supported in v1/responses and not in v1/chat/completions."}}


@pytest.mark.parametrize("status", [400, 404])
def test_a_server_that_names_responses_is_asked_there(run: Any, server: Server, status: int) -> None:
    server.json(status, REFUSAL)
    result = run("gptpipe", "-n", "--base-url", server.url, "-m", "m", "--retry", "0", "hi")
    assert result == (0, b"hi\n", "")
    assert [request.path for request in server.requests] == ["/v1/chat/completions", "/v1/responses"]


def test_that_is_remembered_for_the_run(run: Any, server: Server) -> None:
    server.json(404, REFUSAL)
    call = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-j", "1", "{}")
    result = run(*call, stdin=b"a\nb\nc\n")
    assert result.status == 0
    assert [request.path for request in server.requests] == ["/v1/chat/completions"] + ["/v1/responses"] * 3


def test_a_protocol_that_was_named_is_kept(run: Any, server: Server) -> None:
    server.json(404, REFUSAL)
    result = run("gptpipe", "-n", "--base-url", server.url, "--api", "chat", "-m", "m", "hi")
    assert (result.status, len(server.requests)) == (69, 1)


@pytest.mark.parametrize("body", [{"detail": "Not Found"}, "404 page not found"], ids=["json", "text"])
def test_a_server_without_the_path(run: Any, server: Server, body: Any) -> None:
    server.json(404, body)
    result = run("gptpipe", "-n", "--base-url", server.url, "--api", "responses", "-m", "m", "hi")
    assert (result.status, result.out) == (69, b"")
    assert "--api chat" in result.err


def test_a_model_that_is_not_there_is_not_a_path(run: Any) -> None:
    result = run("gptpipe", "-n", "--api", "responses", "-m", "echo:status=404", "hi")
    assert result.status == 69
    assert "--api chat" not in result.err


# The web

SOURCE = {"type": "url_citation", "url": "https://a.example/", "title": "A", "start_index": 0, "end_index": 2}


def test_the_web_and_its_sources(run: Any, server: Server) -> None:
    server.reply(delta("hi"), typed("response.output_text.annotation.added", annotation=SOURCE), ended(message("hi")))
    call = ("gptpipe", "-n", "--base-url", server.url, "--api", "responses", "-m", "m", "--web", "--json", "-v", "hi")
    result = run(*call)
    assert result.status == 0
    assert server.requests[0].body["tools"] == [{"type": "web_search"}]
    assert result.json()["citations"] == [{"url": "https://a.example/", "title": "A"}]
    assert "gptpipe: source: https://a.example/ A\n" in result.err
    assert "gptpipe: api: responses\n" in result.err


@pytest.mark.parametrize("program", [("gptpipe", "-n", "hi"), ("gptpipe-map", "{}"), ("gptpipe-chat",)], ids=str)
def test_the_web_is_not_in_chat_completions(run: Any, server: Server, program: tuple[str, ...]) -> None:
    result = run(*program, "--base-url", server.url, "-m", "m", "--web", stdin=b"a\n")
    assert (result.status, result.out, server.requests) == (2, b"", [])
    assert "--web needs the Responses API" in result.err


# What is shown and kept


def url(run: Any, *options: str) -> str:
    return str(run("gptpipe", "-n", "--dry-run", *options, "hi").json()["url"])


def test_dry_run_shows_the_protocol(run: Any) -> None:
    assert url(run, "-m", "gpt-5.5-pro") == "https://api.openai.com/v1/responses"
    assert url(run, "-m", "gpt-5.5") == "https://api.openai.com/v1/chat/completions"
    assert url(run, "-m", "gpt-5.5", "--web") == "https://api.openai.com/v1/responses"
    body = run("gptpipe", "-n", "--dry-run", "--api", "responses", "-m", "m", "--reasoning", "hi").json()["body"]
    assert (body["input"], body["store"]) == ([{"role": "user", "content": "hi"}], False)
    assert body["reasoning"] == {"summary": "auto"}


def test_a_stored_answer_is_that_of_its_protocol(run: Any, server: Server) -> None:
    def ask(api: str) -> None:
        call = ("gptpipe", "-n", "--base-url", server.url, "-m", "m", "--cache", "1d", "--api", api, "hi")
        assert run(*call).text == "hi\n"

    for api in ("chat", "responses", "chat", "responses"):
        ask(api)
    assert [request.path for request in server.requests] == ["/v1/chat/completions", "/v1/responses"]


@pytest.mark.parametrize("field", ["input", "instructions", "model", "stream", "stream_options", "n"])
def test_fields_that_gptpipe_sets_itself(run: Any, field: str) -> None:
    result = run("gptpipe", "-n", "-m", "echo", "--api", "responses", "-O", f"{field}=1", "hi")
    assert (result.status, result.out) == (2, b"")


def test_fields_of_the_protocol_itself(run: Any, server: Server) -> None:
    fields = ("-O", 'reasoning={"mode":"pro"}', "-O", "service_tier=flex", "--reasoning-effort", "high")
    result = run("gptpipe", "-n", "--base-url", server.url, "--api", "responses", "-m", "m", *fields, "hi")
    assert result.status == 0
    sent = server.requests[0].body
    assert (sent["reasoning"], sent["service_tier"]) == ({"mode": "pro", "effort": "high"}, "flex")


def test_a_schema_is_asked_for_and_repaired(run: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "object", "required": ["a"]}')
    for text in ('{"b":1}', '{"a":1}'):
        server.reply(delta(text), ended(message(text)))
    call = ("gptpipe", "-n", "--base-url", server.url, "--api", "responses", "-m", "m", "--schema", "s.json", "hi")
    result = run(*call)
    assert (result.status, json.loads(result.out)) == (0, {"a": 1})
    assert [request.body["text"]["format"]["type"] for request in server.requests] == ["json_schema"] * 2
    assert [item["role"] for item in server.requests[1].body["input"]] == ["user", "assistant", "user"]
