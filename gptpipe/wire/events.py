"""What a server says while it answers: the same events whichever protocol it speaks.

Every string in an event can be encoded as UTF-8.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gptpipe.errors import Failure


class Text(NamedTuple):
    """A piece of the answer; never empty."""

    text: str


class Reasoning(NamedTuple):
    """A piece of what the model thought before it answered; never empty."""

    text: str


class Refusal(NamedTuple):
    """A piece of the sentence with which the model refuses; never empty."""

    text: str


class Finish(NamedTuple):
    """The finish reason, in a word of Chat Completions where there is one; never empty."""

    reason: str


class Usage(NamedTuple):
    """The ``usage`` object in the names of Chat Completions; never empty. The last one counts."""

    usage: dict[str, Any]


class Served(NamedTuple):
    """The model that answers; sent once, as soon as it is known."""

    model: str


class Cited(NamedTuple):
    """A source that the model names for its answer."""

    url: str
    title: str | None


class ToolCall(NamedTuple):
    """A tool that the model wants to call. ``arguments`` is JSON, as the model wrote it, or ``{}``."""

    id: str
    name: str
    arguments: str


class KeepAlive(NamedTuple):
    """A comment, or an event without data: bytes came, nothing was said."""


class Done(NamedTuple):
    """Nothing more will come."""


class Error(NamedTuple):
    """The error that the server reports inside its answer: an object or a string, as sent."""

    body: Any


class Malformed(NamedTuple):
    """The data of an event that holds no JSON object."""

    data: str


class Opened(NamedTuple):
    """The server has accepted the request; its answer follows, in the protocol ``api``. Made by the client."""

    request_id: str | None
    api: str | None = None


class Again(NamedTuple):
    """A try failed and is repeated: its events do not count. Made by the client."""

    failure: Failure


Event = (
    Text
    | Reasoning
    | Refusal
    | Finish
    | Usage
    | Served
    | Cited
    | ToolCall
    | KeepAlive
    | Done
    | Error
    | Malformed
    | Opened
    | Again
)
