"""One record asked: what ``gptpipe-map`` does with each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gptpipe.asking.answer import Answer
from gptpipe.asking.asker import Asker, Receiver
from gptpipe.asking.want import Want
from gptpipe.errors import Failure
from gptpipe.message import counts
from gptpipe.records import request
from gptpipe.records.input import Record
from gptpipe.records.pace import Pace
from gptpipe.records.request import Maker
from gptpipe.records.results import Outcome, State
from gptpipe.records.tally import stops

Known = Callable[[int, str], State]


def unknown(_: int, __: str) -> State:
    """Say that nothing is known of any record yet."""
    return State.MISSING


class Worker(NamedTuple):
    """What asks for a record; ``known`` says what an earlier run has found.

    With ``again`` records that were truncated or refused are asked again.
    """

    maker: Maker
    asker: Asker
    want: Want
    pace: Pace
    known: Known = unknown
    again: bool = False

    def answer(self, record: Record) -> Outcome:
        """Return what has come of the record.

        :raises Stopped: if the run takes no more requests.
        """
        answer = Answer(self.want)
        key = None
        try:
            asked = self.maker.request(record)
            key = request.key(asked)
            state = self.known(record.number, key)
            if state is State.ANSWERED or (state is State.INCOMPLETE and not self.again):
                return Outcome(record, key, answer, None, known=state)
            self.asker.ask(asked, answer, Receiver())
            if answer.usage:
                used = counts(answer.usage)
                self.pace.spent(asked, used.input + used.output)
        except Failure as failure:
            answer.fail(failure)
        if answer.failure and stops(answer.failure):
            self.pace.stop()  # at once: whoever judges the results sees this one in its turn
        return Outcome(record, key, answer, answer.failure, answer.result)
