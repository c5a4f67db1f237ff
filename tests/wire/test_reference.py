"""The SDK is the reference: for the same call gptpipe sends what the SDK sends, but for the differences listed here.

Beside them the fields of a JSON body may stand in another order."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest

from gptpipe import __version__
from gptpipe.message import ToolSpec
from gptpipe.settings.settings import Settings
from gptpipe.wire import batch_api
from gptpipe.wire.client import Client
from gptpipe.wire.request import Request
from tests.harness.server import Server

# Headers that differ, and why.
DIFFERENCES = {
    "user-agent": "gptpipe gives its own name",
    "accept": "gptpipe reads an event stream and JSON alike, whatever it asked for",
    "x-stainless-arch": "what machine it is concerns no server",
    "x-stainless-async": "as above",
    "x-stainless-lang": "as above",
    "x-stainless-os": "as above",
    "x-stainless-package-version": "as above",
    "x-stainless-read-timeout": "how patient the user is concerns no server",
    "x-stainless-retry-count": "nor does what failed before",
    "x-stainless-runtime": "as above",
    "x-stainless-runtime-version": "as above",
}
RANDOM = "boundary="  # of a form with a file: it is another one each time

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße\t\"'\\ \u2028 日本"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
PARTS: Any = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]}]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
TOOL = ToolSpec("weather", "Tells the weather.", SCHEMA)
FORM: Any = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
STREAM: Any = {"stream": True, "stream_options": {"include_usage": True}}
ITEMS = [
    {"type": "input_text", "text": "What is this?"},
    {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
]
RESPONSE: Any = {
    "model": "echo",
    "input": [{"role": "user", "content": ITEMS}],
    "text": {"format": {"type": "json_schema", "name": "answer", "strict": True, "schema": SCHEMA}},
    "tools": [{"type": "web_search"}, {"type": "function", **TOOL._asdict(), "strict": False}],
    "reasoning": {"summary": "auto", "effort": "low"},
    "store": False,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
}
KEY = "sk-reference"


def asked(messages: list[dict[str, Any]] = MESSAGES, **more: Any) -> Callable[[Client, Path], object]:
    request = Request("echo", messages, more.pop("params", {}), **more)
    return lambda client, _: list(client.stream(request, repeatable=lambda: False))


class Call(NamedTuple):
    """The same call by the SDK and by gptpipe, and the protocol of gptpipe's settings."""

    sdk: Callable[[openai.OpenAI, Path], object]
    own: Callable[[Client, Path], object]
    api: str = "chat"


CALLS = {
    "a question": Call(
        lambda sdk, _: list(sdk.chat.completions.create(model="echo", messages=MESSAGES, **STREAM)), asked()
    ),
    "parameters": Call(
        lambda sdk, _: list(
            sdk.chat.completions.create(
                model="echo", messages=MESSAGES, temperature=0.5, max_tokens=9, seed=1, **STREAM
            )
        ),
        asked(params={"temperature": 0.5, "max_tokens": 9, "seed": 1}),
    ),
    "an image": Call(
        lambda sdk, _: list(sdk.chat.completions.create(model="echo", messages=PARTS, **STREAM)), asked(PARTS)
    ),
    "a schema": Call(
        lambda sdk, _: list(
            sdk.chat.completions.create(model="echo", messages=MESSAGES, response_format=FORM, **STREAM)
        ),
        asked(schema=SCHEMA),
    ),
    "a tool": Call(
        lambda sdk, _: list(
            sdk.chat.completions.create(
                model="echo",
                messages=MESSAGES,
                tools=[{"type": "function", "function": TOOL._asdict()}],  # type: ignore[typeddict-item]
                **STREAM,
            )
        ),
        asked(tools=(TOOL,)),
    ),
    "a response": Call(
        lambda sdk, _: list(
            sdk.responses.create(
                model="echo",
                instructions="Be brief.",
                input=[{"role": "user", "content": MESSAGES[1]["content"]}],
                max_output_tokens=99,
                store=False,
                stream=True,
                stream_options={"include_obfuscation": False},
            )
        ),
        asked(params={"max_tokens": 99}),
        "responses",
    ),
    "a response with all there is": Call(
        lambda sdk, _: list(sdk.responses.create(**RESPONSE)),
        asked(PARTS, schema=SCHEMA, tools=(TOOL,), web=True, reasoning=True, params={"reasoning_effort": "low"}),
        "responses",
    ),
    "the models": Call(lambda sdk, _: sdk.models.with_raw_response.list(), lambda own, _: batch_api.models(own)),
    "a file": Call(
        lambda sdk, path: sdk.files.create(file=path, purpose="batch"),
        lambda own, path: batch_api.upload(own, str(path)),
    ),
    "a batch": Call(
        lambda sdk, _: sdk.batches.create(
            input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"
        ),
        lambda own, _: batch_api.create(own, "file-1", "/v1/chat/completions", "24h"),
    ),
    "its state": Call(lambda sdk, _: sdk.batches.retrieve("b"), lambda own, _: batch_api.retrieve(own, "b")),
    "its end": Call(lambda sdk, _: sdk.batches.cancel("b"), lambda own, _: batch_api.cancel(own, "b")),
    "its result": Call(
        lambda sdk, path: _saved(sdk, path), lambda own, path: batch_api.download(own, "file-1", f"{path}.new")
    ),
}
BATCH = {"id": "b", "object": "batch", "status": "validating"}
REPLIES = {
    "a file": {"id": "file-1", "object": "file"},
    **dict.fromkeys(("a batch", "its state", "its end"), BATCH),
    "its result": {},
}


