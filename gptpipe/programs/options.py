"""The options that several programs share, each defined once, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from gptpipe.programs.cli import option
from gptpipe.settings.built_in import DEFAULT_MODEL

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


def _pair(value: str) -> tuple[str, str]:
    """Return the two parts of ``KEY=VALUE``, the value as it stands."""
    key, sign, text = value.partition("=")
    if not sign or not key:
        raise click.BadParameter(f"{value!r} is not KEY=VALUE")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!r} is not UTF-8") from None
    return key, text


def _field(value: str) -> tuple[str, Any]:
    """Return the parts of ``KEY=VALUE``; VALUE is JSON, or a plain string when it does not begin like JSON."""
    key, text = _pair(value)
    if not text or (text[0] not in '{["-0123456789' and text not in _WORDS):
        return key, text
    from gptpipe.text.strict_json import parse  # not for -h

    try:
        return key, parse(text)
    except ValueError as error:
        raise click.BadParameter(f"{text[:80]!r} begins like JSON but is not: {error}") from None


# How the help names a value, and what the value is.
WHOLE: dict[str, Any] = {"metavar": "N", "type": int}
NUMBER: dict[str, Any] = {"metavar": "N", "type": float}
SECONDS: dict[str, Any] = {"metavar": "SECONDS", "type": float}

_in_message, _in_conversation, _in_input, _in_model, _in_answer, _in_tools, _in_limits, _in_network, _in_other = (
    partial(option, group=group)
    for group in ("message", "conversation", "input", "model", "answer", "tools", "limits", "network", "other")
)


def together(*options: Decorator) -> Decorator:
    """Return the decorator that adds options in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for each in reversed(options):
            function = each(function)
        return function

    return decorate


lock = _in_conversation(
    "--lock-timeout", **SECONDS, help="wait this long for another process in the session (default 600; 0: do not wait)"
)

conversation = together(
    _in_conversation("-s", "--session", metavar="NAME", help="continue this conversation, append the turn"),
    _in_conversation("--history", **WHOLE, help="send at most the last N turns; 0 sends none"),
    _in_conversation("--history-tokens", **WHOLE, help="send the latest turns that fit N tokens (default 32000)"),
    lock,
)

records = together(
    _in_input("-f", "--file", metavar="PATH", help="read the records from PATH, not standard input"),
    _in_input("--jsonl", is_flag=True, help="each line is JSON"),
    _in_input("--csv", is_flag=True, help="rows under a header"),
    _in_input("--tsv", is_flag=True, help="the same with tabs between the cells"),
    _in_input("--delimiter", metavar="CHAR", help="what is between cells (default: as the header shows)"),
    _in_input("--files", is_flag=True, help="each line is the path of a file: its content is the record"),
    _in_input("-0", "--null", is_flag=True, help="records, and bare answers, end with NUL"),
    _in_input("--encoding", metavar="NAME", default="utf-8", help="of the input (default UTF-8)"),
)

profile = _in_model("-p", "--profile", metavar="NAME", help="an endpoint from the settings, or a built-in one")

named_model = together(
    _in_model("-m", "--model", metavar="NAME", help=f"the model (default {DEFAULT_MODEL}; 'echo' is built in)"),
    profile,
    _in_model("--api", metavar="NAME", help="the protocol: chat, responses or auto (default)"),
    _in_model("--temperature", **NUMBER, help="sent only when given, as the next two"),
    _in_model("--max-tokens", **WHOLE, help="the longest answer"),
    _in_model("--reasoning-effort", metavar="LEVEL", help="how much the model thinks"),
    _in_model("-O", "--param", metavar="KEY=VALUE", type=_field, multiple=True, help="any other field of the request"),
)

model = together(
    named_model, _in_model("--web", is_flag=True, help="let the model search the web (the Responses API only)")
)

tries = together(
    _in_limits("--max-time", **SECONDS, help="the whole run, in a chat each answer (default: no limit)"),
    _in_limits("--connect-timeout", **SECONDS, help="name, TCP, TLS and proxy (default 10; 0: no limit)"),
    _in_limits("--idle-timeout", **SECONDS, help="silence after that (default 300; 0: no limit)"),
    _in_limits("--retry", **WHOLE, help="tries after the first (default 2)"),
)

way = together(
    _in_network("--proxy", metavar="URL", help="http, https, socks5 or socks5h"),
    _in_network("--cacert", metavar="PATH", help="trust the authorities in this file"),
)

network = together(_in_network("--base-url", metavar="URL", help="the endpoint's address"), way)

config = _in_other("--config", metavar="PATH", help="another settings file")

instructions = together(
    _in_message("-S", "--system", metavar="TEXT", help="the system message; @PATH reads it from a file"),
    _in_message("-r", "--role", metavar="NAME", help="a role: system message and settings"),
    _in_message("-V", "--var", metavar="KEY=VALUE", type=_pair, multiple=True, help="a value for the role's {KEY}"),
)

schema = together(
    _in_answer("--schema", metavar="PATH", help="a JSON Schema: ask for such JSON, check it, print it"),
    _in_answer("--repair", **WHOLE, help="show the model up to N times what is wrong (default 1)"),
)

_calls = (
    _in_tools("--max-calls", **WHOLE, help="the most calls of tools (default 10)"),
    _in_tools("--approve", is_flag=True, help="show each call on the terminal and ask before it runs"),
)
_tool = _in_tools("--tool", metavar="PATH", multiple=True, help="an executable that the model may call")
_tool_calls = _in_tools("--tool-calls", is_flag=True, help="print the calls as JSON lines, run none")
chat_tools = together(_tool, *_calls)
tools = together(_tool, _tool_calls, *_calls)

check = _in_answer(
    "--check", metavar="COMMAND", help="a command that reads an answer and fails if it is not good enough"
)

over_budget = _in_limits("--over-budget", is_flag=True, help="ask although a budget is used up")

call = together(tries, _in_limits("--max-input-tokens", **WHOLE, help="refuse to send more than this"), network, config)

run = together(
    call,
    _in_limits("--cache", metavar="AGE", help="reuse an answer to the same request (30m, 12h, 7d)"),
    _in_limits("--cache-only", is_flag=True, help="never ask, only reuse"),
    _in_limits("--max-cost", metavar="USD", type=float, help="send nothing that could make the run cost more"),
    over_budget,
)

verbose = _in_other("-v", "--verbose", is_flag=True, help="notes on standard error: model, tokens, cost, retries")
