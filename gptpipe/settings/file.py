"""The settings file: TOML, read and checked against what it may hold. Specified in gptpipe-config(5).

``SHAPE`` below lists every key. A shape is a function that checks a value and returns it, a table of
shapes by key, or ``Named``, a table whose keys the user chooses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from gptpipe.errors import ConfigError, UsageError, clause
from gptpipe.settings import values

Value = Callable[[Any], Any]

EMPTY: Mapping[str, Any] = MappingProxyType({})

_BARE_KEY = r"[A-Za-z0-9_-]+"


class Named(NamedTuple):
    """A table whose keys are the user's names; ``name`` returns one as it is stored."""

    shape: Any
    name: Callable[[str], str]


class Config(NamedTuple):
    """What the settings file holds. ``top`` has the single settings at its top, paths among them made absolute."""

    path: str | None = None
    top: Mapping[str, Any] = EMPTY
    aliases: Mapping[str, str] = EMPTY
    profiles: Mapping[str, Mapping[str, Any]] = EMPTY
    chat: Mapping[str, Any] = EMPTY
    budget: Mapping[str, Any] = EMPTY
    prices: Mapping[str, Mapping[str, float]] = EMPTY

    def __repr__(self) -> str:
        """Name the file only: headers and URLs in it may hold secrets."""
        return f"Config(path={self.path!r})"


def load(path: str | os.PathLike[str], *, required: bool) -> Config:
    """Read the settings file; if it is missing and not required, an empty Config is returned.

    :raises ConfigError: if it cannot be read, is not TOML, or holds an unknown key or a value of the wrong kind.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            import tomllib  # 5 ms, not paid without a settings file

            value = tomllib.loads(file.read().decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):  # HOME=/dev/null
        if required:
            raise ConfigError(f"{path}: no such settings file") from None
        return Config()
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {clause(error)}") from None
    found = read_table(value, SHAPE, source=path)
    if found.get("usage") is False and found.get("budget"):
        raise ConfigError(f"{path}: usage = false and [budget] exclude each other", "a budget is kept by the usage")
    _anchor(found, os.path.dirname(os.path.abspath(path)))
    tables = {key: found.pop(key) for key in Config._fields if key in found}
    return Config(path=path, top=found, **tables)


def read_table(value: Any, shape: Any, *, source: str, where: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the table at ``where`` with each value checked by the shape; roles use it for their front matter.

    :raises ConfigError: for an unknown key or a faulty value, with ``source`` and the full path of the key.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: {dotted(where)} must be a table")
    result = {}
    for key, item in value.items():
        here = (*where, key)
        try:
            if isinstance(shape, Named):
                key, inner = shape.name(key), shape.shape
            elif key in shape:
                inner = shape[key]
            else:
                raise ConfigError(f"{source}: unknown key {dotted(here)}", _hint(key, list(shape), where))
            if here == ("profile",) and isinstance(item, dict):
                near = f"[profiles.{next(iter(item), 'NAME')}]"
                raise ConfigError(f"{source}: profile is not a table", f"did you mean {near}?")
            result[key] = inner(item) if callable(inner) else read_table(item, inner, source=source, where=here)
        except ValueError as error:
            raise ConfigError(f"{source}: {dotted(here)} {error}") from None
        except UsageError as error:
            raise ConfigError(f"{source}: {error.message}", error.hint) from None
    return result


def dotted(path: tuple[str, ...]) -> str:
    """Return a key's full path as TOML writes it."""
    return ".".join(part if re.fullmatch(_BARE_KEY, part) else f'"{part}"' for part in path)


def nearest(name: str, known: list[str]) -> str | None:
    """Return the known name that looks most like the given one, or None if none does."""
    import difflib  # only for an error message

    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


_SECRET = r"(?i)(.*_)?(api_?key|auth_?token|secret)|key|token"


def _hint(key: str, known: list[str], where: tuple[str, ...]) -> str:
    if re.fullmatch(_SECRET, key):
        return "a key is not written here: api_key_env, api_key_file or api_key_command of a profile say where it is"
    found = nearest(key, known)
    return f"did you mean {dotted((*where, found))}?" if found else f"what can stand there: {', '.join(sorted(known))}"


def _anchor(found: dict[str, Any], folder: str) -> None:
    """Make the paths in the file absolute: ``~`` is home, others are taken from the file's own folder."""
    for table in (found, *found.get("profiles", {}).values()):
        for key in table.keys() & {"cacert", "api_key_file"}:
            table[key] = os.path.join(folder, os.path.expanduser(table[key]))


# Settings that a role may hold as well.
SAMPLING: dict[str, Value] = {
    "temperature": values.number,
    "max_tokens": values.positive,
    "reasoning_effort": values.text,
}

PROFILE: dict[str, Value] = {
    "base_url": values.text,
    "model": values.text,
    "api": values.api,
    "api_key_env": values.variable,
    "api_key_command": values.words,
    "api_key_file": values.text,
    "proxy": values.text_or_empty,
    "cacert": values.text,
    "headers": values.headers,
    "params": values.params,
    "thinks": values.truth,
    "allow_http": values.truth,
}

TOP: dict[str, Value] = SAMPLING | {
    "model": values.text,
    "profile": values.profile_name,
    "api": values.api,
    "system": values.text_or_empty,
    "params": values.params,
    "max_time": values.seconds,
    "connect_timeout": values.seconds,
    "idle_timeout": values.seconds,
    "retry": values.count,
    "max_input_tokens": values.positive,
    "base_url": values.text,
    "proxy": values.text_or_empty,
    "cacert": values.text,
    "history": values.count,
    "history_tokens": values.count,
    "lock_timeout": values.seconds,
    "usage": values.truth,
}

_TOKENS, _USD = values.positive, values.above_zero

SHAPE: dict[str, Any] = TOP | {
    "aliases": Named(values.text, values.text),
    "profiles": Named(PROFILE, values.profile_name),
    "chat": {"question": values.text_or_empty, "answer": values.text_or_empty, "history": values.truth},
    "budget": {"day_tokens": _TOKENS, "month_tokens": _TOKENS, "day_usd": _USD, "month_usd": _USD},
    "prices": Named(values.price, values.text),
}
