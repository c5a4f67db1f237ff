"""Chat Completions: the events of what real servers send."""

from __future__ import annotations

from typing import Any

import pytest

from gptpipe.wire import chat
from gptpipe.wire.events import Done, Error, Event, Finish, Reasoning, Refusal, Served, Text, Usage
from tests.harness.decoding import check_splits, chunk, decode, joined, say, says
from tests.harness.server import DONE, event

STOP = chunk({}, "stop")
USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
RATE = {"message": "slow down", "code": 429}
HI = say("hi")
ODD: list[dict[str, Any]] = [
    {"choices": None, "model": 1, "id": [], "usage": 3, "error": 0},
    {"choices": {"delta": {"content": "x"}}},
    {"choices": [None, 3]},
    {"choices": [{"index": None, "delta": [], "finish_reason": 3}]},
    {"choices": [{"delta": {"content": 3, "reasoning": {}, "refusal": [], "tool_calls": []}}]},
]

# The name begins with the number of the line in the list of what real servers send, where there is one.
STREAMS: list[tuple[str, bytes, list[Event]]] = [
    ("plain", HI + STOP + DONE, [Text("hi"), Finish("stop"), Done()]),
    ("8-no-done", HI + STOP, [Text("hi"), Finish("stop")]),
    ("10-neither", HI, [Text("hi")]),
    ("11-done-alone", HI + DONE, [Text("hi"), Done()]),
    ("12-role-only", chunk({"role": "assistant", "content": ""}), []),
    ("15-length-without-text", chunk({"content": ""}, "length") + DONE, [Finish("length"), Done()]),
    ("16-error", event({"error": RATE}) + DONE, [Error(RATE), Done()]),
    ("16-error-after-text", HI + event({"error": RATE}), [Text("hi"), Error(RATE)]),
    ("17-error-beside-no-choices", event({"choices": [], "error": RATE}), [Error(RATE)]),
    ("18-error-beside-delta", chunk({"content": "par"}, "error", error=RATE), [Text("par"), Error(RATE)]),
    (
        "18-error-in-choice",
        event({"choices": [{"delta": {"content": "par"}, "finish_reason": "error", "error": RATE}]}),
        [Text("par"), Error(RATE)],
    ),
    ("19-error-string", event({"error": "out of memory"}), [Error("out of memory")]),
    ("error-null", chunk({"content": "x"}, error=None) + chunk({"content": "y"}, error={}), [Text("x"), Text("y")]),
    (
        "error-object",
        event({"object": "error", "message": "no", "code": 400}),
        [Error({"object": "error", "message": "no", "code": 400})],
    ),
    (
        "20-prompt-filter",
        event({"choices": [], "prompt_filter_results": [{}], "id": "", "model": ""}) + HI,
        [Text("hi")],
    ),
    ("20-usage-alone", HI + STOP + event({"choices": [], "usage": USAGE}), [Text("hi"), Finish("stop"), Usage(USAGE)]),
    ("21-delta-null", HI + chunk(None, "stop"), [Text("hi"), Finish("stop")]),
    ("21-role-null", chunk({"role": None, "content": "hi"}), [Text("hi")]),
    (
        "21-new-ids",
        chunk({"content": "a"}, id="1") + chunk({"content": "b"}, id="2"),
        [Text("a"), Text("b")],
    ),
    ("22-text-and-finish", chunk({"content": "hi"}, "stop", usage=USAGE), [Text("hi"), Finish("stop"), Usage(USAGE)]),
    ("23-reasoning-content", chunk({"reasoning_content": "hm", "content": None}) + HI, [Reasoning("hm"), Text("hi")]),
    ("23-reasoning", chunk({"reasoning": "hm", "content": ""}) + HI, [Reasoning("hm"), Text("hi")]),
    ("23-reasoning-twice", chunk({"reasoning": "hm", "reasoning_content": "hm"}), [Reasoning("hm")]),
    ("23-reasoning-beside-text", chunk({"reasoning": "hm", "content": "hi"}), [Reasoning("hm"), Text("hi")]),
    ("23-think", says("<think>hm</think>hi"), [Reasoning("hm"), Text("hi")]),
    ("23-think-after-blank", says("\n ", "<think>", "hm", "</think>", "\n\n", " hi "), [Reasoning("hm"), Text("hi ")]),
    ("23-think-empty", says("<think>", "</think>", "\n\nhi"), [Text("hi")]),
    ("23-think-later", says("hi <think>hm</think>"), [Text("hi <think>hm</think>")]),
    ("23-think-in-code", says("```\n<think>hm</think>\n```"), [Text("```\n<think>hm</think>\n```")]),
    ("23-think-again", says("<think>a</think>b<think>c</think>"), [Reasoning("a"), Text("b<think>c</think>")]),
    ("23-no-think", says("<", "thin", "k it>") + DONE, [Text("<think it>"), Done()]),
    ("23-half-tag-at-end", says("<thi") + STOP, [Text("<thi"), Finish("stop")]),
    ("23-half-tag-at-cut", says("<thi"), [Text("<thi")]),
    ("23-blank-only", says(" ", "\n") + STOP, [Text(" \n"), Finish("stop")]),
    (
        "23-half-end-tag",
        says("<think>", "a <", " b</", "</thin") + chunk({}, "length"),
        [Reasoning("a < b</</thin"), Finish("length")],
    ),
    ("23-never-closed", says("<think>", "hm") + STOP, [Reasoning("hm"), Finish("stop")]),
    ("23-never-opened", says("hm</think>hi"), [Text("hm</think>hi")]),
    (
        "23-thinking-part",
        say([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "hi"}]),
        [Reasoning("hm"), Text("hi")],
    ),
    (
        "23-thinking-part-string",
        say([{"type": "thinking", "thinking": "hm"}, "odd", {"type": "image"}]),
        [Reasoning("hm")],
    ),
    (
        "24-usage",
        chunk({"content": "a"}, usage=None) + chunk({"content": "b"}, usage={}) + chunk({}, usage={"total_tokens": 1}),
        [Text("a"), Text("b"), Usage({"total_tokens": 1})],
    ),
    ("24-usage-in-choice", event({"choices": [{"delta": {}, "usage": USAGE}]}), [Usage(USAGE)]),
    ("25-refusal", chunk({"refusal": "I can"}) + chunk({"refusal": "not"}), [Refusal("I cannot")]),
    (
        "25-finish-unset",
        chunk({"content": "a"}, "") + chunk({"content": "b"}, "null") + STOP,
        [Text("a"), Text("b"), Finish("stop")],
    ),
    ("25-finish-other", chunk({}, "MODEL_LENGTH") + chunk({}, "eos"), [Finish("MODEL_LENGTH"), Finish("eos")]),
    ("25-finish-error", HI + chunk({}, "Error"), [Text("hi"), Error("finish_reason error")]),
    (
        "second-choice",
        event({"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]})
        + event({"choices": [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "hi"}}]}),
        [Text("hi")],
    ),
    ("served", chunk({}, model="m") + chunk({}, model="n"), [Served("m")]),
    (
        "message-for-delta",
        event({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}),
        [Text("hi"), Finish("stop")],
    ),
    ("other-types", b"".join(map(event, ODD)), []),
    ("escaped-pair", b'data: {"choices":[{"delta":{"content":"\\ud83d\\ude00"}}]}\n\n', [Text("\U0001f600")]),
    ("pair-in-two-chunks", says("a\ud83d", "\ude00b"), [Text("a\U0001f600b")]),
    ("half-then-text", says("a\ud83d", "b"), [Text("a\ufffdb")]),
    ("half-at-end", says("\ude00a\ud83d") + STOP, [Text("\ufffda\ufffd"), Finish("stop")]),
    ("half-at-cut", says("a\ud83d"), [Text("a\ufffd")]),
    (
        "half-elsewhere",
        chunk({}, "\ud83d", error={"\ud83d": ["\ud83d"]}),
        [Error({"\ufffd": ["\ufffd"]})],
    ),
    (
        "numbers-that-json-has-not",
        b'data: {"usage":{"a":NaN,"b":1e999,"c":-Infinity,"d":1.5}}\n\n',
        [Usage({"a": None, "b": None, "c": None, "d": 1.5})],
    ),
]

