"""Events of the Responses API, as a server sends them: for scripts of the loopback server, and for the decoder."""

from __future__ import annotations

from typing import Any

from tests.harness.server import event

USAGE = {
    "input_tokens": 3,
    "input_tokens_details": {"cached_tokens": 1},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 5,
}
IN_CHAT = {
    "prompt_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens": 2,
    "completion_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 5,
}


def typed(name: str, *, line: bool = True, **fields: Any) -> bytes:
    """Return an event of a type, with or without its ``event:`` line."""
    return (b"event: %b\n" % name.encode() if line else b"") + event({"type": name, **fields})


def delta(text: Any, output: int | None = 0, content: int | None = 0, **more: Any) -> bytes:
    """Return a piece of the answer, in this part of this item."""
    places = {"output_index": output, "content_index": content, **more}
    fields = {key: value for key, value in places.items() if value is not None}
    return typed("response.output_text.delta", delta=text, **fields)


def text_done(text: str, output: int = 0, content: int = 0) -> bytes:
    """Return the end of a part of the answer."""
    return typed("response.output_text.done", text=text, output_index=output, content_index=content)


def part(text: str, **more: Any) -> dict[str, Any]:
    """Return a content part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], **more}


def message(*texts: str, **more: Any) -> dict[str, Any]:
    """Return a message, as an item of the output."""
    return {"type": "message", "role": "assistant", "content": [part(text) for text in texts], **more}


def call(name: str, arguments: str, ident: str) -> dict[str, Any]:
    """Return the call of a tool, as an item of the output."""
    return {"type": "function_call", "call_id": ident, "name": name, "arguments": arguments}


def response(*output: dict[str, Any], status: object = "completed", **more: Any) -> dict[str, Any]:
    """Return a whole response."""
    return {"object": "response", "model": "served", "status": status, "output": list(output), "usage": USAGE, **more}


def ended(*output: dict[str, Any], name: str | None = None, status: object = "completed", **more: Any) -> bytes:
    """Return the event that ends an answer; its name is that of the status unless given."""
    return typed(name or f"response.{status}", response=response(*output, status=status, **more))


def added(item: dict[str, Any], output: int = 0) -> bytes:
    """Return the beginning of an item."""
    return typed("response.output_item.added", output_index=output, item=item)


def item_done(item: dict[str, Any], output: int = 0) -> bytes:
    """Return the end of an item."""
    return typed("response.output_item.done", output_index=output, item=item)
