"""Completions: the same options as the help has, and the TAB key in real shells."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pexpect
import pytest

from tests.conftest import Run, needs
from tests.harness import programs
from tests.harness.processes import ROOT

COMPLETIONS = ROOT / "completions"


def lines() -> Iterator[str]:
    """Yield what stands before the options: each program, and each of its words if it has such."""
    for program in programs.NAMES:
        command = programs.command(program)
        yield program
        if isinstance(command, click.Group):
            yield from (f"{program} {word}" for word in command.commands)


# Each prints the options that a shell offers behind $1.
BASH = """
program=${1%% *}
source "$COMPLETIONS/bash/$program"
function=$(complete -p "$program") function=${function#*-F } function=${function%% *}
COMP_WORDS=($1 -) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE="$1 -" COMP_POINT=$((${#1} + 2))
"$function"
printf '%s\n' "${COMPREPLY[@]}"
"""
ZSH = """
fpath=($COMPLETIONS/zsh) words=($=1 -) CURRENT=$#words service=$words[1]
_arguments() { print -rl -- "$@" }
autoload -Uz _gptpipe
_gptpipe
"""
FISH = """
set program (string split ' ' $argv[1])[1]
source $COMPLETIONS/fish/$program.fish
complete -C "$argv[1] -"
"""


def options_in_help(text: str) -> set[str]:
    """Return the options that stand in the first column of a help text."""
    columns = (line.strip().split("  ")[0] for line in text.splitlines() if re.match(r" +-", line))
    return {option for column in columns for option in re.findall(r"(?<!\S)--?[A-Za-z0-9][a-z-]*", column)}


@pytest.mark.parametrize("line", list(lines()))
@pytest.mark.parametrize(
    ("command", "script", "pattern"),
    [
        pytest.param(["bash", "-c"], BASH, r"^(-.*)$", id="bash"),
        pytest.param(["zsh", "-fc"], ZSH, r"^(?:\(.*?\))?\*?(--?[A-Za-z0-9][a-z-]*)[+=]?\[", id="zsh"),
        pytest.param(["fish", "--no-config", "-c"], FISH, r"^(-\S*)", id="fish"),
    ],
)
def test_options_are_those_of_the_help(
    run: Run, shell: Run, line: str, command: list[str], script: str, pattern: str
) -> None:
    needs(command[0])
    name = "" if command[0] == "fish" else command[0]  # what becomes $0; fish has none
    env = {"SCRIPT": script, "COMPLETIONS": str(COMPLETIONS), "LINE": line}
    result = shell(f'{" ".join(command)} "$SCRIPT" {name} "$LINE"', env=env)
    found = set(re.findall(pattern, result.text, re.MULTILINE))
    options = options_in_help(run(*line.split(), "-h").text)
    assert found == options


# What is typed before TAB, and the last word that comes of it.
KEYS = {
    "gptpipe --ses": "--session",
    "gptpipe hello --ses": "--session",
    "gptpipe -s wo": "work",
    "gptpipe -s a@": "a@b",
    "gptpipe --session=a@": "--session=a@b",
    "gptpipe -s été": "été-2026",
    "gptpipe -m lla": "llama3:8b",
    "gptpipe -m llama3:": "llama3:8b",
    "gptpipe -m ec": "echo",
    "gptpipe -p work-": "work-endpoint",
    "gptpipe -p oll": "ollama",
    "gptpipe -r comm": "commit",
    "gptpipe -f no": "notes of today.txt",
    "gptpipe -f a@": "a@file",
    "gptpipe -f b:f": "b:file",
    "gptpipe -o a@": "a@file",
    "gptpipe -S @no": "@notes of today.txt",
    "gptpipe -- --ses": "--ses",
    "gptpipe prompt wo": "wo",
    "gptpipe-sessions sho": "show",
    "gptpipe-sessions show wo": "work",
    "gptpipe-sessions copy work a@": "a@b",
    "gptpipe-sessions remove wo été": "été-2026",
    "gptpipe-sessions check --rep": "--repair",
    "gptpipe-sessions search wo": "wo",
}
START = {
    "bash": ("bash --noprofile --norc", "source $COMPLETIONS/bash/gptpipe-sessions"),
    "bash-completion": ("bash --noprofile --norc", "source /usr/share/bash-completion/bash_completion"),
    "zsh": ("zsh -f", "fpath=($COMPLETIONS/zsh $fpath); bindkey -e; autoload -Uz compinit; compinit -u -D"),
    "fish": ("fish --no-config", "set -p fish_complete_path $COMPLETIONS/fish"),
}


@pytest.fixture
def names(home: Path, tmp_path: Path) -> None:
    """Make sessions, a role, settings and files whose names are to be completed."""
    sessions = home / ".local/share/gptpipe/sessions"
    sessions.mkdir(parents=True)
    for name in ("work", "a@b", "été-2026"):
        (sessions / f"{name}.jsonl").touch()
    roles = home / ".config/gptpipe/roles"
    roles.mkdir(parents=True)
    (roles / "commit.md").touch()
    (home / ".config/gptpipe/config.toml").write_text(
        '[aliases]\n"llama3:8b" = "meta-llama/Llama-3-8B"\n\n[profiles.work-endpoint]\nbase_url = "http://127.0.0.1:1/v1"\n'
    )
    for name in ("notes of today.txt", "a@file", "b:file"):
        (tmp_path / name).touch()


@pytest.fixture
def terminal(request: pytest.FixtureRequest, tmp_path: Path, names: None) -> Iterator[pexpect.spawn[str]]:
    """Start the shell that the test names, interactive, in a terminal, with its completion loaded as users load it."""
    command, setup = START[request.param]
    needs(command.split()[0], *re.findall(r"source (/\S+)", setup))
    share = tmp_path / "share/bash-completion"
    share.mkdir(parents=True)
    (share / "completions").symlink_to(COMPLETIONS / "bash")
    env = os.environ | {"COMPLETIONS": str(COMPLETIONS), "XDG_DATA_DIRS": str(tmp_path / "share")}
    shell = pexpect.spawn(
        command, cwd=tmp_path, env=env, encoding="utf-8", timeout=20, dimensions=(24, 200), echo=False
    )
    shell.sendline(f"{setup}; printf '[%s]' ready")
    shell.expect_exact("[ready]")
    yield shell
    shell.close(force=True)


@pytest.mark.parametrize("terminal", START, indirect=True)
def test_tab(terminal: pexpect.spawn[str]) -> None:
    completed = {}
    for line in KEYS:
        # What the line has become is seen by printing its words: ^A goes to its start.
        terminal.send(f"{line}\t END\x01printf '[%s]' \r")
        terminal.expect(r"\[gptpipe[a-z-]*\](.*)\[END\]")
        assert isinstance(terminal.match, re.Match)
        completed[line] = terminal.match[1].rpartition("[")[2].removesuffix("]")
    assert completed == KEYS
