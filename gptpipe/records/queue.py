"""The batches of a submission: started one after another, as the provider takes them, and waited for."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from math import inf
from typing import Any

from gptpipe.console.output import say
from gptpipe.errors import Failure, NoInput, ProtocolError, Temporary
from gptpipe.records import requests_file, submission
from gptpipe.records.submission import Part, Submission
from gptpipe.wire import batch_api
from gptpipe.wire.batch_api import Batch, TooLarge
from gptpipe.wire.client import Client

_FIRST_POLL, _LONGEST_POLL = 1.0, 30.0  # seconds between two looks at a batch


class Queue:
    """Starts what is left of a submission. ``found`` is the submission as it is on disk at any moment.

    A file that was sent is on disk before its batch is made, and the batch before the next file is sent. So a kill at
    any moment loses no batch, and the next run asks the provider whether the batch of the last file was made.

    :raises Temporary: if another process is submitting it.
    :raises Failure: in all that it does, as the client does; TooLarge if the provider does not take a single request.
    """

    def __init__(self, found: Submission, client: Client) -> None:
        self._lock = _locked(found)
        self.found = submission.read(found.folder)._replace(plan=found.plan)  # another process may have been quicker
        self._client = client
        self._states: dict[str, Batch] = {}
        self._beside: dict[str, int] = {}  # how many batches had not ended when each was started
        self._unsure = self.found.pending is not None
        self._most = found.plan.queued or inf

    def step(self) -> bool:
        """Look at the batches that have not ended, and start as many more as may be; return whether all is done."""
        for part in self.found.parts:
            if part.id not in self._states or not self._states[part.id].ended:
                state = self._states[part.id] = batch_api.retrieve(self._client, part.id)
                if state.crowded or state.too_large:
                    self._take_back(part, state)
        self.fill()
        return self.done

    def fill(self) -> None:
        """Start as many batches as may be."""
        while self._running < self._most and self.start():
            pass

    @property
    def done(self) -> bool:
        """Whether every request is in a batch that the provider has accepted."""
        return not self.found.left and all(state.status != "validating" for state in self._states.values())

    @property
    def _running(self) -> int:
        return sum(not state.ended for state in self._states.values())

    @property
    def ended(self) -> int:
        """The number of batches that have ended."""
        return len(self._states) - self._running

    def start(self) -> bool:
        """Start the next batch; return False if no request is left."""
        while (part := self.found.pending or self._upload()) is not None:
            # Where this is not known, a second batch of the same file would be paid twice.
            started = batch_api.find(self._client, part.id) if self._unsure else None
            if started := started or self._create(part):
                self._beside[started.id] = self._running
                self._states[started.id] = started
                self._keep(parts=[*self.found.parts, part._replace(id=started.id)], pending=None)
                self._unsure = False
                return True
        return False

    def _create(self, part: Part) -> Batch | None:
        """Make the batch of a file; return None if the provider wants smaller ones."""
        plan = self.found.plan
        try:
            return batch_api.create(self._client, part.id, plan.endpoint, plan.window)
        except TooLarge as failure:
            self._halve(part, failure.message)
            return None
        except (Temporary, ProtocolError):
            self._unsure = True
            raise
        except Failure:
            self._keep(pending=None)
            raise

    def _upload(self) -> Part | None:
        """Send the next file."""
        while (found := requests_file.cut(self.found)) is not None:
            path, part = found
            try:
                part = part._replace(id=batch_api.upload(self._client, str(path)))
            except TooLarge as failure:
                self._halve(part, failure.message)
            else:
                self._keep(pending=part)
                return part
            finally:
                path.unlink()
        return None

    def _take_back(self, part: Part, state: Batch) -> None:
        """Let the requests of a batch that the provider did not accept be sent again."""
        del self._states[part.id]
        self._keep(parts=[other for other in self.found.parts if other != part])
        others = self._beside.get(part.id, 1)
        if state.crowded and (others or part.requests == 1):
            self._most = max(1, min(self._most, others))
            say(f"{part.id} was not accepted and waits until others end: {state.problem}")
        else:
            self._halve(part, str(state.problem))

    def _halve(self, part: Part, words: str) -> None:
        if part.requests == 1:
            self._keep(pending=None)
            raise TooLarge(words, "a request of its own is as small as a batch can be")
        plan, half = self.found.plan, part.requests // 2
        if half < plan.requests:
            say(f"a batch of {part.requests} requests is too large, going on with {half}: {words}")
        self._keep(plan=plan._replace(requests=min(half, plan.requests)), pending=None)

    def _keep(self, **changes: Any) -> None:
        self.found = self.found._replace(**changes)
        self.found.save()


def _locked(found: Submission) -> int:
    """Return a descriptor whose lock this process has: two would submit the same requests twice."""
    try:
        descriptor = os.open(found.path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Temporary(f"{found.name} is being submitted by another process") from None
    except OSError as error:
        raise NoInput(f"cannot read {found.path}: {error.strerror}") from error
    return descriptor


def repeated(look: Callable[[], bool], progress: Callable[[], Any]) -> None:
    """Call ``look`` until it returns True, at first often, then less so while ``progress`` returns the same.

    After the first call a failure of ``look`` that may pass is said once, and ends nothing.
    """
    pause, before, lost = 0.0, progress(), False
    while True:
        try:
            if look():
                return
            lost = False
        except Temporary as failure:
            if not pause:
                raise
            if not lost:
                say(f"{failure.message}; the wait goes on, --max-time would end it")
            lost = True
        now = progress()
        pause, before = min(2 * pause, _LONGEST_POLL) if pause and now == before else _FIRST_POLL, now
        time.sleep(pause)
