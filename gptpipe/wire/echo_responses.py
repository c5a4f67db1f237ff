"""The built-in model ``echo`` in the form of the Responses API: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gptpipe.message import COMPLETE_REASONS, LENGTH_REASONS, Message
from gptpipe.wire.echo_knobs import Knobs
from gptpipe.wire.echo_speech import Chunk, Pause, Speech, broken, in_one_piece, pieces, quoted, template

NEEDED = "input"

_MESSAGE = "msg_echo"


def messages(body: dict[str, Any]) -> list[Message] | None:
    """Return the messages of a request, in the form of Chat Completions, or None if it holds no list of items."""
    found = body.get("input")
    if isinstance(found, str):
        found = [{"role": "user", "content": found}]
    if not (isinstance(found, list) and found and all(isinstance(each, dict) for each in found)):
        return None
    system: list[Message] = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    return [*system, *map(_message, found)]


def _message(item: dict[str, Any]) -> Message:
    kind = item.get("type")
    if kind == "function_call_output":
        return {"role": "tool", "content": item.get("output")}
    if kind == "function_call":
        return {"role": "assistant", "content": item.get("arguments")}
    return item


def stream(body: dict[str, Any], speech: Speech, knobs: Knobs) -> Iterator[Chunk]:
    """Yield the events of a stream, one packet each, from ``response.created`` to the final response."""
    number = 0

    def event(name: str, /, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        value = {"type": f"response.{name}", "sequence_number": number - 1, **fields}
        return f"event: response.{name}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n".encode()

    begun = _response(body, speech, knobs) | {"status": "in_progress", "output": [], "usage": None}
    begun["incomplete_details"] = begun["error"] = None
    yield event("created", response=begun)
    yield event("in_progress", response=begun)
    if not speech.calls:
        yield event("output_item.added", output_index=0, item=_said(speech, "in_progress") | {"content": []})
        yield event("content_part.added", **_place(), part=_part(speech._replace(text="")))
        kind, field = ("refusal", "refusal") if speech.refused else ("output_text", "text")
        more: dict[str, Any] = {} if speech.refused else {"logprobs": []}
        before, after = template(event(f"{kind}.delta", **_place(), **more, delta="WORD"))
        before = before.replace(b'"sequence_number":%d' % (number - 1), b'"sequence_number":%d')
        number -= 1
        for piece in pieces(speech.text, knobs):
            if isinstance(piece, Pause):
                yield piece
            else:
                yield before % number + quoted(piece) + after
                number += 1
        if broken(knobs):
            return
        yield event(f"{kind}.done", **_place(), **more, **{field: speech.text})
        yield event("content_part.done", **_place(), part=_part(speech))
    elif broken(knobs):
        return
    for at, item in enumerate(_output(speech)):
        if speech.calls:
            place = {"item_id": item["id"], "output_index": at}
            yield event("output_item.added", output_index=at, item=item | {"arguments": "", "status": "in_progress"})
            yield event("function_call_arguments.delta", **place, delta=item["arguments"])
            yield event("function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"])
        yield event("output_item.done", output_index=at, item=item)
    final = _response(body, speech, knobs)
    yield event(str(final["status"]), response=final)


def whole(body: dict[str, Any], speech: Speech, knobs: Knobs) -> Iterator[Chunk]:
    """Yield a ``response``."""
    return in_one_piece(_response(body, speech, knobs), knobs)


def _response(body: dict[str, Any], speech: Speech, knobs: Knobs) -> dict[str, Any]:
    word = knobs.finish.lower()
    complete = word in COMPLETE_REASONS
    reason = "max_output_tokens" if word in LENGTH_REASONS else knobs.finish
    usage = {
        "input_tokens": speech.input,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": speech.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": speech.input + speech.output,
    }
    return {
        "id": "resp_echo",
        "object": "response",
        "created_at": 0,
        "status": "completed" if complete else "failed" if word == "error" else "incomplete",
        "error": {"code": "server_error", "message": "finish_reason error"} if word == "error" else None,
        "incomplete_details": None if complete or word == "error" else {"reason": reason},
        "instructions": body.get("instructions"),
        "metadata": {},
        "model": body["model"],
        "output": _output(speech),
        "parallel_tool_calls": True,
        "temperature": body.get("temperature"),
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p"),
        "usage": usage,
    }


def _place() -> dict[str, Any]:
    return {"item_id": _MESSAGE, "output_index": 0, "content_index": 0}


def _part(speech: Speech) -> dict[str, Any]:
    if speech.refused:
        return {"type": "refusal", "refusal": speech.text}
    return {"type": "output_text", "text": speech.text, "annotations": [], "logprobs": []}


def _said(speech: Speech, status: str = "completed") -> dict[str, Any]:
    content = [_part(speech)]
    return {"id": _MESSAGE, "type": "message", "status": status, "role": "assistant", "content": content}


def _output(speech: Speech) -> list[dict[str, Any]]:
    if not speech.calls:
        return [_said(speech)]
    return [
        {"id": f"fc_{at}", "type": "function_call", "status": "completed", "call_id": f"call_{at}", **call._asdict()}
        for at, call in enumerate(speech.calls)
    ]
