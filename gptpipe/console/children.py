"""Other programs that a run starts: each in a process group of its own, which ends with the run."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

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
        return _talk(process, data or b"", most, until)
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


def _talk(process: Popen[bytes], data: bytes, most: int, until: float | None) -> Ended:
    """Feed the program and read what it prints until it ends; what its children print after that is not read."""
    import subprocess

    rest, out, err = memoryview(data), bytearray(), b""
    poll = select.poll()
    pipes = {pipe.fileno(): pipe for pipe in (process.stdin, process.stdout, process.stderr) if pipe}
    for number, pipe in pipes.items():
        os.set_blocking(number, False)
        poll.register(number, select.POLLOUT if pipe is process.stdin else select.POLLIN)
    while process.returncode is None:
        if until is not None and time.monotonic() > until:
            raise TimeoutError
        if not pipes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_TICK)
            continue
        wait = _TICK if process.poll() is None else 0
        for number, _ in poll.poll(wait * 1000):
            pipe = pipes[number]
            if pipe is process.stdin:
                rest = _fed(number, rest)
                over = not rest
            else:
                block = os.read(number, _BLOCK)
                if pipe is process.stdout:
                    out += block
                else:
                    err = (err + block)[-_ERRORS:]
                over = not block or len(out) > most
            if over:
                poll.unregister(number)
                pipes.pop(number).close()
    status = process.returncode
    return Ended(128 - status if status < 0 else status, bytes(out[:most]), err, cut=len(out) > most)


def _fed(descriptor: int, rest: memoryview) -> memoryview:
    """Write as much as the pipe takes now, and return what is left."""
    try:
        return rest[os.write(descriptor, rest[:_BLOCK]) :]
    except BrokenPipeError:  # a program need not read all of its input
        return rest[:0]
