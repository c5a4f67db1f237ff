"""One record asked: what ``gptpipe-map`` does with each."""

from __future__ import annotations

import os
from functools import partial
from threading import Thread
from typing import NamedTuple

from gptpipe.asking.answer import Answer
from gptpipe.asking.asker import Asker, Receiver
from gptpipe.errors import Failure
from gptpipe.message import counts
from gptpipe.records import request
from gptpipe.records.equals import Equals
from gptpipe.records.input import FILES, Record
from gptpipe.records.pace import Pace
from gptpipe.records.request import Maker
from gptpipe.records.result_file import Sink
from gptpipe.records.results import Outcome, State
from gptpipe.records.tally import stops
from gptpipe.wire.request import Request

_TICK = 0.1  # seconds: how late the end of a run may be seen while a file is waited for


class Worker(NamedTuple):
    """Asks for each record, unless ``sink`` has its result or an equal record was asked.

    Without ``equals`` each equal record is asked. With ``again``, truncated and refused answers are asked for again.
    """

    maker: Maker
    asker: Asker
    pace: Pace
    sink: Sink
    equals: Equals | None = None
    again: bool = False

    def answer(self, record: Record) -> Outcome:
        """Return the outcome of the record.

        :raises Stopped: if the run takes no more requests.
        """
        key = None
        try:
            asked = self._request(record)
            key = request.key_of(asked)
            known = self.sink.take(record, key, again=self.again)
        except Failure as failure:
            return self._stopping(Outcome(record, key, failure))
        if known is not State.MISSING:
            return Outcome(record, key, known=known)
        ask = partial(self._ask, record, key, asked)
        return ask() if self.equals is None else self.equals.once(record, key, ask)

    def _request(self, record: Record) -> Request:
        """Return the request of a record. A FIFO, which may never end, is read in a thread that can be left."""
        if self.maker.how.form != FILES or os.path.isfile(record.value):
            return self.maker.request(record)
        made: list[Request | BaseException] = []

        def make() -> None:
            try:
                made.append(self.maker.request(record))
            except BaseException as error:
                made.append(error)

        reader = Thread(target=make, daemon=True)
        reader.start()
        while not made:
            self.pace.sleep(0)
            reader.join(_TICK)
        if isinstance(made[0], BaseException):
            raise made[0]
        return made[0]

    def _ask(self, record: Record, key: str, asked: Request) -> Outcome:
        answer = Answer(self.maker.want)
        self.asker.ask(asked, answer, Receiver())
        if answer.usage:
            used = counts(answer.usage)
            self.pace.spent(asked, used.input + used.output)
        return self._stopping(request.outcome(record, key, asked.model, answer))

    def _stopping(self, outcome: Outcome) -> Outcome:
        if outcome.failure and stops(outcome.failure):
            self.pace.stop()  # at once: the results are judged in their order, later
        return outcome
