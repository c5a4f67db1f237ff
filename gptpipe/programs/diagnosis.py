"""What ``gptpipe-config check`` finds: settings, key, roles, folders, and what the endpoint can do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from gptpipe.asking import tokens
from gptpipe.asking.answer import Answer
from gptpipe.asking.asker import Asker, Receiver
from gptpipe.asking.context import Context
from gptpipe.asking.link import key_for
from gptpipe.asking.want import Want, wanted
from gptpipe.errors import Failure
from gptpipe.settings import roles
from gptpipe.settings.settings import Paths, Settings
from gptpipe.text.address import masked
from gptpipe.usage.budget import check_budget
from gptpipe.wire import batch_api
from gptpipe.wire.client import Client

_QUESTION = "Count from one to five."
_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}


class Finding(NamedTuple):
    """A result of the check. ``works`` is None if it is neither good nor bad."""

    name: str
    works: bool | None
    text: str


def offline(options: Mapping[str, Any], context: Context) -> Iterator[Finding]:
    """Yield what can be found without a request; only the user's key command is run."""
    yield Finding("settings", True, context.config.path or "no file: the built-in values hold")
    try:
        chosen = context.resolve(options)
    except Failure as failure:
        yield _bad("model", failure)
    else:
        yield Finding("endpoint", True, masked(chosen.base_url) if chosen.base_url else "built in")
        yield Finding("model", True, chosen.model)
        yield _tried("key", lambda: key_for(context, chosen).source)
        yield _tried("budget", partial(_budget, chosen, context))
    for name in roles.names(context.paths.roles):
        yield _tried(f"role {name}", partial(_role, context, name))
    yield from _folders(context.paths)
    for encoding in tokens.VOCABULARIES:
        there = tokens.installed(encoding, context.paths.cache)
        hint = "there" if there else "not there: gptpipe-config tokenizer fetches it, and counts are exact"
        yield Finding(f"vocabulary {encoding}", True if there else None, hint)


def _bad(name: str, failure: Failure) -> Finding:
    return Finding(name, False, f"{failure.message} ({failure.hint})" if failure.hint else failure.message)


def _tried(name: str, find: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, find())
    except Failure as failure:
        return _bad(name, failure)


def _budget(chosen: Settings, context: Context) -> str:
    check_budget(chosen, context.paths, over=False)
    return "not used up" if any(chosen.budget) else "none is set"


def _role(context: Context, name: str) -> str:
    """Check a role as a call with it does before it asks."""
    role = roles.verify(context.paths.roles, name)
    wanted({}, role, context)
    if "profile" in role.settings:
        context.resolve({}, role.settings)
    return "can be used"


def _folders(paths: Paths) -> Iterator[Finding]:
    """Check that files can be written in the folders. A folder in the way of several is named once."""
    closed: dict[str, list[str]] = {}
    for folder in (paths.sessions, paths.usage, paths.answers):
        there = folder
        while not there.exists():
            there = there.parent
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            yield Finding("folder", True, str(folder))
        else:
            closed.setdefault(str(there), []).append(folder.name)
    for where, names in closed.items():
        yield Finding("folder", False, f"{where} cannot be written to: {', '.join(names)} cannot be kept")


def online(chosen: Settings, client: Client, context: Context) -> Iterator[Finding]:
    """Ask the endpoint and yield what it can do. This costs some tokens."""
    yield _models(chosen, client)
    pieces = _Pieces()
    answer = _asked(chosen, client, context, Want(), pieces)
    if answer.failure:
        yield _bad("answer", answer.failure)
        return
    yield Finding("answer", True, f"from {answer.served_by or 'a model that it does not name'}")
    yield Finding("streaming", pieces.count > 1 or None, "in pieces" if pieces.count > 1 else "in one piece")
    yield Finding("usage", True if answer.usage else None, "reported" if answer.usage else "not reported: estimated")
    answer = _asked(chosen, client, context, Want(schema=_SCHEMA), Receiver())
    if answer.failure:
        yield Finding("schema", None, answer.failure.message)
    else:
        told = "in the system message" if "response_format" in client.refused else "as response_format"
        yield Finding("schema", True, f"kept to, told {told}")


def _models(chosen: Settings, client: Client) -> Finding:
    try:
        names = batch_api.models(client)
    except Failure as failure:
        return Finding("models", None, failure.message)  # not every server lists them
    among = "is" if chosen.model in names else "is not"
    return Finding("models", True, f"{len(names)}, {chosen.model} {among} among them")


def _asked(chosen: Settings, client: Client, context: Context, want: Want, receiver: Receiver) -> Answer:
    """Return the answer to a question, as far as one came."""
    answer = Answer(want)
    request = want.request(chosen, [{"role": "user", "content": _QUESTION}])
    Asker(context, chosen, want, lambda: client).ask(request, answer, receiver)
    return answer


class _Pieces(Receiver):
    """Counts the pieces of an answer."""

    def __init__(self) -> None:
        self.count = 0

    def text(self, text: str) -> None:  # noqa: ARG002
        self.count += 1
