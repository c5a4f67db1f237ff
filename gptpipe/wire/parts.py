"""The parts of an answer: their texts, and the order in which they are passed on."""

from __future__ import annotations

from collections.abc import Iterator

from gptpipe.wire.events import Reasoning, Refusal, Text

Kind = type[Text | Reasoning | Refusal]
Place = tuple[int, int]  # the numbers of an item in the output, and of a part in the item
Piece = tuple[Kind, str]


class Parts:
    """The texts of an answer, by their places.

    A piece of the earliest part that has not ended is passed on as it comes; pieces of later parts wait for its end.
    Reasoning never waits: it is not part of the answer.
    """

    def __init__(self) -> None:
        self._texts: dict[tuple[Kind, Place], list[str]] = {}
        self._named: set[tuple[Kind, str, int]] = set()  # the same parts, by the id of the item
        self._current: Place | None = None  # the part that is passed on as it comes
        self._waiting: dict[Place, list[Piece]] = {}
        self._thought: Place | None = None  # the part of the reasoning that came last

    def known(self, kind: Kind, at: Place, item: object) -> bool:
        """Return whether text came at this place, or in this part of the item with this id."""
        return (kind, at) in self._texts or (isinstance(item, str) and (kind, item, at[1]) in self._named)

    def said(self, kind: Kind) -> str:
        """Return all text of a kind, in the order in which its parts began."""
        return "".join(piece for key, pieces in self._texts.items() if key[0] is kind for piece in pieces)

    def add(self, kind: Kind, at: Place, item: object, text: str) -> Iterator[Piece]:
        """Add a piece to a part, and yield what can be passed on; ``item`` is the id of the item, if that is known."""
        pieces = self._texts.get((kind, at))
        if pieces is None:
            pieces = self._texts[kind, at] = []
            if isinstance(item, str):
                self._named.add((kind, item, at[1]))
        pieces.append(text)
        if kind is Reasoning:
            apart = "" if self._thought in (None, at) else "\n\n"
            self._thought = at
            yield Reasoning, apart + text
        elif self._current is None or at <= self._current:
            self._current = self._current or at
            yield kind, text
        else:
            self._waiting.setdefault(at, []).append((kind, text))

    def end(self, at: Place) -> Iterator[Piece]:
        """End a part, and yield what waited for that."""
        if at == self._current:
            self._current = min(self._waiting, default=None)
            if self._current:
                yield from self._waiting.pop(self._current)

    def rest(self) -> Iterator[Piece]:
        """Yield what still waits, in order: the answer has ended."""
        for at in sorted(self._waiting):
            yield from self._waiting.pop(at)
