"""An answer: what must be true of it, what has come of it so far, and what its requests used."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from gptpipe import message
from gptpipe.asking import schema, tokens
from gptpipe.errors import Absent, ConfigError, Failure, Refused, Temporary, Truncated, UsageError
from gptpipe.message import Message, Schema, add_usage
from gptpipe.settings.roles import Role
from gptpipe.text.age import parse_age
from gptpipe.text.fences import block, whole_fence
from gptpipe.usage import ledger
from gptpipe.wire.events import Again, Cited, Event, Finish, Opened, Reasoning, Refusal, Served, Text, Usage
from gptpipe.wire.thinking import cut_thinking


class Want(NamedTuple):
    """What an answer must be, and whether a stored one will do.

    ``extract`` is ``"first"`` or ``"last"``: of the text only that code block counts. With a ``schema`` the text is
    JSON; ``repair`` is how often the model is shown what is wrong with it. A stored answer will do if it is at most
    ``max_age`` seconds old. With ``cache_only`` nothing is asked, and without an age the answer may be of any age.
    ``reasoning`` asks for the model's reasoning too, and ``web`` lets it search the web.
    """

    extract: str | None = None
    schema: Schema | None = None
    repair: int = 1
    max_age: float | None = None
    cache_only: bool = False
    over_budget: bool = False
    reasoning: bool = False
    web: bool = False

    @property
    def stored(self) -> bool:
        """Whether a stored answer will do."""
        return self.cache_only or self.max_age is not None


class _Pending(NamedTuple):
    """A request on its way; ``started`` is monotonic."""

    account: ledger.Account
    messages: list[Message]
    started: float


class Bill:
    """What the requests for one answer used, failed tries and repairs included.

    ``used`` is the ``usage`` that the server has sent with the present request, ``accepted`` whether it took that one.
    """

    def __init__(self) -> None:
        self.used: dict[str, Any] | None = None
        self.accepted = False
        self._entries: list[ledger.Entry] = []
        self._first: dict[str, Any] | None = None  # what the server sent with the first answer, if that was mended
        self._before: dict[str, Any] | None = None  # and with all before the present one
        self._pending: list[_Pending] = []  # one or none

    def void(self) -> None:
        """Forget what the server said of the present request: it comes to nothing."""
        self.used, self.accepted = None, False

    def mend(self) -> None:
        """Keep what the server said, before the answer is asked for again."""
        self._first, self._before = self._first or self.used, self.total
        self.void()

    @property
    def total(self) -> dict[str, Any] | None:
        """What the server says that all requests took."""
        return add_usage(self._before, self.used)

    @property
    def measured(self) -> dict[str, Any] | None:
        """The usage as if the answer had come at once: the prompt of the first request, the completion of the last."""
        if self._first is None or self.used is None:
            return self.used
        prompt = {key: value for key, value in self._first.items() if key.startswith("prompt")}
        return {key: value for key, value in self.used.items() if key != "total_tokens"} | prompt

    def drawn(self) -> list[ledger.Entry]:
        """Return the lines of usage that are to be booked, once."""
        entries, self._entries = self._entries, []
        return entries

    def begin(self, account: ledger.Account, messages: list[Message]) -> None:
        """Begin with a request that is about to be sent."""
        self._pending = [_Pending(account, messages, time.monotonic())]

    def end(self, status: int, said: str) -> None:
        """End the request on its way, if there is one; ``said`` is what came of its answer.

        A request that the server has not accepted used nothing.
        """
        for account, messages, started in self._pending:
            estimate = (0, 0)
            if self.accepted:
                reply: list[Message] = [{"content": said}] if said else []
                estimate = tokens.estimate(messages), tokens.estimate(reply)
            seconds = time.monotonic() - started
            self._entries.append(ledger.counted(self.used, estimate, account, seconds, status))
        self._pending = []


class Answer:
    """What has come of an answer so far, and, once it has ended, whether it is what was wanted.

    ``finish_reason`` is as the server sent it, ``served_by`` the model that it says answered, ``bill`` what the answer
    used. ``api`` is the protocol in which it came, and ``citations`` are the sources that it names. ``failure`` is why
    the answer is not complete; None says that it is.
    """

    def __init__(self, want: Want) -> None:
        self.want = want
        self.served_by: str | None = None
        self.request_id: str | None = None
        self.api: str | None = None
        self.cached = False
        self.first_token: float | None = None
        self.bill = Bill()
        self._forget()

    def _forget(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._value: Any = None
        self.citations: list[dict[str, str | None]] = []
        self.finish_reason: str | None = None
        self.failure: Failure | None = Temporary("the answer did not end")

    def void(self) -> None:
        """Forget what came: the try is repeated, or a stored answer will not do."""
        self._forget()
        self.bill.void()
        if self.cached:
            self.cached, self.first_token = False, None

    def mend(self) -> None:
        """Forget what came, but not what it cost: it is asked for again."""
        self._forget()
        self.bill.mend()

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
    def ended(self) -> bool:
        """Whether a finish reason came."""
        return self.finish_reason is not None

    @property
    def finished(self) -> bool:
        """Whether the conversation can go on from it: it is complete, or as long as it may be."""
        return (self.finish_reason or "").lower() in message.COMPLETE_REASONS | message.LENGTH_REASONS

    @property
    def usage(self) -> dict[str, Any] | None:
        """What the server says that it took, repairs included; None also if it was stored."""
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
        """What is printed of the text: all, its code block, or its JSON."""
        if self.want.extract:
            return block(self.text, self.want.extract) or ""
        return whole_fence(self.text).strip() if self.want.schema else self.text

    @property
    def result(self) -> Any:
        """What is printed, or with a schema the value in it."""
        return self._value if self.want.schema and self.failure is None else self.printed

    @property
    def refusal(self) -> str:
        """The words in which the model refused."""
        return "".join(self._refusal)

    def take(self, event: Event) -> None:
        """Add what an event brings."""
        if self.first_token is None and isinstance(event, (Text, Refusal)):
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
            case Again():
                self.void()

    def judge(self) -> None:
        """Find out whether the answer, which has ended, is complete and what was wanted.

        :raises ConfigError: if the schema refers to itself without end.
        """
        self.failure = self._unfinished() or self._missing()
        if self.want.schema is not None and self.failure is None:
            try:
                self._value = schema.validate(self.text, self.want.schema)
            except schema.Invalid as problem:
                self.failure = problem

    def fail(self, failure: Failure) -> None:
        """Note why no complete answer came."""
        self.failure = failure

    def _unfinished(self) -> Failure | None:
        """Return what its finish reason says against it, or None."""
        word = self.finish_reason or ""
        reason = word.lower()
        if self.refusal:
            return Refused(f'the model refused: "{self.refusal}"')
        if reason in message.REFUSAL_REASONS:
            return Refused(f"a filter stopped the answer (finish reason '{word}')")
        if reason in message.LENGTH_REASONS:
            if self.text.strip():
                return Truncated("the answer is truncated: it reached the length limit")
            return Truncated("the answer is truncated before its first word: reasoning used up the length limit")
        if reason in message.TOOL_REASONS:
            return Absent(f"the model asked for a tool that was not offered (finish reason '{word}')")
        if reason not in message.COMPLETE_REASONS:
            return Temporary(f"the server interrupted the answer (finish reason '{word}')")
        return None

    def _missing(self) -> Absent | None:
        """Return what was asked for and is not in it, or None."""
        if not self.text.strip():
            return Absent("the answer is empty")
        if self.want.extract and not self.printed:
            return Absent("the answer has no code block, or an empty one")
        return None

    def end(self, status: int) -> None:
        """End the request on its way, if there is one, with this status."""
        self.bill.end(status, "".join([*self._reasoning, *self._text]))


def wanted(options: Mapping[str, Any], role: Role) -> Want:
    """Return what the options, by long name with underscores, and else the role want of an answer.

    :raises UsageError: if they exclude each other.
    :raises NoInput: ConfigError: if the schema cannot be read or is none.
    """
    extract, path = options.get("extract"), options.get("schema")
    if extract and path is not None:
        raise UsageError("--schema and --extract exclude each other")
    if path == "-":
        raise UsageError("--schema takes the path of a file: standard input is part of the message")
    if not extract and path is None:
        extract, path = role.extract, role.schema
        if extract and path:
            raise ConfigError("schema and extract exclude each other, and the role has both")
    age, repair = options.get("cache"), options.get("repair", 1)
    if repair < 0:
        raise UsageError("--repair must be a whole number, 0 or more")
    return Want(
        extract,
        schema.load(path) if path is not None else None,
        repair,
        None if age is None else parse_age(age),
        options.get("cache_only", False),
        options.get("over_budget", False),
        options.get("reasoning", False),
        options.get("web", False),
    )
