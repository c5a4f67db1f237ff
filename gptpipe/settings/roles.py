"""Roles: files that hold a system message, and before it, between ``+++`` lines, settings in TOML.

The format is specified in gptpipe-config(5). ``{KEY}`` in the message and in ``prompt`` is filled by the call.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gptpipe.errors import ConfigError, NoInput, UsageError, WriteError, clause
from gptpipe.settings.file import SAMPLING, Named, nearest, read_table
from gptpipe.settings.settings import Role
from gptpipe.settings.values import params, profile_name, text, text_or_empty
from gptpipe.storage import create, failing, listed
from gptpipe.text import toml
from gptpipe.text.names import check_name
from gptpipe.text.template import Template, fields, fill, is_name, parse

_SUFFIX = ".md"
_FRONT_MATTER = re.compile(r"\+\+\+[ \t]*\r?\n(.*?)^\+\+\+[ \t]*\r?(?:\n|\Z)", re.DOTALL | re.MULTILINE)


def _which_block(value: Any) -> str | None:
    if isinstance(value, bool):
        return "first" if value else None
    if value not in ("first", "last"):
        raise ValueError('must be true, false, "first" or "last"')
    return str(value)


def _tools(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError("must be a list of strings")
    return [text(name) for name in value]


def _variable(name: str) -> str:
    if not is_name(name):
        raise ValueError("cannot be a field's name")
    return name


_SETTINGS: dict[str, Any] = SAMPLING | {"model": text, "profile": profile_name, "params": params}
KEPT = ("system", *SAMPLING, "model", "profile")  # options that a role can hold under the same name
_SHAPE = _SETTINGS | {
    "prompt": text,
    "schema": text,
    "extract": _which_block,
    "tools": _tools,
    "vars": Named(text_or_empty, _variable),
}


def names(directory: Path) -> list[str]:
    """Return the names of the roles in the folder, sorted.

    :raises NoInput: if the folder cannot be read. A folder that does not exist has none.
    """
    return sorted(name.removesuffix(_SUFFIX) for name in listed(directory) if name.endswith(_SUFFIX) and _is_role(name))


def _is_role(file: str) -> bool:
    try:
        name = file.removesuffix(_SUFFIX)
        return check_name(name, "role") == name  # one that is not NFC is not found by its name
    except UsageError:
        return False


def load(directory: Path, name: str, variables: Mapping[str, str]) -> Role:
    """Return the role, its fields filled from ``variables``, or else from its own ``[vars]``.

    :raises NoInput: if the role does not exist.
    :raises ConfigError: if its file is faulty.
    :raises UsageError: if the name is not valid, a field has no value, or a variable has no field.
    """
    written = _written(directory, name)
    known = {**written.values, **variables}
    its_fields = sorted({*fields(written.system or []), *fields(written.prompt or []), *written.values})
    for key in variables:
        if key not in its_fields:
            near = nearest(key, its_fields)
            hint = f"did you mean {near}?" if near else f"its fields: {', '.join(its_fields) or 'none'}"
            raise UsageError(f"role {name} has no field {{{key}}}", hint)
    return written.filled(lambda key: _value(known, key, name))


def verify(directory: Path, name: str) -> Role:
    """Return the role as :func:`load` does, each field that has no value filled with its own name.

    :raises Failure: as :func:`load` does, but not for values that are missing.
    """
    written = _written(directory, name)
    if written.role.schema and written.role.extract:
        raise ConfigError(f"role {name} has schema and extract, which exclude each other")
    return written.filled(lambda key: written.values.get(key, key))


class _Written(NamedTuple):
    """A role without its texts, these texts with their fields, and the file's own values for the fields."""

    role: Role
    system: Template | None
    prompt: Template | None
    values: Mapping[str, str]

    def filled(self, value: Callable[[str], str]) -> Role:
        """Return the role; ``value`` returns what stands for a field."""
        system, prompt = (None if text is None else fill(text, value) for text in (self.system, self.prompt))
        settings = self.role.settings if system is None else {**self.role.settings, "system": system}
        return self.role._replace(settings=settings, prompt=prompt)


