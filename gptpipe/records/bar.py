"""What is shown of a run: the bar or a line now and then while it goes on, and a summary at its end."""

from __future__ import annotations

import time
from threading import Event, Thread

from gptpipe.console import output
from gptpipe.console.progress import Progress
from gptpipe.message import Counts, counts
from gptpipe.records.results import Outcome
from gptpipe.records.tally import Tally
from gptpipe.settings.settings import Settings
from gptpipe.usage import prices


class Bar:
    """The progress of a run on standard error; ``every`` is after how many seconds a line says it, None for never.

    ``most`` is what the run may cost in USD.
    """

    def __init__(
        self,
        progress: Progress,
        tally: Tally,
        settings: Settings,
        *,
        verbose: bool,
        every: float | None,
        most: float | None,
    ) -> None:
        self._progress = progress
        self._tally = tally
        self._settings = settings
        self._verbose = verbose
        self._most = most
        self._used = Counts()
        self._cost: float | None = 0.0
        self._ended = Event()
        self._started = time.monotonic()
        self.aside = progress.aside
        if every is not None:
            Thread(target=self._tell, args=(every,), daemon=True).start()

    def add(self, outcome: Outcome) -> None:
        """Count what a record used, and show it."""
        if outcome.usage:
            used = counts(outcome.usage)
            self._used = Counts(*map(sum, zip(self._used, used, strict=True)))
            cost = prices.cost(used, self._settings)
            self._cost = None if cost is None or self._cost is None else self._cost + cost
        if self._progress.shown:
            self._progress.advance(1, f"{self._tally.failed} failed, {self._spent()}")

    def _spent(self) -> str:
        tokens = f"{self._used.input} tokens in, {self._used.output} out"
        if self._cost is None:
            return tokens
        return f"{tokens}, ${self._cost:.4f}" + ("" if self._most is None else f" of ${self._most:g}")

    def _tell(self, every: float) -> None:
        while not self._ended.wait(every):
            done = self._tally.total
            rate = done / (time.monotonic() - self._started)
            output.say(f"{done} records, {self._tally.failed} failed; {self._spent()}; {rate:.1f}/s")

    def end(self) -> None:
        """Take the bar away and write the summary: how much, and on a terminal too what failed and why."""
        self._ended.set()
        self._progress.close()
        tally = self._tally
        if self._verbose:
            same = f"{tally.same} equal to others, " if tally.same else ""
            output.say(
                f"records: {tally.answered} answered, {same}{tally.failed} failed, {tally.known} known before; "
                f"{self._spent()}; {time.monotonic() - self._started:.1f} s"
            )
        if self._verbose or self._progress.shown:
            for status, message, number in tally.reasons():
                output.say(f"{number} failed with status {status}: {message}")
