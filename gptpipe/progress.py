"""The progress of a long run on a terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from gptpipe.output import STDERR, say, visible

if TYPE_CHECKING:
    from tqdm import tqdm


class Progress:
    """A bar on standard error, if that is a terminal; else nothing. ``total`` is None if it is not known."""

    def __init__(self, total: int | None, unit: str) -> None:
        self._bar: tqdm[Any] | None = None
        if os.isatty(STDERR):
            import tqdm as library

            library.tqdm.monitor_interval = 0  # no thread of its own
            size: dict[str, Any] = {"dynamic_ncols": True}
            if not os.get_terminal_size(STDERR).columns:  # a serial line does not know; tqdm would show nothing
                size = {"ncols": 80, "nrows": 24}
            self._bar = library.tqdm(total=total, unit=f" {unit}", file=sys.stderr, **size)

    @property
    def shown(self) -> bool:
        """Whether there is a bar, so that finding out what it shows is worth the while."""
        return self._bar is not None

    def advance(self, done: int, note: str) -> None:
        """Show that so many more are done, and a note behind."""
        if self._bar is not None:
            self._bar.set_postfix_str(visible(note), refresh=False)
            self._bar.update(done)

    def say(self, message: str) -> None:
        """Write a line to standard error as :func:`gptpipe.output.say` does, above the bar."""
        if self._bar is None:
            say(message)
        else:
            with self._bar.external_write_mode(file=sys.stderr):
                say(message)

    def close(self) -> None:
        """Leave the bar as it is, on a line of its own."""
        if self._bar is not None:
            self._bar.close()
