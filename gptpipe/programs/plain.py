"""Reading the command line of a plain question, as most are: importing Click takes a quarter of such a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_FLAGS = {
    "-n": "no_stdin",
    "--no-stdin": "no_stdin",
    "--no-save": "no_save",
    "--no-stream": "no_stream",
    "--json": "json",
    "-v": "verbose",
    "--verbose": "verbose",
}
_TEXTS = {
    "-f": "file",
    "--file": "file",
    "-S": "system",
    "--system": "system",
    "-r": "role",
    "--role": "role",
    "-s": "session",
    "--session": "session",
    "-m": "model",
    "--model": "model",
    "-p": "profile",
    "--profile": "profile",
    "--base-url": "base_url",
}
# The values of all options where none is given, as ``programs.filter`` declares them.
_NONE = (
    "system role session history history_tokens lock_timeout model profile api temperature max_tokens reasoning_effort "
    "output extract schema repair meta max_calls max_time connect_timeout idle_timeout retry max_input_tokens cache "
    "max_cost base_url proxy cacert config save_role"
)
_FALSE = "no_stdin edit no_save web no_stream json reasoning tool_calls approve cache_only over_budget dry_run verbose"
ABSENT: dict[str, Any] = {
    **dict.fromkeys(_NONE.split()),
    **dict.fromkeys(_FALSE.split(), False),
    **dict.fromkeys(("file", "var", "param", "tool"), ()),
    "encoding": "utf-8",
}


def read(args: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Any]] | None:
    """Return the words of the prompt and the options, None if the command line has anything that is not plain.

    Click reads what this leaves to it, and finds the same in what it does not.
    """
    words: list[str] = []
    values = dict(ABSENT)
    rest = iter(args)
    for arg in rest:
        if arg == "-" or not arg.startswith("-"):
            words.append(arg)
        elif name := _FLAGS.get(arg):
            values[name] = True
        elif (name := _TEXTS.get(arg)) and not (text := next(rest, "-")).startswith("-"):
            values[name] = (*values[name], text) if name == "file" else text
        else:
            return None
    return tuple(words), values
