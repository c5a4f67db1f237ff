"""Names of sessions, roles and profiles. They become file names, so the same rule holds for all."""

from __future__ import annotations

import re
import unicodedata

from gptpipe.errors import UsageError

LONGEST = 128

# What the keys of providers begin with, and then at least 16 characters with a digit among them.
_KEY = re.compile(
    r"(?:Bearer )?(?:sk|pk|rk|gsk|xai|hf|r8|pplx|fw|csk|nvapi|ghp|AIza)[-_]?(?=[\w-]*\d)[A-Za-z0-9_-]{16,}", re.ASCII
)


def looks_like_key(text: str) -> bool:
    """Return whether a text looks like an API key, which is not to be shown where a name or a path was expected."""
    return _KEY.fullmatch(text.strip()) is not None


def check_name(name: str, what: str = "name") -> str:
    """Return the name in NFC, the form in which it is compared and stored; ``what`` says in a message whose it is.

    :raises UsageError: if it is empty, longer than 128 bytes, begins with ``.`` or ``-``, holds anything but
        letters, marks and digits of any script and ``. _ - @ +``, or looks like a key.
    """
    if looks_like_key(name):
        raise UsageError(f"the {what} looks like a key, and is not shown", "a key is never given as an option")
    name = unicodedata.normalize("NFC", name)
    if not name or name[0] in ".-" or not all(map(_allowed, name)) or len(name.encode()) > LONGEST:
        raise UsageError(
            f"{name!r} cannot be a {what}",
            f"letters, digits, '.', '_', '-', '@' and '+', {LONGEST} bytes at most, neither '.' nor '-' first",
        )
    return name


def _allowed(char: str) -> bool:
    return char in "._-@+" or unicodedata.category(char)[0] in "LM" or unicodedata.category(char) == "Nd"
