"""Both READMEs: every command runs, in the order in which a reader meets it, in one shell, with the model ``echo``.

Installers, ``make`` and ``sudo`` are stand-ins that write down how they were called; a model on this machine is a
server on loopback. Everything else is what it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.conftest import Run, needs
from tests.documents.conftest import GIT
from tests.harness.processes import ROOT
from tests.harness.server import Server

PAGES = ["README.md", "README.zh-CN.md"]
INSTALLERS = ("pipx", "uv", "pip", "make")
BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "--- end of block"


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the kind and the text of each block of commands."""
    found: list[tuple[str, str]] = BLOCK.findall((ROOT / page).read_text())
    return found


def commands(kind: str, text: str) -> str:
    """Return what a reader types: of a console the lines after the prompt."""
    return text if kind == "sh" else "".join(f"{line[2:]}\n" for line in text.splitlines() if line[:2] == "$ ")


@pytest.fixture
def world(tmp_path: Path, home: Path, server: Server, repository: Path, shell: Run) -> dict[str, str]:
    """Make what the examples are about, in the repository, and return the environment in which they run."""
    for name in INSTALLERS:
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/installed\n')
        (tmp_path / name).chmod(0o755)
    shell(
        "echo old >tracked; git add tracked; git commit -qm start tracked; echo new >>tracked", env=GIT, cwd=repository
    )
    for name, text in {
        "words.txt": "one\n-two\n",
        "report.txt": "long\n",
        "reviews.csv": "stars,text\n5,fine\n",
    }.items():
        (repository / name).write_text(text)
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text(f'[profiles.ollama]\nbase_url = "{server.url}"\n')
    openai = {"OPENAI_BASE_URL": server.url}
    return {**GIT, **openai, "GPTPIPE_RETRY": "0", "PATH": f"{tmp_path}:{os.environ['PATH']}"}


# What each block prints, in order; a console's is what it shows. A question comes before the text that it is about.
PRINTED = [
    r".+\n\ndiff --git a/tracked (?s:.*)\n\+new\n",
    "",
    "",
    "",
    r"(/.*gptpipe.*\n)+",
    "",
    r".+\n",
    r".+\n",
    r"(?s:.*)1 file changed(?s:.*)",
    r".+\n\nFilesystem(?s:.*)\n\nFilesystem(?s:.*)",
    "",
    "",
    r".+\n\d+\n",
    r"disks\s+2 (?s:.*)\n\nFilesystem(?s:.*)\ndisks:\d:(?s:.*)",
    r".+\n.+\n(Bye!\n)?",
    r".+\n",
    "",
]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_order(page: str, world: dict[str, str], repository: Path, shell: Run) -> None:
    needs("git", "jq")
    script = "exec 2>&1\n" + "".join(
        f"export GPTPIPE_MODEL=echo\n{commands(kind, text)}echo {MARK} $?\n" for kind, text in blocks(page)
    )
    told = shell(script, env=world, cwd=repository, timeout=100).text
    *parts, rest = re.split(rf"{MARK} (\d+)\n", told)
    printed, statuses = parts[::2], parts[1::2]
    assert (rest, set(statuses)) == ("", {"0"}), told
    consoles = ["".join(line for line in text.splitlines(True) if line[:2] != "$ ") for _, text in blocks(page)]
    expected = [
        re.escape(shown) if kind == "console" else None for (kind, _), shown in zip(blocks(page), consoles, strict=True)
    ]
    patterns = iter(PRINTED)
    for shown, pattern, (_, text) in zip(printed, expected, blocks(page), strict=True):
        assert re.fullmatch(pattern if pattern is not None else next(patterns), shown), f"{text}\nprinted:\n{shown}"
