"""Names of sessions, roles and profiles: they become file names, so one rule holds for all."""

from __future__ import annotations

import unicodedata

from gptpipe.errors import UsageError

LONGEST = 128


def check_name(name: str, what: str = "name") -> str:
    """Return the name in NFC, the form in which it is compared and stored.

    ``what`` says in the message whose name it is.

    :raises UsageError: if it is empty, longer than 128 bytes, begins with ``.`` or ``-``, or holds anything but
        letters, marks and digits of any script and ``. _ - @ +``.
    """
    name = unicodedata.normalize("NFC", name)
    if not name or name[0] in ".-" or not all(map(_allowed, name)) or len(name.encode()) > LONGEST:
        raise UsageError(
            f"{name!r} cannot be a {what}",
            f"letters, digits, '.', '_', '-', '@' and '+', {LONGEST} bytes at most, neither '.' nor '-' first",
        )
    return name


def _allowed(char: str) -> bool:
    return char in "._-@+" or unicodedata.category(char)[0] in "LM" or unicodedata.category(char) == "Nd"