IDS = [name for name, _, _ in STREAMS]


def read(*packets: bytes, thinks: bool = False) -> list[Event]:
    return decode(chat.Reader(thinks), *packets)


@pytest.mark.parametrize(("data", "events"), [(data, events) for _, data, events in STREAMS], ids=IDS)
def test_stream(data: bytes, events: list[Event]) -> None:
    assert joined(read(data)) == joined(events)


@pytest.mark.parametrize("data", [data for _, data, _ in STREAMS], ids=IDS)
def test_a_split_anywhere_changes_nothing(data: bytes) -> None:
    check_splits(read, data)


COMPLETIONS: dict[str, tuple[dict[str, Any], list[Event]]] = {
    "answer": (
        {
            "id": "c",
            "object": "chat.completion",
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
            "usage": USAGE,
        },
        [Served("m"), Text("hi"), Finish("stop"), Usage(USAGE), Done()],
    ),
    "thinking": (
        {"choices": [{"message": {"content": "<think>hm</think>\nhi"}}]},
        [Reasoning("hm"), Text("hi"), Done()],
    ),
    "empty": ({"choices": [{"message": {"content": None}, "finish_reason": "length"}]}, [Finish("length"), Done()]),
    "refusal": ({"choices": [{"message": {"content": None, "refusal": "no"}}]}, [Refusal("no"), Done()]),
    "error": ({"error": {"message": "no"}}, [Error({"message": "no"}), Done()]),
    "error-object": ({"object": "error", "message": "no"}, [Error({"object": "error", "message": "no"}), Done()]),
    "something-else": ({"detail": "Not Found"}, []),
}


@pytest.mark.parametrize(("body", "events"), COMPLETIONS.values(), ids=COMPLETIONS)
def test_completion(body: dict[str, Any], events: list[Event]) -> None:
    assert chat.whole(body) == events


def test_completion_of_a_model_that_thinks() -> None:
    body = {"choices": [{"message": {"content": "hm</think>hi"}, "finish_reason": "stop"}]}
    assert chat.whole(body, thinks=True) == [Reasoning("hm"), Text("hi"), Finish("stop"), Done()]
