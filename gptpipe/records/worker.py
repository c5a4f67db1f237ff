"""Each record asked for itself: what ``gptpipe-map`` does with one, and what the whole run comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gptpipe.asking import tokens
from gptpipe.asking.answer import Answer
from gptpipe.asking.asker import Receiver, Terms, ask, enter, recall
from gptpipe.errors import Failure
from gptpipe.message import counts
from gptpipe.records import request
from gptpipe.records.input import Record
from gptpipe.records.pace import Pace
from gptpipe.records.request import Maker
from gptpipe.records.results import Outcome, State
from gptpipe.records.tally import stops
from gptpipe.usage.budget import check_budget
from gptpipe.wire.client import Client
from gptpipe.wire.request import Request

Known = Callable[[int, str], State]


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
            asked = self.maker.request(record)
            key = request.key(asked)
            state = self.known(record.number, key)
            if state is State.ANSWERED or (state is State.INCOMPLETE and not self.again):
                return Outcome(record, key, answer, None, known=state)
            self._ask(asked, answer)
            failure = answer.failure()
        except Failure as problem:
            failure = problem
            if stops(problem):
                self.pace.stop()  # at once: whoever judges the results sees this one in its turn
        enter(answer, self.terms)
        return Outcome(record, key, answer, failure, answer.result)

    def _ask(self, asked: Request, answer: Answer) -> None:
        chosen, paths = self.terms.settings, self.terms.paths
        receiver = Receiver()
        if recall(asked, answer, receiver, self.terms):
            return
        if chosen.max_input_tokens is not None:
            tokens.check(asked.messages, chosen.max_input_tokens, chosen.model, paths.cache)
        check_budget(chosen, paths, over=self.terms.want.over_budget)
        ask(self.client, asked, answer, receiver, self.terms)
        if answer.usage:
            used = counts(answer.usage)
            self.pace.spent(asked, used.input + used.output)
