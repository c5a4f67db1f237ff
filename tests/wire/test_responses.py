"""The Responses API: the events of what real servers send."""

from __future__ import annotations

from typing import Any

import pytest

from gptpipe.wire import responses
from gptpipe.wire.events import (
    Cited,
    Done,
    Error,
    Event,
    Finish,
    KeepAlive,
    Reasoning,
    Refusal,
    Served,
    Text,
    ToolCall,
    Usage,
)
from tests.harness.decoding import check_splits, decode, joined
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
from tests.harness.server import DONE, event, finish, say

CREATED = typed("response.created", response=response(status="in_progress", usage=None))
END = ended(usage=None)
ENDED: list[Event] = [Finish("stop"), Done()]
ALL = ended(message("hi"))
HI = delta("hi")
RATE = {"code": "rate_limit_exceeded", "message": "slow down"}


def reasoning(name: str, **fields: Any) -> bytes:
    return typed(f"response.{name}", output_index=0, **fields)


def arguments(name: str, number: int, **fields: Any) -> bytes:
    return typed(f"response.function_call_arguments.{name}", output_index=number, **fields)


def stop(*before: Event) -> list[Event]:
    return [*before, *ENDED]


def cut(reason: str, *before: Event) -> list[Event]:
    return [*before, Finish(reason), Done()]


WEATHER = ToolCall("c1", "weather", '{"city":"Rome"}')
TIME = ToolCall("c2", "time", "{}")
SOURCE = {"type": "url_citation", "url": "https://a.example/", "title": "A", "start_index": 0, "end_index": 1}
FILE = {"type": "file_citation", "file_id": "f"}

