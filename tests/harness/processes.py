"""Real processes: started from the fork server or by themselves, fed, read and waited for."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import selectors
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
REAL_ENVIRONMENT = dict(os.environ)  # as it was before any test

# What starts the tests in the background may ignore these, and so would every program that is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(_number, signal.SIG_DFL)

Environment = Mapping[str, str | None]
Input = bytes | int | Path | None


class Result(NamedTuple):
    """How a program ended. ``status`` is as a shell shows it: 128 and the number for a signal."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.out.decode()

    def json(self) -> Any:
        """The JSON value that standard output is."""
        return json.loads(self.out)


def shell_status(wait_status: int) -> int:
    """Return what ``$?`` would be for a wait status."""
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


class Process:
    """A program that runs: the parent's ends of its three streams, its pid, and its end.

    Descriptors are raw; each is -1 when the stream is not the test's to use.
    """

    def __init__(self, pid: int, ended: Callable[[float], int | None], stdin: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.status: int | None = None
        self._ended = ended
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        if self.wait_for(0) is None:
            with contextlib.suppress(ProcessLookupError):  # it ends at this moment
                os.kill(self.pid, number)

    def wait_for(self, seconds: float) -> int | None:
        """Return the status, or None when the program still runs after so many seconds."""
        if self.status is None:
            self.status = self._ended(seconds)
        return self.status

    def wait(self, timeout: float = 20) -> int:
        """Return the status; a program that does not end in time is killed and fails the test."""
        status = self.wait_for(timeout)
        if status is None:
            self.kill(signal.SIGKILL)
            pytest.fail(f"the program did not end within {timeout} s")
        return status

    def write(self, data: bytes) -> None:
        """Write to its standard input, all of it."""
        while data:
            data = data[os.write(self.stdin, data) :]

    def close_stdin(self) -> None:
        """End its standard input."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def read(self, until: bytes = b"", *, stream: str = "stdout", timeout: float = 20) -> bytes:
        """Return what a stream brings until ``until`` is in it, or to its end. More may have come with it."""
        fd: int = getattr(self, stream)
        data = b""
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while not until or until not in data:
                if not selector.select(deadline - time.monotonic()):
                    pytest.fail(f"no {until!r} within {timeout} s, but {data!r}")
                chunk = read_some(fd)
                if not chunk:
                    break
                data += chunk
        return data

    def communicate(self, data: bytes = b"", timeout: float = 20) -> Result:
        """Feed it, read both streams to their ends, and wait."""
        took: dict[int, bytearray] = {fd: bytearray() for fd in (self.stdout, self.stderr) if fd >= 0}
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            for fd in took:
                selector.register(fd, selectors.EVENT_READ)
            if data:
                os.set_blocking(self.stdin, False)
                selector.register(self.stdin, selectors.EVENT_WRITE)
            else:
                self.close_stdin()
            while selector.get_map():
                ready = selector.select(max(0, deadline - time.monotonic()))
                if not ready:
                    self.kill(signal.SIGKILL)
                    pytest.fail(f"still running after {timeout} s, with {[bytes(part) for part in took.values()]}")
                for key, _ in ready:
                    if key.fd == self.stdin:
                        data = self._feed(data)
                        if not data:
                            selector.unregister(self.stdin)
                            if not os.isatty(self.stdin):  # a terminal that is closed takes what was typed along
                                self.close_stdin()
                    elif chunk := read_some(key.fd):
                        took[key.fd] += chunk
                    else:
                        selector.unregister(key.fd)
        status = self.wait(max(1, deadline - time.monotonic()))
        error = bytes(took.get(self.stderr, b"")).decode(errors="backslashreplace")
        return Result(status, bytes(took.get(self.stdout, b"")), error)

    def _feed(self, data: bytes) -> bytes:
        try:
            return data[os.write(self.stdin, data[:65536]) :]
        except BrokenPipeError:
            return b""

    def close(self) -> None:
        """Kill what still runs and close all that is open."""
        self.kill(signal.SIGKILL)
        self.wait_for(20)
        self.close_stdin()
        for fd in {self.stdout, self.stderr} - {-1}:
            os.close(fd)
        self.stdout = self.stderr = -1


def read_some(fd: int) -> bytes:
    """Return the next bytes; none at the end, which a terminal shows as an error."""
    try:
        return os.read(fd, 1 << 20)
    except OSError:
        return b""


def terminal() -> tuple[int, int]:
    """Return master and slave of a terminal that neither echoes nor changes what is written to it."""
    master, slave = pty.openpty()
    mode = termios.tcgetattr(slave)
    mode[1] &= ~termios.OPOST
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    return master, slave


class Zygote:
    """The fork server, and this side's end of its socket."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        self.lock = threading.Lock()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "utf8", "-m", "tests.harness.zygote", str(theirs.fileno())],
                cwd=ROOT,
                env=REAL_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        self.connection.close()
        self.process.wait(20)

    def fork(self, argv: tuple[str, ...], env: Mapping[str, str], cwd: str, fds: tuple[int, int, int]) -> Child:
        """Start a program on three descriptors, which stay the caller's to close."""
        report, reports = os.pipe()
        data = json.dumps({"argv": argv, "env": dict(env), "cwd": cwd}).encode()
        with self.lock:
            socket.send_fds(self.connection, [len(data).to_bytes(4)], [*fds, reports])
            self.connection.sendall(data)
        os.close(reports)
        return Child(report)


class Child:
    """What the fork server reports of one program."""

    def __init__(self, report: int) -> None:
        self.report = report
        self.text = b""
        self.pid = int(self.line(20) or pytest.fail("the fork server did not start the program"))

    def line(self, seconds: float) -> bytes | None:
        """Return the next line of the report, or None if there is none after so many seconds."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.report, selectors.EVENT_READ)
            while b"\n" not in self.text:
                if not selector.select(max(0, deadline - time.monotonic())):
                    return None
                chunk = os.read(self.report, 64)
                if not chunk:
                    pytest.fail("the fork server is gone")
                self.text += chunk
        line, _, self.text = self.text.partition(b"\n")
        return line

    def ended(self, seconds: float) -> int | None:
        """Return the status as a shell shows it, or None if the program still runs after so many seconds."""
        line = self.line(seconds)
        if line is None:
            return None
        os.close(self.report)
        return shell_status(int(line))


def streams(stdin: Input, terminals: str) -> Iterator[tuple[int, int]]:
    """Yield our end (-1 for none) and the program's end of its three standard streams."""
    if "in" in terminals.split():
        yield terminal()
    elif isinstance(stdin, bytes):
        read, write = os.pipe()
        yield write, read
    elif isinstance(stdin, int):
        yield -1, os.dup(stdin)
    else:
        yield -1, os.open(stdin or os.devnull, os.O_RDONLY)
    for name in ("out", "err"):
        if name in terminals.split():
            yield terminal()
        else:
            yield os.pipe()


def environment(changes: Environment | None) -> dict[str, str]:
    """Return this process's environment with the changes made; a None removes."""
    return {name: value for name, value in {**os.environ, **(changes or {})}.items() if value is not None}


def execute(
    argv: list[str], *, stdin: bytes = b"", env: Environment | None = None, cwd: Path, timeout: float
) -> Result:
    """Run a command in a session of its own; all of it is killed when it does not end in time."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(env), cwd=cwd, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired as late:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"still running after {timeout} s, with {late.stdout!r} and {late.stderr!r}")
    status = 128 - process.returncode if process.returncode < 0 else process.returncode
    return Result(status, out, err.decode(errors="backslashreplace"))
