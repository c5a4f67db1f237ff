"""What every test stands on: a home of its own, and the programs run in real processes.

``run`` is the quick way: a process from the fork server of ``tests/harness/zygote.py``. ``shell`` is a real ``bash``
with the installed programs on its PATH, ``fresh`` an interpreter that tells what it imported, ``spawn`` a ``run`` that
does not wait. A test that uses a program from outside says so with ``needs``, see ``tests/harness/tools.py``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import pytest

from tests.harness import guard, tools
from tests.harness.processes import (
    Environment,
    Input,
    Process,
    Result,
    Zygote,
    environment,
    execute,
    streams,
)
from tests.harness.screen import screen as screen
from tests.harness.server import server as server
from tests.harness.tools import needs as needs

BIN = Path(sys.executable).parent
SETTINGS = ("GPTPIPE_", "_GPTPIPE_", "OPENAI_", "TIKTOKEN_", "XDG_")

guard.install()
hypothesis.settings.register_profile("untimed", hypothesis.settings.default, deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("untimed")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name the missing programs, and what was not tested without them."""
    if lines := list(tools.summary(terminalreporter.stats.get("skipped", []))):
        terminalreporter.section("not tested", sep="=")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty home, and an environment without keys, proxies or settings; return the home."""
    path = tmp_path / "home"
    path.mkdir()
    for name in os.environ:
        if name.startswith(SETTINGS) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("CREDENTIALS_DIRECTORY", "SSL_CERT_FILE", "SSL_CERT_DIR", "VISUAL", "EDITOR", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(path / ".config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(path / ".local/share"))
    monkeypatch.setenv("XDG_STATE_HOME", str(path / ".local/state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(path / ".cache"))
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("TERM", "xterm")
    return path


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """The fork server, started once for the tests of this worker."""
    zygote = Zygote()
    yield zygote
    zygote.close()


Spawn = Callable[..., Process]
Run = Callable[..., Result]


@pytest.fixture
def spawn(zygote: Zygote, tmp_path: Path) -> Iterator[Spawn]:
    """Start a program and return its ``Process``: ``spawn("gptpipe", "-m", "echo", "hi", tty="err")``.

    ``stdin``: ``bytes``, also empty, for a pipe to write to; None for ``/dev/null``; a descriptor; or the path of a
    file. ``tty`` names the streams that are a terminal, of ``in``, ``out`` and ``err``; True is all three. ``env``
    adds to the environment, a None in it removes. The folder is the test's own if ``cwd`` is not given.
    """
    with contextlib.ExitStack() as stack:

        def start(
            *argv: str,
            stdin: Input = None,
            env: Environment | None = None,
            cwd: Path = tmp_path,
            tty: bool | str = False,
        ) -> Process:
            terminals = "in out err" if tty is True else tty or ""
            ours, theirs = zip(*streams(stdin, terminals), strict=True)
            try:
                child = zygote.fork(argv, environment(env), str(cwd), theirs)
            finally:
                for fd in theirs:
                    os.close(fd)
            process = Process(child.pid, child.ended, *ours)
            stack.callback(process.close)
            return process

        yield start


@pytest.fixture
def run(spawn: Spawn) -> Run:
    """Run a program to its end: ``run("gptpipe", "-m", "echo", stdin=b"hi").out``.

    The arguments are those of ``spawn``. What is typed at a terminal (``tty="in"``) is followed by the end-of-file
    character. ``timeout`` is in seconds.
    """

    def call(*argv: str, stdin: Input = None, timeout: float = 20, **more: Any) -> Result:
        process = spawn(*argv, stdin=stdin, **more)
        data = stdin if isinstance(stdin, bytes) else b""
        typed = more.get("tty") is True or "in" in str(more.get("tty")).split()
        return process.communicate(data + b"\x04" if typed else data, timeout)

    return call


@pytest.fixture
def shell(tmp_path: Path) -> Run:
    """Run a bash script with the installed programs on its PATH: ``shell("printf hi | gptpipe -m echo; echo $?")``."""

    def call(
        script: str,
        *,
        stdin: bytes = b"",
        env: Environment | None = None,
        cwd: Path = tmp_path,
        timeout: float = 60,
    ) -> Result:
        return execute(["bash", "-c", script], stdin=stdin, env=env, cwd=cwd, timeout=timeout)

    return call


class Fresh(NamedTuple):
    """How a program ended that ran in an interpreter of its own, and the modules that it imported."""

    status: int
    out: bytes
    err: str
    modules: frozenset[str]


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[..., Fresh]:
    """Run an installed program in an interpreter that tells its imports: ``fresh("gptpipe", "-h").modules``."""

    def call(program: str, *args: str, **more: Any) -> Fresh:
        command = [sys.executable, "-X", "importtime", str(BIN / program), *args]
        result = execute(command, cwd=tmp_path, timeout=60, **more)
        lines = result.err.splitlines()
        told = [line for line in lines if line.startswith("import time:")]
        modules = frozenset(line.rpartition("|")[2].strip() for line in told)
        rest = "".join(f"{line}\n" for line in lines if not line.startswith("import time:"))
        return Fresh(result.status, result.out, rest, modules)

    return call
