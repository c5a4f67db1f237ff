"""Markdown as a terminal shows it while it still arrives: bold, code, headings and lists, by escape sequences.

Nothing else changes: what is not closed on its line, or not known here, is shown as it was written.
"""

from __future__ import annotations

import re

# What each begins and ends with, by ECMA-48 (SGR): bold, cyan, faint.
_BOLD = ("\x1b[1m", "\x1b[22m")
_CODE = ("\x1b[36m", "\x1b[39m")
_FENCE = ("\x1b[2m", "\x1b[22m")

_LONGEST = 400  # characters that may be held back because a span may end in them
_PIECE = 1000  # characters that are looked at together: the time for a mark grows with them

_INDENT = re.compile(r"[ \t]*")
_FENCES = re.compile(r"(`{3,})[^`]*|(~{3,}).*")
_FENCE_TO_BE = re.compile(r"(`+[^`]*|~+.*)?")
_CLOSING_TO_BE = re.compile(r"(`*|~*)[ \t\r]*")
_HEADING = re.compile(r"#{1,6} ")
_UNDECIDED = re.compile(r"[-*]|#{1,6}")  # a line's beginning that can still become several things
_MARK = re.compile(r"`+|\*\*|\*$")
_CODE_SPAN = re.compile(r"(?<!`)(`++)(.+?)(?<!`)\1(?!`)")
_BOLD_SPAN = re.compile(r"\*\*(?=[^\s*])((?:`[^`]*`|(?!\*\*)[^`])+)(?<=[^\s*])\*\*")
_WORD = re.compile(r"[0-9A-Za-z]")


class Markdown:
    """A text that arrives in pieces. Each piece is shown as far as its form is known, and a line in full at its end."""

    def __init__(self) -> None:
        self._held = ""
        self._fence = ""  # the marks that began the block of code
        self._kind = ""  # "text", "heading" or "code", once the line's beginning tells
        self._before = ""  # the last character that came out of the line

    def feed(self, text: str) -> str:
        """Take a piece, and return what can be shown now."""
        return "".join(self._feed(text[start : start + _PIECE]) for start in range(0, len(text), _PIECE))

    def _feed(self, text: str) -> str:
        *lines, last = text.split("\n")
        shown = []
        for line in lines:
            self._held += line
            shown += [self._line(ended=True), "\n"]
            self._held = self._kind = self._before = ""
        self._held += last
        return "".join(shown) + self._line(ended=False)

    def _line(self, *, ended: bool) -> str:
        """Return what can be shown of the line that is held."""
        lead = "" if self._kind else self._begin(ended)
        if self._kind == "code":
            return lead + _styled(self._take(len(self._held)), _CODE)
        shown = lead + self._spans(ended) if self._kind else lead
        return shown + _BOLD[1] if ended and self._kind == "heading" else shown

    def _begin(self, ended: bool) -> str:
        """Find out the kind of the line and return its beginning, or all of a line that opens or closes a block."""
        indent = _INDENT.match(self._held)[0]  # type: ignore[index]
        rest = self._held[len(indent) :]
        if self._fence:
            return self._in_block(rest.rstrip(), ended)
        if not ended and len(self._held) < _LONGEST and (_FENCE_TO_BE.fullmatch(rest) or _UNDECIDED.fullmatch(rest)):
            return ""
        if ended and (fence := _FENCES.fullmatch(rest)):
            self._fence = fence[1] or fence[2]
            return _styled(self._take(len(self._held)), _FENCE)
        self._kind = "heading" if _HEADING.match(rest) else "text"
        bullet = rest[:2] in ("- ", "* ")
        self._held = rest[2:] if bullet else rest
        return indent + ("• " if bullet else "") + (_BOLD[0] if self._kind == "heading" else "")

    def _in_block(self, rest: str, ended: bool) -> str:
        if not ended and len(self._held) < _LONGEST and _CLOSING_TO_BE.fullmatch(rest):
            return ""
        if rest.startswith(self._fence) and not rest.strip(self._fence[0]):
            self._fence = ""
            return _styled(self._take(len(self._held)), _FENCE)
        self._kind = "code"
        return ""

    def _spans(self, ended: bool) -> str:
        """Return what is known of the line's text: up to a mark whose span may still be closed."""
        shown = []
        while self._held:
            mark = _MARK.search(self._held)
            if mark is None:
                shown.append(self._take(len(self._held)))
                break
            shown.append(self._take(mark.start()))
            span = self._span()
            if span and (ended or span.end() < len(self._held)):
                self._take(span.end())
                shown.append(_marked(span))
            elif ended or len(self._held) > _LONGEST:
                shown.append(self._take(len(mark[0])))
            else:
                break
        return "".join(shown)

    def _span(self) -> re.Match[str] | None:
        if self._held.startswith("`"):
            return _CODE_SPAN.match(self._held)
        return None if _WORD.match(self._before) else _BOLD_SPAN.match(self._held)  # x**2 is not bold

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        self._before = taken[-1:] or self._before
        return taken


def _marked(span: re.Match[str]) -> str:
    if span[0].startswith("`"):
        inner = span[2]
        padded = inner[0] == inner[-1] == " " and inner.strip()  # `` `a` `` is how code holds a backtick
        return _styled(inner[1:-1] if padded else inner, _CODE)
    return _styled(_CODE_SPAN.sub(_marked, span[1]), _BOLD)


def _styled(text: str, style: tuple[str, str]) -> str:
    return f"{style[0]}{text}{style[1]}" if text else ""
