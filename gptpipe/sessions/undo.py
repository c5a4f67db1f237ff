"""Turns that were taken back. A line of the session says so; nothing that was written is removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gptpipe.message import Turn

if TYPE_CHECKING:
    from gptpipe.sessions.store import Record, Session


def standing(records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records of the turns that were not taken back. Both come newest first."""
    undone = 0
    for record in records:
        if record.turn.undo:
            undone += record.turn.undo
        elif undone:
            undone -= 1
        else:
            yield record


def take_back(session: Session) -> Turn | None:
    """Take back the newest turn of a locked session and return it, or None without one; raises as ``extend``."""
    taken = next(session.history(), None)
    if taken:
        session.append(Turn([], taken.model, taken.profile, taken.base_url, undo=1))
    return taken
