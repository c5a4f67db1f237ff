"""Run one process and say how long it took and what it needed."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from threading import Thread
from typing import NamedTuple

MIB = 1 << 20
_STAMP = re.compile(rb"t(\d+)t")


class Command(NamedTuple):
    """A program with its arguments and its environment, nothing else of ours in it."""

    argv: Sequence[str]
    env: Mapping[str, str]


class Run(NamedTuple):
    """Seconds from its start (or from the end of its input) to its end, and peak memory in bytes."""

    seconds: float
    memory: int


class Failed(Exception):
    """A program did not do the work that is to be measured."""


def _start(command: Command, stdin: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command.argv, env=command.env, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )


def _end(child: subprocess.Popen[bytes], expect: bytes) -> tuple[int, float]:
    """Read a child to its end, which must hold ``expect``; return its peak memory, and when it was gone."""
    assert child.stdout
    assert child.stderr
    messages: list[bytes] = []
    stderr = child.stderr
    reader = Thread(target=lambda: messages.append(stderr.read()), daemon=True)
    reader.start()
    out = b""
    while block := os.read(child.stdout.fileno(), 1 << 16):
        out = (out + block)[-4096:]
    _, status, usage = os.wait4(child.pid, 0)
    now = time.perf_counter()
    child.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    child.stdout.close()
    child.stderr.close()
    if child.returncode or expect not in out:
        raise Failed(
            f"{child.args!r} ended with {child.returncode}: {(messages[0] or out)[-400:].decode(errors='replace')}"
        )
    return usage.ru_maxrss * 1024, now


def run(command: Command, expect: bytes, source: Path | None = None) -> Run:
    """Run a command whose answer must end with ``expect``; ``source`` is piped to it, as by ``cat``.

    :raises Failed: when the command fails or writes something else.
    """
    began = time.perf_counter()
    child = _start(command, subprocess.PIPE if source else subprocess.DEVNULL)
    if source:
        Thread(target=_feed, args=(child, source), daemon=True).start()
    memory, ended = _end(child, expect)
    return Run(ended - began, memory)


def _feed(child: subprocess.Popen[bytes], source: Path) -> None:
    assert child.stdin is not None
    with child.stdin, source.open("rb", buffering=0) as file:
        while block := file.read(1 << 16):
            child.stdin.write(block)


def run_late(command: Command, expect: bytes, data: bytes, pause: float) -> Run:
    """Run a command whose input comes after ``pause`` seconds; its time counts from the end of the input."""
    child = _start(command, subprocess.PIPE)
    assert child.stdin is not None
    time.sleep(pause)
    child.stdin.write(data)
    child.stdin.close()
    began = time.perf_counter()
    memory, ended = _end(child, expect)
    return Run(ended - began, memory)


def run_lag(command: Command, skip: int) -> float:
    """Return the median seconds from a time stamp that the server wrote (``t…t``) to the moment it was read here.

    The first ``skip`` of them do not count.
    """
    child = _start(command, subprocess.DEVNULL)
    assert child.stdout is not None
    lags: list[float] = []
    rest = b""
    while block := os.read(child.stdout.fileno(), 1 << 16):
        now = time.monotonic_ns()
        rest += block
        lags += [(now - int(stamp[1])) / 1e9 for stamp in _STAMP.finditer(rest)]
        rest = _STAMP.sub(b"", rest)[-64:]
    if child.wait() or len(lags) <= skip:
        raise Failed(f"{' '.join(command.argv)} ended with {child.returncode} after {len(lags)} time stamps")
    return median(lags[skip:])


def repeat(kinds: Mapping[str, Callable[[], Run]], runs: int) -> dict[str, list[Run]]:
    """Run each kind so many times, after once to warm up; in turns, so that what else goes on hits all alike."""
    for kind in kinds.values():
        kind()
    found: dict[str, list[Run]] = {name: [] for name in kinds}
    for _ in range(runs):
        for name, kind in kinds.items():
            found[name].append(kind())
    return found
