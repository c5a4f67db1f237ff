"""Which protocol a request is sent by, and the body of a request to the Responses API."""

from __future__ import annotations

import re
from typing import Any, get_args

import pydantic
import pytest
from openai.types import ChatModel, ResponsesModel
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming

from gptpipe.message import ToolSpec
from gptpipe.settings.settings import Settings
from gptpipe.wire import protocol
from gptpipe.wire.protocol import CHAT, RESPONSES
from gptpipe.wire.request import Request

OPENAI = Settings("m", "openai", "https://api.openai.com/v1")
HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}
TOOL = ToolSpec("weather", "the weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}})

SERVED_BY_BOTH = get_args(ChatModel)
SERVED_BY_RESPONSES = {name for each in get_args(ResponsesModel) for name in get_args(each)} - {*SERVED_BY_BOTH}


def of(model: str, settings: Settings = OPENAI, **more: Any) -> protocol.Protocol:
    return protocol.of(settings, Request(model, HI, {}, **more))


@pytest.mark.parametrize("model", sorted(SERVED_BY_RESPONSES))
def test_a_model_that_only_responses_serves(model: str) -> None:
    assert of(model) is RESPONSES


@pytest.mark.parametrize("model", SERVED_BY_BOTH)
def test_a_model_of_chat_completions(model: str) -> None:
    assert of(model) is CHAT


@pytest.mark.parametrize("model", ["gpt-5.7-pro", "gpt-5.3-codex", "gpt-7-pro-2027-01-01"])
def test_a_model_of_a_kind_that_only_responses_serves(model: str) -> None:
    assert of(model) is RESPONSES


def test_the_models_of_other_endpoints_are_asked_by_chat_completions() -> None:
    elsewhere = OPENAI._replace(profile="openrouter")
    assert of("o3-pro", elsewhere) is CHAT
    assert of("o3-pro", elsewhere, tools=(TOOL,)) is CHAT
    assert of("o3-pro", OPENAI._replace(profile=None)) is CHAT


def test_tools_and_the_web_need_responses_at_openai() -> None:
    assert of("gpt-5.5") is CHAT
    assert of("gpt-5.5", web=True) is RESPONSES
    assert of("gpt-5.5", tools=(TOOL,)) is RESPONSES


def test_a_protocol_that_was_named_is_used() -> None:
    assert of("o3-pro", OPENAI._replace(api="chat")) is CHAT
    assert of("gpt-4o", OPENAI._replace(profile=None, api="responses")) is RESPONSES


# The body of a request to the Responses API


def body(messages: list[dict[str, Any]] = HI, refused: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    request = Request("m", messages, more.pop("params", {}), **more)
    return RESPONSES.body(request, OPENAI, refused)


def check(sent: dict[str, Any]) -> None:
    """Check that a body is what the SDK would take: its fields, and the types of their values."""
    pydantic.TypeAdapter(ResponseCreateParamsStreaming).validate_python(sent)
    assert sent.keys() <= ResponseCreateParamsStreaming.__annotations__.keys()


def test_a_plain_body() -> None:
    assert body() == {
        "model": "m",
        "input": HI,
        "store": False,
        "stream": True,
        "stream_options": {"include_obfuscation": False},
    }


def test_messages_become_instructions_and_items() -> None:
    arguments = '{"city":"Rome"}'
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    sent = body(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Rome?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
            {"role": "assistant", "content": "Rain.", "refusal": None},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                ],
            },
        ]
    )
    assert sent["instructions"] == "Be brief."
    assert sent["input"] == [
        {"role": "user", "content": "Rome?"},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": arguments},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"role": "assistant", "content": "Rain."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "And this?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            ],
        },
    ]


def test_parameters_by_their_names_there() -> None:
    sent = body(params={"max_tokens": 5, "reasoning_effort": "low", "temperature": 1, "service_tier": "flex"})
    assert {
        "max_output_tokens": 5,
        "reasoning": {"effort": "low"},
        "temperature": 1,
        "service_tier": "flex",
    }.items() <= sent.items()
    assert not {"max_tokens", "reasoning_effort"} & sent.keys()


def test_fields_of_the_user_are_kept_beside_those_of_gptpipe() -> None:
    params: dict[str, Any] = {
        "reasoning": {"mode": "pro", "summary": "detailed"},
        "text": {"verbosity": "low"},
        "store": True,
    }
    params["tools"] = [{"type": "code_interpreter", "container": {"type": "auto"}}]
    sent = body(params={**params, "reasoning_effort": "high"}, schema=SCHEMA, reasoning=True, web=True, tools=(TOOL,))
    assert sent["reasoning"] == {"mode": "pro", "summary": "detailed", "effort": "high"}
    assert sent["text"] == {
        "verbosity": "low",
        "format": {"type": "json_schema", "name": "answer", "strict": True, "schema": SCHEMA},
    }
    assert sent["store"] is True
    assert sent["tools"] == [
        {"type": "web_search"},
        {"type": "function", **TOOL._asdict(), "strict": False},
        *params["tools"],
    ]
    check(sent)


def test_reasoning_asks_for_the_summary() -> None:
    assert body(reasoning=True)["reasoning"] == {"summary": "auto"}


def test_what_was_refused_is_left_out() -> None:
    sent = body(
        refused=("stream_options", "store", "include", "response_format"), params={"include": []}, schema=SCHEMA
    )
    assert sent.keys() == {"model", "input", "instructions", "stream"}
    assert re.search(r'JSON Schema:\n\n\{"type":"object"', sent["instructions"])
    assert not {"stream", "stream_options"} & body(refused=("stream",)).keys()
    assert body(refused=("strict",), schema=SCHEMA)["text"]["format"]["strict"] is False


def test_the_body_is_of_the_sdks_types() -> None:
    sent = body(
        [{"role": "system", "content": "s"}, *HI, {"role": "assistant", "content": "a"}, *HI], params={"max_tokens": 3}
    )
    check(sent)


def test_messages_of_another_program_do_no_harm() -> None:
    odd: list[dict[str, Any]] = [
        {"role": "assistant", "content": "a", "tool_calls": 3},
        {"role": "assistant", "tool_calls": [3, {}, {"id": 4}]},
    ]
    sent = body([*odd, {"role": "user", "content": [{"type": "image_url", "image_url": 5}]}])
    assert sent["input"][0] == {"role": "assistant", "content": "a"}
    assert sent["input"][-1]["content"] == [{"type": "image_url", "image_url": 5}]
