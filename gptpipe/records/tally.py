"""The tally of a run: how many records were answered, and the failure with which the run ends."""

from __future__ import annotations

from collections import Counter

from gptpipe.errors import BadInput, ConfigError, Failure, KeyRefused, OverLimit, Temporary, Unavailable
from gptpipe.records.results import Outcome, State

_STOPPING = (KeyRefused, ConfigError, OverLimit)

_REASONS = 100  # that are told apart
_OTHERS = (0, "other reasons")


def stops(failure: Failure) -> bool:
    """Return whether every other record would meet the failure too."""
    return isinstance(failure, _STOPPING) or (isinstance(failure, Unavailable) and failure.every)


class Tally:
    """Counts the outcomes of a run's records.

    ``fatal`` is the failure that every other record would meet too; then the run must stop.
    """

    def __init__(self, jobs: int, max_failures: int | None) -> None:
        self._jobs = jobs
        self._max_failures = max_failures
        self.answered = self.failed = self.known = 0
        self.same = 0  # records that an equal one was asked for
        self._reasons: Counter[tuple[int, str]] = Counter()
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
        self.same += outcome.same_as is not None
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
        reason = int(failure.status), failure.message
        self._reasons[reason if reason in self._reasons or len(self._reasons) < _REASONS else _OTHERS] += 1
        return outcome._replace(failure=failure) if outcome.failure else outcome

    @property
    def over(self) -> bool:
        """Whether the run must ask for no more records."""
        limit = self._max_failures
        return self.fatal is not None or (limit is not None and self.failed - self._stale >= limit)

    def reasons(self) -> list[tuple[int, str, int]]:
        """Return status and message of what failed most often, and how often; ten of them at most."""
        return [(status, message, number) for (status, message), number in self._reasons.most_common(10)]

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
