"""What a value of the settings may be: a function for each kind.

Each returns the value as it is kept, or raises ValueError with the rest of a sentence that begins with the key's name.
Options and environment variables use them too.
"""

from __future__ import annotations

import math
import re
from typing import Any

from gptpipe.text.names import check_name, looks_like_key

LONGEST_WAIT = 2_000_000  # seconds: poll takes milliseconds in 31 bits

# What gptpipe itself says in a request; the other fields are the user's.
RESERVED_PARAMS = frozenset({"model", "messages", "input", "instructions", "stream", "stream_options", "n"})
_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # a token of RFC 9110, 5.6.2
_HEADER_VALUE = r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?"  # RFC 9110, 5.5: no space at its ends
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
APIS = ("auto", "chat", "responses")


def text(value: Any) -> str:
    """A string that is not empty, and not a key in the wrong place."""
    if not text_or_empty(value):
        raise ValueError("must not be empty")
    if looks_like_key(value):
        raise ValueError("looks like a key, and is not shown: a name or a path belongs here")
    return str(value)


def variable(value: Any) -> str:
    """The name of an environment variable; an empty one says that no key is needed."""
    if text_or_empty(value) and not re.fullmatch(_VARIABLE, text(value)):
        raise ValueError("must be the name of an environment variable, not the key itself")
    return str(value)


def text_or_empty(value: Any) -> str:
    """A string; an empty one says "none"."""
    if not isinstance(value, str):
        raise ValueError("must be a string")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def truth(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def number(value: Any) -> float:
    """A finite number, whole or not."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("must be a number")
    return value


def amount(value: Any) -> float:
    """A number that is not negative."""
    if number(value) < 0:
        raise ValueError("must not be negative")
    return float(value)


def seconds(value: Any) -> float:
    """A time in seconds, as long as the system's calls can wait at most; where the manual says so, 0 means no limit."""
    if amount(value) > LONGEST_WAIT:
        raise ValueError(f"must not be more than {LONGEST_WAIT}")
    return float(value)


def count(value: Any, least: int = 0) -> int:
    """A whole number that is not negative."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"must be a whole number, {least} or more")
    return value


def positive(value: Any) -> int:
    """A whole number above 0."""
    return count(value, 1)


def above_zero(value: Any) -> float:
    """A number above 0."""
    if number(value) <= 0:
        raise ValueError("must be above 0")
    return float(value)


def words(value: Any) -> tuple[str, ...]:
    """A command: a list of strings, the program's name first."""
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value) or not value[0]:
        raise ValueError("must be a list of strings, a program and its arguments")
    if looks_like_key(value[0]):
        raise ValueError("looks like a key, and is not shown: a command belongs here")
    return tuple(map(text_or_empty, value))


def headers(value: Any) -> dict[str, str]:
    """HTTP headers by name. The message never shows a value."""
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("must be a table of strings")
    for name, item in value.items():
        if not re.fullmatch(_HEADER_NAME, name):
            raise ValueError(f"holds {name!r}, which is not the name of an HTTP header")
        if not re.fullmatch(_HEADER_VALUE, item):
            raise ValueError(f"holds a character in {name!r} that an HTTP header cannot carry")
    return value


def params(value: Any) -> dict[str, Any]:
    """Fields of the request: anything that JSON has, under any name but those that gptpipe sets itself."""
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    if taken := RESERVED_PARAMS & value.keys():
        raise ValueError(f"must not hold {min(taken)!r}, which gptpipe sets itself")
    from gptpipe.text.strict_json import compact  # most calls have no such fields

    try:
        compact(value).encode()
    except (TypeError, ValueError, RecursionError):
        words = "must hold only what JSON has: no dates, no nan, no inf, no half of a surrogate pair"
        raise ValueError(words) from None
    return value


def price(value: Any) -> dict[str, float]:
    """USD for a million tokens: ``input`` and ``output``, and ``cached`` input if that costs less."""
    if not isinstance(value, dict) or not {"input", "output"} <= value.keys() <= {"input", "output", "cached"}:
        raise ValueError("must be a table of input, output and, if need be, cached")
    return {key: amount(item) for key, item in value.items()}


def api(value: Any) -> str:
    """A protocol, or ``auto``."""
    if value not in APIS:
        raise ValueError(f"must be one of {', '.join(APIS)}")
    return str(value)


def profile_name(value: Any) -> str:
    """A profile's name, normalised. What cannot be one is a UsageError, as ``check_name`` raises it."""
    return check_name(text(value), "profile")


def session_name(value: Any) -> str:
    """A session's name, as :func:`profile_name`."""
    return check_name(value, "session name")
