"""Options and environment variables, checked, and the settings file that they name. A faulty value is a UsageError."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from gptpipe.errors import UsageError
from gptpipe.settings.file import TOP, Config, Value, load
from gptpipe.settings.settings import TIMES, paths
from gptpipe.settings.values import count, number, params, positive, seconds, session_name, text

# Every variable of gptpipe's own, by the option that it stands for. The list is closed: others are ignored.
_OF_A_QUESTION = ("config", "session", "history", "history_tokens", "lock_timeout", "model", "profile", "temperature")
_OF_THE_WAY = (*TIMES, "retry", "max_input_tokens", "base_url", "proxy", "cacert")
ENVIRONMENT = {name: f"GPTPIPE_{name.upper()}" for name in (*_OF_A_QUESTION, *_OF_THE_WAY)}

_VALUES: Mapping[str, Value] = TOP | {"param": params, "session": session_name, "config": text}
_NUMERIC = (number, seconds, count, positive)
_PATHS = ("config", "cacert")


def read_file(option: str | None, env: Mapping[str, str]) -> Config:
    """Read the settings file: that of ``--config``, of ``GPTPIPE_CONFIG``, else the usual one if it is there."""
    named = named_file(option, env)
    return load(named or paths().config / "config.toml", required=bool(named))


def named_file(option: str | None, env: Mapping[str, str]) -> str | None:
    """Return the settings file that ``--config`` or ``GPTPIPE_CONFIG`` names, or None."""
    named = option or env.get(ENVIRONMENT["config"]) or None
    given({"config": named})
    return named


def variables(env: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of gptpipe's own variables, by option. Those that an option overrides are checked too."""
    found = {}
    for name, variable in ENVIRONMENT.items():
        if value := env.get(variable):
            try:
                found[name] = _checked(name, _typed(name, value))
            except ValueError as error:
                raise UsageError(f"{variable} {error}") from None
            except UsageError as error:
                raise UsageError(f"{variable} {error.message}", error.hint) from None
    return found


def _typed(name: str, value: str) -> int | float | str:
    """Return a variable's value as the kind that its option has; the check refuses what is not a number."""
    if _VALUES[name] in _NUMERIC:
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(value)
    return value


def _checked(name: str, value: Any) -> Any:
    if isinstance(value, str) and name not in _PATHS:
        try:
            value.encode()
        except UnicodeEncodeError:  # a byte of it could not be decoded
            raise ValueError("is not UTF-8") from None
    return _VALUES[name](value)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, checked."""
    found = {}
    for name, value in options.items():
        if value is not None:
            try:
                found[name] = _checked(name, value) if name in _VALUES else value
            except ValueError as error:
                raise UsageError(f"--{name.replace('_', '-')} {error}") from None
    return found
