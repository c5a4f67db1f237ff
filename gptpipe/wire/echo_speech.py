"""What the built-in model ``echo`` says, before it is put into the form of a protocol."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from gptpipe import message
from gptpipe.message import Message
from gptpipe.wire.echo_knobs import Knobs

REFUSAL = "I'm sorry, but I can't help with that."


class Pause(NamedTuple):
    """A silence on the wire; ``math.inf`` seconds: for ever."""

    seconds: float


Chunk = bytes | Pause


class Call(NamedTuple):
    """A call of a tool; ``arguments`` is JSON, unless the message only begins like it."""

    name: str
    arguments: str


class Speech(NamedTuple):
    """An answer: its text, which is a refusal if ``refused``, or the calls of tools, and the tokens that it took."""

    text: str
    refused: bool
    calls: list[Call]
    input: int
    output: int


def speech(messages: list[Message], knobs: Knobs) -> Speech:
    """Return what the model says to messages in the form of Chat Completions."""
    calls = _calls(messages, knobs)
    text = "" if calls else _text(messages, knobs)
    asked = sum(math.ceil(message.size(each) / 4) for each in messages)
    said = "".join([text, *(call.arguments for call in calls)])
    return Speech(text, knobs.refuse and bool(text), calls, asked, math.ceil(message.size({"content": said}) / 4))


def _text(messages: list[Message], knobs: Knobs) -> str:
    if knobs.empty:
        return ""
    if knobs.refuse:
        return REFUSAL
    if knobs.text is not None:
        return knobs.text
    if results := _results(messages):
        return "\n".join(results)
    return _asked(messages)


def _calls(messages: list[Message], knobs: Knobs) -> list[Call]:
    if knobs.call is None or _results(messages):
        return []
    asked = _asked(messages).strip()
    return [Call(name, asked if asked.startswith("{") else "{}") for name in knobs.call.split("+")]


def _asked(messages: list[Message]) -> str:
    """Return the last message of the user."""
    asked = (each.get("content") for each in reversed(messages) if each.get("role") == "user")
    return message.text_of(next(asked, None))


def _results(messages: list[Message]) -> list[str]:
    """Return the results of tools with which the messages end."""
    at = len(messages)
    while at and messages[at - 1].get("role") == "tool":
        at -= 1
    return [message.text_of(each.get("content")) for each in messages[at:]]


def pieces(text: str, knobs: Knobs) -> Iterator[str | Pause]:
    """Yield the text as it is streamed: words, up to where it is cut or stalls, with the pauses between."""
    limits = [limit for limit in (knobs.cut, knobs.stall) if limit is not None]
    for word in _words(text, min(limits, default=len(text))):
        if knobs.delay:
            yield Pause(knobs.delay)
        yield word
    if knobs.stall is not None and knobs.stall == min(limits):
        yield Pause(math.inf)


def broken(knobs: Knobs) -> bool:
    """Return whether the answer breaks off."""
    return knobs.cut is not None or knobs.stall is not None


def in_one_piece(reply: dict[str, Any], knobs: Knobs) -> Iterator[Chunk]:
    """Yield a reply that is not streamed; where ``cut`` or ``stall`` is asked for, it breaks off in its middle."""
    whole = json.dumps(reply).encode()
    if knobs.delay:
        yield Pause(knobs.delay)
    yield whole[: len(whole) // 2] if broken(knobs) else whole
    if knobs.stall is not None:
        yield Pause(math.inf)


def quoted(text: str) -> bytes:
    """Return a text as JSON: as the real API not in ASCII."""
    # A lone surrogate has no UTF-8; with a backslash it is the JSON escape.
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "backslashreplace")


def template(event: bytes) -> tuple[bytes, bytes]:
    """Return what stands before and after the string ``WORD`` in an event.

    All but the word is the same in every chunk: a message of ten megabytes has millions of them.
    """
    before, _, after = event.rpartition(b'"WORD"')
    return before, after


def _words(text: str, end: int) -> Iterator[str]:
    """Yield the text up to ``end`` in pieces of a word with the white space before it, 64 characters at most."""
    for match in re.compile(r"\s?\S{1,63}|\s{1,64}").finditer(text, 0, end):
        yield match[0]
