"""Templates of roles and of ``gptpipe-map``: ``{}`` and ``{name}`` are fields, ``{{`` and ``}}`` are braces.

A name begins with a letter, a digit or ``_``; spaces, ``-`` and ``.`` may follow. A single ``}`` stands for itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from gptpipe.errors import Failure, UsageError

_NAME = re.compile(r"\w[\w .-]*")
_BRACE = re.compile(r"\{(\{|(?:\w[\w .-]*)?\})?|\}(\})")

_FIELD_OR_BRACE = re.compile(r"\{\w[\w .-]*\}|[{}]")


class Field(NamedTuple):
    """A field of a template; the name of ``{}`` is empty."""

    name: str


Template = list[str | Field]


def is_name(name: str) -> bool:
    """Return whether a field may have this name."""
    return _NAME.fullmatch(name) is not None


def parse(text: str, what: str, failure: type[Failure] = UsageError, first_line: int = 1) -> Template:
    """Return the pieces of a text.

    ``what`` names the text in a message, and ``first_line`` is the number of its first line there.

    :raises UsageError: or ``failure``, for a brace that is neither a field nor doubled.
    """
    pieces: Template = []
    end = 0
    for brace in _BRACE.finditer(text):
        pieces.append(text[end : brace.start()])
        end = brace.end()
        if brace[2]:
            pieces.append("}")
            continue
        if brace[1] is None:
            line = first_line + text.count("\n", 0, brace.start())
            raise failure(
                f"{what} has a brace in line {line} that does not begin a field: {text[brace.start() :][:20]!r}",
                "a field is written {NAME}, a brace {{",
            )
        pieces.append("{" if brace[1] == "{" else Field(brace[1][:-1]))
    pieces.append(text[end:])
    return pieces


def fill(template: Template, value: Callable[[str], str]) -> str:
    """Return the text with each field replaced by what ``value`` returns for its name."""
    return "".join(value(piece.name) if isinstance(piece, Field) else piece for piece in template)


def fields(template: Template) -> list[str]:
    """Return the names of the fields, in order."""
    return [piece.name for piece in template if isinstance(piece, Field)]


def escape(text: str) -> str:
    """Return a text that, parsed and filled, is the given one."""
    return text.replace("{", "{{").replace("}", "}}")


def as_template(text: str) -> str:
    """Return a text in which ``{NAME}`` is a field and every other brace stands for itself."""
    return _FIELD_OR_BRACE.sub(lambda found: found[0] * 2 if len(found[0]) == 1 else found[0], text)
