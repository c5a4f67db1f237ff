"""Reports on a turn, beside its answer: ``--dry-run``, ``--json``, ``--meta``, ``--verbose``."""

from __future__ import annotations

import time
from collections.abc import Collection
from signal import SIGPIPE, Signals
from typing import Any

from gptpipe.asking import tokens
from gptpipe.asking.answer import Answer
from gptpipe.asking.context import Context
from gptpipe.asking.turn import Composed, Turn
from gptpipe.asking.want import Want
from gptpipe.console import output
from gptpipe.errors import Failure, Interrupted, Status, status_of
from gptpipe.message import Counts, counts
from gptpipe.settings import keys, settings
from gptpipe.settings.settings import Settings
from gptpipe.text.address import masked
from gptpipe.usage import prices
from gptpipe.wire import protocol
from gptpipe.wire.request import Request, system_of

Ending = Failure | Interrupted | BrokenPipeError


def previewed(composed: Composed, context: Context) -> dict[str, Any]:
    """Return the object of ``--dry-run``; its keys are documented in gptpipe(1)."""
    chosen, asked = composed.settings, composed.request
    counted = tokens.preview(system_of(chosen), asked.messages, chosen.model, context.paths.cache)
    price = prices.cost(Counts(input=counted["tokens"]["total"]), chosen)
    return {**shown(chosen, context, asked), **counted, "price": price}


def shown(chosen: Settings, context: Context, request: Request, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the request as ``--dry-run`` shows it, without secrets and the fields ``without``; runs no key command."""
    spoken = protocol.of(chosen, request)
    return {
        "url": masked(protocol.url(chosen, spoken)) if chosen.base_url else None,
        "headers": keys.shown_headers(chosen, context.env),
        "body": spoken.body(request, chosen, without),
    }


def describe(known: Turn | Settings | None, ending: Ending | None, started: float) -> dict[str, Any]:
    """Return the object of ``--json`` and ``--meta``; its keys are documented in gptpipe(1).

    ``known`` holds what the run has reached, ``ending`` is what ended it, ``started`` is monotonic.
    """
    turn = known if isinstance(known, Turn) else None
    chosen = turn.settings if turn else known
    assert not isinstance(chosen, Turn)
    answer = turn.answer if turn else Answer(Want())
    status = status_of(ending)
    name, words = _said(ending)
    return {
        "answer": answer.result,
        "model": chosen.model if chosen else None,
        "served_by": answer.served_by,
        "profile": chosen.profile if chosen else None,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "session": chosen.session if chosen else None,
        "turns_sent": turn.turns_sent if turn else 0,
        "turns_dropped": turn.turns_dropped if turn else 0,
        "request_id": answer.request_id,
        "retries": turn.retries if turn else 0,
        "cached": answer.cached,
        "citations": answer.citations,
        "tool_calls": answer.listed(),
        "seconds": {
            "first_token": round(answer.first_token - started, 3) if answer.first_token else None,
            "total": round(time.monotonic() - started, 3),
        },
        "status": status,
        "name": name,
        "error": None if ending is None else {"status": status, "name": name, "message": words},
    }


def _said(ending: Ending | None) -> tuple[str, str]:
    """Return the name of what ended a run, as ``--json`` has it, and what it says."""
    match ending:
        case Interrupted():
            return Signals(ending.signum).name, "interrupted"
        case BrokenPipeError():
            return SIGPIPE.name, "the reader of the answer is gone"
    return Status(status_of(ending)).name, ending.message if ending else ""


def note(turn: Turn) -> None:
    """Write the notes of ``--verbose`` on a turn that has ended; the client's were written before."""
    if not turn.asked:
        return
    chosen, usage = turn.settings, turn.answer.usage or {}
    if not turn.connected:
        source = "a stored answer" if turn.answer.cached else "key: not looked for"
        output.say(f"{settings.described(chosen)}, {source}")
    if turn.answer.api:
        output.say(f"api: {turn.answer.api}")
    output.say(
        f"tokens: {usage.get('prompt_tokens', '?')} in, {usage.get('completion_tokens', '?')} out; "
        f"turns: {turn.turns_sent} sent, {turn.turns_dropped} left out; retries: {turn.retries}"
    )
    for cited in turn.answer.citations:
        output.say(f"source: {' '.join(filter(None, cited.values()))}")
    if usage and chosen.base_url:
        usd = prices.cost(counts(usage), chosen)
        output.say("cost: not known" if usd is None else f"cost: {usd:.6f} USD")
