"""Tables and bar charts of text, for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def table(rows: Sequence[Sequence[str]], numbers: Sequence[bool]) -> str:
    """Return lines of aligned columns: those of numbers to the right, the others to the left."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(_padded(cell, width, right=right) for cell, width, right in zip(row, widths, numbers, strict=True))
        for row in rows
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.category(char) in ("Mn", "Me") for char in text)


def bars(rows: Sequence[tuple[str, float, str]], width: int) -> str:
    """Return a line for each label, value and note, with a bar as long as the value; the longest fills the width."""
    if not rows:
        return ""
    labels, values, notes = zip(*rows, strict=True)
    label, note = max(map(_width, labels)), max(map(_width, notes))
    room = max(8, width - label - note - 4)
    largest = max(values) or 1
    lines = [
        f"{_padded(name, label)}  {bar(value / largest * room).ljust(room)}  {_padded(text, note, right=True)}"
        for name, value, text in rows
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def bar(length: float) -> str:
    """Return a bar of this many columns, to an eighth; what is not zero is seen."""
    eighths = max(round(length * 8), 1 if length > 0 else 0)
    return _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def short(number: float) -> str:
    """Return a number in few digits: 950, 1.2k, 34.5M."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.0f}{unit}" if not unit or number >= 99.95 else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f}G"
