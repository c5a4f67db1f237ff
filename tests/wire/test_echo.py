"""The built-in endpoint: its knobs, its wire format, its errors and its silences."""

from __future__ import annotations

import itertools
import json
import math
import time
import tracemalloc
from typing import Any

import httpx2
import pytest

from gptpipe import errors
from gptpipe.wire import chat, echo, http, sse, transport
from gptpipe.wire.echo import Knobs, Pause
from gptpipe.wire.events import Done, Event, Finish, Refusal, Served, Text, Usage


def body(text: object = "Hello there", model: str = "echo", **more: Any) -> dict[str, Any]:
    """Return a streaming request that asks for its usage."""
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}, **more}


def pieces(request: dict[str, Any], earlier: int = 0) -> list[bytes | Pause]:
    """Return the pieces of the reply; it has status 200."""
    reply = echo.respond("/chat/completions", request, echo.parse(request["model"]), earlier)
    assert reply.status == 200
    return list(reply.chunks)


def events(request: dict[str, Any], earlier: int = 0) -> list[Event]:
    """Return what the decoder makes of the reply."""
    decoder = sse.Decoder(chat.Reader())
    sent = [piece for piece in pieces(request, earlier) if isinstance(piece, bytes)]
    return [event for piece in sent for event in decoder.feed(piece)] + decoder.close()


def text(request: dict[str, Any], earlier: int = 0) -> str:
    """Return the text of the answer."""
    return "".join(event.text for event in events(request, earlier) if isinstance(event, Text))


KNOBS = {
    "echo": Knobs(),
    "gpt-5.5": Knobs(),
    "echoes:cut=3": Knobs(),
    "echo:status=429,after=1": Knobs(status=429, after=1),
    "echo:after=0.5,fails=2": Knobs(after=0.5, fails=2),
    "echo:cut=0": Knobs(cut=0),
    "echo:stall=3,delay=.1": Knobs(stall=3, delay=0.1),
    "echo:finish=length": Knobs(finish="length"),
    "echo:refuse": Knobs(refuse=True),
    "echo:empty,finish=stop": Knobs(empty=True),
    "echo:text=": Knobs(text=""),
    "echo:cut=5,text=a, b,cut=x=1": Knobs(cut=5, text="a, b,cut=x=1"),
}


@pytest.mark.parametrize(("model", "knobs"), KNOBS.items(), ids=KNOBS)
def test_parse(model: str, knobs: Knobs) -> None:
    assert echo.parse(model) == knobs


BAD_KNOBS = {
    "echo:": "the model echo has no knob ''",
    "echo:stats=4": "the model echo has no knob 'stats'",
    "echo:empty,": "the model echo has no knob ''",
    "echo:cut": "echo: cut needs a value",
    "echo:cut=": "echo: cut needs a value",
    "echo:cut=x": "echo: cut=x is not valid",
    "echo:cut=-1": "echo: cut=-1 is not valid",
    "echo:cut=1.5": "echo: cut=1.5 is not valid",
    "echo:status=200": "echo: status=200 is not valid",
    "echo:status=600": "echo: status=600 is not valid",
    "echo:delay=inf": "echo: delay=inf is not valid",
    "echo:delay=nan": "echo: delay=nan is not valid",
    "echo:finish": "echo: finish needs a value",
    "echo:refuse=1": "echo: refuse takes no value",
}


@pytest.mark.parametrize(("model", "what"), BAD_KNOBS.items(), ids=BAD_KNOBS)
def test_bad_knob(model: str, what: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        echo.parse(model)
    assert caught.value.message == what
    assert caught.value.hint is not None
    assert all(name in caught.value.hint for name in Knobs._fields)


def test_the_wire_format_of_a_stream() -> None:
    envelope = {
        "id": "chatcmpl-echo",
        "created": 0,
        "system_fingerprint": None,
        "object": "chat.completion.chunk",
        "model": "echo",
    }
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**envelope, "choices": [choice], "usage": None}

    sent = b"".join(piece for piece in pieces(body()) if isinstance(piece, bytes))
    *data, last = (event.removeprefix(b"data: ") for event in sent.removesuffix(b"\n\n").split(b"\n\n"))
    assert [json.loads(event) for event in data] == [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": "Hello"}),
        chunk({"content": " there"}),
        chunk({}, "stop"),
        {**envelope, "choices": [], "usage": usage},
    ]
    assert last == b"[DONE]"


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, [], "yes"], ids=str)
def test_usage_comes_only_when_asked_for(options: object) -> None:
    assert not any(b"usage" in piece for piece in pieces(body(stream_options=options)) if isinstance(piece, bytes))


