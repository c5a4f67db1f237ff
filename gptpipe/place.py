"""Where a program runs, and the role that it was given: what every program finds out before it does anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from gptpipe import output, roles, settings
from gptpipe.config import Config
from gptpipe.errors import UsageError
from gptpipe.roles import Role
from gptpipe.sessions import SessionStore, Warn, silent
from gptpipe.settings import Paths


class Place(NamedTuple):
    """Where a program runs: its environment when it began, the settings file, the folders, its name.

    ``note`` is told what only ``--verbose`` shows.
    """

    env: Mapping[str, str]
    config: Config
    paths: Paths
    program: str = "gptpipe"
    note: Warn = silent

    @property
    def sessions(self) -> SessionStore:
        """The store of named conversations."""
        return SessionStore(self.paths.sessions)


def here(config: str | None, program: str = "gptpipe", *, verbose: bool = False) -> Place:
    """Return where this process is; ``config`` names the settings file if it is not the usual one.

    What the program uses is entered under its name.

    :raises ConfigError: if the settings file is faulty or there is no home directory.
    """
    env = dict(os.environ)
    note = output.say if verbose else silent
    return Place(env, settings.read_file(config, env), settings.paths(), program, note)


def role_of(place: Place, name: str | None, variables: Mapping[str, str]) -> Role:
    """Return the role of this name, its fields filled; without a name, one that says nothing.

    :raises Failure: as ``roles.load`` does; UsageError: for variables without a role.
    """
    if name is not None:
        return roles.load(place.paths.roles, name, variables)
    if variables:
        raise UsageError("--var needs a --role whose fields it fills")
    return Role({})
