"""The way to the endpoint: its key, its client, and both kept over the turns of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from gptpipe.asking.context import Context
from gptpipe.console import output
from gptpipe.settings import settings
from gptpipe.settings.settings import Settings
from gptpipe.wire.early import Early

if TYPE_CHECKING:
    from gptpipe.settings.keys import Key
    from gptpipe.wire.client import Client, Gate


class Link:
    """Keeps the key and the client of the last turn.

    With the same settings, the next turn reuses the key and the connection, and leaves out fields that were refused.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._found: tuple[Settings, Key] | None = None
        self._made: tuple[Settings, Client] | None = None
        self._early: Early | None = None

    def open(self, chosen: Settings) -> None:
        """Begin to connect to the endpoint, unless that was done."""
        made, early = self._made, self._early
        if (made is None or made[0] != chosen) and (early is None or early.settings != chosen):
            self._early = Early(chosen)

    def key(self, chosen: Settings) -> Key:
        """Return the key for the endpoint of the settings.

        :raises ConfigError: as ``keys.find`` does.
        """
        if self._found is None or _endpoint(self._found[0]) != _endpoint(chosen):
            self._found = (chosen, key_for(self._context, chosen))
        return self._found[1]

    def client(self, chosen: Settings) -> Client:
        """Return a client for the settings, its key found.

        :raises ConfigError: as :meth:`key` does.
        """
        if self._made is None or self._made[0] != chosen:
            if self._made:
                self._made[1].close()
            self._made = (chosen, connect(self._context, chosen, self.key(chosen), early=self._early))
        return self._made[1]

    def close(self) -> None:
        """Close the connections and forget the key: it may have been refused because it is too old."""
        if self._made:
            self._made[1].close()
        self._found = self._made = None


def _endpoint(chosen: Settings) -> tuple[object, ...]:
    return chosen.profile, chosen.base_url, chosen.key


def key_for(context: Context, chosen: Settings) -> Key:
    """Return the key for the endpoint. A key command ends with the run.

    :raises ConfigError: as ``keys.find`` does.
    """
    from gptpipe.console import children  # while the way to the server is being opened
    from gptpipe.settings import keys

    return keys.find(chosen, context.env, run=children.run)


def connect(
    context: Context,
    chosen: Settings,
    key: Key | None = None,
    *,
    waiting: Callable[[str], AbstractContextManager[object]] = output.waiting,
    gate: Gate | None = None,
    early: Early | None = None,
) -> Client:
    """Return a client for the endpoint; the other arguments are the client's. A gate keeps the deadline itself.

    :raises ConfigError: as :func:`key_for`, which finds the key if none is given.
    """
    from gptpipe.wire.client import Client  # as there

    key = key or key_for(context, chosen)
    context.note(f"{settings.described(chosen)}, key: {key.source}")
    until = (lambda: None) if gate else (lambda: context.deadline.at)
    return Client(chosen, key.value, deadline=until, waiting=waiting, gate=gate, early=early)
