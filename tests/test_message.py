from __future__ import annotations

from typing import Any

import pytest

from gptpipe.message import add_usage


@pytest.mark.parametrize(
    ("one", "other", "total"),
    [
        pytest.param(None, None, None, id="nothing"),
        pytest.param(None, {"a": 1}, {"a": 1}, id="the second"),
        pytest.param({"a": 1}, None, {"a": 1}, id="the first"),
        pytest.param({"a": 1, "b": 0.5}, {"b": 1, "c": 2}, {"a": 1, "b": 1.5, "c": 2}, id="key by key"),
        pytest.param({"d": {"x": 1}}, {"d": {"x": 2, "y": None}}, {"d": {"x": 3, "y": None}}, id="inside"),
        pytest.param({"d": {"x": 1}}, {"d": None}, {"d": {"x": 1}}, id="null"),
        pytest.param({"tier": "a"}, {"tier": "b"}, {"tier": "b"}, id="words"),
    ],
)
def test_add_usage(one: Any, other: Any, total: Any) -> None:
    assert add_usage(one, other) == total
