"""Tools for tests: executables that a test writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DESCRIPTION: dict[str, Any] = {
    "description": "finds an order",
    "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]},
}


def write_tool(folder: Path, execute: str, describe: str | None = None, *, name: str = "lookup", **said: Any) -> Path:
    """Write a tool in sh and return its path.

    ``execute`` is what it does when it is called, ``describe`` when it is asked to describe itself; without the latter
    it prints DESCRIPTION with ``name``, changed by ``said``.
    """
    path = folder / name
    if describe is None:
        describe = f"cat <<'END'\n{json.dumps({'name': name, **DESCRIPTION, **said})}\nEND"
    path.unlink(missing_ok=True)  # one that is just being run cannot be written
    path.write_text(
        f"""#!/bin/sh
case $TOOLBOX_ACTION in
describe)
{describe}
;;
execute)
{execute}
;;
esac
"""
    )
    path.chmod(0o755)
    return path
