"""README.zh-CN.md keeps step with README.md: the same commands, tables and pictures; its examples ask in Chinese."""

from __future__ import annotations

import re

import pytest

from tests.harness.manual import README
from tests.harness.processes import ROOT

CHINESE = (ROOT / "README.zh-CN.md").read_text()

SAME = {
    "first columns that are code or numbers": r"^\| (`[^|]+`|\d+) \|",
    "cells of the comparison": r"(\| \d[^|]* \| \d[^|]* \| \d[^|]* \| \d[^|]* \|)$",
    "pictures": r"^!\[.*\]\((.*)\)$",
    "links": r"\]\((https?:[^)]*)\)",
}


@pytest.mark.parametrize("pattern", SAME.values(), ids=SAME)
def test_both_have_the_same(pattern: str) -> None:
    found = re.findall(pattern, README, re.MULTILINE)
    assert found
    assert re.findall(pattern, CHINESE, re.MULTILINE) == found


def test_both_have_the_same_commands_and_each_asks_in_its_language() -> None:
    """What is in quotes and holds a space or an ideograph is a prompt; the rest of each block is the same."""
    block, prompt = r"^```\w*\n(?s:.*?)^```$", r"'(?![%.])[^'\n]*(?:[^'\n ] |[^\x00-\x7f])[^'\n]*'"
    english, chinese = (re.findall(block, text, re.MULTILINE) for text in (README, CHINESE))
    shells = [
        [re.sub(prompt, "'PROMPT'", each) for each in blocks if not each.startswith("```console")]
        for blocks in (english, chinese)
    ]
    assert shells[0] == shells[1]
    asked = [found for each in chinese for found in re.findall(prompt, each)]
    assert len(asked) == len([found for each in english for found in re.findall(prompt, each)]) > 10
    assert [found for found in asked if not re.search(r"[\u4e00-\u9fff]", found)] == []


def test_both_have_the_same_sections() -> None:
    marks = r"^(#+ |\* |\|---|!\[|```)"
    assert re.findall(marks, CHINESE, re.MULTILINE) == re.findall(marks, README, re.MULTILINE)


def test_options_and_variables_are_in_both() -> None:
    code = r"`([^`\n]*(?:--?\w|[A-Z]{4}|gptpipe|make )[^`\n]*)`"
    assert set(re.findall(code, CHINESE)) == set(re.findall(code, README))
