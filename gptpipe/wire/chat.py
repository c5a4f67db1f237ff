"""Chat Completions: the body of a request, and what the JSON of a reply says, as events, in every dialect.

The protocol is https://platform.openai.com/docs/api-reference/chat. Real servers do not keep to it: what can be used
is taken, and what is not known is ignored.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gptpipe.message import COMPLETE_REASONS, TOOL_REASONS, Message, Schema
from gptpipe.settings.built_in import is_openai
from gptpipe.settings.settings import Settings
from gptpipe.text.strict_json import clean, compact
from gptpipe.wire.calls import Calls
from gptpipe.wire.events import Cited, Done, Error, Event, Finish, Reasoning, Refusal, Served, Text, Usage
from gptpipe.wire.request import Request
from gptpipe.wire.thinking import Pieces


def body(request: Request, settings: Settings, refused: Collection[str] = ()) -> dict[str, Any]:
    """Return the JSON of a request, without the fields that the endpoint refused.

    ``refused`` may hold ``stream``, ``stream_options``, either name of the limit, ``strict`` and ``response_format``.
    Without the latter the system message asks for the schema.
    """
    messages, fields = request.messages, dict(request.params)
    if request.schema is not None and "response_format" in refused:
        messages = _instructed(messages, request.schema)
    limit = fields.pop("max_tokens", None)
    if limit is not None:
        names = ["max_tokens", "max_completion_tokens"]
        if is_openai(settings.base_url):
            names.reverse()
        fields[names[names[0] in refused]] = limit
    if request.schema is not None and "response_format" not in refused:
        form = {"name": "answer", "strict": "strict" not in refused, "schema": request.schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": form}
    if request.tools:
        fields["tools"] = [{"type": "function", "function": tool._asdict()} for tool in request.tools]
    if "stream" not in refused:
        fields["stream"] = True
        if "stream_options" not in refused:
            fields["stream_options"] = {"include_usage": True}
    return {"model": request.model, "messages": messages, **fields}


def instruction(schema: Schema) -> str:
    """Return what the system message says where ``response_format`` is refused."""
    return (
        "Answer with one JSON value and nothing else: no explanation, no code fence."
        f" It must be valid for this JSON Schema:\n\n{compact(schema)}"
    )


def _instructed(messages: list[Message], schema: Schema) -> list[Message]:
    """Return the messages with the instruction in their system message; without one they get one."""
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": instruction(schema)}, *messages]
    system = {**messages[0], "content": f"{messages[0]['content']}\n\n{instruction(schema)}"}
    return [system, *messages[1:]]


def whole(reply: dict[str, Any], thinks: bool = False) -> list[Event]:
    """Return the events of a whole ``chat.completion``, the answer of a server that does not stream.

    It ends with ``Done``: a whole body is a whole answer. What is neither a completion nor an error gives no events.
    """
    if not (isinstance(reply.get("choices"), list) or reply.get("error") or reply.get("object") == "error"):
        return []
    reader = Reader(thinks)
    events: list[Event] = []
    reader.take(reply, False, events)
    reader.done(events)
    return events


class Reader:
    """The chunks of one answer as events; ``thinks`` as in :class:`gptpipe.wire.thinking.Pieces`."""

    def __init__(self, thinks: bool = False) -> None:
        self._served = False
        self._pieces = Pieces(thinks)
        self._calls = Calls()

    def take(self, value: dict[str, Any], failed: bool, events: list[Event]) -> None:
        """Append what one ``chat.completion.chunk`` (or a whole ``chat.completion``) says to ``events``.

        ``failed``: it is an error, whatever it looks like.
        """
        self.serve(value, events)
        error, usage, choices = value.get("error"), value.get("usage"), value.get("choices")
        reason: Any = None
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict) or choice.get("index"):
                continue
            delta = choice["delta"] if "delta" in choice else choice.get("message")
            if isinstance(delta, dict):
                self._delta(delta, events)
            error = error or choice.get("error")
            usage = usage or choice.get("usage")  # Moonshot
            reason = choice.get("finish_reason")
            break
        if failed or (not choices and value.get("object") == "error"):
            error = error or value
        if not isinstance(reason, str) or reason == "null":  # as text: unset, on every chunk
            reason = ""
        if not error and reason.lower() == "error":
            error = "finish_reason error"
        if error:
            self._pieces.flush(False, events)
        elif reason:
            self._pieces.flush(reason.lower() in COMPLETE_REASONS | TOOL_REASONS, events)
            self._calls.flush(events)
            events.append(Finish(clean(reason)))
        if usage and isinstance(usage, dict):
            events.append(Usage(clean(usage)))
        if error:
            events.append(Error(clean(error)))

    def done(self, events: list[Event]) -> None:
        """Append the end of a complete answer to ``events``."""
        self._pieces.flush(True, events)
        self._calls.flush(events)
        events.append(Done())

    def close(self, events: list[Event]) -> None:
        """Append what was held back to ``events``: the body has ended, and the answer may not have."""
        self._pieces.flush(False, events)

    def serve(self, value: dict[str, Any], events: list[Event]) -> None:
        """Append the name of the model that answers, the first time that an object has it."""
        model = None if self._served else value.get("model")
        if model and isinstance(model, str):
            self._served = True
            events.append(Served(clean(model)))

    def _delta(self, delta: dict[str, Any], events: list[Event]) -> None:
        # Some servers send the same piece under both names.
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning and isinstance(reasoning, str):
            self._pieces.say(Reasoning, reasoning, events)
        content = delta.get("content")
        if content and isinstance(content, str):
            self._pieces.say(Text, content, events)
        elif isinstance(content, list):
            for part in content:
                self._part(part, events)
        refusal = delta.get("refusal")
        if refusal and isinstance(refusal, str):
            self._pieces.say(Refusal, refusal, events)
        self._calls.add(delta.get("tool_calls"))
        annotations = delta.get("annotations")
        events += filter(None, map(citation, annotations if isinstance(annotations, list) else ()))

    def _part(self, part: object, events: list[Event]) -> None:
        """Append what a content part says: ``{"type": "text"}``, or ``{"type": "thinking"}`` as Mistral sends it."""
        if not isinstance(part, dict):
            return
        text, thinking = part.get("text"), part.get("thinking")
        for thought in thinking if isinstance(thinking, list) else [thinking]:
            thought = thought.get("text") if isinstance(thought, dict) else thought
            if thought and isinstance(thought, str):
                self._pieces.say(Reasoning, thought, events)
        if text and isinstance(text, str):
            self._pieces.say(Text, text, events)


def citation(annotation: object) -> Cited | None:
    """Return the source that an annotation names, in the form of either protocol, or None."""
    if not isinstance(annotation, dict) or annotation.get("type") != "url_citation":
        return None
    inner = annotation.get("url_citation")
    found = inner if isinstance(inner, dict) else annotation
    url, title = found.get("url"), found.get("title")
    if not url or not isinstance(url, str):
        return None
    return Cited(clean(url), clean(title) if title and isinstance(title, str) else None)
