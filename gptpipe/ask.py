"""One request and its answer: what a turn, a record of a map and a result of a batch have in common."""

from __future__ import annotations

import time
from typing import Any

from gptpipe import sse
from gptpipe.client import Again, Client, Opened
from gptpipe.errors import Absent, Failure, Refused, Truncated


class Answer:
    """What has come of an answer so far.

    ``finish_reason`` is as the server sent it, ``usage`` its last ``usage`` object, ``served_by`` the model that it
    says answered. ``ended`` is true once the answer is complete, whatever its finish reason.
    """

    def __init__(self) -> None:
        self.served_by: str | None = None
        self.request_id: str | None = None
        self.cached = False
        self.first_token: float | None = None
        self.void()

    def void(self) -> None:
        """Forget what came: the try is repeated."""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether a finish reason came."""
        return self.finish_reason is not None

    @property
    def text(self) -> str:
        """The answer's text, without the reasoning that a server left at its beginning."""
        return self._parts()[1]

    @property
    def reasoning(self) -> str:
        """The model's reasoning text."""
        return self._parts()[0]

    def _parts(self) -> tuple[str, str]:
        text = "".join(self._text)
        if self._reasoning:  # the server, or the decoder, has told the two apart
            return "".join(self._reasoning), text
        return sse.cut_thinking(text)

    @property
    def refusal(self) -> str:
        """The words in which the model refused."""
        return "".join(self._refusal)

    def take(self, event: sse.Event | Opened | Again) -> None:
        """Add what an event brings."""
        match event:
            case sse.Text(text):
                self._text.append(text)
            case sse.Reasoning(text):
                self._reasoning.append(text)
            case sse.Refusal(text):
                self._refusal.append(text)
            case sse.Finish(reason):
                self.finish_reason = reason
            case sse.Usage(usage):
                self.usage = usage
            case sse.Served(model, _):
                self.served_by = model
            case Opened(request_id):
                self.request_id = request_id
            case Again():
                self.void()

    def failure(self) -> Failure | None:
        """Return why an ended answer is none, or None if it is complete."""
        reason = (self.finish_reason or "").lower()
        if self.refusal or reason == "content_filter":
            return Refused(self.refusal or "a content filter stopped the answer")
        if reason in sse.LENGTH_REASONS:
            if self.text.strip():
                return Truncated("the answer is truncated: it reached the length limit")
            return Truncated("the answer is truncated before its first word: reasoning used up the length limit")
        if not self.text.strip():
            return Absent("the answer is empty")
        return None


class Receiver:
    """Where an answer goes while it arrives; this one holds it back."""

    def begin(self) -> None:
        """Be told that the first byte of the answer is there."""

    def text(self, text: str) -> None:
        """Take a piece of the answer."""

    def reasoning(self, text: str) -> None:
        """Take a piece of the reasoning."""

    def repeatable(self) -> bool:
        """Return whether a try that failed may be repeated: nothing was passed on."""
        return True


def ask(client: Client, body: dict[str, Any], answer: Answer, receiver: Receiver) -> None:
    """Send the request and fill ``answer`` until it has ended; the receiver sees each piece as it comes.

    :raises Failure: if there is no answer, or only a part of one; what came is in ``answer``. Whether an answer that
        has ended is complete, :meth:`Answer.failure` says.
    """
    for event in client.stream(body, repeatable=receiver.repeatable):
        begins = answer.first_token is None and isinstance(event, (sse.Text, sse.Refusal))
        if begins:
            answer.first_token = time.monotonic()
            receiver.begin()
        answer.take(event)
        if isinstance(event, sse.Text):
            receiver.text(event.text)
        elif isinstance(event, sse.Reasoning):
            receiver.reasoning(event.text)
