"""Markdown on a terminal: what is styled, what is not, and that pieces make no difference."""

from __future__ import annotations

import random
import re

import pytest

from gptpipe.text.markdown import Markdown

STYLES = {"1": "[b]", "22": "[/]", "36": "[c]", "39": "[/c]", "2": "[f]"}


def shown(*pieces: str) -> str:
    """Return what the pieces show once the line is ended, each escape sequence as a tag."""
    markdown = Markdown()
    text = "".join(map(markdown.feed, pieces)) + markdown.feed("\n")
    return re.sub(r"\x1b\[(\d+)m", lambda match: STYLES[match[1]], text.removesuffix("\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a **b** c", "a [b]b[/] c", id="bold"),
        pytest.param("这是**重点**内容", "这是[b]重点[/]内容", id="bold without blanks"),
        pytest.param("x**2 + y**2, 2 ** 3 ** 4", "x**2 + y**2, 2 ** 3 ** 4", id="powers"),
        pytest.param("**open and `open", "**open and `open", id="not closed"),
        pytest.param("**a\nb**", "**a\nb**", id="not closed on its line"),
        pytest.param("*a* _b_ ***c***", "*a* _b_ ***c***", id="what is left"),
        pytest.param("a `b**c**` d", "a [c]b**c**[/c] d", id="code"),
        pytest.param("``a`b`` and `` `c` ``", "[c]a`b[/c] and [c]`c`[/c]", id="code with a backtick"),
        pytest.param("**a `b` c**", "[b]a [c]b[/c] c[/]", id="code in bold"),
        pytest.param("## A `b`", "[b]## A [c]b[/c][/]", id="heading"),
        pytest.param("##a\n#", "##a\n#", id="no heading"),
        pytest.param("- a\n  * **b**\n1. c", "• a\n  • [b]b[/]\n1. c", id="lists"),
        pytest.param("-a\n-\n---\n***\n*a*", "-a\n-\n---\n***\n*a*", id="no lists"),
        pytest.param("**a** b", "[b]a[/] b", id="bold at the beginning"),
        pytest.param(
            "```sh\n# **a**\n\n- b\n```\n- c", "[f]```sh[/]\n[c]# **a**[/c]\n\n[c]- b[/c]\n[f]```[/]\n• c", id="block"
        ),
        pytest.param(
            "~~~~\n```\n~~~\n~~~~\n**a**", "[f]~~~~[/]\n[c]```[/c]\n[c]~~~[/c]\n[f]~~~~[/]\n[b]a[/]", id="tildes"
        ),
        pytest.param("```a``` b", "[c]a[/c] b", id="code of three backticks"),
        pytest.param("```\na", "[f]```[/]\n[c]a[/c]", id="a block without an end"),
        pytest.param("a\n\n  b\n", "a\n\n  b\n", id="blanks"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert shown(text) == expected
    for seed in range(20):
        at = sorted(random.Random(seed).sample(range(len(text) + 1), min(5, len(text))))
        pieces = [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]
        assert shown(*pieces).replace("[/c][c]", "") == expected


@pytest.mark.parametrize(
    ("piece", "at_once"),
    [
        pytest.param("plain text", "plain text", id="text"),
        pytest.param("text, **bol", "text, ", id="a span"),
        pytest.param("text *", "text ", id="half a mark"),
        pytest.param("-", "", id="half a bullet"),
        pytest.param("- item", "• item", id="item"),
        pytest.param("`" + "x" * 500, "`" + "x" * 500, id="no span is as long as this"),
    ],
)
def test_text_comes_as_soon_as_its_form_is_known(piece: str, at_once: str) -> None:
    assert Markdown().feed(piece) == at_once


def test_a_line_of_code_comes_as_it_arrives() -> None:
    markdown = Markdown()
    markdown.feed("```\n")
    assert markdown.feed("x = ") == "\x1b[36mx = \x1b[39m"


def test_backticks_that_are_not_closed_take_no_more_time_than_their_number() -> None:
    text = "x " + "`" * 60 + "a"
    assert shown(text) == text


def test_white_space_is_not_held_for_ever() -> None:
    markdown = Markdown()
    assert len("".join(markdown.feed(" ") for _ in range(1000))) > 500
