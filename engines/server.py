"""An engine as a row, and a server of it that runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from engines.envs import Missing, python_version
from gptpipe.errors import Status
from torture.frame import environment
from torture.networks import free_port

STARTS = 600  # seconds until it answers; some import torch first, on a machine that does other things too
CHAT, RESPONSES = "chat", "responses"

Command = list[str | Path]


class Start(NamedTuple):
    """What a command is made of: the programs, a folder, a port, the URL of the engine behind."""

    programs: Path
    folder: Path
    port: int
    behind: str


class Engine(NamedTuple):
    """An engine: how it is installed and started, and what it is known to do in its own way.

    ``package`` is what ``version`` looks for. ``long_model``, if it is not the same, answers ``~`` without an end.
    ``behind`` names the engine that it passes requests on to. ``batch`` is the command that answers the requests in
    ``in.jsonl``. ``differs`` has the statuses of asks (``"image"``, or ``"responses: image"``) that are not the usual.
    """

    name: str
    package: str
    install: Callable[[], Path]
    command: Callable[[Start], Command]
    model: str
    apis: tuple[str, ...] = (CHAT,)
    key: str = ""
    long_model: str = ""
    env: Mapping[str, str] = {}
    behind: str = ""
    version: Callable[[Path, str], str] = python_version
    batch: Callable[[Path], Command] | None = None
    differs: Mapping[str, set[Status]] = {}

    def wanted(self, ask: str, api: str, usual: set[Status]) -> set[Status]:
        """Return the statuses that are right for an ask."""
        return self.differs.get(f"{api}: {ask}", self.differs.get(ask, usual))


class Running(NamedTuple):
    """A server that runs: its base URL, and the leader of its processes."""

    url: str
    process: subprocess.Popen[bytes]
    programs: Path

    def kill(self) -> None:
        """Kill all its processes at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(engine: Engine, folder: Path, behind: str = "") -> Iterator[Running]:
    """Run a server of an engine while the block lasts.

    Raises:
        Missing: The engine cannot be installed, or does not start.
    """
    programs = engine.install()
    folder.mkdir(parents=True, exist_ok=True)
    start = Start(programs, folder, free_port(), behind)
    env = environment(folder, {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **engine.env})
    log = folder / "server.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            engine.command(start),
            cwd=folder,
            env={**env, "PORT": str(start.port)},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    server = Running(f"http://127.0.0.1:{start.port}/v1", process, programs)
    try:
        end = time.monotonic() + STARTS
        while not _answers(server.url):
            if process.poll() is not None or time.monotonic() > end:
                words = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                raise Missing(f"did not start: {words[-1][:300]}")
            time.sleep(0.2)
        yield server
    finally:
        server.kill()


def _answers(url: str) -> bool:
    """Return whether a server answers at all, if only with an error."""
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
