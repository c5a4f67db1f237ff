"""What a run needs before anything is asked: where it happens, its settings and its role."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from gptpipe.console import output
from gptpipe.console.signals import Deadline
from gptpipe.errors import UsageError
from gptpipe.settings import environment, resolve, settings
from gptpipe.settings.file import EMPTY, Config
from gptpipe.settings.settings import Paths, Role, Settings
from gptpipe.settings.values import seconds

if TYPE_CHECKING:
    from gptpipe.sessions.store import SessionStore


class Context(NamedTuple):
    """Where a run happens: its environment when it began, the settings file, the folders, its program, its deadline.

    ``note`` takes what only ``--verbose`` shows.
    """

    env: Mapping[str, str]
    config: Config
    paths: Paths
    program: str
    deadline: Deadline
    note: Callable[[str], object] = output.silent

    @property
    def sessions(self) -> SessionStore:
        """The store of named conversations."""
        from gptpipe.sessions.store import SessionStore  # not before the way to the server is being opened

        return SessionStore(self.paths.sessions)

    def resolve(
        self,
        options: Mapping[str, Any],
        role: Mapping[str, Any] = EMPTY,
        session: Mapping[str, Any] = EMPTY,
        *,
        need_model: bool = True,
    ) -> Settings:
        """Return the settings of a call here; the arguments are those of ``settings.resolve``.

        :raises UsageError: ConfigError: as that does.
        """
        return resolve.resolve(options, role, session, self.env, self.config, need_model=need_model)


def begin(values: Mapping[str, Any]) -> Deadline:
    """Return the run's deadline, by ``--max-time`` in the options or else by its variable.

    The settings file, which may hold it too, is not read yet. A faulty value is reported when the settings are made.
    """
    deadline = Deadline()
    option = values.get("max_time")
    with suppress(ValueError):
        said = os.environ.get(environment.ENVIRONMENT["max_time"]) if option is None else option
        deadline.limit(seconds(float(said or 0)))
    return deadline


def here(program: str, values: Mapping[str, Any], deadline: Deadline | None = None) -> Context:
    """Return the context of this process. It uses the options ``config``, ``max_time`` and ``verbose``, if they exist.

    Usage is booked under the name of the program. Without a ``deadline`` the run begins now.

    :raises ConfigError: if the settings file is faulty or this user has no home directory.
    """
    deadline = deadline or begin(values)
    env = dict(os.environ)
    named = environment.named_file(values.get("config"), env)
    with output.waiting_for(named) if named else nullcontext():  # a shell's <(command) ends when the command does
        config = environment.read_file(values.get("config"), env)
    if values.get("max_time") is None and not env.get(environment.ENVIRONMENT["max_time"]):
        deadline.limit(config.top.get("max_time"))
    note = output.say if values.get("verbose") else output.silent
    return Context(env, config, settings.paths(), program, deadline, note)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that the command line has, as ``gptpipe.settings.resolve`` takes them.

    :raises NoInput: BadInput: if the system message stands in a file that cannot be read, or is not text.
    """
    found = {name: value for name, value in values.items() if value is not None and value != ()}
    if "param" in found:
        found["param"] = dict(found["param"])
    if "system" in found:
        from gptpipe.asking.inputs import text_or_file  # not for a call without one

        found["system"] = text_or_file(found["system"], found.get("encoding"))
    return found


def role_of(context: Context, name: str | None, variables: Mapping[str, str]) -> Role:
    """Return the role of this name, its fields filled. Without a name, return an empty role.

    :raises Failure: as ``roles.load`` does.
    :raises UsageError: for variables without a role.
    """
    if name is not None:
        from gptpipe.settings import roles  # not for a call without one

        return roles.load(context.paths.roles, name, variables)
    if variables:
        raise UsageError("--var needs a --role whose fields it fills")
    return Role({})
