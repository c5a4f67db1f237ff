"""What real servers send, line by line, over HTTP on loopback: what is printed, and the status."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.harness.server import DONE, Server, chunk, event, finish, say

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
HELLO = (say("Hel"), say("lo"), finish(), DONE)


@pytest.fixture
def ask(run: Any, server: Server) -> Any:
    """Ask the loopback server, without retries unless given."""

    def call(*args: str, **more: Any) -> Any:
        return run("gptpipe", "--base-url", server.url, "-m", "m", "--retry", "0", *args, "hi", **more)

    return call


def spaced(packets: tuple[bytes, ...], between: bytes) -> tuple[bytes, ...]:
    return tuple(part for packet in packets for part in (between, packet, between))


def split(packets: tuple[bytes, ...], size: int) -> tuple[bytes, ...]:
    data = b"".join(packets)
    return tuple(data[at : at + size] for at in range(0, len(data), size))


COMPLETE = {
    "1 comments": spaced(HELLO, b": OPENROUTER PROCESSING\n\n"),
    "1 pings": spaced(HELLO, b": ping - 12:00\n\n"),
    "2 comments after an id": (b"id: 1\n\n", *spaced(HELLO, b": ping\n\n")),
    "3 retry": spaced(HELLO, b"retry: 3000\n\n"),
    "3 id": spaced(HELLO, b"id: x\n\n"),
    "3 event": spaced(HELLO, b"event: x\n\n"),
    "4 empty data": spaced(HELLO, b"data:\n\n"),
    "4 blank data": spaced(HELLO, b"data: \n\n"),
    "5 bytes": split(HELLO, 1),
    "5 sevens": split(HELLO, 7),
    "6 CRLF": tuple(packet.replace(b"\n", b"\r\n") for packet in HELLO),
    "6 no space": tuple(packet.replace(b"data: ", b"data:") for packet in HELLO),
    "8 no DONE": HELLO[:-1],
    "11 DONE alone": (say("Hello"), DONE),
    "20 filter results first": (event({"choices": [], "prompt_filter_results": []}), *HELLO),
    "20 usage last": (*HELLO[:-1], event({"choices": [], "usage": USAGE}), DONE),
    "21 delta null": (say("Hello"), chunk(None, "stop"), DONE),
    "21 bare chunks": (event({"choices": [{"delta": {"content": "Hello"}}]}), finish()),
    "21 role null": (chunk({"role": None, "content": "Hello"}), finish()),
    "22 text and finish": (chunk({"content": "Hello"}, "stop"), DONE),
    "23 reasoning_content": (chunk({"reasoning_content": "hm"}), *HELLO),
    "23 reasoning": (chunk({"reasoning": "hm"}), *HELLO),
    "23 think": (say("<th"), say("ink>hm</thi"), say("nk>"), *HELLO),
    "23 empty think": (say("<think></think>"), *HELLO),
    "24 usage null": (say("Hello").replace(b'"choices"', b'"usage": null, "choices"'), finish(), DONE),
    "24 usage empty": (say("Hello").replace(b'"choices"', b'"usage": {}, "choices"'), finish(), DONE),
    "25 empty finish reason": (chunk({"content": "Hello"}, ""), finish(), DONE),
    "25 another word": (say("Hello"), finish("eos_token"), DONE),
}


@pytest.mark.parametrize("packets", COMPLETE.values(), ids=COMPLETE)
def test_complete_answers(ask: Any, server: Server, packets: tuple[bytes, ...]) -> None:
    server.reply(*packets)
    assert ask() == (0, b"Hello\n", "")


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_7_what_is_no_line_end(ask: Any, server: Server, char: str) -> None:
    server.reply(say("a").replace(b'"a"', f'"a{char}b"'.encode()), finish(), DONE)
    assert ask().out == f"a{char}b\n".encode()


def test_8_finish_then_silence_is_complete_after_a_second(ask: Any, server: Server) -> None:
    server.reply(say("Hello"), finish(), hang=True)
    assert ask("--idle-timeout", "15", timeout=10) == (0, b"Hello\n", "")


def test_9_done_with_the_socket_open_is_complete_at_once(ask: Any, server: Server) -> None:
    server.reply(*HELLO, hang=True)
    started = time.monotonic()
    assert ask() == (0, b"Hello\n", "")
    assert time.monotonic() - started < 0.9, "the second after a finish reason was waited for"


CUT = {
    "10 end": {"packets": (say("Hel"),)},
    "10 broken": {"packets": (say("Hel"),), "broken": True},
    "10 reset": {"packets": (say("Hel"), 0.1), "reset": True},
    "14 silence": {"packets": (say("Hel"),), "hang": True},
    "16 error": {"packets": (say("Hel"), event({"error": {"message": "boom", "code": 500}}), DONE)},
    "16 error at the end": {"packets": (say("Hel"), event({"error": {"message": "boom", "code": 500}}))},
    "18 error and finish": {
        "packets": (
            event(
                {
                    "error": {"message": "boom", "code": 502},
                    "choices": [{"delta": {"content": "Hel"}, "finish_reason": "error"}],
                }
            ),
        )
    },
    "19 bare string": {"packets": (say("Hel"), event({"error": "boom"}))},
    "25 error reason": {"packets": (say("Hel"), finish("error"), DONE)},
    "an event that is no JSON": {"packets": (say("Hel"), b"data: {nope\n\n", *HELLO)},
}


@pytest.mark.parametrize("reply", CUT.values(), ids=CUT)
def test_cut_answers(ask: Any, server: Server, reply: dict[str, Any]) -> None:
    server.reply(*reply.pop("packets"), **reply)
    result = ask("--idle-timeout", "0.5", "-s", "s")
    assert result.status == 75
    assert result.out == b"Hel\n"
    assert result.err.startswith("gptpipe: ")
    assert result.err.count("\n") == 1


def test_a_refusal_is_complete_with_done_alone(ask: Any, server: Server) -> None:
    server.reply(chunk({"refusal": "no way"}), DONE)
    result = ask()
    assert (result.status, result.err) == (4, 'gptpipe: the model refused: "no way"\n')


@pytest.mark.parametrize("status", [200, 400])
def test_json_that_is_nested_too_deep(ask: Any, server: Server, status: int) -> None:
    server.reply(b'{"choices":' + b"[" * 200_000, status=status, headers={"content-type": "application/json"})
    result = ask()
    assert result.status == {200: 76, 400: 69}[status]
    assert "Traceback" not in result.err


def test_an_error_page_of_titles_that_never_end(ask: Any, server: Server) -> None:
    server.reply(b"<title>" * 40_000, status=400)
    assert ask(timeout=10).status == 69


def test_a_password_in_the_address_of_a_redirect_is_masked(ask: Any, server: Server) -> None:
    server.reply(status=302, headers={"location": "https://bob:secret@elsewhere/v1"})
    result = ask()
    assert result.status == 76
    assert "https://***@elsewhere/v1" in result.err


def test_12_a_role_alone_is_cut_and_leaves_no_turn(ask: Any, server: Server, home: Any) -> None:
    server.reply(chunk({"role": "assistant"}))
    result = ask("-s", "s")
    assert (result.status, result.out) == (75, b"")
    assert not list(home.rglob("sessions/*.jsonl"))


@pytest.mark.parametrize("end", [{"reset": True}, {"broken": True}], ids=str)
def test_13_a_connection_error_after_the_end(ask: Any, server: Server, end: dict[str, Any]) -> None:
    server.reply(say("Hello"), finish(), event({"choices": [], "usage": USAGE}), **end)
    assert ask() == (0, b"Hello\n", "")


@pytest.mark.parametrize("end", [{"reset": True}, {"broken": True}, {"hang": True}], ids=str)
def test_13_a_connection_error_within_the_blank_line_of_the_end(
    ask: Any, server: Server, home: Any, end: dict[str, Any]
) -> None:
    server.reply(say("Hello"), finish().strip(), 0.1, **end)
    assert ask("-s", "s", "--idle-timeout", "0.5") == (0, b"Hello\n", "")
    (path,) = home.rglob("s.jsonl")
    assert '"finish_reason":"stop"' in path.read_text()


def test_10_chunked_coding_that_is_garbled_is_a_cut_answer(ask: Any, server: Server) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    first = say("Hel")
    server.reply(head, b"%x\r\n%b\r\n" % (len(first), first), 0.1, b"not a size\r\n", raw=True)
    result = ask()
    assert (result.status, result.out) == (75, b"Hel\n")
    assert "the answer was cut" in result.err


def test_15_length_without_text(ask: Any, server: Server) -> None:
    server.reply(chunk({"reasoning_content": "hm"}), finish("length"), DONE)
    result = ask()
    assert (result.status, result.out) == (3, b"")
    assert "reasoning" in result.err


FIRST = {
    "16": ({"error": {"message": "boom", "code": 500}}, 75, "boom"),
    "17 too long": ({"choices": [], "error": {"code": 400, "message": "prompt is too long"}}, 65, "prompt is too long"),
    "17 502": ({"choices": [], "error": {"code": 502, "message": "bad gateway"}}, 75, "bad gateway"),
    "19": ({"error": "boom"}, 75, "boom"),
    "quota": ({"error": {"message": "pay", "code": "insufficient_quota"}}, 69, "pay"),
    "key": ({"error": {"message": "who", "code": 401}}, 77, "who"),
    "string code": ({"error": {"message": "slow", "code": "rate_limit_exceeded"}}, 75, "slow"),
}


@pytest.mark.parametrize(("value", "status", "words"), FIRST.values(), ids=FIRST)
def test_errors_before_any_text(ask: Any, server: Server, value: object, status: int, words: str) -> None:
    server.reply(event(value), DONE)
    result = ask()
    assert (result.status, result.out) == (status, b"")
    assert words in result.err


def test_23_a_think_tag_later_on_is_text(ask: Any, server: Server) -> None:
    server.reply(say("use <think>x</think>"), finish(), DONE)
    assert ask().out == b"use <think>x</think>\n"


def test_23_an_unopened_end_tag_is_cut_off_where_the_answer_is_held(ask: Any, server: Server, home: Any) -> None:
    server.reply(say("hm</think>"), say("Hello"), finish(), DONE, times=2)
    assert ask("--no-stream").out == b"Hello\n"
    assert ask("-s", "s").out == b"hm</think>Hello\n"
    line = json.loads(next(home.rglob("sessions/*.jsonl")).read_text())
    assert line["messages"][-1]["content"] == "Hello"


def test_23_a_profile_that_thinks(ask: Any, server: Server, home: Any) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text(f'[profiles.r]\nbase_url = "{server.url}"\nthinks = true\n')
    server.reply(say("hm</think>"), say("Hello"), finish(), DONE)
    result = ask("-p", "r", "--reasoning")
    assert result.out == b"Hello\n"
    assert result.err == "hm\n"


def test_24_the_last_usage_counts(ask: Any, server: Server) -> None:
    first, last = {**USAGE, "total_tokens": 4}, USAGE
    server.reply(event({"choices": [{"delta": {"content": "Hello"}}], "usage": first}), finish(usage=last), DONE)
    assert ask("--json").json()["usage"] == USAGE


ENDS = {
    "length": ("length", 3),
    "MAX_TOKENS": ("MAX_TOKENS", 3),
    "model_length": ("model_length", 3),
    "content_filter": ("content_filter", 4),
}


@pytest.mark.parametrize(("reason", "status"), ENDS.values(), ids=ENDS)
def test_25_finish_reasons(ask: Any, server: Server, reason: str, status: int) -> None:
    server.reply(say("Hello"), finish(reason), DONE)
    result = ask()
    assert (result.status, result.out) == (status, b"Hello\n")


def test_25_a_refusal_is_the_message(ask: Any, server: Server) -> None:
    server.reply(chunk({"refusal": "I can"}), chunk({"refusal": "not"}), finish(), DONE)
    assert ask() == (4, b"", 'gptpipe: the model refused: "I cannot"\n')


def test_25_another_word_without_text(ask: Any, server: Server) -> None:
    server.reply(finish("tool_calls"), DONE)
    assert ask().status == 5


def test_26_stream_options_refused(ask: Any, server: Server) -> None:
    detail = [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]
    server.json(422, {"detail": detail})
    server.reply(*HELLO)
    assert ask() == (0, b"Hello\n", "")
    assert ["stream_options" in request.body for request in server.requests] == [True, False]


def test_26_stream_refused(ask: Any, server: Server) -> None:
    server.json(
        400, {"error": {"message": "Unsupported parameter", "param": "stream", "code": "unsupported_parameter"}}
    )
    server.json(200, {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": USAGE})
    result = ask("--json")
    assert result.json()["answer"] == "Hello"
    assert result.json()["usage"] == USAGE
    assert ["stream" in request.body for request in server.requests] == [True, False]


def test_27_max_tokens_under_its_other_name(ask: Any, server: Server) -> None:
    server.json(400, {"error": {"message": "no", "param": "max_tokens", "code": "unsupported_parameter"}})
    server.reply(*HELLO)
    assert ask("--max-tokens", "9").status == 0
    assert [request.body.get("max_tokens") for request in server.requests] == [9, None]
    assert server.requests[1].body["max_completion_tokens"] == 9


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("http://localhost:8000/v1", "max_tokens"),
        ("https://api.openai.com.example.org/v1", "max_tokens"),
    ],
)
@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "GPTPIPE_BASE_URL"])
def test_27_the_address_says_under_which_name_max_tokens_goes_out(run: Any, variable: str, url: str, name: str) -> None:
    result = run("gptpipe", "--dry-run", "-m", "m", "--max-tokens", "3", "hi", env={variable: url})
    assert {key: value for key, value in result.json()["body"].items() if key.startswith("max_")} == {name: 3}


def test_27_a_refused_value_of_max_tokens_is_not_asked_again(ask: Any, server: Server) -> None:
    words = "max_tokens is too large: 9. This model supports at most 8"
    server.json(400, {"error": {"message": words, "param": "max_tokens", "code": "invalid_value"}})
    assert words in ask("--max-tokens", "9").err
    assert len(server.requests) == 1


def test_28_a_refused_temperature(ask: Any, server: Server) -> None:
    server.json(400, {"error": {"message": "Unsupported value: 'temperature'", "param": "temperature"}})
    result = ask("--temperature", "1")
    assert result.status == 69
    assert "Unsupported value: 'temperature'" in result.err
    assert len(server.requests) == 1


FOREIGN = {
    "29 HTML": (b"<html><title>Log in</title></html>", "text/html"),
    "29 HTML as a stream": (b"<!doctype html>", "text/event-stream"),
    "29 other JSON": (b'{"status": "ok"}', "application/json"),
    "29 text": (b"It works!\n", "text/plain"),
}


@pytest.mark.parametrize(("data", "kind"), FOREIGN.values(), ids=FOREIGN)
def test_29_replies_that_are_something_else(ask: Any, server: Server, data: bytes, kind: str) -> None:
    server.reply(data, headers={"content-type": kind})
    result = ask()
    assert (result.status, result.out) == (76, b"")
    assert server.url in result.err


SHAPES = {
    "object": (400, {"object": "error", "message": "odd", "code": 400}, "odd"),
    "error_code": (400, {"error_code": "X", "message": "odd"}, "odd"),
    "detail": (400, {"detail": "odd"}, "odd"),
    "nginx": (502, "<html><head><title>502 Bad Gateway</title></head></html>", "502 Bad Gateway"),
    "bare string": (400, {"error": "odd"}, "odd"),
    "LiteLLM, an event stream": (500, 'data: {"error": {"message": "odd"}}\n\ndata: [DONE]\n\n', "failed (500): odd"),
    "nothing": (500, "", "no reason"),
}


@pytest.mark.parametrize(("status", "body", "words"), SHAPES.values(), ids=SHAPES)
def test_30_error_bodies(ask: Any, server: Server, status: int, body: object, words: str) -> None:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    server.reply(data, status=status, headers={"content-type": "text/plain"})
    result = ask()
    assert words in result.err.splitlines()[0]


REFUSALS = {
    "content_filter": (400, {"code": "content_filter"}, 4),
    "401": (401, {}, 77),
    "402": (402, {}, 69),
    "403": (403, {}, 69),
    "404": (404, {}, 69),
    "413": (413, {}, 65),
    "context": (400, {"code": "context_length_exceeded"}, 65),
    "422": (422, {}, 69),
    "quota": (429, {"code": "insufficient_quota"}, 69),
    **{str(code): (code, {}, 75) for code in (408, 409, 429, 500, 502, 503, 504, 529)},
}


@pytest.mark.parametrize(("code", "error", "status"), REFUSALS.values(), ids=REFUSALS)
def test_31_statuses(ask: Any, server: Server, code: int, error: dict[str, str], status: int) -> None:
    server.json(code, {"error": {"message": "The sentence of the API.", **error}})
    result = ask()
    assert (result.status, result.out) == (status, b"")
    assert "The sentence of the API" in result.err


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"retry-after": "300"}, "300 s"),
        ({"retry-after": "Fri, 31 Dec 2038 23:59:59 GMT"}, "after --max-time"),
        ({"retry-after-ms": "300000"}, "300 s"),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "5m0s"}, "300 s"),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2177452799"}, "after --max-time"),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2177452799000"}, "after --max-time"),
    ],
    ids=["seconds", "date", "milliseconds", "what remains", "what remains, until", "what remains, until, in ms"],
)
def test_31_retry_after_beyond_max_time_ends_at_once(
    run: Any, server: Server, headers: dict[str, str], words: str
) -> None:
    server.json(429, {"error": {"message": "slow down"}}, headers=headers)
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "--max-time", "15", "hi", timeout=10)
    assert result.status == 75
    assert words in result.err


@pytest.mark.parametrize("code", [429, 500, 503])
def test_31_a_temporary_refusal_is_tried_again(run: Any, server: Server, code: int) -> None:
    server.json(code, {"error": {"message": "later"}}, headers={"retry-after": "0.01"}, times=2)
    server.reply(*HELLO)
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "--json", "hi")
    assert (result.status, result.json()["retries"], len(server.requests)) == (0, 2, 3)


def test_a_cut_is_tried_again_only_before_a_byte_was_printed(run: Any, server: Server) -> None:
    again = ("gptpipe", "--base-url", server.url, "-m", "m", "--retry", "1", "hi")
    server.reply()
    server.reply(*HELLO)
    assert run(*again).out == b"Hello\n"
    server.reply(say("Hel"))
    assert run(*again)[:2] == (75, b"Hel\n")
    assert len(server.requests) == 3
    server.reply(say("Hel"))
    server.reply(*HELLO)
    assert run(*again, "--no-stream")[:2] == (0, b"Hello\n")


def test_a_redirect_is_not_followed(ask: Any, server: Server) -> None:
    server.reply(status=307, headers={"location": "http://127.0.0.2:9/elsewhere"})
    result = ask()
    assert result.status == 76
    assert "http://127.0.0.2:9/elsewhere" in result.err
    assert len(server.requests) == 1
