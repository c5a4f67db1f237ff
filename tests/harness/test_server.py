"""The tests' loopback server: the echo model over real sockets, as the SDK itself sees it, and scripted replies."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from gptpipe.wire import echo
from tests.harness.server import DONE, Server, certificate, finish, say

MESSAGES: Any = [{"role": "user", "content": "Hello, wörld"}]


def sdk(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=10)


def post(server: Server, **more: Any) -> httpx2.Response:
    request = {"model": "any", "messages": MESSAGES, "stream": True}
    return httpx2.post(f"{server.url}/chat/completions", json=request, timeout=10, **more)


def test_the_sdk_reads_the_stream(server: Server) -> None:
    with sdk(server) as client:
        options: Any = {"include_usage": True}
        stream = client.chat.completions.create(model="echo", messages=MESSAGES, stream=True, stream_options=options)
        chunks = list(stream)
    assert [choice.delta.content for chunk in chunks for choice in chunk.choices] == ["", "Hello,", " wörld", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices] == [None, None, None, "stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.total_tokens) == (4, 8)
    assert {(chunk.id, chunk.model, chunk.object) for chunk in chunks} == {
        ("chatcmpl-echo", "echo", "chat.completion.chunk")
    }
    for chunk in chunks:  # nothing that the SDK's types do not know, nothing missing
        type(chunk).model_validate(chunk.to_dict(), strict=True)
        assert not chunk.model_extra
        assert not any(choice.model_extra or choice.delta.model_extra for choice in chunk.choices)


def test_the_sdk_reads_a_whole_reply(server: Server) -> None:
    with sdk(server) as client:
        completion = client.chat.completions.create(model="echo", messages=MESSAGES)
    assert completion.choices[0].message.content == "Hello, wörld"
    assert completion.usage is not None
    assert not completion.model_extra
    type(completion).model_validate(completion.to_dict(), strict=True)


def test_the_sdk_reads_a_refusal(server: Server) -> None:
    with sdk(server) as client:
        stream = client.chat.completions.create(model="echo:refuse", messages=MESSAGES, stream=True)
        refusal = [choice.delta.refusal for chunk in stream for choice in chunk.choices if choice.delta.refusal]
    assert "".join(refusal).startswith("I'm sorry")


def test_the_sdk_lists_the_models(server: Server) -> None:
    with sdk(server) as client:
        assert [model.id for model in client.models.list()] == ["echo"]


ERRORS: dict[str, type[openai.APIStatusError]] = {
    "status=400": openai.BadRequestError,
    "status=401": openai.AuthenticationError,
    "status=403": openai.PermissionDeniedError,
    "status=404": openai.NotFoundError,
    "status=429": openai.RateLimitError,
    "status=503": openai.InternalServerError,
    "nonsense": openai.BadRequestError,
}


@pytest.mark.parametrize(("knobs", "kind"), ERRORS.items(), ids=ERRORS)
def test_the_sdk_raises_the_error(server: Server, knobs: str, kind: type[openai.APIStatusError]) -> None:
    with sdk(server) as client, pytest.raises(kind) as caught:
        client.chat.completions.create(model=f"echo:{knobs}", messages=MESSAGES, stream=True)
    assert caught.value.type
    assert caught.value.request_id == "req_echo"


def test_requests_are_recorded(server: Server) -> None:
    post(server, headers={"X-Test": "1"})
    [request] = server.wait_for_requests(1)
    assert (request.method, request.path, request.headers["x-test"]) == ("POST", "/v1/chat/completions", "1")
    assert request.body["messages"] == MESSAGES


def test_replies_are_given_in_turn_and_then_the_echo(server: Server) -> None:
    server.reply(say("one"), finish(), DONE, times=2)
    server.json(429, {"error": "slow"}, headers={"retry-after": "1"})
    assert [post(server).content for _ in range(2)] == [say("one") + finish() + DONE] * 2
    refused = post(server)
    assert (refused.status_code, refused.json(), refused.headers["retry-after"]) == (429, {"error": "slow"}, "1")
    assert "H" in post(server).text


def test_a_connection_is_kept(server: Server) -> None:
    with httpx2.Client(timeout=10) as client:
        for _ in range(3):
            client.get(f"{server.url}/models")
    assert server.connections == 1


def test_each_packet_is_a_packet_of_its_own(server: Server) -> None:
    gates = [threading.Event() for _ in range(2)]
    seen: list[bytes] = []
    server.reply(b"a", gates[0].wait, b"b", 0.01, gates[1].wait, b"c")
    with httpx2.stream("POST", f"{server.url}/chat/completions", content=b"{}", timeout=10) as response:
        for packet, gate in zip(response.iter_raw(), [*gates, threading.Event()], strict=True):
            seen.append(packet)
            gate.set()
    assert seen == [b"a", b"b", b"c"]


def test_a_raw_reply_goes_out_as_it_is(server: Server) -> None:
    server.reply(b"HTTP/1.0 200 Fine\r\n", b"X-Odd: 1\r\n\r\n", b"body", raw=True)
    with socket.create_connection((server.host, server.port), 10) as connection:
        connection.sendall(b"GET /v1 HTTP/1.1\r\nhost: x\r\n\r\n")
        with connection.makefile("rb") as stream:
            assert stream.read() == b"HTTP/1.0 200 Fine\r\nX-Odd: 1\r\n\r\nbody"


def test_a_reply_that_breaks_off(server: Server) -> None:
    server.reply(say("a"), broken=True)
    with pytest.raises(httpx2.RemoteProtocolError):
        post(server)


def test_a_reply_that_is_reset(server: Server) -> None:
    server.reply(say("a"), reset=True)
    with pytest.raises(httpx2.ReadError):
        post(server)


@pytest.mark.parametrize("model", ["any", "echo:stall=3"])
def test_a_reply_that_hangs(server: Server, model: str) -> None:
    if model == "any":
        server.reply(say("Hel"), hang=True)
    request = {"model": model, "messages": MESSAGES, "stream": True}
    seen: list[bytes] = []
    with httpx2.stream("POST", f"{server.url}/chat/completions", json=request, timeout=0.2) as response:
        packets = response.iter_raw()
        with pytest.raises(httpx2.ReadTimeout):
            seen.extend(packets)
    assert b"Hel" in b"".join(seen)


def test_the_knobs_of_other_models() -> None:
    with Server(echo.Knobs(text="always this")) as server:
        assert "this" in post(server).text


def test_ipv6() -> None:
    with Server(host="::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert post(server).status_code == 200


def test_tls(tmp_path: Path) -> None:
    context, authority = certificate(tmp_path)
    with Server(tls=context) as server:
        assert server.url.startswith("https://")
        assert post(server, verify=ssl.create_default_context(cafile=authority)).status_code == 200
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            post(server)


def test_nothing_listens_after_the_end() -> None:
    with Server() as server:
        post(server)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), 5)


def test_it_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "tests.harness.server", "--delay", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."}) as process:
        assert process.stdout is not None
        url = httpx2.URL(process.stdout.readline().strip())
        connection = http.client.HTTPConnection(url.host, url.port, timeout=10)
        connection.request("POST", "/v1/chat/completions", json.dumps({"model": "m", "messages": MESSAGES}))
        assert json.load(connection.getresponse())["choices"][0]["message"]["content"] == "Hello, wörld"
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