def _saved(sdk: openai.OpenAI, path: Path) -> None:
    with sdk.files.with_streaming_response.content("file-1") as reply:
        reply.stream_to_file(f"{path}.new")


def sent(server: Server, path: Path, name: str) -> list[Any]:
    """Make a call by the SDK and by gptpipe; return both requests as the server got them."""
    call = CALLS[name]
    if name in REPLIES:
        server.json(200, REPLIES[name], times=2)
    headers = {"X-Team": "blue"}
    with openai.OpenAI(base_url=server.url, api_key=KEY, default_headers=headers, max_retries=0) as sdk:
        call.sdk(sdk, path)
    settings = Settings("echo", None, server.url, headers=headers, api=call.api)
    client = Client(settings, KEY, deadline=lambda: None, waiting=nullcontext)
    call.own(client, path)
    client.close()
    return server.requests


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "requests.jsonl"
    found.write_text('{"custom_id":"1"}\n')
    return found


def _same(own: bytes, reference: bytes) -> bool:
    """Return whether two bodies are the same, but for the order of the fields of their JSON."""
    try:
        return bool(json.loads(own) == json.loads(reference)) and len(own) == len(reference)
    except ValueError:
        return _boundless(own) == _boundless(reference)


def _boundless(value: str | bytes) -> object:
    """Return a header or body without the boundary of its form."""
    text = value if isinstance(value, str) else value.decode()
    return text.partition(RANDOM)[0] if RANDOM in text else [line for line in text.split("\r\n") if line[:2] != "--"]


@pytest.mark.parametrize("name", CALLS)
def test_the_same_call_sends_the_same(server: Server, path: Path, name: str) -> None:
    reference, own = sent(server, path, name)
    assert (own.method, own.path) == (reference.method, reference.path)
    assert _same(own.content, reference.content)
    for header in own.headers.keys() | reference.headers.keys():
        if header not in DIFFERENCES:
            ours, theirs = own.headers.get(header, "-"), reference.headers.get(header, "-")
            assert _boundless(ours) == _boundless(theirs), header
    assert own.headers["authorization"] == f"Bearer {KEY}"
    assert own.headers["user-agent"] == f"gptpipe/{__version__}"


def test_the_list_of_differences_holds_nothing_else(server: Server, path: Path) -> None:
    reference, own = sent(server, path, "a question")
    differing = {
        name for name in own.headers | reference.headers if own.headers.get(name) != reference.headers.get(name)
    }
    assert differing == DIFFERENCES.keys()


def test_without_a_key_no_header_is_made_up(server: Server) -> None:
    client = Client(Settings("echo", None, server.url), None, deadline=lambda: None, waiting=nullcontext)
    list(client.stream(Request("echo", MESSAGES, {}), repeatable=lambda: False))
    batch_api.models(client)
    client.close()
    assert ["authorization" in request.headers for request in server.requests] == [False, False]


def test_a_header_of_the_settings_goes_before_the_key(server: Server) -> None:
    headers = {"authorization": "Basic xyz", "ACCEPT": "text/plain"}
    settings = Settings("echo", None, server.url, headers=headers)
    client = Client(settings, KEY, deadline=lambda: None, waiting=nullcontext)
    list(client.stream(Request("echo", MESSAGES, {}), repeatable=lambda: False))
    batch_api.models(client)
    client.close()
    found = [(request.headers["authorization"], request.headers["accept"]) for request in server.requests]
    assert found == [("Basic xyz", "text/plain")] * 2


def test_no_variable_of_the_sdk_has_an_effect(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: 1")
    client = Client(Settings("echo", None, server.url), KEY, deadline=lambda: None, waiting=nullcontext)
    batch_api.models(client)
    client.close()
    assert not {"openai-organization", "openai-project", "x-mine"} & server.requests[0].headers.keys()
