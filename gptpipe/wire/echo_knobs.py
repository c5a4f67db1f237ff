"""The knobs of the built-in model ``echo``, as its name holds them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gptpipe import errors

_HINT = (
    "its knobs, with commas between: status=N, after=SECONDS, cut=N, stall=N, finish=REASON, delay=SECONDS, "
    "refuse, empty, fails=N, call=TOOL and, last, text=TEXT"
)


class Knobs(NamedTuple):
    """What can be asked of the endpoint, as ``echo:KNOB,KNOB=VALUE,…``; any of them together."""

    status: int | None = None
    """Answer with this HTTP status (400 to 599) and the error body that the real API sends with it."""
    after: float | None = None
    """Send ``Retry-After``, in seconds, with an error."""
    cut: int | None = None
    """End the body after N characters, without finish reason and ``[DONE]``."""
    stall: int | None = None
    """Fall silent after N characters."""
    finish: str = "stop"
    """The finish reason."""
    delay: float = 0.0
    """Seconds before each chunk of the answer."""
    refuse: bool = False
    """Refuse."""
    empty: bool = False
    """Answer without any text."""
    fails: int | None = None
    """Only the first tries of this process meet ``status``, ``cut`` or ``stall`` (status 503 if none is given)."""
    call: str | None = None
    """Call this tool, or several with ``+`` between, with the message as arguments; then say its result."""
    text: str | None = None
    """Answer with this text instead. It comes last and may hold commas."""


def parse(model: str) -> Knobs:
    """Return the knobs of a model's name; ``echo`` alone, and a name that is not echo's, has none.

    :raises UsageError: for an unknown knob, a bad value or a missing one.
    """
    knobs: dict[str, Any] = {}
    rest = model.removeprefix("echo:") if model.startswith("echo:") else None
    while rest is not None:
        if rest.startswith("text="):
            knobs["text"] = rest.removeprefix("text=")
            break
        knob, comma, after = rest.partition(",")
        name, equals, value = knob.partition("=")
        knobs[name] = _value(name, value if equals else None)
        rest = after if comma else None
    return Knobs(**knobs)


def of_this_try(knobs: Knobs, earlier: int) -> Knobs:
    """Return the knobs that count after ``earlier`` tries."""
    if knobs.fails is None:
        return knobs
    if earlier >= knobs.fails:
        return knobs._replace(status=None, cut=None, stall=None)
    troubled = (knobs.status, knobs.cut, knobs.stall) != (None, None, None)
    return knobs if troubled else knobs._replace(status=503)


def _value(name: str, value: str | None) -> Any:
    """Return the value of a knob."""
    if name not in Knobs._fields:
        raise errors.UsageError(f"the model echo has no knob '{name}'", _HINT)
    if name in ("refuse", "empty"):
        if value is not None:
            raise errors.UsageError(f"echo: {name} takes no value", _HINT)
        return True
    if not value:
        raise errors.UsageError(f"echo: {name} needs a value", _HINT)
    return value if name in ("finish", "call") else _number(name, value)


def _number(name: str, value: str) -> float:
    lowest, highest = (400, 599) if name == "status" else (0, math.inf)
    try:
        number = float(value) if name in ("after", "delay") else int(value)
    except ValueError:
        number = math.nan
    if lowest <= number <= highest and number < math.inf:
        return number
    raise errors.UsageError(f"echo: {name}={value} is not valid", _HINT)
