"""What is said of a turn beside its answer: ``--dry-run``, ``--json``, ``--meta``, ``--verbose``."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from gptpipe.asking import tokens
from gptpipe.asking.context import Context
from gptpipe.asking.turn import Request, Run
from gptpipe.console import output
from gptpipe.errors import Failure
from gptpipe.message import Counts, counts
from gptpipe.settings import keys, settings
from gptpipe.settings.settings import Settings
from gptpipe.text.address import joined, masked
from gptpipe.usage import prices
from gptpipe.wire import chat
from gptpipe.wire.request import Request as Asked


def previewed(request: Request, place: Context) -> dict[str, Any]:
    """Return the object of ``--dry-run``; its keys are documented in gptpipe(1)."""
    chosen = request.settings
    counted = tokens.preview(request.system, request.messages, chosen.model, place.paths.cache)
    price = prices.price(chosen.model, Counts(input=counted["tokens"]["total"]), chosen.base_url, chosen.prices)
    return {**shown(chosen, place, request.asked), **counted, "price": price}


def shown(chosen: Settings, place: Context, request: Asked, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the request as ``--dry-run`` shows it, with no secret in it; no key command is run.

    ``without`` are fields that the client would add.
    """
    return {
        "url": masked(joined(chosen.base_url, "/chat/completions")) if chosen.base_url else None,
        "headers": keys.shown_headers(chosen, place.env),
        "body": chat.body(request, chosen, without),
    }


def describe(run: Run, failure: Failure | None, status: int, name: str) -> dict[str, Any]:
    """Return the object of ``--json`` and ``--meta``; its keys are documented in gptpipe(1)."""
    answer, chosen, request = run.answer, run.settings, run.request
    now = time.monotonic()
    return {
        "answer": answer.result,
        "model": chosen.model if chosen else None,
        "served_by": answer.served_by,
        "profile": chosen.profile if chosen else None,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "session": chosen.session if chosen else None,
        "turns_sent": len(request.turns) if request else 0,
        "turns_dropped": request.dropped if request else 0,
        "request_id": answer.request_id,
        "retries": run.retries,
        "cached": answer.cached,
        "seconds": {
            "first_token": round(answer.first_token - run.started, 3) if answer.first_token else None,
            "total": round(now - run.started, 3),
        },
        "status": status,
        "name": name,
        "error": None if failure is None else {"status": status, "name": name, "message": failure.message},
    }


def note(run: Run) -> None:
    """Write the notes of ``--verbose``."""
    request, usage = run.request, run.answer.usage or {}
    if request is None:
        return
    chosen = request.settings
    source = "a stored answer" if run.answer.cached else f"key: {run.key_source or 'not looked for'}"
    output.say(f"{settings.described(chosen)}, {source}")
    output.say(
        f"tokens: {usage.get('prompt_tokens', '?')} in, {usage.get('completion_tokens', '?')} out; "
        f"turns: {len(request.turns)} sent, {request.dropped} left out; retries: {run.retries}"
    )
    if usage and chosen.base_url:
        usd = prices.price(chosen.model, counts(usage), chosen.base_url, chosen.prices)
        output.say("cost: not known" if usd is None else f"cost: {usd:.6f} USD")
