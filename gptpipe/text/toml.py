"""Values as TOML writes them (https://toml.io/en/v1.0.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptpipe.errors import UsageError


def value(item: Any) -> str:
    """Return a value on one line; UsageError for null. The strings of TOML are those of JSON, but for DEL."""
    match item:
        case None:
            raise UsageError("null cannot be written: TOML has none")
        case Mapping():
            items = (f"{value(key)} = {value(inner)}" for key, inner in item.items())
            return f"{{{', '.join(items)}}}"
        case list() | tuple():
            return f"[{', '.join(map(value, item))}]"
        case _:
            import json  # most calls write no TOML

            return json.dumps(item, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


def lines(values: Mapping[str, Any]) -> str:
    """Return a line ``key = value`` for each, but for those that are None or an empty table."""
    return "".join(f"{key} = {value(item)}\n" for key, item in values.items() if item not in (None, {}))
