"""The loopback server as the SDK reads it, in the form of the Responses API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from tests.harness.server import Server


@pytest.fixture
def sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=10) as client:
        yield client


def test_the_sdk_reads_the_stream(sdk: openai.OpenAI) -> None:
    events = list(sdk.responses.create(model="echo", instructions="s", input="Hello, wörld", stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == ["Hello,", " wörld"]
    assert [getattr(event, "sequence_number", None) for event in events] == list(range(len(events)))
    final = events[-1]
    assert final.type == "response.completed"
    assert final.response.output_text == "Hello, wörld"
    assert final.response.usage is not None
    assert (final.response.usage.input_tokens, final.response.usage.total_tokens) == (5, 9)
    for event in events:  # nothing that the SDK's types do not know
        assert not event.model_extra
        type(event).model_validate(event.to_dict())


def test_the_sdk_reads_a_whole_reply(sdk: openai.OpenAI) -> None:
    reply = sdk.responses.create(model="echo", input=[{"role": "user", "content": "hi"}])
    assert (reply.output_text, reply.status) == ("hi", "completed")
    assert not reply.model_extra
    Response.model_validate(reply.to_dict())


def test_the_sdk_reads_refusals_truncation_and_failures(sdk: openai.OpenAI) -> None:
    def last(model: str) -> Any:
        return list(sdk.responses.create(model=model, input="hi", stream=True))[-1]

    assert last("echo:refuse").response.output[0].content[0].refusal.startswith("I'm sorry")
    assert last("echo:finish=length").response.incomplete_details.reason == "max_output_tokens"
    assert last("echo:finish=error").response.error.code == "server_error"
    assert last("echo:cut=1").type == "response.output_text.delta"
    with pytest.raises(openai.RateLimitError):
        last("echo:status=429")


def test_the_sdk_reads_the_calls_of_tools(sdk: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "name": "weather", "parameters": {}, "strict": False}
    reply = sdk.responses.create(model="echo:call=weather+time", input='{"city":"Rome"}', tools=[tool])
    calls: list[Any] = [item for item in reply.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in calls] == [
        ("weather", '{"city":"Rome"}'),
        ("time", '{"city":"Rome"}'),
    ]
    results: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
    answer = sdk.responses.create(model="echo:call=weather+time", input=[{"role": "user", "content": "hi"}, *results])
    assert answer.output_text == "rain\nrain"
