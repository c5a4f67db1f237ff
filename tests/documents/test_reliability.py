"""docs/RELIABILITY.md: the command beside each claim of the README prints what the table says."""

from __future__ import annotations

import re

import pytest

from tests.conftest import needs
from tests.documents.conftest import Example
from tests.harness.processes import ROOT

CLAIMS = re.findall(r"^\| ([^|]+) \| `(.+)` \| `(.*)` \|$", (ROOT / "docs/RELIABILITY.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("command", "printed"), [claim[1:] for claim in CLAIMS], ids=[claim[0] for claim in CLAIMS])
def test_a_claim(command: str, printed: str, example: Example) -> None:
    needs("jq")
    told = example(command.replace("\\|", "|"))
    assert " ".join(told.text.split("\n")).strip() == printed, told.err


def test_there_are_claims() -> None:
    assert len(CLAIMS) > 10
