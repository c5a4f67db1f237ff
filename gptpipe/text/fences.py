"""Fenced code blocks, taken out of Markdown while it arrives.

The rules are CommonMark's (https://spec.commonmark.org/0.31.2/#fenced-code-blocks): backticks or tildes, three or more,
indented by up to three columns, any info string, also inside block quotes and list items, unclosed at the end.
Raw HTML blocks and link reference definitions are not modelled: a fence inside them counts.
A line ends with LF or CRLF, and a block's lines keep the end that they have.
"""

from __future__ import annotations

import re

_TAB = 4
_QUOTE = 0  # in the list of open containers: a block quote; any other number is a list item's content indentation

_OPENING = re.compile(r"(`{3,})[^`]*|(~{3,}).*", re.DOTALL)
_MARKER = re.compile(r"(?:[-+*]|(\d{1,9})[.)])(?=[ \t]|$)")
_NO_PARAGRAPH = re.compile(r"#{1,6}(?:[ \t]|$)|([-*_])[ \t]*(?:\1[ \t]*){2,}$")
_UNDERLINE = re.compile(r"(?:=+|-+)[ \t]*")  # makes the paragraph above it a heading


def whole_fence(text: str) -> str:
    """Return what stands in the fence that surrounds the whole text, or the text if none does."""
    first, _, rest = text.strip().partition("\n")
    if not _OPENING.fullmatch(first):
        return text
    fence = Fence()
    block = fence.feed(text.strip()) + fence.close()
    behind = rest[len(block) :]
    return text if "\n" in behind.strip() else block


def _indentation(line: str, column: int) -> int:
    """Return how many columns of white space a line begins with, if its first character stands at ``column``."""
    start = column
    for character in line:
        if character == " ":
            column += 1
        elif character == "\t":
            column += _TAB - column % _TAB
        else:
            break
    return column - start


def _cut(line: str, column: int, width: int) -> tuple[str, int]:
    """Take up to ``width`` columns of white space off a line; what is left of a tab becomes spaces.

    Returns the rest, and the column where it begins.
    """
    end = column + min(width, _indentation(line, column))
    taken = 0
    while column < end:
        column += 1 if line[taken] == " " else _TAB - column % _TAB
        taken += 1
    return " " * (column - end) + line[taken:], end


class _Containers:
    """The block quotes and list items that are open, line after line."""

    def __init__(self) -> None:
        self._open: list[int] = []
        self._paragraph = False  # whether the last line may be continued without its containers' marks
        self._empty_item = False  # whether the last line began a list item and held nothing else

    def __bool__(self) -> bool:
        return bool(self._open)

    def matched(self, line: str) -> tuple[int, str, int]:
        """Return how many of the open containers a line continues, its rest, and the column where that begins."""
        column = 0
        for depth, width in enumerate(self._open):
            indentation = _indentation(line, column)
            if width == _QUOTE:
                if indentation > 3 or not line.lstrip(" \t").startswith(">"):
                    return depth, line, column
                line, column = _after_quote(line, column)
                continue
            blank = not line.strip()
            if (indentation < width and not blank) or (blank and self._empty_item and depth == len(self._open) - 1):
                return depth, line, column
            line, column = _cut(line, column, width)
        return len(self._open), line, column

    def inside(self, line: str) -> tuple[str, int] | None:
        """Return what a line adds to the code block that is open, and its column, or None if the line is outside."""
        depth, rest, column = self.matched(line)
        return (rest, column) if depth == len(self._open) else None

    def read(self, line: str) -> tuple[str, int] | None:
        """Take in a line that is not in a code block.

        Returns the fence that it opens, with the columns by which that is indented, else None.
        """
        depth, rest, column = self.matched(line)
        below = self._paragraph and depth == len(self._open)
        rest, column, begun = self._begun(rest, column, below)
        indentation = _indentation(rest, column)
        bare = rest.lstrip(" \t")
        fence = _OPENING.fullmatch(bare) if indentation <= 3 else None
        special = indentation <= 3 and (_NO_PARAGRAPH.match(bare) or (below and _UNDERLINE.fullmatch(bare)))
        plain = bool(bare) and not fence and not special
        if plain and self._paragraph and not begun:
            return None  # the paragraph goes on, with all containers that it is in, marked or not
        self._open[depth:] = begun
        self._paragraph = plain and indentation <= 3
        self._empty_item = bool(begun) and begun[-1] != _QUOTE and not bare
        return (fence[1] or fence[2], indentation) if fence else None

    def _begun(self, line: str, column: int, paragraph: bool) -> tuple[str, int, list[int]]:
        """Return the rest of a line after the containers that begin on it, its column, and those containers."""
        begun: list[int] = []
        while (indentation := _indentation(line, column)) <= 3:
            bare = line.lstrip(" \t")
            if bare.startswith(">"):
                begun.append(_QUOTE)
                line, column = _after_quote(line, column)
                paragraph = False
                continue
            marker = _MARKER.match(bare)
            if not marker or _NO_PARAGRAPH.match(bare):
                break
            blank = not bare[marker.end() :].strip()
            if paragraph and (blank or marker[1] not in (None, "1")):
                break  # an empty item or one that does not begin with 1 does not interrupt a paragraph
            column += indentation + marker.end()
            line = bare[marker.end() :]
            space = _indentation(line, column)
            padding = 1 if blank or space > 4 else space
            line, column = _cut(line, column, padding)
            begun.append(indentation + marker.end() + padding)
            paragraph = False
        return line, column, begun


