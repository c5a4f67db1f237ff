"""Streams for the decoder: how tests write them, and how they read the events."""

from __future__ import annotations

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
