"""The Responses API: what the JSON of its answers says, as events.

The protocol is https://platform.openai.com/docs/api-reference/responses. Events are told apart by their ``type``; the
``event:`` line, unknown types and ``[DONE]`` do not count. Servers leave out most of what the API sends, so text counts
from whichever event brings it first: a delta, the end of a part, the end of an item, or the final ``response``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptpipe.text.strict_json import as_object, clean
from gptpipe.wire import chat
from gptpipe.wire.calls import Calls
from gptpipe.wire.events import Done, Error, Event, Finish, KeepAlive, Reasoning, Refusal, Text, Usage
from gptpipe.wire.parts import Kind, Parts, Place
from gptpipe.wire.thinking import Pieces

_ENDINGS = {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
_ENDED = ("completed", "incomplete", "failed", "cancelled")
_REASONS = {"max_output_tokens": "length"}

# What the deltas of a type are, and the field with the whole text in the event that ends the part.
_TEXTS: Mapping[str, tuple[Kind, str]] = {
    "response.output_text": (Text, "text"),
    "response.refusal": (Refusal, "refusal"),
    "response.reasoning_text": (Reasoning, "text"),
    "response.reasoning_summary_text": (Reasoning, "text"),
}


def whole(body: dict[str, Any], thinks: bool = False) -> list[Event]:
    """Return the events of a reply in one piece: a ``response``, or a completion of Chat Completions instead of it.

    It ends with ``Done`` or ``Error``. What is none of these gives no events.
    """
    if body.get("object") != "response" and not isinstance(body.get("output"), list):
        return chat.whole(body, thinks)
    reader = Reader(thinks)
    events: list[Event] = []
    reader.end(body, body.get("status"), events)
    return events


class Reader:
    """The events of one answer.

    ``thinks`` is as in :class:`gptpipe.wire.thinking.Pieces`, ``limit`` the most tokens that were asked for.
    """

    def __init__(self, thinks: bool = False, limit: object = None) -> None:
        self._limit = limit
        self._chat = chat.Reader(thinks)  # for a server that answers with chunks of Chat Completions
        self._chunks = False
        self._pieces = Pieces(thinks)
        self._parts = Parts()
        self._asides: set[int] = set()  # messages that are not the answer
        self._calls = Calls()
        self._cited: set[str] = set()

    def take(self, value: dict[str, Any], failed: bool, events: list[Event]) -> None:
        """Append what one event says to ``events``; ``failed``: it is an error, whatever it looks like."""
        name = value.get("type")
        if not isinstance(name, str):
            name = ""
        begin, _, end = name.rpartition(".")
        if begin in _TEXTS and end in ("delta", "done"):
            self._text(begin, end == "done", value, events)
        elif name in _ENDINGS:
            self.end(as_object(value.get("response")) or value, end, events)
        elif name == "error" or failed or (not name and value.get("error")):
            self._fail(value.get("error") or {key: value[key] for key in value if key != "type"}, events)
        elif begin == "response.output_item":
            self._item(_number(value, "output_index"), as_object(value.get("item")), end == "done", events)
        elif begin == "response.function_call_arguments":
            self._argue(_number(value, "output_index"), end, value)
        elif name == "response.output_text.annotation.added":
            self._cite(value.get("annotation"), events)
        elif name == "keepalive":
            events.append(KeepAlive())
        elif not name and "choices" in value:
            self._chunks = True
            self._chat.take(value, failed, events)
        else:
            self._chat.serve(as_object(value.get("response")), events)

    def done(self, events: list[Event]) -> None:
        """Append what ``[DONE]`` means to ``events``: nothing, unless chunks came before it."""
        if self._chunks:
            self._chat.done(events)

    def close(self, events: list[Event]) -> None:
        """Append what was held back to ``events``: the body has ended, and the answer may not have."""
        self._flush(False, events)
        self._chat.close(events)

    def end(self, response: dict[str, Any], status: object, events: list[Event]) -> None:
        """Append what the final ``response`` says to ``events``; ``status`` is its status if it names none."""
        self._chat.serve(response, events)
        self._rest(response, events)
        usage = _usage(as_object(response.get("usage")))
        if usage:
            events.append(Usage(clean(usage)))
        if response.get("status") in _ENDED:
            status = response["status"]
        reason = as_object(response.get("incomplete_details")).get("reason")
        # A server without that field has no other way to say that the answer is truncated (transformers serve).
        if "incomplete_details" not in response and self._limit and usage.get("completion_tokens") == self._limit:
            reason = "max_output_tokens"
        if response.get("error") or status == "failed":
            self._fail(response.get("error") or "no reason given", events)
            return
        if status == "completed" and not reason:
            self._flush(True, events)
            before = len(events)
            self._calls.flush(events)
            events.append(Finish("tool_calls" if len(events) > before else "stop"))
        else:
            self._flush(False, events)
            word = clean(str(reason or status))
            events.append(Finish(_REASONS.get(word, word)))
        events.append(Done())

    # Texts

    def _text(self, begin: str, over: bool, value: dict[str, Any], events: list[Event]) -> None:
        """Append a piece of a part, or all of it if it came without pieces."""
        kind, field = _TEXTS[begin]
        number = _number(value, "output_index")
        if kind is Text and number in self._asides:
            kind = Reasoning
        at = (number, _number(value, "summary_index" if "summary_index" in value else "content_index"))
        if over:
            self._whole(kind, at, value.get("item_id"), value.get(field), events)
        else:
            self._say(kind, at, value.get("item_id"), value.get("delta"), events)

    def _whole(self, kind: Kind, at: Place, item: object, text: object, events: list[Event]) -> None:
        """Append a part that has ended, unless it is known."""
        if not self._parts.known(kind, at, item):
            self._say(kind, at, item, text, events)
        for piece in self._parts.end(at):
            self._pieces.say(*piece, events)

    def _say(self, kind: Kind, at: Place, item: object, text: object, events: list[Event]) -> None:
        if text and isinstance(text, str):
            for piece in self._parts.add(kind, at, item, text):
                self._pieces.say(*piece, events)

    def _flush(self, ended: bool, events: list[Event]) -> None:
        for piece in self._parts.rest():
            self._pieces.say(*piece, events)
        self._pieces.flush(ended, events)

    # Items

    def _item(self, number: int, item: dict[str, Any], over: bool, events: list[Event], streamed: str = "") -> None:
        """Take an item of the output: when it begins, what it is; when it is over, what is in it.

        Text that is part of ``streamed`` is known.
        """
        kind = item.get("type")
        if kind == "function_call":
            self._calls.set(number, item.get("call_id") or item.get("id"), item.get("name"), item.get("arguments"))
        elif kind == "message" and item.get("phase") == "commentary":
            self._asides.add(number)
        if not over or kind not in ("message", "reasoning"):
            return
        content = [*_objects(item, "summary"), *_objects(item, "content")]
        for index, part in enumerate(content):
            said: Kind = Text if kind == "message" and number not in self._asides else Reasoning
            text = part.get("text")
            if "refusal" in part:
                said, text = Refusal, part["refusal"]
            if not (isinstance(text, str) and text.strip() in streamed):
                self._whole(said, (number, index), item.get("id"), text, events)
            for annotation in _objects(part, "annotations"):
                self._cite(annotation, events)

    def _rest(self, response: dict[str, Any], events: list[Event]) -> None:
        """Append what the final response holds and no event before it said."""
        kinds: tuple[Kind, ...] = (Text, Reasoning, Refusal)
        streamed = "\0".join(self._parts.said(kind) for kind in kinds)
        # Some servers count the items of the final response in another way than those of the stream.
        for number, item in enumerate(_objects(response, "output")):
            self._item(number, item, True, events, streamed)

    def _argue(self, number: int, end: str, value: dict[str, Any]) -> None:
        if end == "delta":
            self._calls.add([{"index": number, "function": {"arguments": value.get("delta")}}])
        else:
            self._calls.set(number, None, value.get("name"), value.get("arguments"))

    def _cite(self, annotation: object, events: list[Event]) -> None:
        if found := chat.citation(annotation):
            if found.url not in self._cited:
                events.append(found)
            self._cited.add(found.url)

    def _fail(self, error: object, events: list[Event]) -> None:
        self._flush(False, events)
        events.append(Error(clean(error)))


def _objects(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = value.get(key)
    return [as_object(item) for item in found] if isinstance(found, list) else []


def _number(value: dict[str, Any], key: str) -> int:
    found = value.get(key)
    return found if isinstance(found, int) else 0


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    """Return the usage in the names of Chat Completions; a server may use those already."""
    names = {"input": "prompt", "output": "completion"}
    found: dict[str, Any] = {}
    for key, value in usage.items():
        kind, _, rest = key.partition("_")
        found[f"{names.get(kind, kind)}_{rest}" if rest.startswith("tokens") else key] = value
    return found
