"""Tool calls of Chat Completions: the same calls however a server cuts them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gptpipe.errors import ProtocolError
from gptpipe.wire import chat, responses
from gptpipe.wire.events import Cited, Done, Error, Event, Finish, Reasoning, Text, ToolCall
from tests.harness.decoding import chunk, decode, say
from tests.harness.server import DONE, event

END = chunk({}, "tool_calls") + DONE
ONE = ToolCall("call_a", "lookup", '{"order":4711}')
OTHER = ToolCall("call_b", "find", "{}")


def piece(index: Any = None, id: Any = None, name: Any = None, arguments: Any = None, **more: Any) -> bytes:
    """Return a chunk with a piece of one call; what is None is left out."""
    return chunk({"tool_calls": [call(index, id, name, arguments)]}, **more)


def call(index: Any = None, id: Any = None, name: Any = None, arguments: Any = None) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    outer = {key: value for key, value in (("index", index), ("id", id)) if value is not None}
    return {**outer, "type": "function", "function": function}


STREAMS: list[tuple[str, bytes, list[Event]]] = [
    (
        "pieces",
        piece(0, "call_a", "lookup", "") + piece(0, arguments='{"order"') + piece(0, arguments=":4711}"),
        [ONE],
    ),
    ("one piece", piece(0, "call_a", "lookup", '{"order":4711}'), [ONE]),
    ("no index", piece(None, "call_a", "lookup", '{"order"') + piece(arguments=":4711}"), [ONE]),
    (
        "index null",
        chunk({"tool_calls": [{**call(None, "call_a", "lookup", "{}"), "index": None}]}),
        [ToolCall("call_a", "lookup", "{}")],
    ),
    (
        "no id",
        piece(0, name="lookup", arguments="{}") + piece(1, name="find"),
        [
            ToolCall("call_0", "lookup", "{}"),
            ToolCall("call_1", "find", "{}"),
        ],
    ),
    (
        "id and name in each piece",
        piece(0, "call_a", "lookup", '{"order"') + piece(0, "call_a", "lookup", ":4711}"),
        [ONE],
    ),
    ("another id in each piece", piece(0, "call_a", "lookup", '{"order"') + piece(0, "x", None, ":4711}"), [ONE]),
    (
        "two at once",
        piece(0, "call_a", "lookup", "")
        + piece(1, "call_b", "find", "")
        + piece(0, arguments='{"order"')
        + piece(1, arguments="{}")
        + piece(0, arguments=":4711}"),
        [ONE, OTHER],
    ),
    (
        "two in one chunk",
        chunk({"tool_calls": [call(0, "call_a", "lookup", '{"order":4711}'), call(1, "call_b", "find", "{}")]}),
        [ONE, OTHER],
    ),
    (
        "two of one index",
        piece(0, "call_a", "lookup", '{"order":4711}') + piece(0, "call_b", "find", "{}"),
        [ONE, OTHER],
    ),
    (
        "two without index",
        piece(None, "call_a", "lookup", '{"order":4711}') + piece(None, "call_b", "find", "{}"),
        [ONE, OTHER],
    ),
    (
        "two without index and id",
        piece(name="lookup", arguments="{") + piece(arguments="}") + piece(name="find"),
        [ToolCall("call_0", "lookup", "{}"), ToolCall("call_1", "find", "{}")],
    ),
    ("no arguments", piece(0, "call_b", "find"), [OTHER]),
    ("empty arguments", piece(0, "call_b", "find", " "), [OTHER]),
    (
        "arguments null",
        chunk({"tool_calls": [{**call(0, "call_b", "find"), "function": {"name": "find", "arguments": None}}]}),
        [OTHER],
    ),
    ("arguments as an object", piece(0, "call_a", "lookup", {"order": 4711}), [ONE]),
    (
        "arguments that are not JSON",
        piece(0, "call_a", "lookup", '{"order":'),
        [ToolCall("call_a", "lookup", '{"order":')],
    ),
    (
        "half a character in each piece",
        piece(0, "call_a", "lookup", '"\ud83d') + piece(0, arguments='\ude00"'),
        [ToolCall("call_a", "lookup", '"\U0001f600"')],
    ),
    ("half a character", piece(0, "call_a", "lookup", '"\ud83d"'), [ToolCall("call_a", "lookup", '"\ufffd"')]),
    ("no name", piece(0, "call_a", None, "{}"), []),
    ("after text", say("let me see") + piece(0, "call_b", "find", "{}"), [Text("let me see"), OTHER]),
    ("after thinking", say("<think>hm</think>") + piece(0, "call_b", "find", "{}"), [Reasoning("hm"), OTHER]),
    ("nonsense", chunk({"tool_calls": [None, 3, {}, {"function": 3}, {"function": {"name": 3}}]}), []),
    ("no list", chunk({"tool_calls": {"function": {"name": "find"}}}), []),
]


@pytest.mark.parametrize(("stream", "events"), [row[1:] for row in STREAMS], ids=[row[0] for row in STREAMS])
def test_calls_are_put_together(stream: bytes, events: list[Event]) -> None:
    assert decode(chat.Reader(), stream + END) == [*events, Finish("tool_calls"), Done()]


def test_the_end_is_what_the_server_says() -> None:
    call = piece(0, "call_b", "find", "{}")
    assert decode(chat.Reader(), call + chunk({}, "stop") + DONE) == [OTHER, Finish("stop"), Done()]
    assert decode(chat.Reader(), call + DONE) == [OTHER, Done()]


def test_a_call_that_is_cut_is_none() -> None:
    assert decode(chat.Reader(), piece(0, "call_b", "find", "{}")) == []
    error = event({"error": "no"})
    assert decode(chat.Reader(), piece(0, "call_b", "find", "{}") + error) == [Error("no")]


def test_a_whole_body() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "lookup", "arguments": '{"order":4711}'}},
            {"id": "call_b", "type": "function", "function": {"name": "find", "arguments": "{}"}},
        ],
    }
    body = {"object": "chat.completion", "choices": [{"message": message, "finish_reason": "tool_calls"}]}
    assert chat.whole(json.loads(json.dumps(body))) == [ONE, OTHER, Finish("tool_calls"), Done()]


def test_sources() -> None:
    source = {"type": "url_citation", "url_citation": {"url": "https://a.example/", "title": "A", "start_index": 0}}
    data = chunk({"annotations": [source, {"type": "file"}, None]}) + chunk({"annotations": 3})
    assert decode(chat.Reader(), data) == [Cited("https://a.example/", "A")]


def item(index: int) -> bytes:
    """Return a whole call of the Responses API."""
    said = {"type": "function_call", "name": "find", "arguments": "{}"}
    return event({"type": "response.output_item.done", "output_index": index, "item": said})


@pytest.mark.parametrize(
    ("reader", "pieces", "words"),
    [
        (chat.Reader, [piece(index, f"c{index}", "find", "{}") for index in range(1001)], "1000 tool calls"),
        (responses.Reader, [item(index) for index in range(1001)], "1000 tool calls"),
        (chat.Reader, [piece(10**12, "c", "find", "x" * (1 << 20))] * 17, "16 MiB"),
    ],
    ids=["chat", "responses", "arguments"],
)
def test_calls_without_end_are_a_failure(reader: type[Any], pieces: list[bytes], words: str) -> None:
    decode(reader(), *pieces[:-1])
    with pytest.raises(ProtocolError, match=words):
        decode(reader(), *pieces)
