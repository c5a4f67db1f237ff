from __future__ import annotations

import pytest

from gptpipe.errors import UsageError
from gptpipe.text.names import check_name


@pytest.mark.parametrize(
    "name", ["a", "A.b_c-d@e+f", "日本", "9", "@x", "_", "+", "हिन्दी", "é", "x" * 128], ids=lambda name: ascii(name[:9])
)
def test_a_name_is_kept(name: str) -> None:
    assert check_name(name) == name


def test_a_name_is_normalised() -> None:
    assert check_name("e\u0301te\u0301") == "\u00e9t\u00e9"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "-a", "a/b", "a b", "a\n", "a\0", "a:b", "½", "x" * 129, "é" * 65, "\udcff", "a\u200b", "😀"],
    ids=lambda name: ascii(name[:9]),
)
def test_a_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_name(name, "session")
    assert "session" in caught.value.message
    assert "\n" not in caught.value.message