TEXTS = {
    "words": ("one two\nthree", ["one", " two", "\nthree"]),
    "blanks": (" a  b \n\nc ", [" a", "  ", "b", " \n\n", "c", " "]),
    "blank-only": (" " * 130, [" " * 64, " " * 64, "  "]),
    "long-word": (" " + "x" * 130, [" " + "x" * 63, "x" * 63, "xxxx"]),
    "characters": ("é “ü” \u2028 \U0001f600 \x00\x1b", ["é", " “ü”", " \u2028 ", "\U0001f600", " \x00\x1b"]),
    "half-a-pair": ("a\ud83d b", ["a\ud83d", " b"]),
    "empty": ("", []),
    "parts": ([{"type": "text", "text": "a "}, {"type": "image_url"}, {"type": "text", "text": "b"}], ["a", " b"]),
    "null": (None, []),
}


@pytest.mark.parametrize(("asked", "words"), TEXTS.values(), ids=TEXTS)
def test_it_answers_with_the_question_in_words(asked: object, words: list[str]) -> None:
    packets = [piece for piece in pieces(body(asked)) if isinstance(piece, bytes)]
    deltas = [json.loads(packet.removeprefix(b"data: "))["choices"][0]["delta"] for packet in packets[1:-3]]
    assert deltas == [{"content": word} for word in words]


def test_it_answers_the_last_user_message() -> None:
    messages = [{"role": role, "content": role} for role in ("system", "user", "assistant")]
    messages[1:1] = [{"role": "user", "content": "before"}]
    assert text(body(messages=messages)) == "user"
    assert text(body(messages=messages[:1])) == ""


def test_a_model_may_be_called_anything() -> None:
    assert events(body("hi", model="WORD"))[:2] == [Served("WORD"), Text("hi")]


def ends(model: str) -> list[Event]:
    return [event for event in events(body("Hello there", model)) if not isinstance(event, Served | Usage)]


KNOBBED = {
    "cut=0": [],
    "cut=3": [Text("Hel")],
    "cut=99": [Text("Hello"), Text(" there")],
    "cut=3,stall=9": [Text("Hel")],
    "finish=length": [Text("Hello"), Text(" there"), Finish("length"), Done()],
    "empty": [Finish("stop"), Done()],
    "text=hi, you": [Text("hi,"), Text(" you"), Finish("stop"), Done()],
    "cut=1,refuse": [Refusal("I")],
}


@pytest.mark.parametrize(("knobs", "expected"), KNOBBED.items(), ids=KNOBBED)
def test_knob(knobs: str, expected: list[Event]) -> None:
    assert ends(f"echo:{knobs}") == expected


def test_refuse() -> None:
    found = ends("echo:refuse")
    assert "".join(event.text for event in found if isinstance(event, Refusal)).startswith("I'm sorry")
    assert [type(event) for event in found if not isinstance(event, Refusal)] == [Finish, Done]


def test_stall_and_delay_are_pauses() -> None:
    assert [piece for piece in pieces(body(model="echo:stall=3")) if isinstance(piece, Pause)] == [Pause(math.inf)]
    assert isinstance(pieces(body(model="echo:stall=3"))[-1], Pause)
    assert ends("echo:stall=3") == [Text("Hel")]
    kinds = [type(piece) for piece in pieces(body(model="echo:delay=0.5"))]
    assert kinds == [bytes, Pause, bytes, Pause, bytes, bytes, bytes, bytes]


STATUSES = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_credit", "insufficient_credit"),
    403: ("invalid_request_error", "model_not_found"),
    404: ("invalid_request_error", "model_not_found"),
    418: ("invalid_request_error", None),
    422: ("invalid_request_error", None),
    429: ("requests", "rate_limit_exceeded"),
    500: ("server_error", None),
    503: ("server_error", None),
    529: ("overloaded_error", None),
    599: ("server_error", None),
}


@pytest.mark.parametrize(
    ("status", "kind", "code"), [(s, *rest) for s, rest in STATUSES.items()], ids=map(str, STATUSES)
)
def test_status(status: int, kind: str, code: str | None) -> None:
    model = f"echo:status={status},after=1.5"
    reply = echo.respond("/chat/completions", body(model=model), echo.parse(model))
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["retry-after"] == "1.5"
    [packet] = reply.chunks
    assert isinstance(packet, bytes)
    error = json.loads(packet)["error"]
    assert error == {"message": error["message"], "type": kind, "param": None, "code": code}
    assert (model in error["message"]) == (status in (403, 404, 429))


