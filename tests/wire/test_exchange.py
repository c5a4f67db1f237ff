"""The bytes of a reply, as the thread that asked reads them."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from gptpipe.settings.settings import Settings
from gptpipe.wire.client import Client
from gptpipe.wire.events import Event, Text
from gptpipe.wire.request import Request
from tests.harness.processes import ROOT
from tests.harness.server import DONE, Server, finish, say

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def frame(data: bytes) -> bytes:
    """Return bytes as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of the server."""
    made = Client(Settings("m", None, server.url), None, deadline=lambda: None, waiting=nullcontext)
    yield made
    made.close()


def ask(client: Client) -> Iterator[Event]:
    return client.stream(Request("m", [{"role": "user", "content": "hi"}], {}), repeatable=lambda: True)


def test_what_came_together_is_passed_on_together(client: Client, server: Server) -> None:
    server.reply(HEAD + b"".join(frame(say("x")) for _ in range(50)), frame(finish()), frame(DONE) + END, raw=True)
    texts = [event.text for event in ask(client) if isinstance(event, Text)]
    assert "".join(texts) == "x" * 50
    assert len(texts) < 5


@pytest.mark.parametrize("beginning", [b"", b"9", b"97\r", b"97\r\n"], ids=repr)
def test_text_does_not_wait_for_the_next_chunk_that_has_begun(client: Client, server: Server, beginning: bytes) -> None:
    seen, told = threading.Event(), list[bool]()
    rest = frame(finish())
    beginning = rest[: len(beginning)]
    first = HEAD + frame(say("first")) + beginning
    server.reply(first, lambda: told.append(seen.wait(10)), rest[len(beginning) :], frame(DONE) + END, raw=True)
    found = ask(client)
    assert next(event for event in found if isinstance(event, Text)) == Text("first")
    seen.set()
    assert list(found)
    assert told == [True]


def test_a_thread_reads_each_reply_itself_once_it_has_a_connection(client: Client, server: Server) -> None:
    list(ask(client))
    before = threading.active_count()
    for _ in range(3):
        for _ in ask(client):
            assert threading.active_count() == before
    assert server.connections == 1


@pytest.mark.parametrize("layers", [1, 5])
def test_an_answer_may_be_encoded_more_than_once(client: Client, server: Server, layers: int) -> None:
    body = say("first") + finish() + DONE
    for _ in range(layers):
        body = gzip.compress(body)
    server.reply(body, headers={"content-encoding": ", ".join(["gzip"] * layers)})
    assert Text("first") in list(ask(client))


def test_a_body_that_says_it_is_encoded_thousands_of_times_is_asked_for_again(client: Client, server: Server) -> None:
    server.reply(gzip.compress(say("first") + finish() + DONE), headers={"content-encoding": ",".join(["gzip"] * 9000)})
    list(ask(client))
    assert len(server.requests) == 2


def test_what_follows_the_end_of_an_encoded_body_is_not_kept(client: Client, server: Server) -> None:
    junk = b"x" * (1 << 20)
    server.reply(gzip.compress(say("first")), *[junk] * 30, headers={"content-encoding": "gzip"})
    tracemalloc.start()
    try:
        list(ask(client))
        assert tracemalloc.get_traced_memory()[1] < 15 << 20
    finally:
        tracemalloc.stop()


SIGNALLED = """
import signal, sys, threading, time
from contextlib import nullcontext
from gptpipe.console import signals
from gptpipe.errors import Interrupted
from gptpipe.settings.settings import Settings
from gptpipe.wire.client import Client
from gptpipe.wire.events import Text
from gptpipe.wire.request import Request

def elsewhere():
    time.sleep(1)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

signals.catch()
client = Client(Settings("m", None, sys.argv[1]), None, deadline=lambda: None, waiting=nullcontext)
request = Request("m", [{"role": "user", "content": "hi"}], {})
threading.Thread(target=elsewhere, daemon=True).start()
try:
    for event in client.stream(request, repeatable=lambda: True):
        if isinstance(event, Text):
            print(event.text, flush=True)
except Interrupted as ending:
    print(ending.signum)
"""


@pytest.mark.parametrize("text", ["", "Hel"], ids=["before the head", "in the body"])
def test_a_signal_that_ends_no_call_is_handled_all_the_same(server: Server, home: Path, text: str) -> None:
    """One to another thread stands for one that comes just before a call blocks: neither interrupts the call."""
    server.reply(*([HEAD + frame(say(text))] if text else []), raw=True, hang=True)
    env = {"HOME": str(home), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    argv = [sys.executable, "-c", SIGNALLED, server.url]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.split() == [*text.split(), "2"]
