"""Messages and turns: what a session line, the API and the token counter agree on.

A message is the API's own form, ``{"role": …, "content": …}``, where content is a string or a list of content
parts (https://platform.openai.com/docs/api-reference/chat/create). A turn is one question with its answer, and
one line of a session file; the line's format is specified in gptpipe-session(5).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gptpipe.text.strict_json import compact, decode

Part = dict[str, Any]
Content = str | list[Part]
Message = dict[str, Any]

SYSTEM_ROLES = ("system", "developer")
_REPLY_ROLES = ("assistant", "tool")


def text_of(content: object) -> str:
    """Return the text in a message's content, without the parts that are not text; "" for null."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def wording(message: Message) -> str:
    """Return all that a model reads of a message: its text, and the calls of tools in it as JSON."""
    calls = message.get("tool_calls")
    return text_of(message.get("content")) + "".join(map(compact, calls if isinstance(calls, list) else ()))


def size(message: Message) -> int:
    """Return the bytes of a message's wording in UTF-8. A byte-level tokenizer never makes more tokens of it."""
    return len(wording(message).encode("utf-8", "replace"))


class Counts(NamedTuple):
    """The tokens that a request used: ``cached`` is a part of ``input``, ``reasoning`` of ``output``."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0


def counts(usage: Mapping[str, Any] | None) -> Counts:
    """Return the token counts in the ``usage`` of a reply; a count that is missing is 0.

    https://platform.openai.com/docs/api-reference/chat/object#chat/object-usage
    """
    usage = usage or {}
    prompt, completion, total = (_number(usage, f"{name}_tokens") for name in ("prompt", "completion", "total"))
    cached = _number(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _number(usage.get("completion_tokens_details"), "reasoning_tokens")
    if cached > prompt:  # this server counts as prompt only what was not cached
        prompt += cached
    beyond = total - prompt - completion
    if prompt and beyond > 0 and (beyond == reasoning or not (reasoning or cached)):
        completion, reasoning = completion + beyond, beyond  # xAI and Gemini count reasoning in the total alone
    return Counts(prompt, completion, cached, reasoning)


def add_usage(one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the sum of two ``usage`` objects, number by number, nested ones too; None counts as nothing."""
    if one is None or other is None:
        return one or other
    return {key: _sum(one.get(key), other.get(key)) for key in (*one, *(key for key in other if key not in one))}


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return add_usage(one, other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    return one if other is None else other


def _number(where: object, key: str) -> int:
    found = where.get(key) if isinstance(where, Mapping) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


class Turn(NamedTuple):
    """One question and its answer.

    ``model`` and ``profile`` are what was asked for, after aliases; ``base_url`` is set when no profile was.
    ``tokens`` is what the turn adds to a later prompt, ``system_tokens`` what its own prompt held beside its question
    and the turns sent; None for a line that does not say. ``n`` and ``total_tokens`` count the turns and the
    ``usage.total_tokens`` of the file up to this one; the store sets them. ``undo`` is set in a line that takes turns
    back: it is how many, from the newest; such a line has no messages and is not counted.
    """

    messages: list[Message]
    model: str | None = None
    profile: str | None = None
    base_url: str | None = None
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    tokens: int | None = None
    tokens_estimated: bool = False
    system_tokens: int | None = None
    at: str | None = None
    n: int = 0
    total_tokens: int = 0
    undo: int = 0

    @property
    def system(self) -> str | None:
        """The system message, or None."""
        return next((text_of(m.get("content")) for m in self.messages if m.get("role") in SYSTEM_ROLES), None)

    @property
    def question(self) -> list[Message]:
        """The messages that asked: all but the system message and the reply."""
        return [m for m in self.messages if m.get("role") not in (*SYSTEM_ROLES, *_REPLY_ROLES)]

    @property
    def reply(self) -> list[Message]:
        """What the question led to: calls of tools and their results, and at the end the answer."""
        return [m for m in self.messages if m.get("role") in _REPLY_ROLES]

    @property
    def answer(self) -> str:
        """The answer's text; of several assistant messages the last."""
        return next((text_of(m.get("content")) for m in reversed(self.messages) if m.get("role") == "assistant"), "")

    @property
    def finished(self) -> bool:
        """Whether the turn may be sent as history: it ended, and with an answer."""
        return self.finish_reason is not None and bool(self.answer.strip())

    @property
    def history(self) -> list[Message]:
        """What a later request sends of this turn: all but the system message."""
        return [m for m in self.messages if m.get("role") not in SYSTEM_ROLES]


# The keys of a line in their order, and what each holds. The rare ones are left out where they say nothing.
_KINDS: dict[str, type[Any]] = {
    "n": int,
    "at": str,
    "profile": str,
    "base_url": str,
    "model": str,
    "messages": list,
    "finish_reason": str,
    "usage": dict,
    "tokens": int,
    "tokens_estimated": bool,
    "system_tokens": int,
    "total_tokens": int,
    "undo": int,
}
_RARE = ("base_url", "tokens_estimated", "system_tokens", "undo")


def to_line(turn: Turn) -> bytes:
    """Return the turn as one line of a session file, newline included."""
    unsaid = {key for key in _RARE if getattr(turn, key) == Turn._field_defaults[key]}
    return compact({key: getattr(turn, key) for key in _KINDS if key not in unsaid}).encode() + b"\n"


def from_line(line: bytes) -> Turn:
    """Return the turn that a line of a session file holds. Unknown keys are ignored, and so are faulty values.

    :raises ValueError: if the line is damaged: not UTF-8, not a JSON object, or without messages to send again.
    """
    text = line.decode()
    value = decode(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    known: dict[str, Any] = {key: found for key, kind in _KINDS.items() if type(found := value.get(key)) is kind}
    messages, undo = known.get("messages", []), known.pop("undo", 0)
    undone = undo if undo > 0 and value.get("messages") == [] else 0
    if not (messages or undone) or not all(isinstance(m, dict) for m in messages):
        raise ValueError("no messages")
    if "\\u" in text:  # an escape, which may be half of a surrogate pair: other programs write it
        compact(messages).encode()
    for key in (key for key in known if _KINDS[key] is str):  # half of a pair could not be written again
        known[key] = known[key].encode("utf-8", "replace").decode()
    return Turn(**known, undo=undone)


def parse(data: bytes) -> Turn | None:
    """Return the turn in a line, or None if it is damaged or blank."""
    try:
        return from_line(data)
    except (ValueError, RecursionError):
        return None


Schema = dict[str, Any]


class ToolSpec(NamedTuple):
    """A tool as the model sees it; ``parameters`` is the JSON Schema of its arguments, an object."""

    name: str
    description: str
    parameters: Schema


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Finish reasons, in lower case: what a server's word for the end of its answer means. Any other word says that the
# answer was interrupted. Beside OpenAI's own there are those of Anthropic, Bedrock, Cohere, Gemini, Mistral, TGI,
# watsonx and Zhipu, which proxies pass on as they are.

COMPLETE_REASONS = _words("stop end_turn stop_sequence eos eos_token complete completed")
"""The answer is complete."""

LENGTH_REASONS = _words(
    "length max_tokens max_output_tokens model_length token_limit error_limit "
    "context_window_exceeded model_context_window_exceeded"
)
"""It reached a length limit."""

REFUSAL_REASONS = _words(
    "content_filter content_filtered safety image_safety recitation image_recitation prohibited_content "
    "image_prohibited_content blocklist spii language sensitive model_armor guardrail_intervened refusal error_toxic"
)
"""The model or a filter refused."""

TOOL_REASONS = _words("tool_calls tool_call tool_use function_call unexpected_tool_call")
"""The model wants to call a tool."""
