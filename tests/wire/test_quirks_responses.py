"""What real servers of the Responses API send, line by line, over HTTP on loopback: what is printed, and the status."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.harness.responses import (
    IN_CHAT,
    added,
    call,
    delta,
    ended,
    item_done,
    message,
    part,
    response,
    text_done,
    typed,
)
from tests.harness.server import DONE, Server, event, finish, say

HI = delta("Hel") + delta("lo")
END = ended(message("Hello"))
REFUSES = {"type": "message", "content": [{"type": "refusal", "refusal": "I cannot"}]}
MOST = {"reason": "max_output_tokens"}
RATE: dict[str, Any] = {"code": "rate_limit_exceeded", "message": "slow down"}
LONG: dict[str, Any] = {"code": "context_length_exceeded", "message": "too many words"}


@pytest.fixture
def ask(run: Any, server: Server) -> Any:
    """Ask the loopback server, without retries unless given."""

    def ask(*args: str, **more: Any) -> Any:
        call = ("gptpipe", "-n", "--base-url", server.url, "--api", "responses", "-m", "m", "--retry", "0")
        return run(*call, *args, "hi", **more)

    return ask


def untyped(data: bytes) -> bytes:
    """Return the events without their ``event:`` lines."""
    return b"".join(line for line in data.splitlines(keepends=True) if not line.startswith(b"event:"))


COMPLETE = {
    "32 event lines": (HI, END),
    "32 no event lines": (untyped(HI), untyped(END)),
    "32 keep-alives": (b": ping\n\n", typed("keepalive"), HI, typed("keepalive"), END),
    "32 DONE at the end": (HI, END, DONE),
    "32 unknown types": (typed("response.later", text="no"), event({"type": "x"}), HI, END),
    "32 bytes": tuple((HI + END)[at : at + 1] for at in range(len(HI + END))),
    "33 the end of a part": (text_done("Hello"), END),
    "33 the end of an item": (item_done(message("Hello")), ended()),
    "33 the final response": (END,),
    "33 no places": (delta("Hel", None, None), delta("lo", None, None), END),
    "34 two messages": (delta("Hel", 0), delta("lo", 1), ended(message("Hel"), message("lo"))),
    "34 two parts": (delta("Hel"), text_done("Hel"), delta("lo", 0, 1), ended(message("Hel", "lo"))),
    "34 commentary": (
        added(message(phase="commentary")),
        delta("hm"),
        added(message(phase="final_answer"), 1),
        delta("Hello", 1),
        ended(message("hm", phase="commentary"), message("Hello", phase="final_answer")),
    ),
    "34 phase null": (added(message(phase=None)), HI, END),
    "35 summary": (typed("response.reasoning_summary_text.delta", delta="hm"), delta("Hello", 1), ended()),
    "35 reasoning text": (typed("response.reasoning_text.delta", delta="hm"), delta("Hello", 1), ended()),
    "35 encrypted": (item_done({"type": "reasoning", "summary": [], "encrypted_content": "x"}), delta("Hello", 1), END),
    "41 chat chunks": (say("Hel"), say("lo"), finish(), DONE),
    "44 usage null": (HI, ended(message("Hello"), usage=None)),
    "44 usage in other names": (HI, ended(message("Hello"), usage=IN_CHAT)),
    "LiteLLM, other places at the end": (HI, ended({"type": "reasoning", "summary": []}, message("Hello"))),
    "vLLM, no output at the end": (HI, ended()),
    "llama.cpp, no status": (HI, ended(name="response.completed", status=None)),
}


@pytest.mark.parametrize("packets", COMPLETE.values(), ids=COMPLETE)
def test_complete(ask: Any, server: Server, packets: tuple[bytes, ...]) -> None:
    server.reply(*packets)
    assert ask() == (0, b"Hello\n", "")


LIMITED = {
    "transformers, truncated": ("2", {}, 3),
    "transformers, whole": ("3", {}, 0),
    "vLLM, whole": ("2", {"incomplete_details": None}, 0),
}


@pytest.mark.parametrize(("limit", "more", "status"), LIMITED.values(), ids=LIMITED)
def test_completed_at_the_limit(ask: Any, server: Server, limit: str, more: dict[str, Any], status: int) -> None:
    """Two tokens came. Without ``incomplete_details`` nothing but their number tells a truncated answer."""
    server.reply(HI, ended(message("Hello"), **more))
    assert ask("--max-tokens", limit).status == status


# What comes of it: the status, what is printed, and a word of the message.
OTHERS: dict[str, tuple[tuple[bytes, ...], int, bytes, str]] = {
    "36 refusal deltas": ((typed("response.refusal.delta", delta="I cannot"), ended(REFUSES)), 4, b"", "I cannot"),
    "36 refusal done": ((typed("response.refusal.done", refusal="I cannot"), ended()), 4, b"", "I cannot"),
    "36 refusal in the response": ((ended(REFUSES),), 4, b"", "I cannot"),
    "37 truncated": ((HI, ended(status="incomplete", incomplete_details=MOST)), 3, b"Hello\n", "length limit"),
    "37 reasoning alone": ((ended(status="incomplete", incomplete_details=MOST),), 3, b"", "before its first word"),
    "37 filtered": (
        (HI, ended(status="incomplete", incomplete_details={"reason": "content_filter"})),
        4,
        b"Hello\n",
        "content_filter",
    ),
    "37 named completed": (
        (HI, ended(name="response.completed", status="incomplete", incomplete_details=MOST)),
        3,
        b"Hello\n",
        "length limit",
    ),
    "37 another reason": (
        (HI, ended(status="incomplete", incomplete_details={"reason": "steered"})),
        75,
        b"Hello\n",
        "steered",
    ),
    "cancelled": ((HI, ended(status="cancelled")), 75, b"Hello\n", "cancelled"),
    "38 failed": ((HI, ended(status="failed", error=RATE)), 75, b"Hello\n", "slow down"),
    "38 failed without error": ((ended(status="failed", error=None),), 75, b"", "the server failed"),
    "38 failed for a policy": ((ended(status="failed", error={"code": "bio_policy", "message": "no"}),), 4, b"", "no"),
    "38 failed for an image": (
        (ended(status="failed", error={"code": "image_too_large", "message": "no"}),),
        65,
        b"",
        "image",
    ),
    "38 flat error": ((typed("error", **RATE, param=None),), 75, b"", "slow down"),
    "38 nested error": ((HI, typed("error", error=RATE)), 75, b"Hello\n", "slow down"),
    "38 too long, flat": ((typed("error", **LONG),), 65, b"", "too many words"),
    "38 too long, failed": ((ended(status="failed", error=LONG),), 65, b"", "too many words"),
    "39 cut in the text": ((HI,), 75, b"Hello\n", "cut"),
    "39 cut in the reasoning": ((typed("response.reasoning_text.delta", delta="hm"),), 75, b"", "cut"),
    "39 cut after the text": ((HI, text_done("Hello"), item_done(message("Hello"))), 75, b"Hello\n", "cut"),
    "39 DONE alone": ((HI, DONE), 75, b"Hello\n", "cut"),
    "43 a tool": ((ended(call("weather", "", "c1")),), 5, b"", "tool"),
    "empty": ((ended(),), 5, b"", "empty"),
    "not JSON": ((HI, b"data: <html>\n\n"), 75, b"Hello\n", "not JSON"),
}


@pytest.mark.parametrize(("packets", "status", "out", "word"), OTHERS.values(), ids=OTHERS)
def test_not_complete(ask: Any, server: Server, packets: tuple[bytes, ...], status: int, out: bytes, word: str) -> None:
    server.reply(*packets)
    result = ask()
    assert (result.status, result.out) == (status, out)
    assert word in result.err


def test_34_35_what_is_not_the_answer_is_shown_if_asked_for(ask: Any, server: Server) -> None:
    server.reply(*COMPLETE["34 commentary"])
    result = ask("--reasoning")
    assert (result.status, result.out) == (0, b"Hello\n")
    assert "hm" in result.err


@pytest.mark.parametrize("ending", ["hang", "reset", "broken"])
def test_40_nothing_after_the_final_event_matters(ask: Any, server: Server, ending: str) -> None:
    how: dict[str, Any] = {ending: True}
    server.reply(HI, END, **how)
    started = time.monotonic()
    assert ask("--idle-timeout", "60") == (0, b"Hello\n", "")
    assert time.monotonic() - started < 30


WHOLE: dict[str, tuple[dict[str, Any], int, bytes]] = {
    "complete": (response(message("Hello")), 0, b"Hello\n"),
    "truncated": (response(message("Hello"), status="incomplete", incomplete_details=MOST), 3, b"Hello\n"),
    "refused": (response(REFUSES), 4, b""),
    "failed": (response(status="failed", error=RATE), 75, b""),
    "still working": (response(status="in_progress"), 75, b""),
    "a completion": ({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}, 0, b"Hello\n"),
    "something else": ({"hello": "world"}, 76, b""),
}


@pytest.mark.parametrize(("body", "status", "out"), WHOLE.values(), ids=WHOLE)
def test_41_a_reply_in_one_piece(ask: Any, server: Server, body: dict[str, Any], status: int, out: bytes) -> None:
    server.json(200, body)
    result = ask()
    assert (result.status, result.out) == (status, out)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("field", ["stream_options", "store", "include"])
def test_42_a_field_refused(ask: Any, server: Server, field: str, status: int) -> None:
    words = {"message": f"Unsupported parameter: '{field}'", "param": field, "code": "unsupported_parameter"}
    server.json(status, {"error": words})
    server.reply(HI, END)
    assert ask("-O", 'include=["reasoning.encrypted_content"]') == (0, b"Hello\n", "")
    assert [field in request.body for request in server.requests] == [True, False]


def test_42_a_format_refused(ask: Any, server: Server, tmp_path: Any) -> None:
    (tmp_path / "s.json").write_text('{"type": "string"}')
    server.json(400, {"error": {"message": "text.format is not supported", "param": "text.format"}})
    server.reply(delta('"Hello"'), ended(message('"Hello"')))
    assert ask("--schema", "s.json") == (0, b'"Hello"\n', "")
    first, second = (request.body for request in server.requests)
    assert first["text"]["format"]["schema"] == {"type": "string"}
    assert "text" not in second
    assert "JSON Schema" in second["instructions"]


@pytest.mark.parametrize(
    "packets",
    [
        (added(call("f", "", "c")), typed("response.function_call_arguments.delta", delta="{}"), ended()),
        (item_done(call("f", "{}", "c")), ended()),
        (ended(call("f", "", "c")),),
        (ended(call("f", "{}", "c"), call("g", "{}", "d")),),
    ],
    ids=["deltas", "item", "response", "two"],
)
def test_43_calls_that_nobody_offered(ask: Any, server: Server, packets: tuple[bytes, ...]) -> None:
    server.reply(*packets)
    result = ask()
    assert (result.status, result.out) == (5, b"")
    assert "the model asked for a tool f" in result.err
    assert "not offered" in result.err


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": 3, "output_tokens": 2}, IN_CHAT], ids=str)
def test_44_usage(ask: Any, server: Server, usage: Any) -> None:
    server.reply(HI, ended(message("Hello"), usage=usage))
    found = ask("--json").json()["usage"]
    if usage:
        assert (found["prompt_tokens"], found["completion_tokens"]) == (3, 2)
    else:
        assert found is None


def test_the_servers_own_sentence(ask: Any, server: Server) -> None:
    server.json(400, {"error": {"message": "Unknown parameter: 'seed'.", "param": "seed", "code": "unknown_parameter"}})
    result = ask("-O", "seed=1")
    assert (result.status, result.out) == (69, b"")
    assert "Unknown parameter: 'seed'" in result.err


def test_annotations_are_read_from_wherever_they_come(ask: Any, server: Server) -> None:
    source = {"type": "url_citation", "url": "https://a.example/", "title": "A"}
    server.reply(HI, ended({"type": "message", "content": [part("Hello", annotations=[source])]}))
    assert ask("--json").json()["citations"] == [{"url": "https://a.example/", "title": "A"}]
