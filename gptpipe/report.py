"""Tables and bar charts of text, for people."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return lines of aligned columns: the first to the left, the others, which are numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def bars(rows: Sequence[tuple[str, float, str]], width: int) -> str:
    """Return a line for each label, value and note, with a bar as long as the value; the longest fills the width."""
    if not rows:
        return ""
    labels, values, notes = zip(*rows, strict=True)
    label, note = max(map(len, labels)), max(map(len, notes))
    room = max(8, width - label - note - 4)
    largest = max(values) or 1
    lines = [
        f"{name.ljust(label)}  {bar(value / largest * room).ljust(room)}  {text.rjust(note)}"
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
