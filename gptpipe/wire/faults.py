"""What a server's refusal means: an HTTP status or an error object in the stream, as a failure.

Servers of the Chat Completions protocol word the same refusal in many ways; the shapes and codes known are listed
in the tests. The server's own sentence is always shown.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from gptpipe.errors import BadInput, ConfigError, Failure, KeyRefused, ProtocolError, Refused, Temporary, Unavailable
from gptpipe.text import strict_json
from gptpipe.text.address import masked

_LONGEST = 500
_PAGE = 16384  # characters of a page in which its title is looked for
_LONGEST_WAIT = 1e9  # seconds, about what a thread can sleep
_DURATION = r"(?a)(\d+(\.\d+)?(ms|[smhd]))+|\d+(\.\d+)?"
_PIECE = r"(?a)(\d+(?:\.\d+)?)(ms|[smhd]|)"
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}  # seconds
_SPELLINGS = {"response_format": r"response[_ ]format|json_schema|text\.format|body\.text"}
_REFUSAL = r"(?i)content_filter|policy|moderation|invalid_prompt"
_BAD_IMAGE = r"(?i)\b(invalid|unsupported|empty)_\w*image|\bimage_|_image\b"
_NOT_STRICT = r"(?i)\bstrict\b|invalid schema|additionalProperties"
_TOO_LONG = r"(?i)context.{0,20}(length|size|window)|too long|maximum context|string_above_max_length"
_NOT_READY = (502, 503, 529)  # what is there is a proxy, or has no room
_UNKNOWN = r"(?i)unsupported|not supported|unrecogni[sz]ed|unknown|not permitted|not allowed"
_OF_THE_KEY = r"(?i)\bkey\b|api_key|\btoken\b|credential|authenti|unauthori[sz]ed"
_FLAGGED = r"(?i)\bflagged\b|moderation"
_CODES = {
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "model_not_found": 404,
    "not_found_error": 404,
    "insufficient_quota": 402,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "server_error": 500,
    "internal_error": 500,
    "internal_server_error": 500,
    "overloaded_error": 529,
    "service_unavailable": 503,
    "timeout": 504,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "data_residency_mismatch": 400,
}


def from_response(status: int, headers: Mapping[str, str], text: str, url: str) -> Failure:
    """Return the failure that a reply with another status than 200 means. ``url`` is where it came from."""
    if status < 400:
        if location := headers.get("location"):
            where = masked(location)
            return ProtocolError(f"{url} redirects to {where}, which is not followed", "give the right base URL")
        return ProtocolError(f"{url} answered with status {status}, which is neither an answer nor an error")
    body = _parsed(text)
    failure = _judge(status, body, _sentence(body) or _from_page(text) or "no reason given")
    if isinstance(failure, Temporary):
        failure.retry_after = retry_after(headers)
        if failure.busy and failure.retry_after is None:
            failure.retry_after = _reset(headers)
    return failure


def from_event(error: object) -> Failure:
    """Return the failure that an error object, or a bare string, inside an answer means."""
    body = {"error": error}
    return _judge(_code(error), body, _sentence(body) or "no reason given")


def _parsed(text: str) -> object:
    """Return the JSON of an error body, made valid Unicode, or None if it is not JSON.

    The body may be an event stream with the error in its first event, as LiteLLM's.
    """
    if text.startswith("data:"):
        text = text.removeprefix("data:").partition("\n")[0]
    try:
        return strict_json.clean(json.loads(text))
    except (ValueError, RecursionError):
        return None


def refuses(status: int, text: str) -> bool:
    """Return whether an error is about the request: llama-cpp-python validates it late, and says 500."""
    return status in (400, 422) or (status == 500 and "validation error" in text)


def refused_field(text: str) -> str | None:
    """Return the name of the request's field that an error body says is not supported, or None."""
    body = _parsed(text)
    error = _object(body)
    param = error.get("param")
    if isinstance(param, str) and param.startswith("text.format"):
        param = "response_format"
    sentence = _sentence(body) or ""
    named: tuple[str, ...] = ("max_completion_tokens", "max_tokens", "store", "include")
    if not re.search(_UNKNOWN, f"{error.get('code')} {sentence}"):
        named = ()  # a value is refused, which another name does not mend
    if param in (None, "response_format") and re.search(_NOT_STRICT, sentence):
        return "strict"
    for field in ("stream_options", *named, "response_format", "stream"):
        if param == field or (not param and re.search(rf"\b(?:{_SPELLINGS.get(field, field)})\b", sentence)):
            return field
    return None


def wants_responses(status: int, text: str) -> bool:
    """Return whether a server refuses a request of Chat Completions because only the Responses API serves it."""
    return status in (400, 404) and "v1/responses" in text


