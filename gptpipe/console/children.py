"""Other programs that a run starts: each in a process group of its own, which ends with the run."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

from gptpipe.console import signals

if TYPE_CHECKING:
    from subprocess import Popen

_BLOCK = 65536  # bytes: as much as a pipe holds, so that one read takes what an ended program has left
_TICK = 0.05  # seconds: how soon the end of a program is seen whose children hold its output open
_PATIENCE = 1.0  # seconds, for a program that was killed
_ERRORS = 8192  # bytes that are kept of the end of standard error


class Ended(NamedTuple):
    """How a program ended: its status as a shell shows it, what it printed, and the end of its standard error.

    ``cut`` says that it printed more than ``out`` holds.
    """

    status: int
    out: bytes
    err: bytes
    cut: bool


@signals.caught()
def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    data: bytes | None = None,
    most: int = _BLOCK,
    until: float | None = None,
) -> Ended:
    """Run a program without a shell and return how it ended.

    ``data`` is its standard input, ``None`` is ``/dev/null``. ``most`` is how many bytes of its output are kept: after
    them its pipe is closed, as ``head`` does. ``until`` is monotonic. The program runs in a session of its own, so it
    cannot ask on the terminal. Its whole process group is gone when this returns or raises, and also after a signal,
    which is raised as Interrupted, and after the deadline.

    :raises OSError: if it cannot be started.
    :raises TimeoutError: if it has not ended by ``until``.
    """
    import subprocess  # 10 ms, paid only by a call that runs a program

    process = None
    try:
        with signals.held():  # a signal between the start and the entry would leave the program running
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=env,
                start_new_session=True,
            )
            signals.add_group(process.pid)
        return _Talk(process, data or b"", most).to_its_end(until)
    finally:
        if process is not None:
            _end(process)


def _end(process: Popen[bytes]) -> None:
    """End the group, with what the program left in it, and close its pipes."""
    import subprocess

    with signals.held():
        signals.end_group(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one of another user cannot be killed
            process.wait(_PATIENCE)
        signals.groups.discard(process.pid)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


class _Talk:
    """The three pipes of a program that runs."""

    def __init__(self, process: Popen[bytes], data: bytes, most: int) -> None:
        self._process = process
        self._data = memoryview(data)
        self._most = most
        self._out = bytearray()
        self._err = bytearray()
        self._poll = select.poll()
        self._open: dict[int, IO[bytes]] = {}
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                os.set_blocking(pipe.fileno(), False)
                self._poll.register(pipe, select.POLLOUT if pipe is process.stdin else select.POLLIN)
                self._open[pipe.fileno()] = pipe

    def to_its_end(self, until: float | None) -> Ended:
        """Feed the program and read what it prints until it ends; what its children print after that is not read."""
        ended = False
        while not ended:
            if until is not None and time.monotonic() > until:
                raise TimeoutError
            ended = self._process.poll() is not None if self._open else self._ends_soon()
            for number, _ in self._poll.poll(0 if ended else _TICK * 1000) if self._open else ():
                self._move(self._open[number])
        status = self._process.returncode
        status = 128 - status if status < 0 else status
        return Ended(status, bytes(self._out[: self._most]), bytes(self._err), cut=len(self._out) > self._most)

    def _ends_soon(self) -> bool:
        import subprocess

        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TICK)
        return self._process.returncode is not None

    def _move(self, pipe: IO[bytes]) -> None:
        """Write or read as much as the pipe takes or holds now, and close it when its work is done."""
        if pipe is self._process.stdin:
            self._feed(pipe)
            over = not self._data
        else:
            block = os.read(pipe.fileno(), _BLOCK)
            if pipe is self._process.stdout:
                self._out += block
            else:
                self._err = (self._err + block)[-_ERRORS:]
            over = not block or len(self._out) > self._most
        if over:
            self._poll.unregister(pipe)
            del self._open[pipe.fileno()]
            pipe.close()

    def _feed(self, pipe: IO[bytes]) -> None:
        if self._data:
            try:
                self._data = self._data[os.write(pipe.fileno(), self._data[:_BLOCK]) :]
            except BrokenPipeError:  # a program need not read all of its input
                self._data = self._data[:0]
