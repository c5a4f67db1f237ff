"""The properties that hold for any input, with few examples, the same in every run; ``make torture`` tries many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torture.properties import properties

NAMES = (
    *("settings files", "role files", "session files", "usage files", "cache entries", "names", "templates", "fences"),
    *("answers under a schema", "refusals", "streams", "bytes for a stream", "whole replies", "tables"),
    "texts for a table",
)


@pytest.mark.parametrize("name", NAMES)
def test_what_holds_for_any_input(name: str, tmp_path: Path) -> None:
    found = properties(tmp_path)[name]

    @settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(*found.strategies))
    def run(values: tuple[Any, ...]) -> None:
        found.check(*values)

    run()


def test_each_property_is_tried(tmp_path: Path) -> None:
    assert list(properties(tmp_path)) == list(NAMES)
