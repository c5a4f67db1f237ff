"""Pieces of an answer as they arrive: text, reasoning and refusals, put together where a server cut them badly.

A leading ``<think>`` block is taken out of the text, and the two halves of a character meet again.
"""

from __future__ import annotations

import re

from gptpipe.errors import ProtocolError
from gptpipe.text.strict_json import mend
from gptpipe.wire.events import Event, Reasoning, Refusal, Text

_OPEN, _CLOSE = "<think>", "</think>"
_LARGEST = 64 << 20  # characters of an answer: no model says more, and the memory has an end
_BLANK = 4096  # characters of white space that may stand before the tag

_TAG_OR_CODE = r"""(?xms)
      (?P<tag> </?think> )
    | ^[ ]{0,3} (?: (?P<fence>`{3,}) [^`\n]* | (?P<tildes>~{3,}) [^\n]* ) $  # a fenced block, to its end or the text's
      .*? (?: ^[ ]{0,3} (?: (?P=fence)`* | (?P=tildes)~* ) [ \t]*$ | \Z )
    | (?<!`) (?P<ticks>`+) (?!`) [^\n]{,1000}? (?<!`) (?P=ticks) (?!`)  # an inline code span, on one line
"""


def cut_thinking(text: str) -> tuple[str, str]:
    """Return the reasoning and the answer in the whole text of an answer that came without ``Reasoning``.

    Where the server's template opened the thinking, the model sends only the ``</think>`` that ends it. A tag inside
    a code span or a fenced block is text, and so is a ``</think>`` after a ``<think>``. The answer begins with the
    first character that is not white space; without a tag to cut at, the text is returned as it is.
    """
    tags = (match for match in re.finditer(_TAG_OR_CODE, text) if match["tag"]) if _CLOSE in text else iter(())
    tag = next(tags, None)
    if tag is None or tag["tag"] == _OPEN:
        return "", text
    return text[: tag.start()], text[tag.end() :].lstrip()


class Pieces:
    """What a server says, piece by piece, as events.

    ``thinks``: the server's template opens ``<think>``. What comes before ``</think>`` is then reasoning, and passed
    on when that comes. If the answer is complete without it, the model did not think, and all of it is the answer.
    """

    def __init__(self, thinks: bool = False) -> None:
        self._halves: dict[type[Text | Reasoning | Refusal], str] = {}
        self._thinking = _Thinking(thinks)
        self._size = 0  # characters so far

    def say(self, kind: type[Text | Reasoning | Refusal], text: str, events: list[Event]) -> None:
        """Append a piece to ``events``, less what has to wait for the next one.

        :raises ProtocolError: if the answer is larger than any model's.
        """
        self._size += len(text)
        if self._size > _LARGEST:
            raise ProtocolError(f"the server sent an answer of more than {_LARGEST >> 20} MiB")
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

    def flush(self, ended: bool, events: list[Event]) -> None:
        """Append what is held back to ``events``; ``ended``: the answer is complete."""
        for kind in tuple(self._halves):
            del self._halves[kind]
            self.say(kind, "\ufffd", events)
        self._thinking.flush(ended, events)

    def _whole(self, kind: type[Text | Reasoning | Refusal], text: str) -> str:
        """Return the text with the half of a surrogate pair before it that an earlier piece ended with."""
        text = self._halves.pop(kind, "") + text
        if "\ud800" <= text[-1] <= "\udbff":
            self._halves[kind] = text[-1]
            text = text[:-1]
        return mend(text)


class _Thinking:
    """Takes a leading ``<think>`` block out of the text, however it is split.

    The first ``</think>`` ends it, as in the servers' own parsers. ``over``: whatever comes now is the answer.
    """

    def __init__(self, assumed: bool) -> None:
        self.over = False
        self._assumed = assumed  # thinking without a tag that opened it; the text is kept, it may be the answer
        self._inside = False
        self._ended = False
        self._thoughts: list[str] = []
        self._held = ""

    def separate(self) -> None:
        """Note that the server sends reasoning beside the text: then its template's tag is not in the text."""
        if not self._inside:
            self._assumed = False

    def feed(self, text: str, events: list[Event]) -> None:
        """Append to ``events`` what is certain by now."""
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
        elif not _OPEN.startswith(lead) or len(self._held) > _BLANK:
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
