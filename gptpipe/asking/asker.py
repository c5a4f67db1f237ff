"""Asking once: what a turn, a record of a map and a check of the settings have in common.

Around the request stands what it may cost, whether a stored answer will do, whether the answer is what was wanted,
and the line of usage that it leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from signal import SIGPIPE
from typing import NamedTuple

from gptpipe.asking import cache, schema
from gptpipe.asking.answer import Answer, Want
from gptpipe.errors import Absent, Failure, Interrupted, NoInput, Status, WriteError
from gptpipe.message import Counts, Message
from gptpipe.settings.settings import Paths, Settings
from gptpipe.usage import budget, ledger, prices
from gptpipe.usage.prices import cost
from gptpipe.wire.client import Client
from gptpipe.wire.events import Again, Reasoning, Refusal, Text
from gptpipe.wire.request import Request, identity

ECHO = "echo"  # stands for the endpoint of the built-in model


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
    log: ledger.Log | None = None

    @property
    def account(self) -> ledger.Account:
        """In whose name usage is entered."""
        return ledger.Account(self.program, self.settings.profile, self.settings.model, self.session)


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


def ask(client: Client, request: Request, answer: Answer, receiver: Receiver, terms: Terms) -> None:
    """Send the request and fill ``answer`` until it has ended; the receiver sees each piece as it comes.

    With a schema the model is shown what is wrong with its answer, and asked again, as often as is wanted. A complete
    answer is stored if a stored one would have done. What the requests used is entered by :func:`enter`, later.

    :raises Failure: if there is no answer, or only a part of one; what came is in ``answer``. Whether an answer that
        has ended is complete, :meth:`Answer.failure` says.
    """
    answer.want = terms.want
    asked, left = request, terms.want.repair
    while (problem := _once(client, asked, answer, receiver, terms)) is not None and left > 0:
        left -= 1
        reply: Message = {"role": "assistant", "content": answer.text}
        asked = asked._replace(messages=[*asked.messages, reply, schema.repair_message(problem)])
        answer.mend()
        receiver.again()
    if terms.want.stored and answer.failure() is None:
        _store(request, answer, terms)


def _once(client: Client, request: Request, answer: Answer, receiver: Receiver, terms: Terms) -> Absent | None:
    """Ask, and return in what an answer that is complete is not valid for the schema."""
    status = int(Status.BUG)
    answer.bill.begin(terms.account, request.messages)
    try:
        for event in client.stream(request, repeatable=receiver.repeatable):
            if isinstance(event, Again):
                if answer.bill.accepted:  # it was paid for
                    answer.settle(event.failure.status)
                    answer.bill.begin(terms.account, request.messages)
                receiver.again()
            if answer.first_token is None and isinstance(event, (Text, Refusal)):
                answer.first_token = time.monotonic()
                receiver.begin()
            answer.take(event)
            if isinstance(event, Text):
                receiver.text(event.text)
            elif isinstance(event, Reasoning):
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


def recall(request: Request, answer: Answer, receiver: Receiver, terms: Terms) -> bool:
    """Fill ``answer`` from what is stored for the request, if that will do and is complete; return whether it was.

    :raises NoInput: if it was not, and nothing else will do.
    """
    answer.want = want = terms.want
    if not want.stored:
        return False
    stored = cache.get(terms.paths.answers, _key(request, terms), want.max_age)
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


def _store(request: Request, answer: Answer, terms: Terms) -> None:
    try:
        cache.put(terms.paths.answers, _key(request, terms), answer.storable())
    except OSError as error:
        terms.note(f"the answer is not stored: {error.strerror}")


def _key(request: Request, terms: Terms) -> str:
    return cache.key(terms.settings.base_url or ECHO, identity(request))


def check_price(terms: Terms) -> None:
    """See that the model's price is known if a budget in USD is set, unless ``--over-budget`` was given.

    :raises OverLimit: if it is not.
    """
    chosen = terms.settings
    if terms.want.over_budget or chosen.base_url is None:
        return
    some = Counts(1, 1)
    budget.check_price(
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
                ledger.append(terms.paths.usage, entry)
        except WriteError as failure:
            terms.note(failure.message)
