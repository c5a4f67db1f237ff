"""README.zh-CN.md keeps step with README.md: the same commands, tables and pictures, in the same order."""

from __future__ import annotations

import re

import pytest

from tests.harness.manual import README
from tests.harness.processes import ROOT

CHINESE = (ROOT / "README.zh-CN.md").read_text()

SAME = {
    "commands": r"^```\w*\n(?s:.*?)^```$",
    "first columns that are code or numbers": r"^\| (`[^|]+`|\d+) \|",
    "statuses of the comparison": r"\| (\d+) \|$",
    "pictures": r"^!\[.*\]\((.*)\)$",
    "links": r"\]\((https?:[^)]*)\)",
}


@pytest.mark.parametrize("pattern", SAME.values(), ids=SAME)
def test_both_have_the_same(pattern: str) -> None:
    found = re.findall(pattern, README, re.MULTILINE)
    assert found
    assert re.findall(pattern, CHINESE, re.MULTILINE) == found


def test_both_have_the_same_sections() -> None:
    marks = r"^(#+ |\* |\|---|!\[|```)"
    assert re.findall(marks, CHINESE, re.MULTILINE) == re.findall(marks, README, re.MULTILINE)


def test_options_and_variables_are_in_both() -> None:
    code = r"`([^`\n]*(?:--?\w|[A-Z]{4}|gptpipe|make )[^`\n]*)`"
    assert set(re.findall(code, CHINESE)) == set(re.findall(code, README))
