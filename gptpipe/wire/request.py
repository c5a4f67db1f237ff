"""The body of a request, in the dialect of the endpoint."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from gptpipe.asking.schema import strict_ok
from gptpipe.message import Message, Schema
from gptpipe.settings.settings import Settings
from gptpipe.text.strict_json import compact


def system_of(settings: Settings) -> list[Message]:
    """Return the system message, in a list, or an empty list."""
    return [{"role": "system", "content": settings.system}] if settings.system else []


def body_of(settings: Settings, messages: list[Message], form: Schema | None = None) -> dict[str, Any]:
    """Return a request's JSON, but for the fields with which the client asks for a stream; ``form`` is the answer's."""
    body = {"model": settings.model, "messages": messages, **settings.params}
    return body if form is None else {**body, "response_format": response_format(form)}


def response_format(schema: Schema, name: str = "answer") -> dict[str, Any]:
    """Return the field ``response_format`` of the request; ``name`` is what the model is told the answer is called."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "strict": strict_ok(schema), "schema": schema}}


def instruction(schema: Schema) -> str:
    """Return what the system message says where ``response_format`` is refused."""
    return (
        "Answer with one JSON value and nothing else: no explanation, no code fence."
        f" It must be valid for this JSON Schema:\n\n{compact(schema)}"
    )


def instructed(messages: list[Message], schema: Schema) -> list[Message]:
    """Return the messages with the instruction in their system message; without one they get one."""
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": instruction(schema)}, *messages]
    system = {**messages[0], "content": f"{messages[0]['content']}\n\n{instruction(schema)}"}
    return [system, *messages[1:]]


def dialect(body: dict[str, Any], settings: Settings, refused: Collection[str] = ()) -> dict[str, Any]:
    """Return the body of a request as the endpoint takes it, without the fields that it refused."""
    body = dict(body)
    limit = body.pop("max_tokens", None)
    if limit is not None:
        names = ["max_tokens", "max_completion_tokens"]
        if settings.profile == "openai":
            names.reverse()
        body[names[names[0] in refused]] = limit
    form = body.get("response_format")
    if "response_format" in refused and isinstance(form, dict) and "json_schema" in form:
        del body["response_format"]
        body["messages"] = instructed(body["messages"], form["json_schema"]["schema"])
    if "stream" not in refused:
        body["stream"] = True
        if "stream_options" not in refused:
            body["stream_options"] = {"include_usage": True}
    return body