FAILS = {
    "fails=2": [503, 503, 200],
    "fails=0": [200],
    "fails=1,status=429": [429, 200],
    "status=429": [429, 429],
}


@pytest.mark.parametrize(("knobs", "statuses"), FAILS.items(), ids=FAILS)
def test_the_first_tries_fail(knobs: str, statuses: list[int]) -> None:
    request = body(model=f"echo:{knobs}")
    content = json.dumps(request).encode()
    tries = itertools.count()
    replies = [echo.answer("POST", "/v1/chat/completions", content, tries) for _ in statuses]
    assert [reply.status for reply in replies] == statuses


def test_the_first_tries_are_cut() -> None:
    request = body(model="echo:fails=1,cut=3")
    assert [text(request, 0), text(request, 1)] == ["Hel", "Hello there"]


REFUSED = {
    "no-json": (b"{", None, None),
    "nested": (b"[" * 99999, None, None),
    "no-object": (b"[]", None, None),
    "no-model": (b"{}", None, None),
    "model-number": (b'{"model":3}', None, None),
    "bad-knob": (b'{"model":"echo:x=1","messages":[]}', "model", None),
    "no-messages": (b'{"model":"echo"}', "messages", "missing_required_parameter"),
    "empty-messages": (b'{"model":"echo","messages":[]}', "messages", "invalid_type"),
    "text-messages": (b'{"model":"echo","messages":"hi"}', "messages", "invalid_type"),
    "no-role": (b'{"model":"echo","messages":[{}]}', "messages", "invalid_type"),
}


@pytest.mark.parametrize(("content", "param", "code"), REFUSED.values(), ids=REFUSED)
def test_invalid_request(content: bytes, param: str | None, code: str | None) -> None:
    reply = echo.answer("POST", "/v1/chat/completions", content, itertools.count())
    assert reply.status == 400
    [packet] = reply.chunks
    assert isinstance(packet, bytes)
    error = json.loads(packet)["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


def test_other_addresses() -> None:
    with httpx2.Client(
        transport=http.over_echo(transport.echoing("echo")), base_url="http://echo.invalid/v1"
    ) as client:
        assert [model["id"] for model in client.get("/models").json()["data"]] == ["echo"]
        assert client.get("/nothing").status_code == 404
        assert client.post("/models").status_code == 404


def post(request: dict[str, Any], read: float | None = 5) -> httpx2.Response:
    """Send a request through the transport and read the whole reply."""
    limits = httpx2.Timeout(5, read=read)
    with httpx2.Client(transport=http.over_echo(transport.echoing("echo")), timeout=limits) as client:
        return client.post("http://echo.invalid/v1/chat/completions", json=request)


def test_a_reply_in_one_piece() -> None:
    value = post(body(stream=False)).json()
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "Hello there", "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert value["object"] == "chat.completion"
    assert value["choices"] == [choice]
    assert value["usage"]["total_tokens"] == 6
    assert Text("Hello there") in chat.whole(value)


def test_a_reply_in_one_piece_that_refuses() -> None:
    [choice] = post(body(model="echo:refuse", stream=False)).json()["choices"]
    assert choice["message"]["content"] is None
    assert choice["message"]["refusal"].startswith("I'm sorry")


def test_a_reply_in_one_piece_that_is_cut_is_no_json() -> None:
    with pytest.raises(json.JSONDecodeError):
        post(body(model="echo:cut=3", stream=False)).json()


@pytest.mark.parametrize("model", ["echo:stall=0", "echo:delay=30"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_silence_ends_with_the_read_timeout(model: str, stream: bool) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        post(body(model=model, stream=stream), read=0.05)


@pytest.mark.parametrize("read", [5, None], ids=["limit", "no-limit"])
def test_a_delay_within_the_read_timeout(read: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    assert post(body(model="echo:delay=0.5"), read=read).status_code == 200
    assert slept == [0.5, 0.5]  # two words


def test_a_large_message_streams_in_little_memory() -> None:
    request = body("some words " * 200_000)
    reply = echo.respond("/chat/completions", request, Knobs())
    tracemalloc.start()
    for _ in itertools.islice(reply.chunks, 100_000):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
