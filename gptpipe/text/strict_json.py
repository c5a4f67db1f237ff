"""JSON that every program can read: by RFC 8259, both when parsed and when written."""

from __future__ import annotations

import json
import math
from typing import Any

# Both are made once: a map writes several lines for each record, a session has a line for each turn.
compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""Return a value as JSON on one line. NaN and infinities, which JSON does not have, are a ValueError."""

_NESTING = 16


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is out of range")
    return value


decode = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite).decode
"""Return the value of a JSON text. NaN and numbers too large for a float are a ValueError."""


def as_object(value: object) -> dict[str, Any]:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def parse(text: str) -> Any:
    """Return the value of a JSON text. NaN, numbers too large for a float and lone surrogates are refused.

    :raises ValueError: if the text is anything else; the message says where.
    """
    try:
        value = decode(text)
        compact(value).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def mend(text: str) -> str:
    """Return the text with surrogate pairs joined, and lone surrogates replaced by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean(value: Any, depth: int = _NESTING) -> Any:
    """Return the value as JSON in UTF-8 can hold it: whole strings, finite numbers, limited nesting."""
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, dict)) and not depth:
        return None
    if isinstance(value, list):
        return [clean(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {clean(key, depth - 1): clean(item, depth - 1) for key, item in value.items()}
    return value
