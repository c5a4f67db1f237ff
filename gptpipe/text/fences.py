"""Fenced code blocks of a Markdown text, by the rules of CommonMark.

https://spec.commonmark.org/0.31.2/#fenced-code-blocks. A line ends with LF or CRLF; a block keeps its line ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token


def block(text: str, which: str) -> str | None:
    """Return the ``"first"`` or the ``"last"`` code block of a text, or None if it has none."""
    lines = text.split("\n")
    fences = [token for token in _tokens(lines) if token.type == "fence"]
    return _content(fences[0 if which == "first" else -1], lines) if fences else None


def whole_fence(text: str) -> str:
    """Return the content of the code block that is the whole text, or the text if it is anything else."""
    if not text.lstrip().startswith(("```", "~~~")):
        return text
    lines = text.strip().split("\n")
    tokens = _tokens(lines)
    return _content(tokens[0], lines) if [token.type for token in tokens] == ["fence"] else text


def _tokens(lines: list[str]) -> list[Token]:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    found: list[Token] = []
    # The blocks alone: inline code is not looked at, and no character is replaced.
    parser.block.parse("\n".join(line.removesuffix("\r") for line in lines), parser, {}, found)
    return found


def _content(fence: Token, lines: list[str]) -> str:
    assert fence.map
    *whole, rest = fence.content.split("\n")
    ends = ("\r\n" if line.endswith("\r") else "\n" for line in lines[fence.map[0] + 1 :])
    return "".join(line + end for line, end in zip(whole, ends, strict=False)) + rest
