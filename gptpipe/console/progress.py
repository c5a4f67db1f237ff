"""The progress of a long run on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import RLock
from typing import TYPE_CHECKING, Any

from gptpipe.console.output import STDERR, visible, write_above

if TYPE_CHECKING:
    from tqdm import tqdm


class Progress:
    """A bar on standard error, below all messages, if that is a terminal and the bar is ``wanted``; else nothing.

    ``total`` is called only if there is a bar; it returns None if the number is not known. ``shown``: there is one.
    """

    def __init__(self, total: Callable[[], int | None], unit: str, *, wanted: bool = True) -> None:
        self._bar: tqdm[Any] | None = None
        self._lock = RLock()
        self._hidden = 0  # how many blocks keep it away
        self.shown = wanted and os.isatty(STDERR)
        if self.shown:
            import tqdm as library

            library.tqdm.monitor_interval = 0  # no thread of its own
            size: dict[str, Any] = {"dynamic_ncols": True}
            if not os.get_terminal_size(STDERR).columns:  # a serial line does not know; tqdm would show nothing
                size = {"ncols": 80, "nrows": 24}
            # Without miniters the bar stands still after a burst of records, until as many have come again.
            self._bar = library.tqdm(total=total(), unit=f" {unit}", file=sys.stderr, miniters=1, **size)
            write_above(self.aside)

    def advance(self, done: int, note: str) -> None:
        """Move the bar forward by the number done, with a note behind it."""
        if self._bar is not None:
            with self._lock:
                self._bar.set_postfix_str(visible(note), refresh=False)
                if self._hidden:
                    self._bar.n += done
                else:
                    self._bar.update(done)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Hide the bar while the block uses the terminal. Other threads may advance it meanwhile."""
        bar = self._bar
        if bar is None:
            yield
            return
        with self._lock:
            self._hidden += 1
            bar.clear()
        try:
            yield
        finally:
            with self._lock:
                self._hidden -= 1
                if not self._hidden:
                    bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is, on a line of its own."""
        if self._bar is not None:
            write_above(nullcontext)
            self._bar.close()
