"""The built-in model ``echo``: an endpoint that speaks the Chat Completions wire format and answers with the question.

It needs no key and no network. After the name, knobs rehearse trouble: ``echo:status=429,after=1``. They are listed
in ``Knobs`` and in gptpipe(1). The wire format is that of https://platform.openai.com/docs/api-reference/chat. The
tests' loopback server speaks through ``answer`` too: what a test sees on a socket is what a script's author rehearses.

Replies are the same in every run, so their ids and times are constants. A token is four bytes: the usage counts for
each message, and for the answer, the bytes of its text in UTF-8 divided by four and rounded up.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from gptpipe import errors, message
from gptpipe.settings.settings import is_echo


class Knobs(NamedTuple):
    """What can be asked of the endpoint, as ``echo:KNOB,KNOB=VALUE,…``; any of them together."""

    status: int | None = None
    """Answer with this HTTP status (400 to 599) and the error body that the real API sends with it."""
    after: float | None = None
    """Send ``Retry-After``, in seconds, with an error."""
    cut: int | None = None
    """End the body after this many characters, without finish reason and ``[DONE]``."""
    stall: int | None = None
    """Fall silent after this many characters."""
    finish: str = "stop"
    """The finish reason."""
    delay: float = 0.0
    """Seconds before each chunk of the answer."""
    refuse: bool = False
    """Refuse."""
    empty: bool = False
    """Answer without any text."""
    fails: int | None = None
    """Only the first tries of this process meet ``status``, ``cut`` or ``stall`` (status 503 if none is given)."""
    text: str | None = None
    """Answer with this text instead. It comes last and may hold commas."""


class Pause(NamedTuple):
    """A silence on the wire; ``math.inf`` seconds: for ever."""

    seconds: float


class Reply(NamedTuple):
    """An HTTP response; each piece of ``chunks`` is a packet of its own."""

    status: int
    headers: dict[str, str]
    chunks: Iterator[bytes | Pause]


_PLAIN = Knobs()
_HINT = (
    "its knobs, with commas between: status=N, after=SECONDS, cut=N, stall=N, finish=REASON, delay=SECONDS, "
    "refuse, empty, fails=N and, last, text=TEXT"
)
_REFUSAL = "I'm sorry, but I can't help with that."
_STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "x-request-id": "req_echo"}
_JSON_HEADERS = {"content-type": "application/json", "x-request-id": "req_echo"}
_IDENTITY = {"id": "chatcmpl-echo", "created": 0, "system_fingerprint": None}

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


def parse(model: str) -> Knobs:
    """Return the knobs of a model's name; ``echo`` alone, and a name that is not echo's, has none.

    :raises UsageError: for an unknown knob, a bad value or a missing one.
    """
    knobs: dict[str, Any] = {}
    rest = model.removeprefix("echo:") if model.startswith("echo:") else None
    while rest is not None:
        if rest.startswith("text="):
            knobs["text"] = rest.removeprefix("text=")
            break
        knob, comma, after = rest.partition(",")
        name, equals, value = knob.partition("=")
        knobs[name] = _value(name, value if equals else None)
        rest = after if comma else None
    return Knobs(**knobs)


def answer(method: str, path: str, content: bytes, tries: Iterator[int], default: Knobs = _PLAIN) -> Reply:
    """Return what the endpoint replies to a request.

    ``tries`` counts requests from 0, for ``fails``; ``default`` are the knobs of every model that is not ``echo``.
    """
    if method == "GET" and path.endswith("/models"):
        model = {"id": "echo", "object": "model", "created": 0, "owned_by": "gptpipe"}
        return _json(200, {"object": "list", "data": [model]})
    if method != "POST" or not path.endswith("/chat/completions"):
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
    return respond(body, knobs, next(tries))


def respond(body: dict[str, Any], knobs: Knobs, earlier: int = 0) -> Reply:
    """Return what the model replies to the body of a request, after so many ``earlier`` tries."""
    knobs = _of_this_try(knobs, earlier)
    messages = body.get("messages")
    if knobs.status is not None:
        return _failure(str(body.get("model")), knobs.status, knobs.after)
    if messages is None:
        what, code = "Missing required parameter: 'messages'.", "missing_required_parameter"
        return _error(400, what, "invalid_request_error", code, "messages")
    if not (isinstance(messages, list) and messages and all(isinstance(m, dict) and "role" in m for m in messages)):
        what, code = "Invalid type for 'messages': expected a list of messages.", "invalid_type"
        return _error(400, what, "invalid_request_error", code, "messages")
    if body.get("stream"):
        return Reply(200, _STREAM_HEADERS, _stream(body, knobs))
    return Reply(200, _JSON_HEADERS, _whole(body, knobs))


def _value(name: str, value: str | None) -> Any:
    """Return the value of a knob."""
    if name not in Knobs._fields:
        raise errors.UsageError(f"the model echo has no knob '{name}'", _HINT)
    if name in ("refuse", "empty"):
        if value is not None:
            raise errors.UsageError(f"echo: {name} takes no value", _HINT)
        return True
    if not value:
        raise errors.UsageError(f"echo: {name} needs a value", _HINT)
    return value if name == "finish" else _number(name, value)


def _number(name: str, value: str) -> float:
    lowest, highest = (400, 599) if name == "status" else (0, math.inf)
    try:
        number = float(value) if name in ("after", "delay") else int(value)
    except ValueError:
        number = math.nan
    if lowest <= number <= highest and number < math.inf:
        return number
    raise errors.UsageError(f"echo: {name}={value} is not valid", _HINT)


def _of_this_try(knobs: Knobs, earlier: int) -> Knobs:
    if knobs.fails is None:
        return knobs
    if earlier >= knobs.fails:
        return knobs._replace(status=None, cut=None, stall=None)
    troubled = (knobs.status, knobs.cut, knobs.stall) != (None, None, None)
    return knobs if troubled else knobs._replace(status=503)


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


def _said(body: dict[str, Any], knobs: Knobs) -> str:
    """Return the text of the answer."""
    if knobs.empty:
        return ""
    if knobs.refuse:
        return _REFUSAL
    if knobs.text is not None:
        return knobs.text
    asked = (m.get("content") for m in reversed(body["messages"]) if m["role"] == "user")
    return message.text_of(next(asked, None))


def _usage(body: dict[str, Any], said: str) -> dict[str, Any]:
    prompt = sum(math.ceil(message.size(m) / 4) for m in body["messages"])
    completion = math.ceil(message.size({"content": said}) / 4)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _whole(body: dict[str, Any], knobs: Knobs) -> Iterator[bytes | Pause]:
    """Yield a ``chat.completion``; where ``cut`` or ``stall`` is asked for, it breaks off in its middle."""
    said = _said(body, knobs)
    reply = {"role": "assistant", "content": None if knobs.refuse else said, "refusal": said if knobs.refuse else None}
    choice = {"index": 0, "message": reply, "logprobs": None, "finish_reason": knobs.finish}
    envelope = {**_IDENTITY, "object": "chat.completion", "model": body["model"]}
    whole = json.dumps({**envelope, "choices": [choice], "usage": _usage(body, said)}).encode()
    if knobs.delay:
        yield Pause(knobs.delay)
    broken = knobs.cut is not None or knobs.stall is not None
    yield whole[: len(whole) // 2] if broken else whole
    if knobs.stall is not None:
        yield Pause(math.inf)


def _stream(body: dict[str, Any], knobs: Knobs) -> Iterator[bytes | Pause]:
    """Yield the events of a stream, one packet each: role, words, finish reason, usage if asked for, ``[DONE]``."""
    said = _said(body, knobs)
    options = body.get("stream_options")
    counted = isinstance(options, dict) and bool(options.get("include_usage"))
    envelope = {**_IDENTITY, "object": "chat.completion.chunk", "model": body["model"]}

    def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**envelope, "choices": [choice], **({"usage": None} if counted else {})})

    yield event({"role": "assistant", "content": "", "refusal": None})
    # All but the word is the same in every chunk: a message of ten megabytes has millions of them.
    before, _, after = event({"refusal" if knobs.refuse else "content": "WORD"}).rpartition(b'"WORD"')
    limits = [limit for limit in (knobs.cut, knobs.stall) if limit is not None]
    for word in _words(said, min(limits, default=len(said))):
        if knobs.delay:
            yield Pause(knobs.delay)
        yield before + _quoted(word) + after
    if knobs.stall is not None and knobs.stall == min(limits):
        yield Pause(math.inf)
    if limits:
        return
    yield event({}, knobs.finish)
    if counted:
        yield _event({**envelope, "choices": [], "usage": _usage(body, said)})
    yield b"data: [DONE]\n\n"


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _words(text: str, end: int) -> Iterator[str]:
    """Yield the text up to ``end`` in pieces of a word with the white space before it, 64 characters at most."""
    for match in re.compile(r"\s?\S{1,63}|\s{1,64}").finditer(text, 0, end):
        yield match[0]


def _quoted(text: str) -> bytes:
    # As the real API, not in ASCII. A lone surrogate has no UTF-8; with a backslash it is the JSON escape.
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "backslashreplace")
