"""One request and its answer: what a turn, a record of a map and a result of a batch have in common.

Around the request stands what it may cost, whether a stored answer will do, whether the answer is what was wanted,
and the line of usage that it leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from signal import SIGPIPE
from typing import Any, NamedTuple

from gptpipe import cache, prices, schema, sse, tokens, usage
from gptpipe.client import Again, Client, Opened
from gptpipe.errors import (
    Absent,
    ConfigError,
    Failure,
    Interrupted,
    NoInput,
    OverLimit,
    Refused,
    Status,
    Truncated,
    UsageError,
    WriteError,
)
from gptpipe.extract import Fence, whole_fence
from gptpipe.message import Counts, Message, add_usage
from gptpipe.roles import Role
from gptpipe.schema import Schema
from gptpipe.settings import Paths, Settings

ECHO = "echo"  # stands for the endpoint of the built-in model


class Want(NamedTuple):
    """What an answer must be, and how it may be come by.

    ``extract`` is ``"first"`` or ``"last"``: of the text only that code block counts. With a ``schema`` it is JSON;
    ``repair`` is how often the model is shown what is wrong with it. A stored answer will do if it is no older than
    ``max_age`` seconds; with ``cache_only`` nothing else will, and without an age it may be of any.
    """

    extract: str | None = None
    schema: Schema | None = None
    repair: int = 1
    max_age: float | None = None
    cache_only: bool = False
    over_budget: bool = False

    @property
    def stored(self) -> bool:
        """Whether a stored answer will do."""
        return self.cache_only or self.max_age is not None


def wanted(options: Mapping[str, Any], role: Role) -> Want:
    """Return what the options, by long name with underscores, and else the role want of an answer.

    :raises UsageError: if they exclude each other.
    :raises NoInput: ConfigError: if the schema cannot be read or is none.
    """
    extract, path = options.get("extract"), options.get("schema")
    if extract and path:
        raise UsageError("--schema and --extract exclude each other")
    if path == "-":
        raise UsageError("--schema takes the path of a file: standard input is part of the message")
    if not extract and not path:
        extract, path = role.extract, role.schema
        if extract and path:
            raise ConfigError("schema and extract exclude each other, and the role has both")
    age, repair = options.get("cache"), options.get("repair", 1)
    if repair < 0:
        raise UsageError("--repair must be a whole number, 0 or more")
    return Want(
        extract,
        schema.load(path) if path else None,
        repair,
        None if age is None else cache.parse_age(age),
        options.get("cache_only", False),
        options.get("over_budget", False),
    )


class Terms(NamedTuple):
    """What requests are made under: settings, folders, what is wanted, and in whose name their usage is entered.

    ``note`` is told what only ``--verbose`` shows. ``log`` is where usage is entered if there is much of it; else the
    file is opened for each entry.
    """

    settings: Settings
    paths: Paths
    want: Want = Want()
    program: str = "gptpipe"
    session: str | None = None
    note: Callable[[str], object] = lambda _: None
    log: usage.Log | None = None

    @property
    def account(self) -> usage.Account:
        """In whose name usage is entered."""
        return usage.Account(self.program, self.settings.profile, self.settings.model, self.session)


class _Pending(NamedTuple):
    """A request that is on its way; ``started`` is monotonic."""

    account: usage.Account
    messages: list[Message]
    started: float


class Bill:
    """What the requests for one answer used, tries that failed and repairs included.

    ``used`` is the ``usage`` that the server has sent with the present one, ``accepted`` whether it took that one.
    ``entries`` are lines of usage that are still to be written.
    """

    def __init__(self) -> None:
        self.used: dict[str, Any] | None = None
        self.accepted = False
        self.entries: list[usage.Entry] = []
        self._first: dict[str, Any] | None = None  # what the server sent with the first answer, if that was mended
        self._before: dict[str, Any] | None = None  # and with all before the present one
        self._pending: _Pending | None = None

    def void(self) -> None:
        """Forget what the server said of the present request: it comes to nothing."""
        self.used, self.accepted = None, False

    def mend(self) -> None:
        """Keep what it said, and be told that the answer is asked for again."""
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

    def begin(self, account: usage.Account, messages: list[Message]) -> None:
        """Be told that a request is about to be sent."""
        self._pending = _Pending(account, messages, time.monotonic())

    def settle(self, status: int, said: str) -> None:
        """Enter the request that is on its way, once, with what it ended with; ``said`` is what came of its answer.

        One that the server has not accepted used nothing.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        estimate = (0, 0)
        if self.accepted:
            reply: list[Message] = [{"content": said}] if said else []
            estimate = tokens.estimate(pending.messages), tokens.estimate(reply)
        seconds = time.monotonic() - pending.started
        self.entries.append(usage.counted(self.used, estimate, pending.account, seconds, status))


