"""What is shown of a run: the bar or a line now and then while it goes on, and a summary at its end."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from threading import Event, Lock, Thread

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
        self.cost: float | None = 0.0
        self._quiet = Lock()
        self._ended = Event()
        self._started = time.monotonic()
        self.aside = progress.aside
        if every is not None:
            Thread(target=self._tell, args=(every,), daemon=True).start()

    def waiting(self, message: str) -> AbstractContextManager[None]:
        """Announce a wait that lasts; of several at once only the first."""
        return output.waiting_together(message, self._quiet)

    def add(self, outcome: Outcome) -> None:
        """Count what a record used, and show it."""
        if outcome.usage:
            used = counts(outcome.usage)
            self._used = Counts(*map(sum, zip(self._used, used, strict=True)))
            chosen = self._settings
            cost = prices.cost(used, chosen)
            self.cost = None if cost is None or self.cost is None else self.cost + cost
        if self._progress.shown:
            self._progress.advance(1, f"{self._tally.failed} failed, {self._spent()}")

    def _spent(self) -> str:
        tokens = f"{self._used.input} tokens in, {self._used.output} out"
        if self.cost is None:
            return tokens
        return f"{tokens}, ${self.cost:.4f}" + ("" if self._most is None else f" of ${self._most:g}")

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
