"""The object of ``--meta``, written when the run ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gptpipe.console.signals import Deadline
from gptpipe.errors import Failure, Interrupted, exhausted
from gptpipe.settings.settings import Settings

if TYPE_CHECKING:
    from gptpipe.asking.report import Ending
    from gptpipe.asking.turn import Turn
    from gptpipe.console.target import Target


class Meta:
    """The object of ``--meta``: written once, whatever ends the run.

    :raises WriteError: if there is a path and it cannot be written.
    """

    def __init__(self, path: str | None, deadline: Deadline) -> None:
        self._known: Turn | Settings | None = None
        self._deadline = deadline
        self._targets: list[Target] = []
        if path is not None:
            from gptpipe.console.target import Target  # most calls have no --meta

            self._targets = [Target(path)]

    def reach(self, known: Turn | Settings) -> None:
        """Note how far the run has come."""
        self._known = known

    @contextmanager
    def written(self) -> Iterator[None]:
        """Write the object at the end of the block."""
        with self._deadline.ending(lambda: self._write(self._deadline.late())):
            try:
                yield
            except (Failure, Interrupted, BrokenPipeError) as ending:
                self._write(ending)
                raise
            except (RuntimeError, OSError) as error:
                if (failure := exhausted(error)) is None:
                    raise
                self._write(failure)
                raise failure from error
            self._write(None)

    def _write(self, ending: Ending | None) -> None:
        if not self._targets:
            return
        from gptpipe.asking.report import describe  # not before the way to the server is being opened
        from gptpipe.text.strict_json import compact

        while self._targets:
            described = describe(self._known, ending, self._deadline.started)
            self._targets.pop().write(compact(described).encode() + b"\n")