class Answer:
    """What has come of an answer so far.

    ``finish_reason`` is as the server sent it, ``served_by`` the model that it says answered, ``bill`` what the answer
    used.
    """

    def __init__(self) -> None:
        self.want = Want()
        self.served_by: str | None = None
        self.request_id: str | None = None
        self.cached = False
        self.first_token: float | None = None
        self.bill = Bill()
        self._value: Any = None
        self._invalid: Absent | None = None
        self._forget()

    def _forget(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self.finish_reason: str | None = None

    def void(self) -> None:
        """Forget what came: the try is repeated."""
        self._forget()
        self.bill.void()

    def mend(self) -> None:
        """Forget what came, but not what it cost: it is asked for again."""
        self._forget()
        self.bill.mend()

    def recall(self, stored: dict[str, Any]) -> None:
        """Become an answer that was stored."""
        self.void()
        self.cached = True
        self._text, self._reasoning = [str(stored.get("text", ""))], [str(stored.get("reasoning", ""))]
        self.finish_reason, self.served_by = stored.get("finish_reason"), stored.get("served_by")
        self.bill.used = stored.get("usage")

    def storable(self) -> dict[str, Any]:
        """Return what :meth:`recall` takes."""
        return {
            "text": self.text,
            "reasoning": self.reasoning,
            "finish_reason": self.finish_reason,
            "served_by": self.served_by,
            "usage": self.bill.measured,
        }

    @property
    def ended(self) -> bool:
        """Whether a finish reason came."""
        return self.finish_reason is not None

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
        return sse.cut_thinking(text)

    @property
    def printed(self) -> str:
        """What is printed of the text: all, its code block, or its JSON."""
        if self.want.extract:
            return _block(self.text, self.want.extract)
        return whole_fence(self.text).strip() if self.want.schema else self.text

    @property
    def result(self) -> Any:
        """What is printed, or with a schema the value in it."""
        return self._value if self.want.schema and self.failure() is None else self.printed

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
            case sse.Usage(used):
                self.bill.used = used
            case sse.Served(model, _):
                self.served_by = model
            case Opened(request_id):
                self.request_id, self.bill.accepted = request_id, True
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
        if self.want.extract and not self.printed:
            return Absent("the answer has no code block, or an empty one")
        return self._invalid

    def validate(self) -> Absent | None:
        """Return what is wrong with an answer that has ended and is to be JSON by a schema, or None.

        :raises ConfigError: if the schema refers to itself without end.
        """
        self._invalid = None
        if self.want.schema is not None and self.failure() is None:
            try:
                self._value = schema.validate(self.text, self.want.schema)
            except Absent as problem:
                self._invalid = problem
        return self._invalid

    def settle(self, status: int) -> None:
        """Enter the request that is on its way, once, with what it ended with."""
        self.bill.settle(status, "".join([*self._reasoning, *self._text]))


def _block(text: str, which: str) -> str:
    fence = Fence(last=which == "last")
    return fence.feed(text) + fence.close()


def system_of(settings: Settings) -> list[Message]:
    """Return the system message, in a list, or an empty list."""
    return [{"role": "system", "content": settings.system}] if settings.system else []


def body_of(settings: Settings, messages: list[Message], form: Schema | None = None) -> dict[str, Any]:
    """Return a request's JSON, but for the fields with which the client asks for a stream; ``form`` is the answer's."""
    body = {"model": settings.model, "messages": messages, **settings.params}
    return body if form is None else {**body, "response_format": schema.response_format(form)}


class Receiver:
    """Where an answer goes while it arrives; this one holds it back."""

    def begin(self) -> None:
        """Be told that the first byte of the answer is there."""

    def text(self, text: str) -> None:
        """Take a piece of the answer."""

    def reasoning(self, text: str) -> None:
        """Take a piece of the reasoning."""

    def again(self) -> None:
        """Be told that what came is void: it is asked for again."""

    def repeatable(self) -> bool:
        """Return whether a try that failed may be repeated: nothing was passed on."""
        return True


def ask(client: Client, body: dict[str, Any], answer: Answer, receiver: Receiver, terms: Terms) -> None:
    """Send the request and fill ``answer`` until it has ended; the receiver sees each piece as it comes.

    With a schema the model is shown what is wrong with its answer, and asked again, as often as is wanted. A complete
    answer is stored if a stored one would have done. What the requests used is entered by :func:`enter`, later.

    :raises Failure: if there is no answer, or only a part of one; what came is in ``answer``. Whether an answer that
        has ended is complete, :meth:`Answer.failure` says.
    """
    answer.want = terms.want
    asked, left = body, terms.want.repair
    while (problem := _once(client, asked, answer, receiver, terms)) is not None and left > 0:
        left -= 1
        reply: Message = {"role": "assistant", "content": answer.text}
        asked = {**asked, "messages": [*asked["messages"], reply, schema.repair_message(problem)]}
        answer.mend()
        receiver.again()
    if terms.want.stored and answer.failure() is None:
        _store(body, answer, terms)


def _once(client: Client, body: dict[str, Any], answer: Answer, receiver: Receiver, terms: Terms) -> Absent | None:
    """Ask, and return in what an answer that is complete is not valid for the schema."""
    status = int(Status.BUG)
    answer.bill.begin(terms.account, body["messages"])
    try:
        for event in client.stream(body, repeatable=receiver.repeatable):
            if isinstance(event, Again):
                if answer.bill.accepted:  # it was paid for
                    answer.settle(event.failure.status)
                    answer.bill.begin(terms.account, body["messages"])
                receiver.again()
            if answer.first_token is None and isinstance(event, (sse.Text, sse.Refusal)):
                answer.first_token = time.monotonic()
                receiver.begin()
            answer.take(event)
            if isinstance(event, sse.Text):
                receiver.text(event.text)
            elif isinstance(event, sse.Reasoning):
                receiver.reasoning(event.text)
        problem = answer.validate()
        failure = answer.failure()
        status = failure.status if failure else Status.OK
    except Failure as failure:
        status = failure.status
        raise
    except Interrupted as ending:
        status = 128 + ending.signum
        raise
    except BrokenPipeError:
        status = 128 + SIGPIPE
        raise
    finally:
        answer.settle(status)
    return problem


# Stored answers


def recall(body: dict[str, Any], answer: Answer, receiver: Receiver, terms: Terms) -> bool:
    """Fill ``answer`` from what is stored for the request, if that will do and is complete; return whether it was.

    :raises NoInput: if it was not, and nothing else will do.
    """
    answer.want = want = terms.want
    if not want.stored:
        return False
    stored = cache.get(terms.paths.answers, _key(body, terms), want.max_age)
    if stored is not None:
        answer.recall(stored)
        if answer.validate() is None and answer.failure() is None:
            answer.first_token = time.monotonic()
            receiver.begin()
            receiver.text(answer.text)
            return True
        answer.cached = False
        answer.void()
    if want.cache_only:
        raise NoInput("no answer to this request is stored, and --cache-only does not ask")
    return False


def _store(body: dict[str, Any], answer: Answer, terms: Terms) -> None:
    try:
        cache.put(terms.paths.answers, _key(body, terms), answer.storable())
    except OSError as error:
        terms.note(f"the answer is not stored: {error.strerror}")


def _key(body: dict[str, Any], terms: Terms) -> str:
    return cache.key(terms.settings.base_url or ECHO, body)


# What requests cost


def check_budget(settings: Settings, paths: Paths, *, over: bool) -> None:
    """See that no budget is used up, unless ``over`` allows it. Nothing is imported for it.

    :raises OverLimit: if one is.
    :raises WriteError: if a budget is set, and what will be used cannot be entered.
    """
    try:
        usage.check(paths.usage, settings.budget._asdict())
    except OverLimit:
        if not over:
            raise


def check_price(terms: Terms) -> None:
    """See that the model's price is known if a budget in USD is set, unless ``--over-budget`` was given.

    :raises OverLimit: if it is not.
    """
    chosen = terms.settings
    if terms.want.over_budget or chosen.base_url is None:
        return
    some = Counts(1, 1)
    usage.check_price(
        terms.paths.usage,
        chosen.budget._asdict(),
        chosen.profile,
        chosen.model,
        lambda: prices.price(chosen.model, some, chosen.base_url, chosen.prices) is not None,
    )


def enter(answer: Answer, terms: Terms) -> None:
    """Enter what the answer's requests used. Called when the answer is out: under a budget in USD it finds prices."""
    while answer.bill.entries:
        entry = answer.bill.entries.pop(0)
        if not terms.settings.usage:
            continue
        if terms.settings.budget.day_usd is not None or terms.settings.budget.month_usd is not None:
            entry = entry._replace(usd=cost(entry, terms.settings))
        try:
            if terms.log:
                terms.log.append(entry)
            else:
                usage.append(terms.paths.usage, entry)
        except WriteError as failure:
            terms.note(failure.message)


def cost(entry: usage.Entry, settings: Settings) -> float | None:
    """Return what a request cost in USD, None if that is not known."""
    used = Counts(entry.input, entry.output, entry.cached, entry.reasoning)
    return prices.price(entry.model, used, settings.base_url, settings.prices, entry.at)
