"""What an answer must be, by the options and the role."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple

from gptpipe.asking import schema, tools
from gptpipe.asking.context import Context
from gptpipe.asking.tools import Tool
from gptpipe.console import consent
from gptpipe.errors import ConfigError, UsageError
from gptpipe.message import Message, Schema, ToolSpec
from gptpipe.settings.keys import keyless
from gptpipe.settings.settings import Role, Settings
from gptpipe.text.age import parse_age
from gptpipe.usage.ceiling import Ceiling
from gptpipe.wire.request import Request

MAX_CALLS = 10  # of tools, in a turn or for a record
_SAME = ("repair", "cache_only", "over_budget", "reasoning", "web", "max_calls")  # options that are fields as they are


class Want(NamedTuple):
    """What an answer must be, and whether a stored answer may be used.

    ``extract`` is ``"first"`` or ``"last"``: of the text only that code block counts. With a ``schema`` the text is
    JSON; ``repair`` is how often the model is shown what is wrong with it. A stored answer may be used if it is at most
    ``max_age`` seconds old. With ``cache_only`` nothing is asked, and without an age the answer may be of any age.
    ``reasoning`` asks for the model's reasoning too, and ``web`` lets it search the web.
    The model may call ``tools``, at most ``max_calls`` times; ``approve``, if it is set, decides about each. With
    ``calls_only`` the calls are the answer, and none is run. ``judge`` returns what is wrong with an answer, or None.
    All requests under this want share the ``ceiling``.
    """

    extract: str | None = None
    schema: Schema | None = None
    repair: int = 1
    max_age: float | None = None
    cache_only: bool = False
    over_budget: bool = False
    reasoning: bool = False
    web: bool = False
    tools: tuple[Tool, ...] = ()
    max_calls: int = MAX_CALLS
    approve: Callable[[str], bool] | None = None
    calls_only: bool = False
    judge: Callable[[str], str | None] | None = None
    ceiling: Ceiling | None = None

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as the model sees them."""
        return tuple(tool.spec for tool in self.tools)

    def request(self, settings: Settings, messages: list[Message]) -> Request:
        """Return the request for such an answer, to the settings' model with their parameters."""
        return Request(settings.model, messages, settings.params, self.schema, self.specs, self.reasoning, self.web)

    @property
    def stored(self) -> bool:
        """Whether a stored answer may be used."""
        return self.cache_only or self.max_age is not None


def wanted(options: Mapping[str, Any], role: Role, context: Context) -> Want:
    """Return what an answer must be, by the options (long names with underscores) or else by the role.

    The tools are those of both. Each is asked to describe itself. UsageError if options exclude each other; otherwise
    raises as ``schema.load`` and ``tools.load``.
    """
    extract, path = options.get("extract"), options.get("schema")
    if extract and path is not None:
        raise UsageError("--schema and --extract exclude each other")
    if path == "-":
        raise UsageError("--schema takes the path of a file: standard input is part of the message")
    if not extract and path is None:
        extract, path = role.extract, role.schema
        if extract and path:
            raise ConfigError("schema and extract exclude each other, and the role has both")
    age, most = options.get("cache"), options.get("max_cost")
    if options.get("repair", 0) < 0:
        raise UsageError("--repair must be a whole number, 0 or more")
    if most is not None and not 0 <= most < inf:
        raise UsageError("--max-cost must be a number, 0 or more")
    want = Want(
        extract,
        schema.load(path) if path is not None else None,
        max_age=None if age is None else parse_age(age),
        ceiling=None if most is None else Ceiling(most),
        **{name: options[name] for name in _SAME if name in options},
    )
    return want._replace(**_tools(options, role, context))


def _tools(options: Mapping[str, Any], role: Role, context: Context) -> dict[str, Any]:
    """Return the fields about tools, by options and role."""
    names = [*role.tools, *options.get("tool", ())]
    calls_only = options.get("tool_calls", False)
    if options.get("max_calls", 0) < 0:
        raise UsageError("--max-calls must be a whole number, 0 or more")
    if calls_only and not names:
        raise UsageError("--tool-calls needs a --tool that the model may call")
    if calls_only and (options.get("extract") or options.get("schema")):
        raise UsageError("--tool-calls excludes --extract and --schema: the calls are the answer")
    env = keyless(context.env, context.config)
    return {
        "tools": tools.load(names, context.paths.tools, env),
        "approve": consent.agrees if options.get("approve") else None,
        "calls_only": calls_only,
    }
