"""Each record asked for itself: what ``gptpipe-map`` does with one, and what the whole run comes to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from gptpipe.asking import tokens, turn
from gptpipe.asking.answer import Answer, Want
from gptpipe.asking.asker import Receiver, Terms, ask, body_of, check_budget, enter, recall, system_of, wanted
from gptpipe.asking.context import Place, role_of
from gptpipe.asking.inputs import text_or_file
from gptpipe.asking.schema import Schema
from gptpipe.errors import BadInput, ConfigError, Failure, KeyRefused, OverLimit, Temporary, Unavailable, UsageError
from gptpipe.message import Counts, Message, counts
from gptpipe.records import input
from gptpipe.records.input import Input, Record
from gptpipe.records.pace import Pace
from gptpipe.records.results import Outcome, State
from gptpipe.sessions import attachments
from gptpipe.settings import resolve
from gptpipe.settings.resolve import Settings
from gptpipe.text.template import Template, parse
from gptpipe.usage import prices
from gptpipe.wire.client import Client

Known = Callable[[int, str], State]

_STOPPING = (KeyRefused, ConfigError, OverLimit)


class Maker(NamedTuple):
    """What makes a request of a record; ``schema`` is that of the answer."""

    template: Template
    how: Input
    settings: Settings
    schema: Schema | None = None

    def request(self, record: Record) -> dict[str, Any]:
        """Return the request's JSON, but for the fields with which the client asks for a stream.

        :raises Failure: if the record cannot be made one.
        """
        if record.failure is not None:
            raise record.failure
        chosen = self.settings
        asked: Message = {"role": "user", "content": input.content(record, self.template, self.how)}
        messages = [*system_of(chosen), asked]
        attachments.check_total(messages)
        return body_of(chosen, messages, self.schema)


def maker_of(template: str | None, options: Mapping[str, Any], place: Place) -> tuple[Maker, Want]:
    """Return what makes the requests, and what is wanted of the answers. ``options`` are those that were given.

    :raises UsageError: if there is no template, it does not fit the input, or options exclude each other.
    :raises Failure: if settings, role or schema are faulty.
    """
    how = input.how(options)
    role = role_of(place, options.get("role"), dict(options.get("var", ())))
    if template is None and role.prompt is None:
        raise UsageError("no template was given", "{} in it is the record, as in 'translate: {}'")
    pieces: Template = [role.prompt or ""]
    if template is not None:
        pieces = parse(text_or_file(template, how.encoding), "the template")
    input.check_fields(pieces, how.form)
    want = wanted(options, role)
    chosen = resolve.resolve(options, role.settings, {}, place.env, place.config)
    return Maker(pieces, how, chosen, want.schema), want


def stops(failure: Failure) -> bool:
    """Return whether every other record would meet the failure too."""
    return isinstance(failure, _STOPPING) or (isinstance(failure, Unavailable) and failure.every)


def unknown(_: int, __: str) -> State:
    """Say that nothing is known of any record yet."""
    return State.MISSING


class Asker(NamedTuple):
    """What asks for a record; ``known`` says what an earlier run has found.

    With ``again`` records that were truncated or refused are asked again.
    """

    maker: Maker
    client: Client
    pace: Pace
    terms: Terms
    known: Known = unknown
    again: bool = False

    def answer(self, record: Record) -> Outcome:
        """Return what has come of the record.

        :raises Stopped: if the run takes no more requests.
        """
        answer = Answer()
        key = None
        try:
            body = self.maker.request(record)
            key = input.key(body)
            state = self.known(record.number, key)
            if state is State.ANSWERED or (state is State.INCOMPLETE and not self.again):
                return Outcome(record, key, answer, None, known=state)
            self._ask(body, answer)
            failure = answer.failure()
        except Failure as problem:
            failure = problem
            if stops(problem):
                self.pace.stop()  # at once: whoever judges the results sees this one in its turn
        enter(answer, self.terms)
        return Outcome(record, key, answer, failure, answer.result)

    def _ask(self, body: dict[str, Any], answer: Answer) -> None:
        chosen, paths = self.terms.settings, self.terms.paths
        receiver = Receiver()
        if recall(body, answer, receiver, self.terms):
            return
        if chosen.max_input_tokens is not None:
            tokens.check(body["messages"], chosen.max_input_tokens, chosen.model, paths.cache)
        check_budget(chosen, paths, over=self.terms.want.over_budget)
        ask(self.client, body, answer, receiver, self.terms)
        if answer.usage:
            used = counts(answer.usage)
            self.pace.spent(body, used.input + used.output)


class Tally:
    """What the records of a run have come to so far.

    ``fatal`` is the failure that every other record would meet too; then the run is to be stopped.
    """

    def __init__(self, jobs: int, max_failures: int | None) -> None:
        self._jobs = jobs
        self._max_failures = max_failures
        self.answered = self.failed = self.known = 0
        self._stale = 0  # failures that an earlier run has met
        self.fatal: Failure | None = None
        self._first: tuple[int, Failure] | None = None
        self._refused: Unavailable | None = None  # the first refusal, while it may be one of all
        self._all_temporary = True

    @property
    def total(self) -> int:
        """The number of records that were looked at."""
        return self.answered + self.failed + self.known

    def judge(self, outcome: Outcome) -> Outcome:
        """Count a record, and return it with the failure that is its own.

        A request that the API does not take is a fault of its record, unless no record was answered yet.
        """
        if outcome.known is State.ANSWERED:
            self.known += 1
        elif outcome.failure is None and outcome.known is not State.INCOMPLETE:
            self.answered += 1
            self._refused = None
        else:
            outcome = self._fail(outcome)
        return outcome

    def _fail(self, outcome: Outcome) -> Outcome:
        failure = outcome.failure or BadInput("its answer is truncated or refused; --retry-failed asks again")
        self.failed += 1
        self._stale += outcome.known is not State.MISSING
        if isinstance(failure, Unavailable) and not failure.every and (self.answered or self.known):
            failure = BadInput(failure.message, failure.hint)
        if stops(failure):
            self.fatal = self.fatal or failure
        elif isinstance(failure, Unavailable):
            self._refused = self._refused or failure
            if self.failed >= self._jobs:  # as many as were sent at first, and nothing else came
                self.fatal = self.fatal or self._refused
        if self._first is None or outcome.record.number < self._first[0]:
            self._first = outcome.record.number, failure
        self._all_temporary = self._all_temporary and isinstance(failure, Temporary)
        return outcome._replace(failure=failure) if outcome.failure else outcome

    @property
    def over(self) -> bool:
        """Whether no more records are to be asked."""
        limit = self._max_failures
        return self.fatal is not None or (limit is not None and self.failed - self._stale >= limit)

    def verdict(self) -> Failure | None:
        """Return what the whole run ends with."""
        if self.fatal or self._first is None:
            return self.fatal
        if self._refused:
            return self._refused
        kind = Temporary if self._all_temporary else BadInput
        number, failure = self._first
        many = f"{self.failed} of {self.total} records failed, the first is record {number}"
        return kind(f"{many}: {failure.message}", failure.hint)


def rehearse(source: Iterable[Record], maker: Maker, place: Place, without: Collection[str] = ()) -> dict[str, Any]:
    """Return what a run would send: how many records and tokens, what they cost, and the first request.

    ``without`` are fields that the client would add to it.
    """
    chosen = maker.settings
    meter = tokens.meter(chosen.model, place.paths.cache)
    first: dict[str, Any] | None = None
    found = failed = total = 0
    exact = True
    cost: float | None = 0.0
    for record in source:
        found += 1
        try:
            body = maker.request(record)
        except Failure:
            failed += 1
            continue
        first = first or body
        messages = body["messages"]
        counted = meter.prompt(messages)
        total += counted
        exact = exact and meter.exact(messages)
        price = prices.price(chosen.model, Counts(input=counted), chosen.base_url, chosen.prices)
        cost = None if price is None or cost is None else cost + price
    return {
        "records": found,
        "failed": failed,
        "tokens": total,
        "tokens_estimated": not exact,
        "price": cost,
        "request": first and turn.shown(chosen, place, first, without),
    }
