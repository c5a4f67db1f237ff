from __future__ import annotations

from typing import Any

from tests.harness.server import Server


def test_one_name_a_line(run: Any, server: Server) -> None:
    server.json(200, {"object": "list", "data": [{"id": "b"}, {"id": "a"}]})
    assert run("gptpipe-models", "--base-url", server.url) == (0, b"b\na\n", "")
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/v1/models")


def test_echo(run: Any) -> None:
    assert run("gptpipe-models", env={"GPTPIPE_MODEL": "echo"}).out == b"echo\n"


def test_none(run: Any, server: Server) -> None:
    server.json(200, {"object": "list", "data": []})
    assert run("gptpipe-models", "--base-url", server.url).status == 5


def test_failures(run: Any, server: Server) -> None:
    server.json(401, {"error": {"message": "no"}})
    server.json(200, ["what?"])
    server.reply(hang=True)
    assert run("gptpipe-models", "--base-url", server.url).status == 77
    foreign = run("gptpipe-models", "--base-url", server.url)
    assert foreign.status == 76
    assert f"{server.url}/models answered with something that is not a list of models" in foreign.err
    late = run("gptpipe-models", "--base-url", server.url, "--max-time", "1")
    assert (late.status, late.err) == (75, "gptpipe-models: the run took longer than 1 s (--max-time)\n")
    assert run("gptpipe-models", "-p", "openai").status == 78


def test_verbose_names_the_endpoint(run: Any, server: Server) -> None:
    assert server.url in run("gptpipe-models", "-v", "--base-url", server.url).err


def test_no_server(run: Any) -> None:
    """What the SDK raises for a lost connection is unwrapped, and its reason is looked for among its causes."""
    lost = run("gptpipe-models", "--base-url", "http://127.0.0.1:1/v1", "--retry", "0")
    assert lost == (75, b"", "gptpipe-models: cannot connect to http://127.0.0.1:1/v1: connection refused\n")
