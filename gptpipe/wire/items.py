"""The body of a request to the Responses API, made of messages in the form of Chat Completions.

https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from gptpipe.message import SYSTEM_ROLES, Message, Part, text_of
from gptpipe.settings.settings import Settings
from gptpipe.text.strict_json import as_object
from gptpipe.wire.chat import instruction
from gptpipe.wire.request import Request


def body(request: Request, _settings: Settings, refused: Collection[str] = ()) -> dict[str, Any]:
    """Return the JSON of a request, without the fields that the endpoint refused.

    ``refused`` may hold ``stream``, ``stream_options``, ``store``, ``include``, ``strict`` and ``response_format``.
    Without the latter the instructions ask for the schema.
    """
    fields = {"store": False, **request.params}  # the API keeps what it answers for 30 days unless told not to
    limit, effort = fields.pop("max_tokens", None), fields.pop("reasoning_effort", None)
    if limit is not None:
        fields["max_output_tokens"] = limit
    thought = {"summary": "auto"} if request.reasoning else {}
    thought |= as_object(fields.get("reasoning")) | ({} if effort is None else {"effort": effort})
    if thought:
        fields["reasoning"] = thought
    system = [text_of(message.get("content")) for message in request.messages if message.get("role") in SYSTEM_ROLES]
    if request.schema is not None and "response_format" in refused:
        system.append(instruction(request.schema))
    elif request.schema is not None:
        form = {"type": "json_schema", "name": "answer", "strict": "strict" not in refused, "schema": request.schema}
        fields["text"] = {**as_object(fields.get("text")), "format": form}
    if tools := [*_tools(request), *(fields.get("tools") or ())]:
        fields["tools"] = tools
    if "stream" not in refused:
        fields |= {"stream": True, "stream_options": {"include_obfuscation": False}}
    for name in refused:
        if name in ("store", "include", "stream_options"):
            fields.pop(name, None)
    instructions = {"instructions": "\n\n".join(system)} if system else {}
    items = [item for message in request.messages for item in _items(message)]
    return {"model": request.model, **instructions, "input": items, **fields}


def _tools(request: Request) -> Iterator[dict[str, Any]]:
    if request.web:
        yield {"type": "web_search"}
    for tool in request.tools:
        yield {"type": "function", **tool._asdict(), "strict": False}


def _items(message: Message) -> Iterator[dict[str, Any]]:
    """Yield what a message is in the input; the system message stands elsewhere."""
    role, content = message.get("role"), message.get("content")
    if role == "tool":
        yield {"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": text_of(content)}
    elif role == "assistant":
        calls = message.get("tool_calls") or ()
        if (text := text_of(content)) or not calls:
            yield {"role": "assistant", "content": text}
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):  # a session may be the work of another program
                yield {"type": "function_call", "call_id": call.get("id"), **as_object(call.get("function"))}
    elif role not in SYSTEM_ROLES:
        yield {"role": role, "content": [_part(part) for part in content] if isinstance(content, list) else content}


def _part(part: Part) -> Part:
    """Return a content part in the form of the input; one that is not known stays as it is."""
    match part:
        case {"type": "text", "text": text}:
            return {"type": "input_text", "text": text}
        case {"type": "image_url", "image_url": {"url": url, **more}}:
            return {"type": "input_image", "image_url": url, "detail": more.get("detail", "auto")}
        case {"type": "file", "file": dict(file)}:
            return {"type": "input_file", **file}
    return part
