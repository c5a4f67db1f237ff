"""JSON that every program can read: what is parsed and what is written keep to RFC 8259."""

from __future__ import annotations

import json
import math
from typing import Any


def compact(value: object) -> str:
    """Return JSON on one line, the characters as they are.

    :raises ValueError: for NaN and infinities, which JSON has not.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def parse(text: str) -> Any:
    """Return the value that a JSON text holds: no NaN, no number beyond a float, no half of a surrogate pair.

    :raises ValueError: if the text is anything else; the message says where.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        compact(value).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is out of range")
    return value


_NESTING = 16


def mend(text: str) -> str:
    """Return the text with the halves of a surrogate pair joined and other lone surrogates as U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean(value: Any, depth: int = _NESTING) -> Any:
    """Return the value so that it can be written as JSON in UTF-8: whole strings, finite numbers, nested so deep."""
    if isinstance(value, str):
        return value if value.isascii() else mend(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, dict)) and not depth:
        return None
    if isinstance(value, list):
        return [clean(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {clean(key, depth - 1): clean(item, depth - 1) for key, item in value.items()}
    return value
