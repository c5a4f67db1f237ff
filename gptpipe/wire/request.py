"""A request, independent of the protocol that will carry it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gptpipe.message import Message, Schema, ToolSpec
from gptpipe.settings.settings import Settings


class Request(NamedTuple):
    """What is asked of the model.

    ``messages`` have the form of Chat Completions, as sessions keep them. ``params`` are the other fields of the
    request: the limit under the name ``max_tokens``, the effort under ``reasoning_effort``. ``schema`` is that of the
    answer. The model may call the ``tools`` and, with ``web``, search the web. ``reasoning`` asks for its reasoning.
    """

    model: str
    messages: list[Message]
    params: Mapping[str, Any]
    schema: Schema | None = None
    tools: tuple[ToolSpec, ...] = ()
    reasoning: bool = False
    web: bool = False


def identity(request: Request) -> dict[str, Any]:
    """Return the request as JSON that does not depend on protocol and dialect: stored answers are named by it."""
    return request._asdict() | {"params": dict(request.params)}


def system_of(settings: Settings) -> list[Message]:
    """Return the system message, in a list, or an empty list."""
    return [{"role": "system", "content": settings.system}] if settings.system else []
