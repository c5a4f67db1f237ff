"""Tables: rows of cells under a header, as spreadsheets and databases write them (RFC 4180, any delimiter).

A row is also kept as the text that it was, so that a table can come out with its columns as they went in.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from gptpipe.errors import BadInput, UsageError

BOM = "\ufeff"
UNCLOSED = "a quote is not closed"
_DELIMITERS = ",;\t|"
_LONGEST_CELL = 1 << 30  # the csv module's own limit is 128 KiB


class Row(NamedTuple):
    """The cells of a row, and its text with the line end; ``problem`` says why it is not one, in ``line``."""

    cells: list[str]
    text: str
    line: int
    problem: str | None = None


class Header(NamedTuple):
    """The names of the columns, the text of the row in which they stand, and the delimiter."""

    columns: list[str]
    text: str
    delimiter: str

    @property
    def newline(self) -> str:
        """The line end of the table."""
        return "\r\n" if self.text.endswith("\r\n") else "\n"


def delimiter_of(text: str) -> str:
    """Return the delimiter that an option names: one character, or ``\\t``.

    :raises UsageError: if it cannot be one.
    """
    found = "\t" if text == "\\t" else text
    if len(found) != 1 or found in '"\r\n' or (not found.isprintable() and found != "\t"):
        raise UsageError(f"--delimiter must be one character, and {text!r} is not")
    return found


def rows(lines: Iterable[str], delimiter: str, first: int = 1) -> Iterator[Row]:
    """Yield the rows in lines that have no newline; ``first`` is the number of the first line. Skips empty lines."""
    csv.field_size_limit(_LONGEST_CELL)
    taken: list[str] = []
    number = first - 1

    def feed() -> Iterator[str]:
        nonlocal number
        for line in lines:
            number += 1
            taken.append(line + "\n")
            yield taken[-1]

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    while True:
        begins = number + 1
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            unclosed = "unexpected end" in str(error)
            problem = UNCLOSED if unclosed else str(error).replace("'\"'", "a quote")
            yield Row([], "".join(taken), begins, problem)
            continue
        if cells:
            yield Row(cells, "".join(taken), begins)


def header(lines: Iterator[str], delimiter: str | None) -> tuple[Header, Iterator[Row]] | None:
    """Return the header and the rows after it, or None if the input is empty. Without a delimiter, guess it.

    :raises BadInput: if the first row cannot be a header.
    """
    first = next((line for line in lines if line.strip("\r" + BOM)), None)
    if first is None:
        return None
    delimiter = delimiter or _guessed(first)
    # A quoted first cell begins after the mark, or the quote would be a part of it.
    found = rows(chain([first.removeprefix(BOM)], lines), delimiter)
    row = next(found)
    if row.problem:
        raise BadInput(f"the header is not CSV: {row.problem} in line {row.line}")
    mark = BOM if first.startswith(BOM) else ""
    return Header(row.cells, mark + row.text, delimiter), found


def _guessed(line: str) -> str:
    """Return the delimiter that occurs most often outside of quotes; a comma if none does."""
    counted = Counter("".join(line.split('"')[::2]))
    return max(_DELIMITERS, key=lambda each: counted[each])


def cell(text: str, delimiter: str) -> str:
    """Return a text as a cell, in quotes where it needs them."""
    if any(char in text for char in (delimiter, '"', "\n", "\r")) or text.startswith(BOM):
        return '"' + text.replace('"', '""') + '"'
    return text


def extended(row: str, cells: Iterable[str], delimiter: str, newline: str) -> str:
    """Return a row's text with more cells behind those that it has."""
    return row.rstrip("\r\n") + "".join(delimiter + cell(each, delimiter) for each in cells) + newline
