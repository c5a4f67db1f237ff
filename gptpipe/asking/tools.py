"""Tools: executables that the model may call. gptpipe-tool(5) specifies how one is asked and what it answers."""

from __future__ import annotations

import codecs
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGPIPE
from typing import Any, NamedTuple

from gptpipe.asking import schema
from gptpipe.asking.inputs import decode
from gptpipe.console import children, output
from gptpipe.console.children import Ended
from gptpipe.errors import BadInput, ConfigError, NoInput, clause
from gptpipe.message import ToolSpec
from gptpipe.storage import listed
from gptpipe.text.strict_json import compact, parse

DESCRIBE_LIMIT = 10.0  # seconds
LARGEST = 65536  # bytes, of a result and of a description

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # as the API takes it
_LAST_LINES = 20  # of standard error, that the model is shown
_HINT = "gptpipe-tool(5) says what a tool prints"


class Tool(NamedTuple):
    """An executable, and how it describes itself."""

    path: str
    spec: ToolSpec


class Called(NamedTuple):
    """The outcome of a call. ``result`` is the text for the model.

    ``arguments`` are the value, or the text if it is not JSON. ``status`` is as a shell shows it, and None if nothing
    was run. ``seconds`` include the time in which the user was asked.
    """

    name: str
    arguments: Any
    status: int | None
    seconds: float
    result: str

    def listed(self) -> dict[str, Any]:
        """Return the object of ``tool_calls`` in ``--json``."""
        return {key: value for key, value in self._asdict().items() if key != "result"}

    def __str__(self) -> str:
        how = "not run" if self.status is None else f"status {self.status}, {self.seconds:.1f} s"
        return f"{described(self.name, self.arguments)}: {how}"


class Toolbox(NamedTuple):
    """The tools of a run and the environment in which they run; ``approve`` decides about each call before it runs."""

    tools: tuple[Tool, ...]
    env: Mapping[str, str]
    approve: Callable[[str], bool] | None = None


def described(name: str, arguments: Any) -> str:
    """Return a call on one line."""
    return f"{name} {arguments if isinstance(arguments, str) else compact(arguments)}"


# Finding tools, and how they describe themselves


def names(folder: Path) -> list[str]:
    """Return the names of the executables in the folder of tools, sorted; raises as ``storage.listed``."""
    return sorted(name for name in listed(folder) if not name.startswith(".") and (folder / name).is_file())


def find(name: str, folder: Path) -> str:
    """Return the path of a tool: ``name`` if it has a slash, else the file of that name in the folder; else NoInput."""
    path = name if "/" in name else str(folder / name)
    if not name or not os.path.isfile(path):
        hint = f"a file in this folder is named ./{name}; gptpipe-config tools lists the others"
        raise NoInput(f"no such tool: {path if name else repr(name)}", hint if name and "/" not in name else None)
    if not os.access(path, os.X_OK):
        raise NoInput(f"the tool {path} is not executable", f"chmod +x {path}")
    return path


def load(wanted: Sequence[str], folder: Path, env: Mapping[str, str]) -> tuple[Tool, ...]:
    """Return the tools, after asking each to describe itself. A tool that is named twice counts once.

    ``env`` is their environment. Runs in the main thread.

    :raises NoInput: if one is not there or cannot be run.
    :raises ConfigError: if one describes itself badly or not within DESCRIBE_LIMIT, or two have the same name.
    """
    found: dict[str, Tool] = {}
    for path in dict.fromkeys(find(name, folder) for name in wanted):
        tool = describe(path, env)
        if (other := found.setdefault(tool.spec.name, tool)) is not tool:
            raise ConfigError(f"the tools {other.path} and {path} are both called {tool.spec.name}")
    return tuple(found.values())


def describe(path: str, env: Mapping[str, str]) -> Tool:
    """Return a tool as it describes itself; raises as :func:`load`."""
    try:
        with output.waiting(f"waiting for the tool {path} to describe itself"):
            ended = _run(path, "describe", env, None, time.monotonic() + DESCRIBE_LIMIT)
    except TimeoutError:
        raise ConfigError(f"the tool {path} did not describe itself within {DESCRIBE_LIMIT:g} s", _HINT) from None
    except OSError as error:
        raise NoInput(f"the tool {path} cannot be run: {str(error.strerror).lower()}") from None
    if ended.status and not ended.cut:
        last = "".join(f': "{line}"' for line in _last_lines(ended)[-1:])
        raise ConfigError(f"the tool {path} ended with status {ended.status} when it was to describe itself{last}")
    try:
        return Tool(path, _spec(ended))
    except ValueError as error:
        raise ConfigError(f"the tool {path} describes itself badly: {clause(error)}", _HINT) from None


