from __future__ import annotations

import pytest

from gptpipe.errors import UsageError
from gptpipe.text.names import check_name, looks_like_key


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


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-AbC123_def456-ghi789",
        "gsk_0123456789abcdefghij",
        "AIzaSyA0123456789abcdefghij",
        "xai-abcdefghij0123456789",
    ],
)
def test_what_looks_like_a_key_is_refused_and_not_shown(text: str) -> None:
    assert looks_like_key(text)
    with pytest.raises(UsageError) as caught:
        check_name(text, "profile")
    assert caught.value.message == "the profile looks like a key, and is not shown"


@pytest.mark.parametrize("text", ["sk-notes-about-the-tokenizer", "sk-2026", "gpt-5.4-mini-2026-03-01"])
def test_what_does_not(text: str) -> None:
    assert not looks_like_key(text)
