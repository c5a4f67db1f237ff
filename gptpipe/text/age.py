"""Ages as options say them: a number and a unit."""

from __future__ import annotations

import re

from gptpipe.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_AGE = r"(?a)(\d{1,9})([smhdw])"


def parse_age(text: str) -> float:
    """Return the seconds that ``30m``, ``12h`` or ``7d`` says, or ``s`` and ``w``; UsageError for any other text."""
    match = re.fullmatch(_AGE, text)
    if not match:
        raise UsageError(f"{text!r} is not an age", "a number and its unit, such as 30m, 12h, 7d")
    return float(match[1]) * _UNITS[match[2]]
