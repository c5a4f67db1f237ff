"""What the kinds of trouble share: a case, a rig to run programs in, and running many at once."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import pytest

from gptpipe.errors import Status
from tests.harness.processes import ROOT, Environment, Input, Process, Result, Zygote, streams

BIN = Path(sys.executable).parent
MEMORY = "/dev/shm"  # where fsync costs nothing: half of the time of thousands of runs
AT_ONCE = 8  # programs that run beside each other: most of them wait for something

T = TypeVar("T")


class Case(NamedTuple):
    """What was tried, whether the promise held, and if not, what came. Many ``inputs`` may make one case."""

    name: str
    ok: bool
    detail: str = ""
    inputs: int = 1


class Rig:
    """Where programs run: the fork server of the tests, and an empty home for each case. A context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="torture-", dir=MEMORY if os.path.isdir(MEMORY) else None))
        self._zygote = Zygote()
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zygote.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def home(self) -> Iterator[Path]:
        """Give an empty folder, gone after the block."""
        path = self.folder / str(next(self._numbers))
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def spawn(
        self, home: Path, *argv: str, stdin: Input = None, env: Environment | None = None, tty: str = ""
    ) -> Iterator[Process]:
        """Start a program from the fork server; it is killed after the block if it still runs.

        ``tty`` names the streams that are a terminal, of ``in``, ``out`` and ``err``.
        """
        ours, theirs = zip(*streams(stdin, tty), strict=True)
        try:
            child = self._zygote.fork(argv, environment(home, env), str(home), theirs)
        finally:
            for fd in theirs:
                os.close(fd)
        process = Process(child.pid, child.ended, *ours)
        try:
            yield process
        finally:
            process.close()

    def run(
        self, home: Path, *argv: str, stdin: Input = None, env: Environment | None = None, timeout: float = 20
    ) -> Result:
        """Run a program to its end; one that does not end in so many seconds fails its case."""
        with self.spawn(home, *argv, stdin=stdin, env=env) as process:
            return process.communicate(stdin if isinstance(stdin, bytes) else b"", timeout)


def environment(home: Path, changes: Environment | None = None) -> dict[str, str]:
    """Return the whole environment of a program: little more than cron gives, and the changes; a None removes."""
    usual = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(home), "LC_ALL": "C.UTF-8"}
    return {name: value for name, value in {**usual, **(changes or {})}.items() if value is not None}


def execute(
    home: Path, *argv: str, stdin: bytes | int = b"", env: Environment | None = None, timeout: float = 60, **more: Any
) -> Result:
    """Run any command, in a session of its own; all of it is killed when it does not end in time, as is the case."""
    given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    piped = {"stdin": subprocess.PIPE} if isinstance(stdin, bytes) else given
    with subprocess.Popen(
        argv,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": home, **piped, **more},
        env=environment(home, env),
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(given.get("input"), timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    code = process.returncode
    return Result(128 - code if code < 0 else code, out or b"", (err or b"").decode(errors="backslashreplace"))


def shell(home: Path, script: str, **more: Any) -> Result:
    """Run a bash script with the installed programs on its PATH."""
    return execute(home, "bash", "-c", script, **more)


def session(home: Path, name: str = "s") -> list[Any]:
    """Return the turns of a session as they lie on disk; one that is not there has none."""
    path = home / f".local/share/gptpipe/sessions/{name}.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def manners(result: Result) -> str:
    """Return what a program did that no program of gptpipe may do, whatever happened; empty if nothing."""
    if "Traceback" in result.err or result.status == Status.BUG:
        return f"a traceback: {result.err[-300:]!r}"
    if result.status <= 128 and result.status not in set(Status):
        return f"status {result.status} is in no table"
    lines = result.err.splitlines()
    if result.status in (Status.OK, *range(129, 160)) and lines:
        return f"words on standard error with status {result.status}: {result.err!r}"
    if result.status < 128 and result.status and not (1 <= len(lines) <= 2 and lines[0].startswith("gptpipe")):
        return f"a failure is one line and perhaps a hint, not {result.err!r}"
    return ""


def outcome(name: str, result: Result, **wanted: Any) -> Case:
    """Return the case of a program that ended: with manners, and with the values of ``Result`` that are wanted."""
    wrong = manners(result)
    for key, value in wanted.items():
        found = getattr(result, key)
        if found not in value if isinstance(value, (set, frozenset)) else found != value:
            wrong = wrong or f"{key} is {found!r}, not {value!r}"
    return Case(name, not wrong, wrong and f"{wrong}; {result}")


def parallel(function: Callable[[T], Case], items: Iterable[T], at_once: int = AT_ONCE) -> Iterator[Case]:
    """Yield the case of each item; what raises, or does not end, is a case that failed."""

    def guarded(item: T) -> Case:
        try:
            return function(item)
        except (Exception, pytest.fail.Exception) as error:
            return Case(str(item), False, repr(error))

    with ThreadPoolExecutor(at_once) as pool:
        try:
            yield from pool.map(guarded, items)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def needs(*programs: str) -> None:
    """Stop when a program is missing: nothing is skipped in silence."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        raise SystemExit(f"not found: {', '.join(missing)} (.ci/install installs what is needed)")


__all__ = [
    "AT_ONCE",
    "BIN",
    "ROOT",
    "Case",
    "Rig",
    "environment",
    "execute",
    "manners",
    "needs",
    "outcome",
    "parallel",
    "session",
    "shell",
]
