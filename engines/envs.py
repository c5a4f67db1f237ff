"""What the engines are installed into: an environment of its own for each, under ``engines/.envs``, made once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path

ENVS = Path(__file__).parent / ".envs"
LIMIT = 3600  # seconds for one step of an installation: llama.cpp is compiled
SIGN = 30  # seconds between two signs of life of a step


class Missing(Exception):
    """An engine cannot be had here; the message says why."""


def say(text: str) -> None:
    """Tell on standard error what takes long."""
    print(f"engines: {text}", file=sys.stderr, flush=True)


def run(argv: Sequence[str | Path], folder: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Run a step of an installation, with ``env`` added to the variables; say every half minute that it still runs.

    Raises:
        Missing: It failed, took too long, or its program is not there.
    """
    if shutil.which(argv[0]) is None:
        raise Missing(f"{Path(argv[0]).name} is not there")
    whole = {**os.environ, **(env or {})}
    pipe, begun = subprocess.PIPE, time.monotonic()
    with subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=whole, process_group=0) as process:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    out, err = process.communicate(timeout=SIGN)
                    break
                seconds = round(time.monotonic() - begun)
                if seconds > LIMIT:
                    raise Missing(f"not installed within {LIMIT} s")
                say(f"still installing, {seconds} s")
        finally:  # the compilers that it started end too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        lines = (err or out).strip().splitlines() or [f"status {process.returncode}"]
        raise Missing(f"{Path(argv[0]).name}: {lines[-1].strip()[:300]}")


def once(name: str, words: Sequence[str], install: Callable[[Path], None]) -> Path:
    """Install into the folder ``name`` unless just these words were; return the folder."""
    folder = ENVS / name
    ready = folder / "ready"
    if not ready.exists() or ready.read_text() != " ".join(words):
        say(f"installing {name}: {' '.join(' '.join(words).split())}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(folder)
        ready.write_text(" ".join(words))
    return folder


def python(name: str, *packages: str, override: str = "", env: Mapping[str, str] | None = None) -> Path:
    """Return the programs of an environment with packages of PyPI.

    ``override`` replaces what the packages require, ``env`` has variables for those that are compiled.
    """

    def install(folder: Path) -> None:
        run([uv(), "venv", "--allow-existing", folder])
        given = folder / "override.txt"
        given.write_text(override)
        run([uv(), "pip", "install", "--python", folder, "--override", given, *packages], env=env)

    return once(name, (*packages, override), install) / "bin"


def uv() -> Path:
    """Return uv, which installs torch in a tenth of pip's time and can override a requirement."""

    def install(folder: Path) -> None:
        run([sys.executable, "-m", "venv", folder])
        run([folder / "bin/python", "-m", "pip", "install", "--quiet", "uv>=0.11,<1"])

    return once("uv", ("uv>=0.11,<1",), install) / "bin/uv"


def node(name: str, package: str) -> Path:
    """Return the programs of a package of npm."""

    def install(folder: Path) -> None:
        run(["npm", "install", "--no-fund", "--no-audit", "--ignore-scripts", package], folder)

    return once(name, (package,), install) / "node_modules/.bin"


def python_version(programs: Path, package: str) -> str:
    """Return the version of a package in a Python environment."""
    paths = [str(path) for path in programs.parent.glob("lib/python*/site-packages")]
    return next(iter(distributions(name=package, path=paths))).version


def node_version(programs: Path, package: str) -> str:
    """Return the version of a package of npm."""
    found: str = json.loads((programs.parent / package / "package.json").read_text())["version"]
    return found


def tiny() -> Path:
    """Return the folder with the tiny model, ``tiny`` and ``tiny.gguf``."""
    maker = python("maker", "gguf>=0.19,<0.20", "numpy>=2,<3", "safetensors>=0.8,<1", "tokenizers>=0.23,<0.24")
    script = Path(__file__).parent / "tiny.py"

    def install(folder: Path) -> None:
        run([maker / "python", script, folder])

    return once("models", ("tiny", hash_of(script)), install)


def hash_of(path: Path) -> str:
    """Return what tells two versions of a file apart."""
    return str(zlib.crc32(path.read_bytes()))
