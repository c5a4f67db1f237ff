"""Server-sent events of the Chat Completions protocol: bytes in, events out, whatever dialect the server speaks.

The framing is that of https://html.spec.whatwg.org/multipage/server-sent-events.html, the payload that of
https://platform.openai.com/docs/api-reference/chat-streaming. Real servers keep to neither. The decoder takes what
it can use and ignores what it does not know; what would make the answer wrong it reports as ``Error`` or ``Malformed``.
It does no input or output, and how the bytes were cut into packets makes no difference to the events.

Every string that leaves is encodable as UTF-8.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from gptpipe.errors import ProtocolError
from gptpipe.message import LENGTH_REASONS
from gptpipe.text.strict_json import clean, mend

LARGEST = 64 << 20  # bytes of one event: more is no piece of an answer, and would fill the memory


class Text(NamedTuple):
    """A piece of the answer; never empty."""

    text: str


class Reasoning(NamedTuple):
    """A piece of what the model thought before it answered; never empty."""

    text: str


class Refusal(NamedTuple):
    """A piece of the sentence with which the model refuses; never empty."""

    text: str


class Finish(NamedTuple):
    """The finish reason, as sent; never empty."""

    reason: str


class Usage(NamedTuple):
    """The ``usage`` object; never empty. Of several the last counts."""

    usage: dict[str, Any]


class Served(NamedTuple):
    """The model that answers and the id of the completion, once, as soon as either is known."""

    model: str | None
    id: str | None


class KeepAlive(NamedTuple):
    """A comment, or an event without data: bytes came, nothing was said."""


class Done(NamedTuple):
    """``[DONE]``."""


class Error(NamedTuple):
    """The error that an event reports: an object or a string, as sent."""

    body: Any


class Malformed(NamedTuple):
    """The data of an event that holds no JSON object."""

    data: str


Event = Text | Reasoning | Refusal | Finish | Usage | Served | KeepAlive | Done | Error | Malformed

_HALTED = LENGTH_REASONS | {"content_filter", "error"}
_OPEN, _CLOSE = "<think>", "</think>"

# Not strict: some servers leave control characters inside strings as they are.
_JSON = json.JSONDecoder(strict=False)

_TAG_OR_CODE = r"""(?xms)
      (?P<tag> </?think> )
    | ^[ ]{0,3} (?: (?P<fence>`{3,}) [^`\n]* | (?P<tildes>~{3,}) [^\n]* ) $  # a fenced block, to its end or the text's
      .*? (?: ^[ ]{0,3} (?: (?P=fence)`* | (?P=tildes)~* ) [ \t]*$ | \Z )
    | (?<!`) (?P<ticks>`+) (?!`) [^\n]*? (?<!`) (?P=ticks) (?!`)  # an inline code span; here it ends with its line
"""


def cut_thinking(text: str) -> tuple[str, str]:
    """Return the reasoning and the answer in the whole text of an answer that came without ``Reasoning``.

    Where the server's template opened the thinking, the model sends only the ``</think>`` that ends it. A tag inside
    a code span or a fenced block is text, and so is a ``</think>`` after a ``<think>``. The answer begins with the
    first character that is no white space; without a tag to cut at, the text is returned as it is.
    """
    tags = (match for match in re.finditer(_TAG_OR_CODE, text) if match["tag"]) if _CLOSE in text else iter(())
    tag = next(tags, None)
    if tag is None or tag["tag"] == _OPEN:
        return "", text
    return text[: tag.start()], text[tag.end() :].lstrip()


def from_completion(body: dict[str, Any], thinks: bool = False) -> list[Event]:
    """Return the events of a whole ``chat.completion``, the answer of a server that does not stream.

    It ends with ``Done``: a whole body is a whole answer. What is neither a completion nor an error gives no events.
    """
    if not (isinstance(body.get("choices"), list) or body.get("error") or body.get("object") == "error"):
        return []
    decoder = Decoder(thinks)
    events: list[Event] = []
    decoder.chunk(body, False, events)
    decoder.done(events)
    return events


class Decoder:
    """Bytes to events.

    ``thinks``: the server's template opens ``<think>``: what comes before ``</think>`` is reasoning, and passed on when
    that comes. If the answer is complete without it, the model did not think, and all of it is the answer.
    """

    def __init__(self, thinks: bool = False) -> None:
        self._line: list[bytes] = []  # the pieces of a line that has not ended
        self._data: list[bytes] = []  # the data lines of an event that has not ended
        self._size = 0  # bytes of that event
        self._failed = False  # that event calls itself an error
        self._begun = False
        self._after_cr = False
        self._served = False
        self._halves: dict[type[Text | Reasoning | Refusal], str] = {}
        self._thinking = _Thinking(thinks)

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these bytes complete.

        :raises ProtocolError: if one of them is larger than LARGEST; what came of it is dropped.
        """
        self._size += len(data)
        if self._size > LARGEST:
            self._line, self._data, self._size = [], [], 0
            raise ProtocolError(f"the server sent an event of more than {LARGEST >> 20} MiB")
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._line.append(data)
        if b"\n" not in data:
            return []
        lines = b"".join(self._line).split(b"\n")  # not splitlines(): VT, FF, NEL, U+2028 end no line here
        self._line = [lines.pop()]
        if not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        events: list[Event] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line:
                self._dispatch(events)
            elif line.startswith(b"event:"):
                self._failed = line[6:].strip() == b"error"
            elif line.startswith(b"error:"):  # llama.cpp before 2025
                self._failed = True
                self._data.append(line[6:])
        return events

    def close(self) -> list[Event]:
        """Return what was held back, when the body has ended.

        That includes a last event whose blank line is missing; if it breaks off, it is not malformed but cut.
        """
        events: list[Event] = []
        if any(self._line) or self._data:
            events = [event for event in self.feed(b"\n\n") if not isinstance(event, (Malformed, KeepAlive))]
        self._flush(False, events)
        return events

    def chunk(self, chunk: dict[str, Any], failed: bool, events: list[Event]) -> None:
        """Append what one ``chat.completion.chunk`` (or a whole ``chat.completion``) says to ``events``.

        ``failed``: it is an error, whatever it looks like.
        """
        if not self._served:
            self._serve(chunk, events)
        error, usage, choices = chunk.get("error"), chunk.get("usage"), chunk.get("choices")
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
        if failed or (not choices and chunk.get("object") == "error"):
            error = error or chunk
        if not isinstance(reason, str) or reason == "null":  # as text: unset, on every chunk
            reason = ""
        if not error and reason.lower() == "error":
            error = "finish_reason error"
        if error:
            self._flush(False, events)
        elif reason:
            self._flush(reason.lower() not in _HALTED, events)
            events.append(Finish(clean(reason)))
        if usage and isinstance(usage, dict):
            events.append(Usage(clean(usage)))
        if error:
            events.append(Error(clean(error)))

    def done(self, events: list[Event]) -> None:
        """Append the end of a complete answer to ``events``."""
        self._flush(True, events)
        events.append(Done())

    def _dispatch(self, events: list[Event]) -> None:
        """Append what the event says whose last line has come."""
        data, self._data, self._size = self._data, [], 0
        failed, self._failed = self._failed, False
        # Bytes that are no UTF-8 become U+FFFD. Inside a string that is one wrong character in an answer that is
        # otherwise whole, and visible; anywhere else it is no JSON, and the event is malformed.
        text = (data[0] if len(data) == 1 else b"\n".join(data)).decode("utf-8", "replace")
        try:
            chunk = _JSON.decode(text)
        except (ValueError, RecursionError):
            chunk = None
        if isinstance(chunk, dict):
            self.chunk(chunk, failed, events)
        elif not text.strip():
            events.append(KeepAlive())
        elif text.strip() == "[DONE]":
            self.done(events)
        else:
            events.append(Error(text) if failed else Malformed(text))

    def _serve(self, chunk: dict[str, Any], events: list[Event]) -> None:
        model, ident = chunk.get("model"), chunk.get("id")
        model = clean(model) if model and isinstance(model, str) else None
        ident = clean(ident) if ident and isinstance(ident, str) else None
        if model or ident:
            self._served = True
            events.append(Served(model, ident))

    def _delta(self, delta: dict[str, Any], events: list[Event]) -> None:
        # Some servers send the same piece under both names.
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning and isinstance(reasoning, str):
            self._say(Reasoning, reasoning, events)
        content = delta.get("content")
        if content and isinstance(content, str):
            self._say(Text, content, events)
        elif isinstance(content, list):
            for part in content:
                self._part(part, events)
        refusal = delta.get("refusal")
        if refusal and isinstance(refusal, str):
            self._say(Refusal, refusal, events)

    def _part(self, part: object, events: list[Event]) -> None:
        """Append what a content part says: ``{"type": "text"}``, or ``{"type": "thinking"}`` as Mistral sends it."""
        if not isinstance(part, dict):
            return
        text, thinking = part.get("text"), part.get("thinking")
        for thought in thinking if isinstance(thinking, list) else [thinking]:
            thought = thought.get("text") if isinstance(thought, dict) else thought
            if thought and isinstance(thought, str):
                self._say(Reasoning, thought, events)
        if text and isinstance(text, str):
            self._say(Text, text, events)

    def _say(self, kind: type[Text | Reasoning | Refusal], text: str, events: list[Event]) -> None:
        if self._halves or not text.isascii():
            text = self._whole(kind, text)
            if not text:
                return
        if kind is not Text or self._thinking.over:
            if kind is Reasoning:
                self._thinking.separate()
            events.append(kind(text))
        else:
            self._thinking.feed(text, events)

    def _whole(self, kind: type[Text | Reasoning | Refusal], text: str) -> str:
        """Return the text with the half of a surrogate pair before it that an earlier chunk ended with."""
        text = self._halves.pop(kind, "") + text
        if "\ud800" <= text[-1] <= "\udbff":
            self._halves[kind] = text[-1]
            text = text[:-1]
        return mend(text)

    def _flush(self, ended: bool, events: list[Event]) -> None:
        for kind in tuple(self._halves):
            del self._halves[kind]
            self._say(kind, "\ufffd", events)
        self._thinking.flush(ended, events)


class _Thinking:
    """Takes a leading ``<think>`` block out of the text, however it is split.

    The first ``</think>`` ends it, as in the servers' own parsers. ``over``: whatever comes now is the answer.
    """

    def __init__(self, assumed: bool) -> None:
        self.over = False
        self._assumed = assumed  # thinking without a tag that opened it; what came is kept, it may be the answer
        self._inside = False
        self._ended = False
        self._thoughts: list[str] = []
        self._held = ""

    def separate(self) -> None:
        """Note that the server sends reasoning beside the text: then its template's tag is not in the text."""
        if not self._inside:
            self._assumed = False

    def feed(self, text: str, events: list[Event]) -> None:
        """Append what can be told by now to ``events``."""
        self._held += text
        if not self._inside and not self._ended:
            self._begin()
        if self._inside:
            self._think(events)
        if self._ended:
            self._held = self._held.lstrip()
            self.over = bool(self._held)
        if self.over:
            events.append(Text(self._held))
            self._held = ""

    def flush(self, ended: bool, events: list[Event]) -> None:
        """Append what is held back; ``ended``: the answer is complete."""
        text = "".join(self._thoughts) + self._held
        self._thoughts, self._held = [], ""
        answer = ended if self._assumed else not self._inside
        self.over = self.over or answer
        if text:
            events.append(Text(text) if answer else Reasoning(text))

    def _begin(self) -> None:
        lead = self._held.lstrip()
        if lead.startswith(_OPEN):
            self._held = lead[len(_OPEN) :]
            self._inside, self._assumed = True, False
        elif not _OPEN.startswith(lead):
            self._inside = self._assumed
            self.over = not self._assumed

    def _think(self, events: list[Event]) -> None:
        thought, tag, rest = self._held.partition(_CLOSE)
        if not tag:
            start = thought.rfind("<")
            if start >= 0 and _CLOSE.startswith(thought[start:]):
                thought, rest = thought[:start], thought[start:]
        self._held = rest
        self._thoughts.append(thought)
        if tag or not self._assumed:
            thought = "".join(self._thoughts)
            self._thoughts = []
            if thought:
                events.append(Reasoning(thought))
        if tag:
            self._inside, self._assumed, self._ended = False, False, True
