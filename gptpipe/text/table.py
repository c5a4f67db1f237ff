"""Tables and bar charts of text, for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def table(rows: Sequence[Sequence[str]], numbers: Sequence[bool]) -> str:
    """Return lines of aligned columns: numbers to the right, everything else to the left."""
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(_padded, row, widths, numbers)) for row in rows]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def width_of(text: str) -> int:
    """Return how many columns of a terminal the widest line of a text takes."""
    return max(map(_columns, text.split("\n")))


def _columns(line: str) -> int:
    if line.isascii():
        return len(line)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in line)
    return len(line) + wide - sum(unicodedata.category(char) in ("Mn", "Me") for char in line)


def cut(text: str, columns: int) -> str:
    """Return the text, cut to at most ``columns`` columns; ``…`` stands for the rest."""
    if width_of(text) <= columns:
        return text
    end = next(end for end in range(len(text), -1, -1) if width_of(text[:end]) < columns)
    return f"{text[:end]}…"


def bars(rows: Sequence[tuple[str, float, str]], width: int) -> str:
    """Return a line for each label, value and note, with a bar as long as the value; the longest fills the width."""
    if not rows:
        return ""
    labels, values, notes = zip(*rows, strict=True)
    room = max(8, width - max(map(width_of, labels)) - max(map(width_of, notes)) - 4)
    largest = max(values) or 1
    drawn = [(label, bar(value / largest * room).ljust(room), note) for label, value, note in rows]
    return table(drawn, (False, False, True))


def bar(length: float) -> str:
    """Return a bar of this many columns, to an eighth of one. Anything above zero is visible."""
    eighths = max(round(length * 8), 1 if length > 0 else 0)
    return _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def short(number: float) -> str:
    """Return a number in few digits: 950, 1.2k, 34.5M."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.0f}{unit}" if not unit or number >= 99.95 else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f}G"
