"""The decoder: each line of what real servers send, and the same events however the bytes are split."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gptpipe.wire.sse import (
    Decoder,
    Done,
    Error,
    Event,
    Finish,
    KeepAlive,
    Malformed,
    Reasoning,
    Refusal,
    Served,
    Text,
    Usage,
    cut_thinking,
    from_completion,
)
from tests.harness.server import DONE, event


def chunk(delta: Any = None, reason: Any = None, **more: Any) -> bytes:
    """Return a chunk that names neither model nor id."""
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more})


def say(text: Any) -> bytes:
    return chunk({"content": text})


def says(*texts: str) -> bytes:
    return b"".join(map(say, texts))


def decode(*packets: bytes, thinks: bool = False) -> list[Event]:
    decoder = Decoder(thinks)
    return [event for packet in packets for event in decoder.feed(packet)] + decoder.close()


def joined(events: list[Event]) -> list[Event]:
    """Return the events with neighbours of one kind put together."""
    result: list[Event] = []
    for item in events:
        last = result[-1] if result else None
        if isinstance(item, Text | Reasoning | Refusal) and isinstance(last, type(item)):
            result[-1] = type(item)(last.text + item.text)
        else:
            result.append(item)
    return result


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
    (
        "1-comments",
        b": OPENROUTER PROCESSING\n\n" + HI + b": ping - 12:00\n\n" + HI + b":\n\n",
        [KeepAlive(), Text("hi"), KeepAlive(), Text("hi"), KeepAlive()],
    ),
    ("1-comment-within-event", b": ping\n" + HI + b": ping\n", [Text("hi")]),
    ("2-comment-after-id", b"id: 1\n" + HI + b": ping\n\n" + HI, [Text("hi"), KeepAlive(), Text("hi")]),
    (
        "3-no-data",
        b"retry: 3000\n\nid: x\n\nevent: x\n\nnonsense\n\n" + HI,
        [KeepAlive(), KeepAlive(), KeepAlive(), KeepAlive(), Text("hi")],
    ),
    ("4-empty-data", b"data:\n\ndata: \n\ndata\n\n" + HI, [KeepAlive(), KeepAlive(), KeepAlive(), Text("hi")]),
    ("6-crlf", (HI + STOP + DONE).replace(b"\n", b"\r\n"), [Text("hi"), Finish("stop"), Done()]),
    ("6-cr", (HI + STOP + DONE).replace(b"\n", b"\r"), [Text("hi"), Finish("stop"), Done()]),
    ("6-mixed-ends", HI[:-1] + b"\r\n" + DONE[:-2] + b"\r\n\r", [Text("hi"), Done()]),
    ("6-no-space", HI.replace(b"data: ", b"data:") + b"data:[DONE]\n\n", [Text("hi"), Done()]),
    (
        "7-other-line-ends",
        'data: {"choices":[{"delta":{"content":"a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"}}]}\n\n'.encode(),
        [Text("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg")],
    ),
    ("several-data-lines", b'data: {"choices":[{"delta":\ndata: {"content":"x"}}]}\n\n', [Text("x")]),
    ("bom", b"\xef\xbb\xbf" + HI + HI, [Text("hi"), Text("hi")]),
    ("bom-before-comment", b"\xef\xbb\xbf: hello\n\n" + HI, [KeepAlive(), Text("hi")]),
    ("extra-blank-lines", b"\n\n" + HI + b"\n", [KeepAlive(), KeepAlive(), Text("hi"), KeepAlive()]),
    ("8-no-done", HI + STOP, [Text("hi"), Finish("stop")]),
    ("9-nothing-after-done", HI + b"data: [DONE]", [Text("hi"), Done()]),
    ("10-neither", HI, [Text("hi")]),
    ("10-cut-in-event", HI + HI[:-9], [Text("hi")]),
    ("10-cut-before-blank-line", HI + HI[:-2], [Text("hi"), Text("hi")]),
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
    ("error-event", b"event: error\n" + event({"message": "no"}) + HI, [Error({"message": "no"}), Text("hi")]),
    ("error-event-text", b"event: error\ndata: no more\n\n", [Error("no more")]),
    ("error-field", b'error: {"code":500,"message":"no"}\n\n', [Error({"code": 500, "message": "no"})]),
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
        [Served(None, "1"), Text("a"), Text("b")],
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
    ("served", chunk({}, id="a", model="m") + chunk({}, id="a", model="n"), [Served("m", "a")]),
    (
        "message-for-delta",
        event({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}),
        [Text("hi"), Finish("stop")],
    ),
    ("other-types", b"".join(map(event, ODD)), []),
    ("not-json", b"data: <html>\n\n" + HI, [Malformed("<html>"), Text("hi")]),
    ("not-an-object", b"data: [1]\n\ndata: null\n\n", [Malformed("[1]"), Malformed("null")]),
    ("not-utf-8-in-text", b'data: {"choices":[{"delta":{"content":"a\xffb"}}]}\n\n', [Text("a\ufffdb")]),
    ("not-utf-8-outside", b'data: {"choices":\xff[]}\n\n', [Malformed('{"choices":\ufffd[]}')]),
    ("escaped-pair", b'data: {"choices":[{"delta":{"content":"\\ud83d\\ude00"}}]}\n\n', [Text("\U0001f600")]),
    ("pair-in-two-chunks", says("a\ud83d", "\ude00b"), [Text("a\U0001f600b")]),
    ("half-then-text", says("a\ud83d", "b"), [Text("a\ufffdb")]),
    ("half-at-end", says("\ude00a\ud83d") + STOP, [Text("\ufffda\ufffd"), Finish("stop")]),
    ("half-at-cut", says("a\ud83d"), [Text("a\ufffd")]),
    (
        "half-elsewhere",
        chunk({}, "\ud83d", id="\ud83d", error={"\ud83d": ["\ud83d"]}),
        [Served(None, "\ufffd"), Error({"\ufffd": ["\ufffd"]})],
    ),
    (
        "numbers-that-json-has-not",
        b'data: {"usage":{"a":NaN,"b":1e999,"c":-Infinity,"d":1.5}}\n\n',
        [Usage({"a": None, "b": None, "c": None, "d": 1.5})],
    ),
]

IDS = [name for name, _, _ in STREAMS]


@pytest.mark.parametrize(("data", "events"), [(data, events) for _, data, events in STREAMS], ids=IDS)
def test_stream(data: bytes, events: list[Event]) -> None:
    assert joined(decode(data)) == joined(events)


@pytest.mark.parametrize("data", [data for _, data, _ in STREAMS], ids=IDS)
def test_a_split_anywhere_changes_nothing(data: bytes) -> None:
    whole = decode(data)
    for cut in range(len(data)):
        assert decode(data[:cut], data[cut:]) == whole
    assert decode(*(piece for at in range(len(data)) for piece in (b"", data[at : at + 1]))) == whole


def test_two_splits_anywhere_change_nothing() -> None:
    data = b"\xef\xbb\xbf" + (b": x\n\n" + say("<think>é</think>\U0001f600") + DONE).replace(b"\n", b"\r\n")
    whole = decode(data)
    assert joined(whole) == [KeepAlive(), Reasoning("é"), Text("\U0001f600"), Done()]
    for first in range(len(data)):
        for second in range(first, len(data)):
            assert decode(data[:first], data[first:second], data[second:]) == whole


def test_text_passes_on_at_once() -> None:
    decoder = Decoder()
    assert decoder.feed(say("a <")) == [Text("a <")]
    assert decoder.feed(say("/think>")) == [Text("/think>")]


def test_reasoning_passes_on_at_once() -> None:
    decoder = Decoder()
    assert decoder.feed(says("<think>", "hm", " <")) == [Reasoning("hm"), Reasoning(" ")]
    assert decoder.feed(say("b")) == [Reasoning("<b")]


def test_a_carriage_return_ends_the_event_at_once() -> None:
    decoder = Decoder()
    assert decoder.feed(HI.replace(b"\n", b"\r")) == [Text("hi")]
    assert decoder.feed(b"\n" + HI) == [Text("hi")]


def test_data_nested_without_end_is_malformed() -> None:
    assert decode(b"data: " + b"[" * 99999 + b"\n\n") == [Malformed("[" * 99999)]


def test_what_is_nested_deep_can_be_written_again() -> None:
    body: dict[str, Any] = {}
    for _ in range(500):
        body = {"a": body}
    [found] = decode(event({"error": body}))
    assert isinstance(found, Error)
    assert len(json.dumps(found.body)) < 200


def test_a_long_line_in_small_packets_is_read_in_linear_time() -> None:
    text = "x" * 2_000_000
    data = say(text)
    decoder = Decoder()
    assert [item for at in range(0, len(data), 16) for item in decoder.feed(data[at : at + 16])] == [Text(text)]


def test_close_twice_says_nothing_twice() -> None:
    decoder = Decoder()
    decoder.feed(say("<thi")[:-2])
    assert decoder.close() == [Text("<thi")]
    assert decoder.close() == []


THINKS: list[tuple[str, bytes, list[Event]]] = [
    (
        "closed",
        says("hm", " so</th", "ink>", "\n\n", "hi", " all") + STOP,
        [Reasoning("hm so"), Text("hi all"), Finish("stop")],
    ),
    ("opened-all-the-same", says("<think>hm</think>hi") + STOP, [Reasoning("hm"), Text("hi"), Finish("stop")]),
    ("complete-without-a-tag", says("hi", " all") + STOP, [Text("hi all"), Finish("stop")]),
    ("done-without-a-tag", says("hi", " all") + DONE, [Text("hi all"), Done()]),
    ("other-finish-without-a-tag", says("hi") + chunk({}, "eos"), [Text("hi"), Finish("eos")]),
    ("too-long", says("hm", " so") + chunk({}, "length"), [Reasoning("hm so"), Finish("length")]),
    ("filtered", says("hm") + chunk({}, "content_filter"), [Reasoning("hm"), Finish("content_filter")]),
    ("cut", says("hm", " so</thi"), [Reasoning("hm so</thi")]),
    ("error", says("hm") + event({"error": RATE}) + DONE, [Reasoning("hm"), Error(RATE), Done()]),
    ("opened-and-never-closed", says("<think>", "hm") + STOP, [Reasoning("hm"), Finish("stop")]),
    ("reasoning-comes-beside", chunk({"reasoning": "hm"}) + HI, [Reasoning("hm"), Text("hi")]),
    ("empty", says("</think>", "hi"), [Text("hi")]),
    ("later-tags-are-text", says("a</think>b</think>c"), [Reasoning("a"), Text("b</think>c")]),
]


@pytest.mark.parametrize(("data", "events"), [case[1:] for case in THINKS], ids=[case[0] for case in THINKS])
def test_thinking_that_the_template_opened(data: bytes, events: list[Event]) -> None:
    assert joined(decode(data, thinks=True)) == events


def test_an_answer_after_thinking_passes_on_at_once() -> None:
    decoder = Decoder(thinks=True)
    assert decoder.feed(says("hm", "so")) == []
    assert decoder.feed(say("</think>h")) == [Reasoning("hmso"), Text("h")]
    assert decoder.feed(say("i")) == [Text("i")]


CUTS = {
    "none": ("hi", "", "hi"),
    "plain": ("hm\n</think>\n\nhi\n", "hm\n", "hi\n"),
    "nothing-before": ("</think>hi", "", "hi"),
    "nothing-after": ("hm</think>", "hm", ""),
    "first-of-two": ("a</think>b</think>c", "a", "b</think>c"),
    "opened": ("say <think>a</think>b", "", "say <think>a</think>b"),
    "opened-after": ("a</think>b <think>", "a", "b <think>"),
    "inline": ("the `</think>` tag", "", "the `</think>` tag"),
    "inline-then-tag": ("the `</think>` tag</think>hi", "the `</think>` tag", "hi"),
    "inline-double": ("the `` `</think>` `` tag", "", "the `` `</think>` `` tag"),
    "opening-tag-in-code": ("no `<think>` here</think>hi", "no `<think>` here", "hi"),
    "odd-backtick": ("it`s\nfine</think>a `b`", "it`s\nfine", "a `b`"),
    "fence": ("```xml\n</think>\n```\nhi", "", "```xml\n</think>\n```\nhi"),
    "fence-then-tag": ("```\nx\n```\nhm</think>hi", "```\nx\n```\nhm", "hi"),
    "tildes": (" ~~~ a`b\n</think>\n~~~~\n</think>hi", " ~~~ a`b\n</think>\n~~~~\n", "hi"),
    "long-fence": ("````\n```\n</think>\n````", "", "````\n```\n</think>\n````"),
    "unclosed-fence": ("```\nx</think>hi", "", "```\nx</think>hi"),
    "no-fence": ("    ```\n</think>hi", "    ```\n", "hi"),
}


@pytest.mark.parametrize(("text", "reasoning", "answer"), CUTS.values(), ids=CUTS)
def test_cut_thinking(text: str, reasoning: str, answer: str) -> None:
    assert cut_thinking(text) == (reasoning, answer)


COMPLETIONS: dict[str, tuple[dict[str, Any], list[Event]]] = {
    "answer": (
        {
            "id": "c",
            "object": "chat.completion",
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
            "usage": USAGE,
        },
        [Served("m", "c"), Text("hi"), Finish("stop"), Usage(USAGE), Done()],
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
    assert from_completion(body) == events


def test_completion_of_a_model_that_thinks() -> None:
    body = {"choices": [{"message": {"content": "hm</think>hi"}, "finish_reason": "stop"}]}
    assert from_completion(body, thinks=True) == [Reasoning("hm"), Text("hi"), Finish("stop"), Done()]
