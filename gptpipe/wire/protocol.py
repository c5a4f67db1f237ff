"""The two protocols, and the choice between them for a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from gptpipe.errors import UsageError
from gptpipe.settings.built_in import ECHO_URL, OPENAI
from gptpipe.settings.settings import Settings
from gptpipe.text.address import joined
from gptpipe.wire import chat, items, responses, sse
from gptpipe.wire.events import Event
from gptpipe.wire.request import Request


class Protocol(NamedTuple):
    """How a request is written, and how its answer is read.

    ``name`` is that of ``--api``, ``path`` follows the base URL, and ``title`` is the name in messages. ``body``
    returns the JSON of a request without the fields that were refused, ``whole`` the events of a reply in one piece.
    """

    name: str
    path: str
    title: str
    body: Callable[[Request, Settings, Collection[str]], dict[str, Any]]
    reader: Callable[[Settings], sse.Reader]
    whole: Callable[[dict[str, Any], bool], list[Event]]


def _chunks(settings: Settings) -> chat.Reader:
    return chat.Reader(settings.thinks)


def _events(settings: Settings) -> responses.Reader:
    return responses.Reader(settings.thinks, settings.params.get("max_tokens"))


CHAT = Protocol("chat", "/chat/completions", "Chat Completions", chat.body, _chunks, chat.whole)
RESPONSES = Protocol("responses", "/responses", "the Responses API", items.body, _events, responses.whole)

# OpenAI's models that Chat Completions does not serve. Others are found out by asking: the refusal names the path.
_ONLY_RESPONSES = re.compile(
    r"(?!gpt-5\.2-pro|gpt-5\.1-codex$|codex-mini)"
    r"(.+-(pro|codex|codex-max|deep-research|cyber|law)|computer-use-preview|gpt-daybreak-.+|gpt-.*rosalind.*)"
    r"(-\d{4}-\d\d-\d\d)?"
)


def of(settings: Settings, request: Request) -> Protocol:
    """Return the protocol for a request: that of ``api``, or by ``auto`` the one that the model and tools need.

    :raises UsageError: if it is Chat Completions, and the model is to search the web.
    """
    needed = request.web or request.tools or _ONLY_RESPONSES.fullmatch(request.model)
    if settings.api == "responses" or (settings.api == "auto" and settings.profile == OPENAI and needed):
        return RESPONSES
    if request.web:
        raise UsageError("--web needs the Responses API", "--api responses speaks it, if the endpoint does")
    return CHAT


def url(settings: Settings, protocol: Protocol) -> str:
    """Return the address of a protocol, for the endpoint of the settings."""
    return joined(settings.base_url or ECHO_URL, protocol.path)
