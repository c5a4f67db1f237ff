"""The programs, as ``pyproject.toml`` declares them."""

from __future__ import annotations

import tomllib
from importlib import import_module

import click

from tests.harness.processes import ROOT

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
NAMES = sorted(SCRIPTS)


def module(name: str) -> str:
    """Return the module in which a program is declared."""
    return f"gptpipe.programs.{name.removeprefix('gptpipe').removeprefix('-') or 'filter'}"


def command(name: str) -> click.Command:
    """Return the program's command."""
    found: click.Command = import_module(module(name)).command
    return found
