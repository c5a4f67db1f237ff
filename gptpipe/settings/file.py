"""The settings file: TOML, read and checked against what it may hold. Specified in gptpipe-config(5).

``SHAPE`` below is the list of what there is. A shape is a function that checks a value and returns it, a table of
shapes by key, or ``Named``, a table whose keys the user chooses.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from gptpipe.errors import ConfigError, UsageError, clause
from gptpipe.text.names import check_name, looks_like_key

Value = Callable[[Any], Any]

EMPTY: Mapping[str, Any] = MappingProxyType({})

LONGEST_WAIT = 2_000_000  # seconds: poll takes milliseconds in 31 bits

# What gptpipe itself says in a request; the other fields are the user's.
APIS = ("auto", "chat", "responses")
RESERVED_PARAMS = frozenset({"model", "messages", "input", "instructions", "stream", "stream_options", "n"})

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, 5.6.2
_HEADER_VALUE = re.compile(r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?")  # RFC 9110, 5.5: no space at its ends
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


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


def read_table(value: Mapping[str, Any], shape: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Return the table with each value checked by the shape; roles use it for their front matter.

    :raises ConfigError: for an unknown key or a faulty value, with ``source`` and the full path of the key.
    """
    return _table(value, shape, source, ())


def _table(value: Any, shape: Any, source: str, where: tuple[str, ...]) -> dict[str, Any]:
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
            result[key] = inner(item) if callable(inner) else _table(item, inner, source, here)
        except ValueError as error:
            raise ConfigError(f"{source}: {dotted(here)} {error}") from None
        except UsageError as error:
            raise ConfigError(f"{source}: {error.message}", error.hint) from None
    return result


def dotted(path: tuple[str, ...]) -> str:
    """Return a key's full path as TOML writes it."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else f'"{part}"' for part in path)


def nearest(name: str, known: list[str]) -> str | None:
    """Return the known name that looks most like the given one, or None if none does."""
    import difflib  # only for an error message

    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


_SECRET = re.compile(r"(.*_)?(api_?key|auth_?token|secret)|key|token", re.IGNORECASE)


def _hint(key: str, known: list[str], where: tuple[str, ...]) -> str:
    if _SECRET.fullmatch(key):
        return "a key is not written here: api_key_env, api_key_file or api_key_command of a profile say where it is"
    found = nearest(key, known)
    return f"did you mean {dotted((*where, found))}?" if found else f"what can stand there: {', '.join(sorted(known))}"


def _anchor(found: dict[str, Any], folder: str) -> None:
    """Make the paths in the file absolute: ``~`` is home, others are taken from the file's own folder."""
    for table in (found, *found.get("profiles", {}).values()):
        for key in table.keys() & {"cacert", "api_key_file"}:
            table[key] = os.path.join(folder, os.path.expanduser(table[key]))


# What a value may be. Each returns the value as it is kept, or raises ValueError with the rest of a sentence that
# begins with the key's name. Settings uses the numbers for options and environment variables too.


def text(value: Any) -> str:
    """A string that is not empty, and not a key in the wrong place."""
    if not text_or_empty(value):
        raise ValueError("must not be empty")
    if looks_like_key(value):
        raise ValueError("looks like a key, and is not shown: a name or a path belongs here")
    return str(value)


def variable(value: Any) -> str:
    """The name of an environment variable; an empty one says that no key is needed."""
    if text_or_empty(value) and not _VARIABLE.fullmatch(text(value)):
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


def count(value: Any) -> int:
    """A whole number that is not negative."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("must be a whole number, 0 or more")
    return value


def positive(value: Any) -> int:
    """A whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("must be a whole number, 1 or more")
    return value


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
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"holds {name!r}, which is not the name of an HTTP header")
        if not _HEADER_VALUE.fullmatch(item):
            raise ValueError(f"holds a character in {name!r} that an HTTP header cannot carry")
    return value


def params(value: Any) -> dict[str, Any]:
    """Fields of the request: anything that JSON has, under any name but those that gptpipe sets itself."""
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    if taken := RESERVED_PARAMS & value.keys():
        raise ValueError(f"must not hold {min(taken)!r}, which gptpipe sets itself")
    if not _is_json(value):
        raise ValueError("must hold only what JSON has: no dates, no nan, no inf, no half of a surrogate pair")
    return value


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_json, (*value, *value.values())))
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, str):
        return is_utf8(value)
    return value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def is_utf8(value: str) -> bool:
    """Return whether UTF-8 has the text: it does not where it holds a byte that could not be decoded."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    """A profile's name, normalised.

    :raises UsageError: if it cannot be one.
    """
    return check_name(text(value), "profile")


def session_name(value: Any) -> str:
    """A session's name, normalised.

    :raises UsageError: if it cannot be one.
    """
    return check_name(value, "session name")


# Settings that a role may hold as well.
SAMPLING: dict[str, Value] = {"temperature": number, "max_tokens": positive, "reasoning_effort": text}

PROFILE: dict[str, Value] = {
    "base_url": text,
    "model": text,
    "api": api,
    "api_key_env": variable,
    "api_key_command": words,
    "api_key_file": text,
    "proxy": text_or_empty,
    "cacert": text,
    "headers": headers,
    "params": params,
    "thinks": truth,
    "allow_http": truth,
}

TOP: dict[str, Value] = SAMPLING | {
    "model": text,
    "profile": profile_name,
    "api": api,
    "system": text_or_empty,
    "params": params,
    "max_time": seconds,
    "connect_timeout": seconds,
    "idle_timeout": seconds,
    "retry": count,
    "max_input_tokens": positive,
    "base_url": text,
    "proxy": text_or_empty,
    "cacert": text,
    "history": count,
    "history_tokens": count,
    "lock_timeout": seconds,
    "usage": truth,
}

SHAPE: dict[str, Any] = TOP | {
    "aliases": Named(text, text),
    "profiles": Named(PROFILE, profile_name),
    "chat": {"question": text_or_empty, "answer": text_or_empty, "history": truth},
    "budget": {"day_tokens": positive, "month_tokens": positive, "day_usd": above_zero, "month_usd": above_zero},
    "prices": Named(price, text),
}
