"""Streams for the decoder: how tests write them, and how they read the events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gptpipe.wire.events import Event, Reasoning, Refusal, Text
from gptpipe.wire.sse import Decoder, Reader
from tests.harness.server import event


def chunk(delta: Any = None, reason: Any = None, **more: Any) -> bytes:
    """Return a chunk that names neither model nor id."""
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more})


def say(text: Any) -> bytes:
    """Return a chunk with a piece of text."""
    return chunk({"content": text})


def says(*texts: str) -> bytes:
    """Return chunks with pieces of text."""
    return b"".join(map(say, texts))


def decode(reader: Reader, *packets: bytes) -> list[Event]:
    """Return the events of a body that arrives in these packets."""
    decoder = Decoder(reader)
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


def check_splits(read: Callable[..., list[Event]], data: bytes) -> None:
    """Check that a body gives the same events however it is cut: once anywhere, or into single bytes and nothing."""
    whole = read(data)
    for cut in range(len(data)):
        assert read(data[:cut], data[cut:]) == whole
    assert read(*(piece for at in range(len(data)) for piece in (b"", data[at : at + 1]))) == whole
