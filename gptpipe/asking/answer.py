"""An answer: what has arrived of it, what is wrong with it, and what its requests used."""

from __future__ import annotations

import time
from typing import Any

from gptpipe import message
from gptpipe.asking import schema, tokens, tools
from gptpipe.asking.tools import Called
from gptpipe.asking.want import Want
from gptpipe.errors import Absent, Failure, Refused, Temporary, Truncated
from gptpipe.message import Message, add_usage
from gptpipe.text.fences import block, whole_fence
from gptpipe.text.strict_json import compact
from gptpipe.usage import ledger
from gptpipe.wire.events import Again, Cited, Event, Finish, Opened, Reasoning, Refusal, Served, Text, ToolCall, Usage
from gptpipe.wire.thinking import cut_thinking


class Bill:
    """What the requests for one answer used, failed tries and repairs included.

    ``used`` is the ``usage`` that the server has sent with the present request, ``accepted`` whether it accepted it.
    """

    def __init__(self) -> None:
        self.used: dict[str, Any] | None = None
        self.accepted = False
        self._entries: list[ledger.Entry] = []
        self._first: dict[str, Any] | None = None  # what the server sent with the first request, if there are more
        self._mended = self._called = False
        self._before: dict[str, Any] | None = None  # and with all before the present one
        self._pending: tuple[ledger.Account, list[Message], float] | None = None  # a request, and when it was sent

    def void(self) -> None:
        """Forget the usage of the present request: its answer does not count."""
        self.used, self.accepted = None, False

    def go_on(self, *, called: bool) -> None:
        """Keep the usage so far, before the results of calls are sent, or else the answer is asked for again."""
        self._called, self._mended = self._called or called, self._mended or not called
        self._first, self._before = self._first or self.used, self.total
        self.void()

    @property
    def total(self) -> dict[str, Any] | None:
        """The usage of all requests, as the server reported it."""
        return add_usage(self._before, self.used)

    @property
    def measured(self) -> dict[str, Any] | None:
        """The usage as if the answer had come at once: the prompt of the first request, the completion of the last.

        What calls and results added to the prompt counts as completion. The turn keeps no repairs, so after repairs
        and calls together the figure is not known.
        """
        if self._mended and self._called:
            return None
        if self._first is None or self.used is None:
            return self.used
        prompt = {key: value for key, value in self._first.items() if key.startswith("prompt")}
        last = {key: value for key, value in self.used.items() if key != "total_tokens"}
        if self._called:
            grown = message.counts(self.used).input - message.counts(self._first).input
            last["completion_tokens"] = message.counts(self.used).output + max(0, grown)
        return last | prompt

    def drawn(self) -> list[ledger.Entry]:
        """Return the lines of usage to book, and forget them."""
        entries, self._entries = self._entries, []
        return entries

    def begin(self, account: ledger.Account, messages: list[Message]) -> None:
        """Note a request that is about to be sent."""
        self._pending = account, messages, time.monotonic()

    def end(self, status: int, said: str) -> None:
        """End the request on its way, if any; unless accepted, it used nothing. ``said`` is the text that arrived."""
        if self._pending is None:
            return
        account, messages, started = self._pending
        estimate = (0, 0)
        if self.accepted:
            reply: list[Message] = [{"content": said}] if said else []
            estimate = tokens.estimate(messages), tokens.estimate(reply)
        self._entries.append(ledger.counted(self.used, estimate, account, time.monotonic() - started, status))
        self._pending = None


