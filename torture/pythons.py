"""The tests on every CPython that pyproject.toml allows and this machine has: ``python -m torture.pythons``.

Each has an environment of its own under ``torture/.envs``, with the newest versions of the dependencies that
pyproject.toml allows; the oldest Python has a second one, with the oldest. ``--install`` makes the environments only.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ENVS = ROOT / "torture/.envs"
OLDEST = (3, 11)
MINORS = range(OLDEST[1], 30)


class Env(NamedTuple):
    """A Python, and the versions of the dependencies that it is to have: newest or oldest."""

    python: Path
    name: str
    versions: str

    @property
    def folder(self) -> Path:
        """Where it is made."""
        return ENVS / f"{self.name}-{self.versions}"


def found() -> dict[str, Path]:
    """Return the CPythons of this machine by their minor version: those on PATH, and those of pyenv."""
    pythons = {}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in MINORS:
        name = f"3.{minor}"
        here = sorted(pyenv.glob(f"{name}.*/bin/python"))
        path = here[-1] if here else shutil.which(f"python{name}")
        if path:
            pythons[name] = Path(path)
    return pythons


def environments() -> Iterator[Env]:
    """Yield each environment that is to be tested."""
    for name, python in found().items():
        yield Env(python, name, "newest")
        if name == f"3.{OLDEST[1]}":
            yield Env(python, name, "oldest")


def oldest() -> list[str]:
    """Return the dependencies, each held at the oldest version that is allowed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.sub(r"(\[.*\])?>=([\d.]+).*", r"==\2", each) for each in project["dependencies"]]


def install(env: Env) -> Path:
    """Make the environment, or bring it up to date, and return its Python."""
    python = env.folder / "bin/python"
    if not python.exists():
        subprocess.run([env.python, "-m", "venv", env.folder], check=True)
    held = env.folder / "constraints.txt"
    held.write_text("".join(f"{each}\n" for each in oldest()) if env.versions == "oldest" else "")
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    subprocess.run([*pip, "--constraint", held, "--editable", f"{ROOT}[dev]"], check=True, cwd=ENVS)
    return python


def main() -> int:
    """Install, test, print a row for each environment; return 0 if all tests passed everywhere."""
    parser = argparse.ArgumentParser(prog="torture.pythons", description="The tests on every Python of this machine.")
    parser.add_argument("--install", action="store_true", help="make the environments, test nothing")
    parser.add_argument("tests", nargs="*", help="arguments of pytest (default: every test)")
    options = parser.parse_args()
    failed = False
    for env in environments():
        python = install(env)
        if options.install:
            continue
        started = time.monotonic()
        # The environment's own programs come first on PATH, as they do in tests/conftest.py.
        command = [python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *options.tests]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        lines = done.stdout.splitlines()
        failed = failed or done.returncode != 0
        if done.returncode:
            print(*(line for line in lines if line.startswith(("FAILED", "ERROR"))), sep="\n", file=sys.stderr)
        last = lines[-1] if lines else f"status {done.returncode}"
        print(f"Python {env.name}, {env.versions}: {last} ({time.monotonic() - started:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
