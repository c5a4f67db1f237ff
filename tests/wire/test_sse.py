"""The frame decoder: what real servers send, and the same events however the bytes are split."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from gptpipe.wire import chat
from gptpipe.wire.events import Done, Error, Event, Finish, KeepAlive, Malformed, Reasoning, Text
from gptpipe.wire.sse import Decoder
from tests.harness.decoding import check_splits, chunk, decode, joined, say
from tests.harness.server import DONE, event

STOP = chunk({}, "stop")
HI = say("hi")

# The name begins with the number of the line in the list of what real servers send, where there is one.
STREAMS: list[tuple[str, bytes, list[Event]]] = [
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
    ("9-nothing-after-done", HI + b"data: [DONE]", [Text("hi"), Done()]),
    ("10-cut-in-event", HI + HI[:-9], [Text("hi")]),
    ("10-cut-before-blank-line", HI + HI[:-2], [Text("hi"), Text("hi")]),
    ("error-event", b"event: error\n" + event({"message": "no"}) + HI, [Error({"message": "no"}), Text("hi")]),
    ("error-event-text", b"event: error\ndata: no more\n\n", [Error("no more")]),
    ("error-field", b'error: {"code":500,"message":"no"}\n\n', [Error({"code": 500, "message": "no"})]),
    ("not-json", b"data: <html>\n\n" + HI, [Malformed("<html>"), Text("hi")]),
    ("not-an-object", b"data: [1]\n\ndata: null\n\n", [Malformed("[1]"), Malformed("null")]),
    ("not-utf-8-in-text", b'data: {"choices":[{"delta":{"content":"a\xffb"}}]}\n\n', [Text("a\ufffdb")]),
    ("not-utf-8-outside", b'data: {"choices":\xff[]}\n\n', [Malformed('{"choices":\ufffd[]}')]),
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


def test_two_splits_anywhere_change_nothing() -> None:
    data = b"\xef\xbb\xbf" + (b": x\n\n" + say("<think>é</think>\U0001f600") + DONE).replace(b"\n", b"\r\n")
    whole = read(data)
    assert joined(whole) == [KeepAlive(), Reasoning("é"), Text("\U0001f600"), Done()]
    for first in range(len(data)):
        for second in range(first, len(data)):
            assert read(data[:first], data[first:second], data[second:]) == whole


def test_a_carriage_return_ends_the_event_at_once() -> None:
    decoder = Decoder(chat.Reader())
    assert decoder.feed(HI.replace(b"\n", b"\r")) == [Text("hi")]
    assert decoder.feed(b"\n" + HI) == [Text("hi")]


def test_data_nested_without_end_is_malformed() -> None:
    assert read(b"data: " + b"[" * 99999 + b"\n\n") == [Malformed("[" * 99999)]


def test_what_is_nested_deep_can_be_written_again() -> None:
    body: dict[str, Any] = {}
    for _ in range(500):
        body = {"a": body}
    [found] = read(event({"error": body}))
    assert isinstance(found, Error)
    assert len(json.dumps(found.body)) < 200


def test_a_long_line_in_small_packets_is_read_in_linear_time() -> None:
    text = "x" * 2_000_000
    data = say(text)
    decoder = Decoder(chat.Reader())
    assert [item for at in range(0, len(data), 16) for item in decoder.feed(data[at : at + 16])] == [Text(text)]


def test_an_event_of_empty_lines_takes_no_more_memory_than_its_length() -> None:
    block = b"data:\n" * 100_000
    tracemalloc.start()
    try:
        decoder = Decoder(chat.Reader())
        for _ in range(10):
            assert decoder.feed(block) == []
        assert decoder.feed(b"\n" + HI) == [KeepAlive(), Text("hi")]
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


def test_a_line_that_comes_byte_by_byte_takes_no_more_memory_than_its_length() -> None:
    tracemalloc.start()
    try:
        decoder = Decoder(chat.Reader())
        for number in range(100_000):
            decoder.feed(b"xy"[number % 2 :][:1])
        decoder.feed(b"\n")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