class Answer:
    """An answer as far as it has arrived, and, once it has ended, whether it is what ``want`` says.

    ``finish_reason`` is as the server sent it, ``served_by`` the model that answered, ``bill`` the usage. ``api`` is
    the protocol, and ``citations`` are the sources that the answer names. ``failure`` is why the answer is not
    complete; None says that it is. ``calls`` are the tool calls that the model wants now, ``called`` the outcomes of
    earlier ones, and ``rounds`` the messages with both, as the model gets them.
    """

    def __init__(self, want: Want) -> None:
        self.want = want
        self.served_by: str | None = None
        self.request_id: str | None = None
        self.api: str | None = None
        self.cached = False
        self.first_token: float | None = None
        self.bill = Bill()
        self.rounds: list[Message] = []
        self.called: list[Called] = []
        self._forget()

    def _forget(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._value: Any = None
        self.citations: list[dict[str, str | None]] = []
        self.calls: list[ToolCall] = []
        self.finish_reason: str | None = None
        self.failure: Failure | None = Temporary("the answer did not end")

    def void(self) -> None:
        """Forget what arrived: the try is repeated, or the stored answer cannot be used."""
        self._forget()
        self.bill.void()
        if self.cached:
            self.cached, self.first_token = False, None

    def mend(self) -> None:
        """Forget what arrived, but not its usage: the answer is asked for again."""
        self._forget()
        self.bill.go_on(called=False)

    def begin_round(self) -> list[ToolCall]:
        """Return the calls that the model wants, move its message to ``rounds``, and begin anew."""
        calls = self.calls
        self.rounds.append(self.message)
        self._forget()
        self.bill.go_on(called=True)
        return calls

    def add_result(self, call: ToolCall, called: Called) -> None:
        """Add the outcome of a call."""
        self.called.append(called)
        self.rounds.append({"role": "tool", "tool_call_id": call.id, "content": called.result})

    def listed(self) -> list[dict[str, Any]]:
        """Return the calls for ``tool_calls`` in ``--json``; null is the status of those that were not run."""
        left = [{**_listed(call), "status": None, "seconds": None} for call in self.calls]
        return [called.listed() for called in self.called] + left

    @property
    def message(self) -> Message:
        """The message so far, in the form of the API."""
        said: Message = {"role": "assistant", "content": self.text}
        if self.refusal:
            said["refusal"] = self.refusal
        if self.calls:
            said["content"] = self.text or None
            said["tool_calls"] = [
                {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for id, name, arguments in self.calls
            ]
        return said

    def recall(self, stored: dict[str, Any]) -> None:
        """Become an answer that was stored."""
        self.void()
        self.cached, self.first_token = True, time.monotonic()
        self._text, self._reasoning = [str(stored.get("text", ""))], [str(stored.get("reasoning", ""))]
        self.finish_reason, self.served_by = stored.get("finish_reason"), stored.get("served_by")
        self.citations = stored.get("citations", [])
        self.bill.used = stored.get("usage")

    def storable(self) -> dict[str, Any]:
        """Return what :meth:`recall` takes."""
        return {
            "text": self.text,
            "reasoning": self.reasoning,
            "finish_reason": self.finish_reason,
            "served_by": self.served_by,
            "citations": self.citations,
            "usage": self.bill.measured,
        }

    @property
    def finished(self) -> bool:
        """Whether later turns can follow: the answer is complete, or reached the length limit."""
        reason = (self.finish_reason or "").lower()
        return not self.calls and reason in message.COMPLETE_REASONS | message.LENGTH_REASONS

    @property
    def usage(self) -> dict[str, Any] | None:
        """The usage that the server reported, repairs included; None for a stored answer."""
        return None if self.cached else self.bill.total

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
        if "".join(self._reasoning):  # the server, or the decoder, has told the two apart
            return "".join(self._reasoning), text
        return cut_thinking(text)

    @property
    def printed(self) -> str:
        """What is printed: the text, its code block, its JSON, or the calls."""
        if self.want.calls_only:
            return "\n".join(compact(_listed(call)) for call in self.calls)
        if self.want.extract:
            return block(self.text, self.want.extract) or ""
        return whole_fence(self.text).strip() if self.want.schema else self.text

    @property
    def result(self) -> Any:
        """What is printed, or with a schema the value in it."""
        return self._value if self.want.schema and self.failure is None else self.printed

    @property
    def refusal(self) -> str:
        """What the model said when it refused."""
        return "".join(self._refusal)

    def take(self, event: Event) -> None:
        """Add what an event brings."""
        if self.first_token is None and isinstance(event, (Text, Refusal, ToolCall)):
            self.first_token = time.monotonic()
        match event:
            case Text(text):
                self._text.append(text)
            case Reasoning(text):
                self._reasoning.append(text)
            case Refusal(text):
                self._refusal.append(text)
            case Finish(reason):
                self.finish_reason = reason
            case Usage(used):
                self.bill.used = used
            case Served(model):
                self.served_by = model
            case Cited():
                self.citations.append(event._asdict())
            case Opened(request_id, api):
                self.request_id, self.api, self.bill.accepted = request_id, api, True
            case ToolCall():
                self.calls.append(event)
            case Again():
                self.void()

    def judge(self) -> None:
        """Set ``failure``: why the answer, which has ended, is incomplete or not what ``want`` says; None if it is."""
        self.failure = _unfinished(self) or _missing(self)
        if self.want.schema is not None and self.failure is None and not self.calls:
            try:
                self._value = schema.validate(self.text, self.want.schema)
            except schema.Invalid as problem:
                self.failure = problem
        judge = self.want.judge
        if judge is not None and self.failure is None and not self.calls and (found := judge(self.printed)):
            self.failure = schema.Invalid(found)

    def end(self, status: int) -> None:
        """End the request on its way, if there is one, with this status."""
        self.bill.end(status, "".join([*self._reasoning, *self._text]))


def _unfinished(answer: Answer) -> Failure | None:
    """Return why the finish reason makes the answer a failure, or None."""
    word = answer.finish_reason or ""
    reason = word.lower()
    if answer.refusal:
        return Refused(f'the model refused: "{answer.refusal}"')
    if reason in message.REFUSAL_REASONS:
        return Refused(f"a filter stopped the answer (finish reason '{word}')")
    if reason in message.LENGTH_REASONS:
        if answer.text.strip():
            return Truncated("the answer is truncated: it reached the length limit")
        return Truncated("the answer is truncated before its first word: reasoning used up the length limit")
    if reason in message.TOOL_REASONS if not answer.calls else not answer.want.tools:
        name = f" {answer.calls[0].name}" if answer.calls else ""
        return Absent(f"the model asked for a tool{name} that was not offered (finish reason '{word}')")
    if answer.calls and reason in message.TOOL_REASONS:
        return None
    if reason not in message.COMPLETE_REASONS:
        return Temporary(f"the server interrupted the answer (finish reason '{word}')")
    return None


def _missing(answer: Answer) -> Absent | None:
    """Return the failure of an answer that lacks what was asked for, or None."""
    if answer.calls:
        return None
    if answer.want.calls_only:
        return Absent("the model called no tool")
    if not answer.text.strip():
        return Absent("the answer is empty")
    if answer.want.extract and not answer.printed:
        return Absent("the answer has no code block, or an empty one")
    return None


def _listed(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": tools.value(call.arguments)}
