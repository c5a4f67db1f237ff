from __future__ import annotations

import pytest

from gptpipe.text import table


def test_table() -> None:
    rows = [("day", "n"), ("a", "1"), ("long", "100"), ("日记", "10"), ("e\u0301", "2")]
    lines = ["day     n", "a       1", "long  100", "日记   10", "e\u0301       2"]
    assert table.table(rows, [False, True]) == "".join(f"{line}\n" for line in lines)
    assert table.table([], [False, True]) == ""


def test_bars() -> None:
    chart = table.bars([("a", 8, "8"), ("b", 4, "4"), ("c", 0, "")], 16)
    assert chart == "a  ██████████  8\nb  █████       4\nc\n"


def test_bars_of_nothing() -> None:
    assert table.bars([], 80) == ""
    assert table.bars([("日记", 1, ""), ("abcd", 1, "")], 16) == "日记  ████████\nabcd  ████████\n"
    assert table.bars([("a", 0, "0")], 16) == "a              0\n"


@pytest.mark.parametrize(("length", "bar"), [(0, ""), (0.001, "▏"), (1, "█"), (1.5, "█▌"), (2.99, "███")], ids=str)
def test_bar(length: float, bar: str) -> None:
    assert table.bar(length) == bar


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (99_949, "99.9k"), (99_951, "100k"), (999_600, "1.0M"), (2.5e9, "2.5G")],
    ids=str,
)
def test_short(number: float, text: str) -> None:
    assert table.short(number) == text
