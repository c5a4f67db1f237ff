"""The built-in model ``echo``: an endpoint that speaks both wire formats and answers with the question.

It needs no key and no network. After the name, knobs rehearse trouble: ``echo:status=429,after=1``. They are listed
in ``Knobs`` and in gptpipe(1). The tests' loopback server speaks through ``answer`` too: what a test sees on a socket
is what a script's author rehearses.

Replies are the same in every run, so their ids and times are constants. A token is four bytes: the usage counts for
each message, and for the answer, the bytes of its text in UTF-8 divided by four and rounded up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from gptpipe import errors
from gptpipe.settings.built_in import is_echo
from gptpipe.wire import echo_chat, echo_responses
from gptpipe.wire.echo_knobs import Knobs as Knobs
from gptpipe.wire.echo_knobs import of_this_try
from gptpipe.wire.echo_knobs import parse as parse
from gptpipe.wire.echo_speech import Pause as Pause
from gptpipe.wire.echo_speech import speech


class Reply(NamedTuple):
    """An HTTP response; each piece of ``chunks`` is a packet of its own."""

    status: int
    headers: dict[str, str]
    chunks: Iterator[bytes | Pause]


_PLAIN = Knobs()
_STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "x-request-id": "req_echo"}
_JSON_HEADERS = {"content-type": "application/json", "x-request-id": "req_echo"}

# HTTP status: message, type and code of the API's error object. {model} is the name that was asked for.
_ERRORS: dict[int, tuple[str, str, str | None]] = {
    400: ("The request was rejected.", "invalid_request_error", None),
    401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
    402: ("You have run out of credit.", "insufficient_credit", "insufficient_credit"),
    403: ("Your project does not have access to model `{model}`.", "invalid_request_error", "model_not_found"),
    404: (
        "The model `{model}` does not exist or you do not have access to it.",
        "invalid_request_error",
        "model_not_found",
    ),
    408: ("The request timed out.", "timeout", None),
    409: ("The resource was changed by another request. Please try again.", "conflict", None),
    413: ("The request is too large.", "invalid_request_error", "request_too_large"),
    422: ("The request could not be processed.", "invalid_request_error", None),
    429: ("Rate limit reached for {model} on requests per min (RPM).", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
    503: ("That model is currently overloaded with other requests.", "server_error", None),
    529: ("Overloaded.", "overloaded_error", None),
}


def answer(method: str, path: str, content: bytes, tries: Iterator[int], default: Knobs = _PLAIN) -> Reply:
    """Return what the endpoint replies to a request.

    ``tries`` counts requests from 0, for ``fails``; ``default`` are the knobs of every model that is not ``echo``.
    """
    if method == "GET" and path.endswith("/models"):
        model = {"id": "echo", "object": "model", "created": 0, "owned_by": "gptpipe"}
        return _json(200, {"object": "list", "data": [model]})
    if method != "POST" or not path.endswith(("/chat/completions", "/responses")):
        return _error(404, f"Invalid URL ({method} {path})", "invalid_request_error", None)
    try:
        body = json.loads(content)
        model = body["model"]
        knobs = parse(model) if is_echo(model) else default
    except (ValueError, RecursionError):
        return _error(400, "We could not parse the JSON body of your request.", "invalid_request_error", None)
    except (AttributeError, KeyError, TypeError):
        return _error(400, "you must provide a model parameter", "invalid_request_error", None)
    except errors.UsageError as error:
        return _error(400, f"{error.message}. {error.hint}", "invalid_request_error", None, "model")
    return respond(path, body, knobs, next(tries))


def respond(path: str, body: dict[str, Any], knobs: Knobs, earlier: int = 0) -> Reply:
    """Return the model's reply to the body of a request, after ``earlier`` tries."""
    knobs = of_this_try(knobs, earlier)
    spoken = echo_responses if path.endswith("/responses") else echo_chat
    if knobs.status is not None:
        return _failure(str(body.get("model")), knobs.status, knobs.after)
    if body.get(spoken.NEEDED) is None:
        what, code = f"Missing required parameter: '{spoken.NEEDED}'.", "missing_required_parameter"
        return _error(400, what, "invalid_request_error", code, spoken.NEEDED)
    messages = spoken.messages(body)
    if messages is None:
        what, code = f"Invalid type for '{spoken.NEEDED}': expected a list of messages.", "invalid_type"
        return _error(400, what, "invalid_request_error", code, spoken.NEEDED)
    said = speech(messages, knobs)
    if body.get("stream"):
        return Reply(200, _STREAM_HEADERS, spoken.stream(body, said, knobs))
    return Reply(200, _JSON_HEADERS, spoken.whole(body, said, knobs))


def _json(status: int, value: object) -> Reply:
    return Reply(status, _JSON_HEADERS, iter([json.dumps(value).encode()]))


def _error(status: int, what: str, kind: str, code: str | None, param: str | None = None) -> Reply:
    return _json(status, {"error": {"message": what, "type": kind, "param": param, "code": code}})


def _failure(model: str, status: int, after: float | None) -> Reply:
    """Return the error that the real API sends with this status."""
    unknown = _ERRORS[500 if status >= 500 else 400]
    what, kind, code = _ERRORS.get(status, unknown)
    reply = _error(status, what.replace("{model}", model), kind, code)
    return reply if after is None else reply._replace(headers=reply.headers | {"retry-after": f"{after:.15g}"})
