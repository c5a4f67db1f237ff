"""The way to the endpoint is opened before the request is there; what goes wrong with it nobody notices."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from gptpipe.errors import Failure
from gptpipe.settings.settings import Settings
from gptpipe.wire.client import Client
from gptpipe.wire.early import Early
from gptpipe.wire.events import Event, Text
from gptpipe.wire.request import Request
from tests.conftest import Run
from tests.harness.processes import ROOT
from tests.harness.server import Server, certificate


def until(condition: Any) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ask(settings: Settings, early: Early) -> list[Event]:
    client = Client(settings, None, deadline=lambda: None, waiting=nullcontext, early=early)
    try:
        request = Request("m", [{"role": "user", "content": "hi"}], {})
        return list(client.stream(request, repeatable=lambda: True))
    finally:
        client.close()


@pytest.mark.parametrize("way", ["plain", "TLS", "a proxy", "a proxy over TLS"])
def test_the_connection_is_there_before_the_request_and_is_used(way: str, tmp_path: Path) -> None:
    context, authority = certificate(tmp_path)
    with Server(tls=context if "TLS" in way else None) as server:
        settings = Settings("m", None, server.url, cacert=str(authority))
        if "proxy" in way:
            settings = settings._replace(base_url="http://server.invalid/v1", proxy=server.url.removesuffix("/v1"))
        early = Early(settings)
        until(lambda: server.connections == 1)
        assert server.requests == []
        assert Text("hi") in ask(settings, early)
        assert (server.connections, len(server.requests)) == (1, 1)


@contextmanager
def closing(server: Server, *, after_request: bool) -> Iterator[str]:
    """Give the URL of a port that closes the first connection, at once or once a request came; others it passes on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            first, _ = listener.accept()
            if after_request:
                first.recv(1 << 16)
            first.close()
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    behind = socket.create_connection((server.host, server.port))
                    for source, target in ((connection, behind), (behind, connection)):
                        threading.Thread(target=pass_on, args=(source, target), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    target.close()


@pytest.mark.parametrize("after_request", [False, True], ids=["at once", "when the request comes"])
def test_a_connection_that_the_server_closed_is_replaced_and_is_no_try(server: Server, after_request: bool) -> None:
    with closing(server, after_request=after_request) as url:
        settings = Settings("m", None, url, retry=0)
        early = Early(settings)
        if not after_request:
            until(lambda: early._thread is not None and not early._thread.is_alive())
            time.sleep(0.05)  # for the end of the connection to arrive
        assert Text("hi") in ask(settings, early)
    assert len(server.requests) == 1


def test_a_failure_long_before_the_request_does_not_count(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = Settings("m", None, f"http://127.0.0.1:{port}/v1", retry=0)
    early = Early(settings)
    until(lambda: early._failure is not None)
    with Server(port=port) as late:
        assert Text("hi") in ask(settings, early)
        assert late.connections == 1


def test_a_failure_that_was_waited_for_is_that_of_the_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
        settings = Settings("m", None, url, retry=0, connect_timeout=2)
        with pytest.raises(Failure, match=r"within 2 s \(--connect-timeout\)"):
            ask(settings, Early(settings))
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # it was not tried a second time
            silent.accept()


def test_nothing_is_opened_for_what_asks_nobody(run: Run, server: Server, home: Path) -> None:
    call = ("gptpipe", "-n", "--base-url", server.url, "-m", "m")
    assert run(*call, "--dry-run", "hi").status == 0
    assert server.connections == 0
    assert [run(*call, "--cache", "1d", "hi").text for _ in range(2)] == ["hi\n"] * 2
    assert server.connections == 1
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text("[budget]\nday_tokens = 1\n")
    assert run(*call, "hi").status == 6
    assert server.connections == 1


ORDER = """
import json
import sys
seen = []
def hook(name, args):
    if name == "socket.connect":
        seen.append(name)
    elif name == "import" and args[0] in ("socket", "gptpipe.programs.answering", "h11"):
        seen.append(args[0])
sys.addaudithook(hook)
sys.argv = ["gptpipe", "--base-url", sys.argv[1], "-m", "m", "hi"]
import os
leave, os._exit = os._exit, lambda status: (print(json.dumps(seen), file=sys.stderr), leave(status))
import runpy
runpy.run_module("gptpipe", run_name="__main__")
"""


@pytest.mark.parametrize("stdin", ["nothing", "a file", "a pipe that has ended"])
def test_the_handshake_begins_before_the_library_that_would_make_it_is_imported(
    server: Server, home: Path, stdin: str
) -> None:
    env = {"HOME": str(home), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    (home / "notes").write_text("notes\n")
    reader, writer = os.pipe()
    os.write(writer, b"notes\n")
    os.close(writer)
    with open(os.devnull) as nothing, open(home / "notes") as file, os.fdopen(reader) as pipe:
        given = {"nothing": nothing, "a file": file, "a pipe that has ended": pipe}[stdin]
        argv = [sys.executable, "-c", ORDER, server.url]
        done = subprocess.run(argv, env=env, stdin=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ("hi\n" if stdin == "nothing" else "hi\n\nnotes\n")
    seen = json.loads(done.stderr)
    assert seen.index("socket") < seen.index("gptpipe.programs.answering")  # the way is begun first
    assert seen.index("socket.connect") < seen.index("h11")
