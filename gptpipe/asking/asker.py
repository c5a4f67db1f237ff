"""Asking: what a turn, a record of a map and a check of the settings have in common.

Around each request stand the stored answers, the limits and budgets, the repairs of JSON, and the line of usage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from gptpipe.asking import cache, schema, tokens, tools
from gptpipe.asking.answer import Answer
from gptpipe.asking.context import Context
from gptpipe.asking.tools import Called, Toolbox
from gptpipe.asking.want import Want
from gptpipe.errors import Failure, NoInput, OverLimit, Status, WriteError, status_of
from gptpipe.message import Counts, Message
from gptpipe.settings import keys
from gptpipe.settings.settings import Settings
from gptpipe.text.strict_json import compact
from gptpipe.usage import budget, ledger, prices
from gptpipe.wire import protocol
from gptpipe.wire.client import Client
from gptpipe.wire.events import Again, Event, Reasoning, Refusal, Text, ToolCall
from gptpipe.wire.request import Request, identity


class Receiver:
    """Where an answer goes while it arrives; this one holds it back."""

    def begin(self) -> None:
        """Called when the first byte of the answer arrives."""

    def text(self, text: str) -> None:
        """Take a piece of the answer."""

    def called(self, call: Called) -> None:
        """Take the outcome of a tool call."""

    def reasoning(self, text: str) -> None:
        """Take a piece of the reasoning."""

    def repeatable(self) -> bool:
        """Return whether a try that failed may be repeated: nothing was passed on."""
        return True

    def end(self) -> object:
        """Called when the answer has ended, whole or not, and is kept; the next process of the session still waits."""


class Asker:
    """Asks under one set of settings: one for a turn, one for all records of a map. Threads may share it.

    ``connect`` makes the client. It is called when the first request is certain, and once.
    """

    def __init__(self, context: Context, settings: Settings, want: Want, connect: Callable[[], Client]) -> None:
        self._context = context
        self._settings = settings
        self._want = want
        self._client = _Once(connect)
        self._log = ledger.Log(context.paths.usage)
        self._ceiling = want.ceiling if settings.base_url else None

    @property
    def connected(self) -> bool:
        """Whether the client was made, because a request was certain."""
        return bool(self._client.made)

    @property
    def retries(self) -> int:
        """How many tries were repeated."""
        return sum(client.retries for client in self._client.made) - self._client.retries_before

    def close(self) -> None:
        """Close the file of usage, for a program that goes on. The caller closes the client."""
        self._log.close()

    def ask(self, request: Request, answer: Answer, receiver: Receiver) -> None:
        """Fill ``answer`` until it has ended or failed; the receiver gets each piece as it comes.

        With a cache, a stored answer is returned if there is one, and a complete new answer is stored. With a schema,
        the model is shown what is wrong with its answer and asked again, up to the number of repairs in ``want``.
        """
        try:
            self._ask(request, answer, receiver)
        except Failure as failure:
            answer.failure = failure

    def _ask(self, request: Request, answer: Answer, receiver: Receiver) -> None:
        if self._want.stored and self._recalled(request, answer, receiver):
            return
        asked, left = request, self._want.repair
        while True:
            self._send(asked, answer, receiver)
            if answer.failure is None and answer.calls and not self._want.calls_only:
                self._run_calls(answer, receiver)
                asked = request._replace(messages=[*request.messages, *answer.rounds])
            elif isinstance(answer.failure, schema.Invalid) and left > 0:
                left -= 1
                repair = schema.repair_message(answer.failure, json=self._want.schema is not None)
                asked = asked._replace(messages=[*asked.messages, answer.message, repair])
                answer.mend()
            else:
                break
        if self._want.stored and answer.failure is None:
            self._store(request, answer)

    def _run_calls(self, answer: Answer, receiver: Receiver) -> None:
        """Run the calls of a round, as many as ``--max-calls`` allows."""
        env = keys.keyless(self._context.env, self._context.config, *self._client().way.secrets)
        toolbox = Toolbox(self._want.tools, env, self._want.approve)
        for call in answer.begin_round():
            if len(answer.called) >= self._want.max_calls:
                raise OverLimit(f"the model wants more than {self._want.max_calls} calls of tools (--max-calls)")
            called = tools.call(call.name, call.arguments, toolbox)
            answer.add_result(call, called)
            self._context.note(str(called))
            receiver.called(called)

    # One request

    def _send(self, request: Request, answer: Answer, receiver: Receiver) -> None:
        """Send a request and pass its events on. With tools, the text waits until no call can follow."""
        limit = self._settings.max_input_tokens
        if limit is not None:
            tokens.check([*request.messages, *offered(request)], limit, request.model, self._context.paths.cache)
        check_spending(self._context, self._settings, self._want)
        client = self._client()
        account = ledger.account_of(self._context.program, self._settings, self._settings.session)
        with self._set_aside(request), self._booked(answer):
            answer.bill.begin(account, request.messages)
            for event in client.stream(request, repeatable=receiver.repeatable):
                if isinstance(event, Again) and answer.bill.accepted:  # it was paid for
                    with self._context.deadline.held():
                        self._book(answer, event.failure.status)
                    if self._ceiling is not None:
                        self._ceiling.check()
                    answer.bill.begin(account, request.messages)
                _pass_on(event, answer, receiver, held=bool(request.tools))
            answer.judge()
        if request.tools and not answer.calls:
            receiver.text(answer.text)

    @contextmanager
    def _set_aside(self, request: Request) -> Iterator[None]:
        """Set aside what the request of the block may cost, under ``--max-cost``."""
        if self._ceiling is None:
            yield
            return
        limit = request.params.get("max_tokens")
        most = Counts(tokens.estimate([*request.messages, *offered(request)]), limit if isinstance(limit, int) else 0)
        reserved = self._ceiling.begin(prices.cost(most, self._settings) or 0.0)
        try:
            yield
        finally:
            self._ceiling.end(reserved)

    @contextmanager
    def _booked(self, answer: Answer) -> Iterator[None]:
        """Book what the requests of the block used, whatever ends it; the deadline may."""
        deadline = self._context.deadline
        with deadline.ending(lambda: self._book(answer, Status.TEMPFAIL)):
            try:
                yield
            except BaseException as error:
                with deadline.held():
                    self._book(answer, status_of(error))
                raise
            with deadline.held():
                self._book(answer, status_of(answer.failure))

    def _book(self, answer: Answer, status: int) -> None:
        """Write the lines of usage; a request on its way ends with this status."""
        answer.end(status)
        entries = answer.bill.drawn()
        for entry in entries if self._settings.base_url else ():
            used = Counts(entry.input, entry.output, entry.cached, entry.reasoning)
            if self._ceiling is not None:
                self._ceiling.use(prices.cost(used, self._settings, entry.at) or 0.0)
            if not self._settings.usage:
                continue
            if self._settings.budget.in_usd:
                entry = entry._replace(usd=prices.cost(used, self._settings, entry.at))
            try:
                self._log.append(entry)
            except WriteError as failure:
                self._context.note(failure.message)

    # Stored answers

    def _recalled(self, request: Request, answer: Answer, receiver: Receiver) -> bool:
        """Fill ``answer`` from the stored answer, if there is a complete one; return whether there was."""
        found = cache.get(self._context.paths.answers, self._key(request), self._want.max_age)
        if found is not None:
            answer.recall(found)
            answer.judge()
            if answer.failure is None:
                receiver.begin()
                receiver.text(answer.text)
                return True
            answer.void()
        if self._want.cache_only:
            raise NoInput("no answer to this request is stored, and --cache-only does not ask")
        return False

    def _store(self, request: Request, answer: Answer) -> None:
        try:
            cache.put(self._context.paths.answers, self._key(request), answer.storable())
        except OSError as error:
            self._context.note(f"the answer is not stored: {error.strerror}")

    def _key(self, request: Request) -> str:
        spoken = protocol.of(self._settings, request)
        return cache.key_of(protocol.url(self._settings, spoken), identity(request))


def offered(request: Request) -> list[Message]:
    """Return the tools of a request as a message, for counting tokens; an empty list without tools."""
    return [{"role": "system", "content": compact([tool._asdict() for tool in request.tools])}] if request.tools else []


def _pass_on(event: Event, answer: Answer, receiver: Receiver, *, held: bool) -> None:
    """Add an event to the answer, and pass text and reasoning on to the receiver; text is not passed on if ``held``."""
    if answer.first_token is None and isinstance(event, (Text, Refusal, ToolCall)):
        receiver.begin()
    answer.take(event)
    if isinstance(event, Text) and not held:
        receiver.text(event.text)
    elif isinstance(event, Reasoning):
        receiver.reasoning(event.text)


def check_spending(context: Context, settings: Settings, want: Want) -> None:
    """Check that the budgets allow a request, unless ``--over-budget`` was given.

    :raises OverLimit: if a budget is used up, or is in USD and the price of the model is not known.
    :raises WriteError: if a budget is set, and usage cannot be booked.
    """
    budget.check_budget(settings, context.paths, over=want.over_budget)
    if want.over_budget or settings.base_url is None:
        return
    if want.ceiling is not None and prices.cost(Counts(1, 1), settings) is None:
        raise OverLimit(
            f"the price of {settings.model} is not known, and --max-cost is given",
            "[prices] in the settings file can give it; --over-budget asks all the same",
        )
    budget.require_price(context.paths.usage, settings, lambda: prices.cost(Counts(1, 1), settings) is not None)


class _Once:
    """Makes a client when it is called first, whichever thread comes first, and keeps it, or the failure."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._lock = Lock()
        self._failure: Failure | None = None
        self.made: list[Client] = []
        self.retries_before = 0  # of a client that had other work

    def __call__(self) -> Client:
        with self._lock:
            if self._failure:
                raise self._failure
            if not self.made:
                try:
                    self.made.append(self._connect())
                    self.retries_before = self.made[0].retries
                except Failure as failure:
                    self._failure = failure
                    raise
            return self.made[0]


def stored(answers: Path) -> tuple[int, int]:
    """Return how many answers are stored in the folder, and their bytes.

    :raises NoInput: if the folder cannot be read.
    """
    return cache.size(answers)


def forget(answers: Path, older_than: float | None) -> int:
    """Remove the stored answers, or only those older than ``older_than`` seconds; return how many were removed.

    :raises NoInput: if the folder cannot be read.
    :raises WriteError: if an answer cannot be removed.
    """
    return cache.clear(answers, older_than)
