"""A plain command line is read without Click, and means what it means to Click."""

from __future__ import annotations

from typing import Any

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptpipe.programs import plain
from gptpipe.programs.filter import command
from tests.conftest import Fresh, Run

OPTIONS = sorted({name for each in command.params if isinstance(each, click.Option) for name in each.opts})
WORDS = st.one_of(
    st.sampled_from([*plain._FLAGS, *plain._TEXTS]),
    st.sampled_from(OPTIONS),
    st.sampled_from(["-", "--", "", "-nv", "-mx", "--model=x", "--mod", "-1", "x=y", "\udcff", "word", "12"]),
    st.text(max_size=4),
)


def clicked(args: list[str]) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    """Return what Click reads, None if it refuses or ends the program itself."""
    try:
        found = dict(command.make_context("gptpipe", list(args)).params)
    except (click.UsageError, click.exceptions.Exit):
        return None
    return found.pop("words"), found


@given(st.lists(WORDS, max_size=6))
@example(["-n", "-m", "echo", "hi"])
@example(["-m"])
@example(["-m", "-n"])
@example(["--", "-n"])
@example(["-"])
@example(["-f", "a", "--file", "b"])
def test_what_is_read_is_what_click_reads(args: list[str]) -> None:
    found = plain.read(args)
    if found is not None:
        assert found == clicked(args)


@pytest.mark.parametrize("option", [*plain._FLAGS, *plain._TEXTS])
def test_each_of_the_options_is_read(option: str) -> None:
    args = ["a", option, *(["x"] if option in plain._TEXTS else []), "b"]
    found = plain.read(args)
    assert found is not None
    assert found == clicked(args)
    assert found != plain.read(["a", "b"])


@pytest.mark.parametrize("args", [["--dry-run"], ["-f", "-"], ["-h"], ["--nope"], ["-m"]], ids=" ".join)
def test_the_rest_is_left_to_click(args: list[str]) -> None:
    assert plain.read(args) is None


def test_a_plain_question_does_without_click(fresh: Any) -> None:
    call: Fresh = fresh("gptpipe", "-n", "-m", "echo", "hi")
    assert (call.out, "click" in call.modules) == (b"hi\n", False)


def test_both_ways_end_alike(run: Run) -> None:
    plainly, by_click = (run("gptpipe", "-n", *more, "-s", "a/b", "hi") for more in ((), ("--retry", "2")))
    assert plainly.status == 2
    assert (plainly.status, plainly.out, plainly.err) == (by_click.status, by_click.out, by_click.err)