def _spec(ended: Ended) -> ToolSpec:
    """Return what a description says; ValueError if it is none."""
    if ended.cut:
        raise ValueError(f"it prints more than {LARGEST} bytes")
    try:
        said = parse(ended.out.decode())
    except ValueError as error:
        raise ValueError(f"it does not print JSON: {clause(error)}") from None
    if not isinstance(said, dict):
        raise ValueError("it does not print a JSON object")
    name, description, parameters = (said.get(key) for key in ToolSpec._fields)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name must be 1 to 64 of the characters A-Z, a-z, 0-9, _ and -, not {compact(name)[:80]}")
    if not isinstance(description, str) or not description.strip():
        raise ValueError("description must be a text that says what the tool is for")
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise ValueError('parameters must be a JSON Schema with "type": "object"')
    if problem := schema.fault(parameters):
        raise ValueError(f"parameters is not a schema that can be used: {problem}")
    return ToolSpec(name, description, parameters)


def _run(path: str, action: str, env: Mapping[str, str], data: bytes | None, until: float | None = None) -> Ended:
    # Absolute, because a name that begins with - would be an option of the interpreter in its first line.
    return children.run(
        [os.path.abspath(path)], env={**env, "TOOLBOX_ACTION": action}, data=data, most=LARGEST, until=until
    )


def _last_lines(ended: Ended) -> list[str]:
    return output.visible(ended.err.decode("utf-8", "replace")).rstrip().split("\n")[-_LAST_LINES:] if ended.err else []


# Calls


class _NotRun(Exception):
    """A call that is not run; the words are for the model."""


def call(name: str, arguments: str, toolbox: Toolbox) -> Called:
    """Run a tool as the model asks, and return the outcome; ``arguments`` is the text that the model sent.

    An error becomes the result, so that the model can react to it. A long call is announced.
    """
    started = time.monotonic()
    status, given = None, value(arguments)
    try:
        tool = _allowed(name, _value(arguments), toolbox)
        with output.waiting(f"waiting for the tool {name} to end: --max-time bounds it"):
            ended = _run(tool.path, "execute", toolbox.env, compact(given).encode())
        status, result = ended.status, _result(ended)
    except _NotRun as reason:
        result = f"error: {reason}"
    except OSError as error:
        result = f"error: the tool cannot be run: {error.strerror}"
    return Called(name, given, status, round(time.monotonic() - started, 3), result)


def value(arguments: str) -> Any:
    """Return the arguments of a call as a JSON value, or the text if they are not JSON."""
    try:
        return _value(arguments)
    except _NotRun:
        return arguments


def _value(arguments: str) -> Any:
    try:
        return parse(arguments) if arguments.strip() else {}
    except ValueError as error:
        raise _NotRun(f"the arguments are not JSON: {error}") from None


def _allowed(name: str, arguments: Any, toolbox: Toolbox) -> Tool:
    """Return the tool that is called, if the call may run."""
    tool = next((tool for tool in toolbox.tools if tool.spec.name == name), None)
    if tool is None:
        raise _NotRun(f"no such tool: {name}; there are: {', '.join(tool.spec.name for tool in toolbox.tools)}")
    try:
        problem = schema.violation(arguments, tool.spec.parameters)
    except ConfigError as failure:
        problem = failure.message
    if problem:
        raise _NotRun(f"the arguments are not valid for the tool: {problem}")
    if toolbox.approve:
        try:
            agreed = toolbox.approve(f"run the tool {described(name, arguments)}?")
        except OSError:
            raise _NotRun("the user must approve each call, but this run has no terminal to ask on") from None
        if not agreed:
            raise _NotRun("the user does not allow this call")
    return tool


def _result(ended: Ended) -> str:
    """Return the result for the model of a tool that ended."""
    reader_was_gone = ended.cut and ended.status == 128 + SIGPIPE
    if ended.status and not reader_was_gone:
        return "\n".join([f"error: the tool ended with status {ended.status}", *_last_lines(ended)])
    if not ended.cut:
        return _text(ended.out)
    _, whole = codecs.utf_8_decode(ended.out, "surrogateescape", False)  # without half of a character at its end
    return f"{_text(ended.out[:whole])}\n[the result is longer than {LARGEST} bytes: the rest is cut off]"


def _text(data: bytes) -> str:
    try:
        return decode(data, "the result")
    except BadInput as failure:
        return f"error: {failure.message}"
