"""The built-in model ``echo`` in the form of Chat Completions: https://platform.openai.com/docs/api-reference/chat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gptpipe.message import Message
from gptpipe.wire.echo_knobs import Knobs
from gptpipe.wire.echo_speech import Chunk, Pause, Speech, broken, in_one_piece, pieces, quoted, template

NEEDED = "messages"

_IDENTITY = {"id": "chatcmpl-echo", "created": 0, "system_fingerprint": None}


def messages(body: dict[str, Any]) -> list[Message] | None:
    """Return the messages of a request, or None if it holds no list of them."""
    found = body.get("messages")
    if isinstance(found, list) and found and all(isinstance(each, dict) and "role" in each for each in found):
        return found
    return None


def stream(body: dict[str, Any], speech: Speech, knobs: Knobs) -> Iterator[Chunk]:
    """Yield the events of a stream, one packet each: role, words, finish reason, usage if asked for, ``[DONE]``."""
    options = body.get("stream_options")
    counted = isinstance(options, dict) and bool(options.get("include_usage"))
    envelope = {**_IDENTITY, "object": "chat.completion.chunk", "model": body["model"]}

    def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**envelope, "choices": [choice], **({"usage": None} if counted else {})})

    yield event({"role": "assistant", "content": "", "refusal": None})
    before, after = template(event({"refusal" if speech.refused else "content": "WORD"}))
    for piece in pieces(speech.text, knobs):
        yield piece if isinstance(piece, Pause) else before + quoted(piece) + after
    if broken(knobs):
        return
    for number, call in enumerate(_calls(speech)):
        yield event({"tool_calls": [{"index": number, **call}]})
    yield event({}, _reason(speech, knobs))
    if counted:
        yield _event({**envelope, "choices": [], "usage": _usage(speech)})
    yield b"data: [DONE]\n\n"


def whole(body: dict[str, Any], speech: Speech, knobs: Knobs) -> Iterator[Chunk]:
    """Yield a ``chat.completion``."""
    reply: dict[str, Any] = {
        "role": "assistant",
        "content": None if speech.refused or speech.calls else speech.text,
        "refusal": speech.text if speech.refused else None,
    }
    if speech.calls:
        reply["tool_calls"] = _calls(speech)
    choice = {"index": 0, "message": reply, "logprobs": None, "finish_reason": _reason(speech, knobs)}
    envelope = {**_IDENTITY, "object": "chat.completion", "model": body["model"]}
    return in_one_piece({**envelope, "choices": [choice], "usage": _usage(speech)}, knobs)


def _reason(speech: Speech, knobs: Knobs) -> str:
    return "tool_calls" if speech.calls and knobs.finish == "stop" else knobs.finish


def _calls(speech: Speech) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{number}", "type": "function", "function": call._asdict()}
        for number, call in enumerate(speech.calls)
    ]


def _usage(speech: Speech) -> dict[str, Any]:
    return {
        "prompt_tokens": speech.input,
        "completion_tokens": speech.output,
        "total_tokens": speech.input + speech.output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
