"""What the tests of the documents share: an example run as it stands, in a real shell, with the model ``echo``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, needs
from tests.harness.processes import Result

ECHO = {"GPTPIPE_MODEL": "echo", "GPTPIPE_RETRY": "0"}
GIT = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")} | {
    "GIT_EDITOR": "true"
}

Example = Callable[..., Result]


@pytest.fixture
def example(shell: Run) -> Example:
    """Run the text of an example in the test's folder, as ``shell`` does, with another ``model`` if one is named."""

    def call(script: str, *, model: str = "echo", env: dict[str, str] | None = None, **more: Any) -> Result:
        return shell(script, env=ECHO | {"GPTPIPE_MODEL": model} | (env or {}), **more)

    return call


def sessions(home: Path) -> Path:
    """Return the folder of the sessions."""
    return home / ".local/share/gptpipe/sessions"


def turns(home: Path, name: str) -> list[Any]:
    """Return the lines of a session."""
    return [json.loads(line) for line in (sessions(home) / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with a file staged."""
    needs("git")
    path = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", path], check=True)
    (path / "new.txt").write_text("new line\n")
    subprocess.run(["git", "-C", path, "add", "new.txt"], check=True)
    return path