def _after_quote(line: str, column: int) -> tuple[str, int]:
    column += _indentation(line, column) + 1
    return _cut(line.lstrip(" \t")[1:], column, 1)


class Fence:
    """The first fenced code block of a text that arrives in pieces, or the last.

    ``found`` says whether there was one. The first block is passed on while it arrives: only what could still be
    its closing fence is held back. The last is known at the end. The pieces may be cut anywhere.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.found = False
        self._last = last
        self._containers = _Containers()
        self._line: list[str] = []  # the line so far, as long as nothing of it was passed on
        self._fence = ""  # the fence of the block that is open
        self._indentation = 0
        self._middle = False  # whether the beginning of the present line was passed on
        self._may_close = re.compile("")
        self._block: list[str] = []  # the text of the block that is to be passed on
        self._over = False

    def feed(self, text: str) -> str:
        """Take the next piece of the text; return what it adds to the first block."""
        start = 0
        while not self._over and start < len(text):
            end = text.find("\n", start) + 1 or len(text)
            self._piece(text[start:end])
            start = end
        return "" if self._last else self._taken()

    def close(self) -> str:
        """Return what is left of the block: the end of the text ends it too."""
        if self._line and not self._over:
            self._whole_line("".join(self._line))
        return self._taken()

    def _taken(self) -> str:
        taken = "".join(self._block)
        self._block.clear()
        return taken

    def _piece(self, piece: str) -> None:
        """Take a piece that ends no later than its line."""
        ended = piece.endswith("\n")
        if self._middle:
            self._block.append(piece)
            self._middle = not ended
            return
        self._line.append(piece)
        if not ended and not self._fence:
            return
        line = "".join(self._line)
        if ended:
            self._line.clear()
            self._whole_line(line)
        elif not self._may_close.fullmatch(line) and (inside := self._containers.inside(line)):
            self._line.clear()
            self._block.append(_cut(*inside, self._indentation)[0])
            self._middle = True

    def _whole_line(self, line: str) -> None:
        """Take a line of which nothing was passed on."""
        if self._fence:
            inside = self._containers.inside(line)
            if inside and not self._closes(*inside):
                self._block.append(_cut(*inside, self._indentation)[0])
                return
            self._fence = ""
            self._over = not self._last
            if inside or self._over:
                return
        opening = self._containers.read(line.rstrip("\r\n"))
        if opening:
            self._opened(*opening)

    def _closes(self, rest: str, column: int) -> bool:
        fence = rf"{self._fence}{self._fence[0]}*"
        return _indentation(rest, column) <= 3 and re.fullmatch(fence, rest.strip(" \t\r\n")) is not None

    def _opened(self, fence: str, indentation: int) -> None:
        self.found = True
        self._fence, self._indentation = fence, indentation
        prefix = "[ \t>]*" if self._containers else " {0,3}"
        self._may_close = re.compile(rf"{prefix}{fence[0]}*[ \t]*\r?")
        self._block.clear()