def has_no_path(status: int, text: str) -> bool:
    """Return whether a refusal may mean that the server does not know the path; one of the model says so."""
    body = _parsed(text)
    return status in (404, 405) and "model" not in f"{_object(body).get('code')} {_sentence(body)}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, given as a number or as a date, or None."""
    value = headers.get("retry-after-ms")
    scale = 1000.0 if value else 1.0
    value = value or headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value) / scale
    except ValueError:
        seconds = _until(value)
    return min(seconds, _LONGEST_WAIT) if 0 <= seconds < float("inf") else None


def _reset(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until there is room again for what is used up, by the ``x-ratelimit-`` headers, or None.

    Most servers give a duration, such as ``6m0s``: https://platform.openai.com/docs/guides/rate-limits. Some give
    the time of day, in seconds or milliseconds since 1970.
    """
    waits = []
    for kind in ("", "-requests", "-tokens"):
        reset = headers.get(f"x-ratelimit-reset{kind}", "")
        if headers.get(f"x-ratelimit-remaining{kind}") == "0" and re.fullmatch(_DURATION, reset):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PIECE, reset))
            if seconds > _LONGEST_WAIT:
                seconds = seconds / (1000 if seconds > 1000 * _LONGEST_WAIT else 1) - time.time()
            waits.append(min(max(0.0, seconds), _LONGEST_WAIT))
    return max(waits, default=None)


def _until(date: str) -> float:
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return -1.0


def _judge(status: int | None, body: object, sentence: str) -> Failure:
    error = _object(body)
    words = " ".join(str(error.get(key) or "") for key in ("code", "type"))
    if re.search(_REFUSAL, words):
        return Refused(sentence)
    if re.search(_BAD_IMAGE, words):
        return BadInput(f"an image was refused: {sentence}")
    if "insufficient_quota" in words:
        return Unavailable(f"no quota left: {sentence}")
    number = f" ({status})" if status else ""
    if status == 413 or (status in (400, 422, None) and re.search(_TOO_LONG, f"{words} {sentence}")):
        return BadInput(f"the input is too large{number}: {sentence}", "send less, or fewer turns with --history")
    if status == 407:
        return ConfigError(f"the proxy refuses name and password{number}: {sentence}")
    if status == 403 and re.search(_FLAGGED, sentence):
        return Refused(sentence)
    if status == 401 or (status == 403 and re.search(_OF_THE_KEY, f"{words} {sentence}")):
        return KeyRefused(f"the key was refused{number}: {sentence}")
    if status == 404:
        return Unavailable(
            f"not found{number}: {sentence}", "check the model and the base URL; gptpipe-models lists the models"
        )
    if status == 429:
        return Temporary(f"rate limit{number}: {sentence}", repeat=True, busy=True)
    if status is None or status in (408, 409) or status >= 500:
        return Temporary(f"the server failed{number}: {sentence}", repeat=True, away=status in _NOT_READY)
    return Unavailable(f"the API refused the request{number}: {sentence}", every=status not in (400, 403, 422))


def _object(body: object) -> dict[str, Any]:
    """Return the part of an error body that has the code: the object under ``error``, or the body itself."""
    if not isinstance(body, dict):
        return {}
    inner = body.get("error")
    return inner if isinstance(inner, dict) else body


def _code(error: object) -> int | None:
    for key in ("code", "status", "type"):
        value = error.get(key) if isinstance(error, dict) else None
        if isinstance(value, str):
            value = int(value) if value.isdecimal() and len(value) < 4 else _CODES.get(value.lower())
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


def _sentence(body: object) -> str | None:
    error = _object(body)
    inner = body.get("error") if isinstance(body, dict) else None
    for found in (error.get("message"), error.get("detail"), error.get("error_description"), inner, error.get("title")):
        if text := _flat(found):
            return text
    return None


def _flat(found: object) -> str:
    """Return one line of text from a message, or from a list of FastAPI's ``{"loc": …, "msg": …}``."""
    if isinstance(found, list):
        return "; ".join(filter(None, map(_flat, found)))[:_LONGEST]
    if isinstance(found, dict):
        place = ".".join(map(str, found["loc"])) + ": " if isinstance(found.get("loc"), list) else ""
        return place + str(found.get("msg") or found.get("message") or "") if found else ""
    if not isinstance(found, str):
        return ""
    line = " ".join(found.split())
    return (line[:_LONGEST] + "…" if len(line) > _LONGEST else line).removesuffix(".")


def _from_page(text: str) -> str:
    """Return what a page says: its title, or its text without the tags."""
    title = re.search(r"<title[^>]*>(.*?)</title>", text[:_PAGE], re.I | re.S)
    return _flat(title[1] if title else re.sub(r"<[^>]*>", " ", text[:4000]))