# The name begins with the number of the line in the list of what real servers send, where there is one.
STREAMS: list[tuple[str, bytes, list[Event]]] = [
    ("plain", CREATED + HI + ALL + DONE, [Text("hi"), Usage(IN_CHAT), Finish("stop"), Done()]),
    ("32-no-event-line", typed("response.output_text.delta", line=False, delta="hi") + END, stop(Text("hi"))),
    (
        "32-wrong-event-line",
        b"event: message\n" + event({"type": "response.output_text.delta", "delta": "hi"}),
        [Text("hi")],
    ),
    (
        "32-keepalives",
        b": ping\n\n" + typed("keepalive", sequence_number=3) + HI,
        [KeepAlive(), KeepAlive(), Text("hi")],
    ),
    ("32-done-is-nothing", HI + DONE, [Text("hi")]),
    (
        "32-unknown",
        typed("response.later", delta="no") + typed("x", response=3) + event({"type": 3}) + HI,
        [Text("hi")],
    ),
    ("33-part-done", text_done("hi") + item_done(message("hi")) + END, stop(Text("hi"))),
    (
        "33-content-part-done",
        typed("response.content_part.done", part=part("hi")) + ended(message("hi"), usage=None),
        stop(Text("hi")),
    ),
    ("33-item-done", item_done(message("hi")) + END, stop(Text("hi"))),
    ("33-response-alone", ended(message("hi"), usage=None), stop(Text("hi"))),
    (
        "33-delta-and-all",
        HI + text_done("hi") + item_done(message("hi")) + ended(message("hi"), usage=None),
        stop(Text("hi")),
    ),
    (
        "33-no-indices",
        delta("h", None, None) + delta("i", None, None) + ended(message("hi"), usage=None),
        stop(Text("hi")),
    ),
    (
        "33-new-item-ids",
        delta("h", item_id="a") + delta("i", item_id="b") + ended(message("hi", id="c"), usage=None),
        stop(Text("hi")),
    ),
    (
        "33-item-ids-of-another-kind",
        typed("response.output_text.done", text="hi", output_index=0, item_id=["a"])
        + ended(message("hi", id={}), usage=None),
        stop(Text("hi")),
    ),
    (
        "33-counted-in-another-way",
        HI + ended({"type": "reasoning", "summary": []}, message("hi"), usage=None),
        stop(Text("hi")),
    ),
    ("33-last-piece-in-response", delta("h") + delta("i") + ended({}, message("i"), usage=None), stop(Text("hi"))),
    ("33-second-part-in-response", HI + ended(message("hi", " all"), usage=None), stop(Text("hi all"))),
    (
        "34-two-messages",
        delta("a", 0) + delta("b", 1) + ended(message("a"), message("b"), usage=None),
        stop(Text("ab")),
    ),
    ("34-two-parts", delta("a") + text_done("a") + delta("b", 0, 1) + delta("c", 0, 1) + END, stop(Text("abc"))),
    (
        "34-parts-interleaved",
        delta("a") + delta("c", 1) + delta("b") + text_done("ab") + delta("d", 1) + END,
        stop(Text("abcd")),
    ),
    ("34-parts-backwards", delta("a") + delta("c", 2) + delta("b", 1) + END, stop(Text("abc"))),
    (
        "34-commentary",
        added(message(phase="commentary"))
        + delta("hm")
        + item_done(message("hm", phase="commentary"))
        + added(message(phase="final_answer"), 1)
        + delta("hi", 1)
        + ended(message("hm", phase="commentary"), message("hi", phase="final_answer"), usage=None),
        stop(Reasoning("hm"), Text("hi")),
    ),
    (
        "34-commentary-alone",
        ended(message("hm", phase="commentary"), message("hi"), usage=None),
        stop(Reasoning("hm"), Text("hi")),
    ),
    ("34-phase-null", added(message(phase=None)) + HI + END, stop(Text("hi"))),
    (
        "35-summary-in-parts",
        reasoning("reasoning_summary_text.delta", summary_index=0, delta="a")
        + reasoning("reasoning_summary_text.done", summary_index=0, text="a")
        + reasoning("reasoning_summary_text.delta", summary_index=1, delta="b")
        + item_done({"type": "reasoning", "summary": [{"text": "a"}, {"text": "b"}]})
        + delta("hi", 1),
        [Reasoning("a"), Reasoning("\n\nb"), Text("hi")],
    ),
    (
        "35-reasoning-text",
        reasoning("reasoning_text.delta", content_index=0, delta="hm") + HI,
        [Reasoning("hm"), Text("hi")],
    ),
    ("35-summary-done-alone", reasoning("reasoning_summary_text.done", summary_index=0, text="hm"), [Reasoning("hm")]),
    (
        "35-content-in-response",
        ended({"type": "reasoning", "content": [{"text": "hm"}]}, usage=None),
        stop(Reasoning("hm")),
    ),
    (
        "35-encrypted",
        item_done({"type": "reasoning", "summary": [], "encrypted_content": "x"}) + delta("hi", 1),
        [Text("hi")],
    ),
    ("35-think-in-text", delta("<think>hm</th") + delta("ink>\nhi") + END, stop(Reasoning("hm"), Text("hi"))),
    (
        "36-refusal-deltas",
        typed("response.refusal.delta", delta="I can") + typed("response.refusal.delta", delta="not"),
        [Refusal("I cannot")],
    ),
    (
        "36-refusal-done",
        typed("response.refusal.done", refusal="no") + ended(message(), usage=None),
        stop(Refusal("no")),
    ),
    (
        "36-refusal-in-response",
        ended({"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}, usage=None),
        stop(Refusal("no")),
    ),
    (
        "37-max-output-tokens",
        HI + ended(status="incomplete", incomplete_details={"reason": "max_output_tokens"}, usage=None),
        cut("length", Text("hi")),
    ),
    (
        "37-content-filter",
        ended(status="incomplete", incomplete_details={"reason": "content_filter"}, usage=None),
        cut("content_filter"),
    ),
    (
        "37-other-reason",
        ended(status="incomplete", incomplete_details={"reason": "max_messages"}, usage=None),
        cut("max_messages"),
    ),
    ("37-no-reason", ended(status="incomplete", incomplete_details=None, usage=None), cut("incomplete")),
    (
        "37-named-completed",
        HI
        + ended(
            name="response.completed",
            status="incomplete",
            incomplete_details={"reason": "max_output_tokens"},
            usage=None,
        ),
        cut("length", Text("hi")),
    ),
    ("37-status-completed", ended(incomplete_details={"reason": "max_output_tokens"}, usage=None), cut("length")),
    ("status-missing", HI + ended(name="response.completed", status=None, usage=None), stop(Text("hi"))),
    ("status-of-another-type", HI + ended(name="response.completed", status=[], usage=None), stop(Text("hi"))),
    ("status-in-progress", HI + ended(name="response.completed", status="in_progress", usage=None), stop(Text("hi"))),
    ("cancelled", HI + ended(status="cancelled", usage=None), cut("cancelled", Text("hi"))),
    ("38-failed", HI + ended(status="failed", error=RATE, usage=None), [Text("hi"), Error(RATE)]),
    (
        "38-failed-without-error",
        ended(status="failed", error=None, usage=None),
        [Error("no reason given")],
    ),
    ("38-failed-by-name", typed("response.failed", response={"status": "in_progress"}), [Error("no reason given")]),
    (
        "38-error-flat",
        typed("error", code="server_error", message="no", param=None),
        [Error({"code": "server_error", "message": "no", "param": None})],
    ),
    ("38-error-nested", HI + typed("error", error=RATE), [Text("hi"), Error(RATE)]),
    ("38-error-without-type", event({"error": RATE}), [Error(RATE)]),
    ("38-error-by-its-line", b"event: error\n" + event({"message": "no"}), [Error({"message": "no"})]),
    ("39-cut", HI, [Text("hi")]),
    ("39-cut-after-part", HI + text_done("hi") + item_done(message("hi")), [Text("hi")]),
    ("41-chunks", say("hi") + finish() + DONE, [Text("hi"), Finish("stop"), Done()]),
    (
        "43-arguments-in-deltas",
        added(call("weather", "", "c1"))
        + arguments("delta", 0, delta='{"city":')
        + arguments("delta", 0, delta='"Rome"}')
        + END,
        [WEATHER, Finish("tool_calls"), Done()],
    ),
    (
        "43-arguments-done",
        added(call("weather", "", "c1"))
        + arguments("delta", 0, delta="{")
        + arguments("done", 0, arguments=WEATHER.arguments)
        + END,
        [WEATHER, Finish("tool_calls"), Done()],
    ),
    (
        "43-item-done",
        item_done(call(WEATHER.name, WEATHER.arguments, "c1")) + END,
        [WEATHER, Finish("tool_calls"), Done()],
    ),
    (
        "43-response-alone",
        ended({"type": "reasoning"}, call("weather", WEATHER.arguments, "c1"), call("time", "", "c2"), usage=None),
        [WEATHER, TIME, Finish("tool_calls"), Done()],
    ),
    (
        "43-two-at-once",
        item_done(call("time", "", "c2"), 2)
        + item_done(call("weather", WEATHER.arguments, "c1"), 1)
        + ended(call("weather", WEATHER.arguments, "c1"), call("time", "", "c2"), usage=None),
        [TIME, WEATHER, Finish("tool_calls"), Done()],
    ),
    ("43-cut", item_done(call("time", "", "c2")) + ended(status="incomplete", usage=None), cut("incomplete")),
    ("44-in-the-names-of-chat", ended(usage=IN_CHAT), [Usage(IN_CHAT), Finish("stop"), Done()]),
    (
        "44-without-details",
        ended(usage={"input_tokens": 1, "output_tokens": 2, "input_tokens_details": None}),
        [
            Usage({"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": None}),
            Finish("stop"),
            Done(),
        ],
    ),
    (
        "sources",
        typed("response.output_text.annotation.added", annotation=SOURCE)
        + typed("response.output_text.annotation.added", annotation=FILE)
        + typed("response.output_text.annotation.added", annotation=None)
        + ended(
            {
                "type": "message",
                "content": [part("", annotations=[SOURCE, {**SOURCE, "url": "https://b.example/", "title": 3}])],
            },
            usage=None,
        ),
        [Cited("https://a.example/", "A"), Cited("https://b.example/", None), Finish("stop"), Done()],
    ),
    ("pair-in-two-deltas", delta("a\ud83d") + delta("\ude00b") + END, stop(Text("a\U0001f600b"))),
    ("half-at-cut", delta("a\ud83d"), [Text("a\ufffd")]),
    (
        "other-types",
        b"".join(
            [
                event({"type": "response.output_text.delta", "delta": 3, "output_index": "x"}),
                event({"type": "response.output_item.done", "item": [3]}),
                event(
                    {
                        "type": "response.output_item.done",
                        "item": {"type": "message", "content": [3, {"text": 4}, None]},
                    }
                ),
                event({"type": "response.function_call_arguments.delta", "delta": []}),
                event(
                    {
                        "type": "response.completed",
                        "response": {"output": 3, "usage": 4, "model": 5, "incomplete_details": 6},
                    }
                ),
            ]
        ),
        [Finish("stop"), Done()],
    ),
]

IDS = [name for name, _, _ in STREAMS]


def read(*packets: bytes, thinks: bool = False) -> list[Event]:
    return decode(responses.Reader(thinks), *packets)


@pytest.mark.parametrize(("data", "events"), [(data, events) for _, data, events in STREAMS], ids=IDS)
def test_stream(data: bytes, events: list[Event]) -> None:
    assert joined([item for item in read(data) if not isinstance(item, Served)]) == joined(events)


@pytest.mark.parametrize("data", [data for _, data, _ in STREAMS], ids=IDS)
def test_a_split_anywhere_changes_nothing(data: bytes) -> None:
    check_splits(read, data)


def test_the_model_is_named_once_and_as_soon_as_it_is_known() -> None:
    assert [item for item in read(CREATED, HI, ALL) if isinstance(item, Served)] == [Served("served")]
    assert read(CREATED, HI)[0] == Served("served")


def test_text_passes_on_at_once() -> None:
    reader = responses.Reader()
    events: list[Event] = []
    reader.take({"type": "response.output_text.delta", "delta": "a"}, False, events)
    assert events == [Text("a")]


WHOLE: dict[str, tuple[dict[str, Any], list[Event]]] = {
    "answer": (response(message("hi")), [Served("served"), Text("hi"), Usage(IN_CHAT), Finish("stop"), Done()]),
    "truncated": (
        response(message("hi"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}, usage=None),
        [Served("served"), Text("hi"), Finish("length"), Done()],
    ),
    "not-ended": (response(status="queued", usage=None), [Served("served"), Finish("queued"), Done()]),
    "failed": (response(status="failed", error=RATE, usage=None), [Served("served"), Error(RATE)]),
    "completion": (
        {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]},
        [Text("hi"), Finish("stop"), Done()],
    ),
    "error": ({"error": RATE}, [Error(RATE), Done()]),
    "something-else": ({"detail": "Not Found"}, []),
}


@pytest.mark.parametrize(("body", "events"), WHOLE.values(), ids=WHOLE)
def test_a_reply_in_one_piece(body: dict[str, Any], events: list[Event]) -> None:
    assert responses.whole(body) == events
