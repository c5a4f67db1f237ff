"""Words of others in the manner of gptpipe's messages."""

from __future__ import annotations

import pytest

from gptpipe.errors import clause


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Connection refused", "connection refused"),
        (ValueError("Invalid value (at line 1, column 5)"), "invalid value (at line 1, column 5)"),
        ("No such option: --x.\n", "no such option: --x"),
        ("EOF occurred in violation of protocol", "EOF occurred in violation of protocol"),
        ("", ""),
    ],
)
def test_clause(words: object, expected: str) -> None:
    assert clause(words) == expected
