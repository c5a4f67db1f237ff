"""Where the results of a run go: a file that can be resumed, or a stream in the order of the input."""

from __future__ import annotations

import os
from collections.abc import Callable

from gptpipe.console.output import Printer
from gptpipe.records.input import Record
from gptpipe.records.result_file import ResultFile
from gptpipe.records.results import Outcome, State, bare


class Stream:
    """Results written one after another, each by ``encode``; nothing is known of earlier runs."""

    def __init__(self, descriptor: int, encode: Callable[[Outcome], bytes], head: bytes = b"") -> None:
        self.to_terminal = os.isatty(descriptor)
        self._printer = Printer(descriptor)
        self._encode = encode
        self._head = head

    def take(self, record: Record, key: str, *, again: bool = False) -> State:  # noqa: ARG002
        """Return MISSING: nothing is known."""
        return State.MISSING

    def write(self, outcome: Outcome) -> None:
        """Write a result."""
        self._printer.write((self._head + self._encode(outcome)).decode("utf-8", "surrogateescape"))
        self._head = b""

    def finish(self, total: int) -> None:  # noqa: ARG002
        """Write the head, if there was no result."""
        if self._head:
            self._printer.write(self._head.decode("utf-8", "surrogateescape"))

    def close(self) -> None:
        """Do nothing: the code that opened the descriptor closes it."""


class Kept:
    """A file of results, which is put in order at the end."""

    to_terminal = False

    def __init__(self, file: ResultFile, *, whole: bool, prune: bool) -> None:
        self._file = file
        self._whole = whole
        self._prune = prune
        self.take = self._file.take
        self.close = self._file.close

    def write(self, outcome: Outcome) -> None:
        """Write a result, unless it is there."""
        if outcome.known is State.MISSING:
            self._file.add(outcome)

    def finish(self, total: int) -> None:
        """Put the file in the order of the input."""
        self._file.finish(total, whole=self._whole, prune=self._prune)


Sink = Stream | Kept
"""Takes the results, one after another. ``finish`` is called if the input has ended, ``close`` in any case."""


def bare_lines(*, null: bool) -> Callable[[Outcome], bytes]:
    """Return what encodes a result as a bare answer, ended by a newline, or by NUL."""
    return lambda outcome: (bare(outcome, null=null) + ("\0" if null else "\n")).encode()