def _written(directory: Path, name: str) -> _Written:
    name = check_name(name, "role")
    path = directory / f"{name}{_SUFFIX}"
    content = _read(path, name)
    front, body = _split(content, path)
    found = read_table(_toml(front, path), _SHAPE, source=str(path))
    schema, prompt, text = found.get("schema"), found.get("prompt"), body.strip()
    role = Role(
        {key: found[key] for key in _SETTINGS if key in found},
        schema=schema and _placed(schema, directory),
        extract=found.get("extract"),
        tools=tuple(_placed(name, directory) if "/" in name else name for name in found.get("tools", ())),
    )
    system = _template(text, str(path), content) if text else None
    asked = None if prompt is None else _template(prompt, f"{path}: prompt", content)
    return _Written(role, system, asked, found.get("vars", {}))


def _template(text: str, what: str, content: str) -> Template:
    """Return the pieces of a text. A failure names the line in the file, whose whole text is ``content``."""
    start = content.rfind(text)  # of a text with escapes in it the first line at least is found
    if start < 0:
        start = max(0, content.find(text.partition("\n")[0]))
    return parse(text, what, ConfigError, content.count("\n", 0, start) + 1)


def _placed(path: str, folder: Path) -> str:
    """Return a path absolute: ``~`` is home, others are taken from the folder."""
    return os.path.join(folder, os.path.expanduser(path))


def _read(path: Path, name: str) -> str:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise NoInput(f"no role is called {name!r}", "gptpipe-config roles lists them") from None
    except OSError as error:
        raise NoInput(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    if (at := content.find("\0")) >= 0:  # no message may hold one, see inputs.decode
        line = content.count("\n", 0, at) + 1
        raise ConfigError(f"{path}: there is a NUL in line {line}")
    return content


def _split(content: str, path: Path) -> tuple[str, str]:
    """Return the front matter and the message."""
    match = _FRONT_MATTER.match(content)
    if match:
        return match[1], content[match.end() :]
    if re.match(r"\+\+\+[ \t]*\r?\n", content):
        raise ConfigError(f"{path}: the line +++ that ends the settings is missing")
    return "", content


def _toml(front: str, path: Path) -> dict[str, Any]:
    if not front.strip():
        return {}
    import tomllib  # 5 ms, not paid without settings

    try:
        return tomllib.loads("\n" + front)  # the +++ line counts, so that the message names the file's line
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {clause(error)}") from None


def _value(known: Mapping[str, str], key: str, name: str) -> str:
    try:
        return known[key]
    except KeyError:
        hint = f"give -V {key}=VALUE" if key else "a field is written {NAME}, a brace {{"
        raise UsageError(f"role {name} needs a value for {{{key}}}", hint) from None


def save(directory: Path, name: str, role: Role) -> Path:
    """Write a role and return its file. Its texts are templates: :func:`as_template` and ``escape`` make them.

    :raises UsageError: if the role exists, its name is not valid, or TOML has no form for a value.
    :raises WriteError: if it cannot be written.
    """
    name = check_name(name, "role")
    path = directory / f"{name}{_SUFFIX}"
    data = _format(role).encode()
    with failing(WriteError, f"cannot write {path}"):
        try:
            create(path, data)
        except FileExistsError:
            raise UsageError(f"there is a role {name!r} already", f"take another name, or remove {path}") from None
    return path


def _format(role: Role) -> str:
    values: dict[str, Any] = {key: value for key, value in role.settings.items() if key != "system"}
    values |= {"prompt": role.prompt, "schema": role.schema, "extract": role.extract}
    values["tools"] = list(role.tools) or None
    return f"+++\n{toml.lines(values)}+++\n{role.settings.get('system') or ''}\n"
