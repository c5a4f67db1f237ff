"""The options that several programs share, each defined once, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from gptpipe.programs.cli import option
from gptpipe.settings.built_in import DEFAULT_MODEL

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Pair(click.ParamType[tuple[str, str]]):
    """``KEY=VALUE``, the value as it stands."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the two parts."""
        key, sign, text = str(value).partition("=")
        if not sign or not key:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        try:
            text.encode()
            key.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} is not UTF-8", param, ctx)
        return key, text


class Field(click.ParamType[tuple[str, Any]]):
    """``KEY=VALUE`` where VALUE is JSON, or a plain string when it does not begin like JSON."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Return the key and the value as JSON has it."""
        key, text = Pair().convert(value, param, ctx)
        if not text or (text[0] not in '{["-0123456789' and text not in _WORDS):
            return key, text
        from gptpipe.text.strict_json import parse  # not for -h

        try:
            return key, parse(text)
        except ValueError as error:
            self.fail(f"{text[:80]!r} begins like JSON but is not: {error}", param, ctx)


_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


# How the help names a value, and what the value is.
WHOLE: dict[str, Any] = {"metavar": "N", "type": int}
NUMBER: dict[str, Any] = {"metavar": "N", "type": float}
SECONDS: dict[str, Any] = {"metavar": "SECONDS", "type": float}


def together(*options: Decorator) -> Decorator:
    """Return the decorator that adds options in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for each in reversed(options):
            function = each(function)
        return function

    return decorate


system = option(
    "-S", "--system", group="message", metavar="TEXT", help="the system message; @PATH reads it from a file"
)

lock = option(
    "--lock-timeout",
    group="conversation",
    **SECONDS,
    help="wait this long for another process in the session (default 600; 0: do not wait)",
)

conversation = together(
    option("-s", "--session", group="conversation", metavar="NAME", help="continue this conversation, append the turn"),
    option("--history", group="conversation", **WHOLE, help="send at most the last N turns; 0 sends none"),
    option(
        "--history-tokens",
        group="conversation",
        **WHOLE,
        help="send the latest turns that fit N tokens (default 32000)",
    ),
    lock,
)

records = together(
    option("-f", "--file", group="input", metavar="PATH", help="read the records from PATH, not standard input"),
    option("--jsonl", group="input", is_flag=True, help="each line is JSON"),
    option("--csv", group="input", is_flag=True, help="rows under a header"),
    option("--tsv", group="input", is_flag=True, help="the same with tabs between the cells"),
    option("--delimiter", group="input", metavar="CHAR", help="what is between cells (default: as the header shows)"),
    option("--files", group="input", is_flag=True, help="each line is the path of a file: its content is the record"),
    option("-0", "--null", group="input", is_flag=True, help="records, and bare answers, end with NUL"),
    option("--encoding", group="input", metavar="NAME", default="utf-8", help="of the input (default UTF-8)"),
)

profile = option(
    "-p", "--profile", group="model", metavar="NAME", help="an endpoint from the settings, or a built-in one"
)

model = together(
    option(
        "-m", "--model", group="model", metavar="NAME", help=f"the model (default {DEFAULT_MODEL}; 'echo' is built in)"
    ),
    profile,
    option("--api", group="model", metavar="NAME", help="the protocol: chat, responses or auto (default)"),
    option("--temperature", group="model", **NUMBER, help="sent only when given, as the next two"),
    option("--max-tokens", group="model", **WHOLE, help="the longest answer"),
    option("--reasoning-effort", group="model", metavar="LEVEL", help="how much the model thinks"),
    option(
        "-O",
        "--param",
        group="model",
        metavar="KEY=VALUE",
        type=Field(),
        multiple=True,
        help="any other field of the request",
    ),
)

web = option("--web", group="model", is_flag=True, help="let the model search the web (the Responses API only)")

tries = together(
    option("--max-time", group="limits", **SECONDS, help="the whole run, in a chat each answer (default: no limit)"),
    option("--connect-timeout", group="limits", **SECONDS, help="name, TCP, TLS and proxy (default 10; 0: no limit)"),
    option("--idle-timeout", group="limits", **SECONDS, help="silence after that (default 300; 0: no limit)"),
    option("--retry", group="limits", **WHOLE, help="tries after the first (default 2)"),
)

limits = together(
    tries,
    option("--max-input-tokens", group="limits", **WHOLE, help="refuse to send more than this"),
)

way = together(
    option("--proxy", group="network", metavar="URL", help="http, https, socks5 or socks5h"),
    option("--cacert", group="network", metavar="PATH", help="trust the authorities in this file"),
)

network = together(option("--base-url", group="network", metavar="URL", help="the endpoint's address"), way)

config = option("--config", group="other", metavar="PATH", help="another settings file")
role = together(
    option("-r", "--role", group="message", metavar="NAME", help="a role: system message and settings"),
    option(
        "-V",
        "--var",
        group="message",
        metavar="KEY=VALUE",
        type=Pair(),
        multiple=True,
        help="a value for the role's {KEY}",
    ),
)

schema = together(
    option("--schema", group="answer", metavar="PATH", help="a JSON Schema: ask for such JSON, check it, print it"),
    option("--repair", group="answer", **WHOLE, help="show the model up to N times what is wrong (default 1)"),
)

_calls = (
    option("--max-calls", group="tools", **WHOLE, help="the most calls of tools (default 10)"),
    option("--approve", group="tools", is_flag=True, help="show each call on the terminal and ask before it runs"),
)
_tool = option("--tool", group="tools", metavar="PATH", multiple=True, help="an executable that the model may call")
_tool_calls = option("--tool-calls", group="tools", is_flag=True, help="print the calls as JSON lines, run none")
chat_tools = together(_tool, *_calls)
tools = together(_tool, _tool_calls, *_calls)

check = option(
    "--check",
    group="answer",
    metavar="COMMAND",
    help="a command that reads an answer and fails if it is not good enough",
)

over_budget = option("--over-budget", group="limits", is_flag=True, help="ask although a budget is used up")

cost = together(
    option("--cache", group="limits", metavar="AGE", help="reuse an answer to the same request (30m, 12h, 7d)"),
    option("--cache-only", group="limits", is_flag=True, help="never ask, only reuse"),
    option(
        "--max-cost", group="limits", metavar="USD", type=float, help="send nothing that could make the run cost more"
    ),
    over_budget,
)

run = together(limits, cost, network, config)

verbose = option(
    "-v", "--verbose", group="other", is_flag=True, help="notes on standard error: model, tokens, cost, retries"
)
