"""Where a program runs, the role that it was given, its way to the endpoint: what comes before anything is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

from gptpipe.console import output, signals
from gptpipe.errors import UsageError
from gptpipe.sessions.store import SessionStore, Warn, silent
from gptpipe.settings import keys, resolve, roles, settings
from gptpipe.settings.file import Config
from gptpipe.settings.roles import Role
from gptpipe.settings.settings import Paths, Settings
from gptpipe.wire.client import Client


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
    named = resolve.named_file(config, env)
    # What a shell gives by <(command) has an end when the command has one.
    known = named is None or os.path.isfile(named)
    with nullcontext() if known else output.waiting(f"waiting for {named} to end"):
        read = resolve.read_file(config, env)
    return Place(env, read, settings.paths(), program, note)


def role_of(place: Place, name: str | None, variables: Mapping[str, str]) -> Role:
    """Return the role of this name, its fields filled; without a name, one that says nothing.

    :raises Failure: as ``roles.load`` does; UsageError: for variables without a role.
    """
    if name is not None:
        return roles.load(place.paths.roles, name, variables)
    if variables:
        raise UsageError("--var needs a --role whose fields it fills")
    return Role({})


def connect(chosen: Settings, place: Place, started: float) -> Client:
    """Return a client for the endpoint, and let ``--max-time`` count from ``started`` (monotonic) on.

    :raises ConfigError: Temporary: as ``keys.find`` does.
    """
    if chosen.max_time:
        _limit(started, chosen.max_time)
    key = keys.find(chosen, place.env)
    place.note(f"{settings.described(chosen)}, key: {key.source}")
    return Client(chosen, key.value, deadline=chosen.deadline(started), waiting=output.waiting)


@cache
def _limit(started: float, seconds: float) -> None:
    """Let ``--max-time`` count, once for all clients."""
    signals.Deadline(started, seconds, lambda: output.say(signals.late(seconds).message))
