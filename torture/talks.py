"""Conversations of 250 turns by the program itself: the true weight of the history that each request carries.

The server counts as the vocabularies of ``bpe-openai`` do, in all the ways of QUIRKS; it sees what was really sent.
"""

from __future__ import annotations

import http.server
import json
import random
import threading
from collections.abc import Callable, Iterator
from functools import cache as remember
from typing import NamedTuple, Self

from gptpipe.asking.tokens import meter
from tests.harness.server import DONE, chunk, event, finish, say
from tests.harness.talks import Counting, Lengths, Server, Talk, passage
from tests.harness.vocabulary import put_vocabulary
from torture.frame import Case, Rig, manners, parallel

TITLE = "Long conversations"

TURNS = 250
NEAR = (0.97, 1.03)  # of --history-tokens, where a server says enough, or the vocabulary is there
BELOW = (0.1, 1.03)

_SYSTEM = ("english", 15_000)  # words: 20,000 tokens
_OLD = Server(encoding="cl100k_base")
TALKS: dict[str, tuple[Talk, tuple[float, float]]] = {
    "plain": (Talk(), NEAR),
    "reasoning": (Talk(Server(reasoning="tokens")), NEAR),
    "reasoning as text": (Talk(Server(reasoning="text")), NEAR),
    "a system message, and reasoning": (Talk(Server(reasoning="tokens"), system=_SYSTEM), NEAR),
    "a change of model": (Talk(first=_OLD), NEAR),
    "only uncached tokens": (Talk(Server(only_uncached=True)), BELOW),
    "no usage": (Talk(Server(encoding=None), vocabulary=True), NEAR),
    "no usage, and no vocabulary": (Talk(Server(encoding=None)), BELOW),
}


class Conversation:
    """One session, as the server sees it: what comes is weighed, and answered at random."""

    def __init__(self, talk: Talk, lengths: Lengths) -> None:
        self.talk = talk
        self.dice = random.Random(20261122)
        self.weights: list[float] = []  # as a part of the limit, of each request that did not carry all turns
        self._counting = Counting(lengths)
        self._turns = 0

    def answer(self, messages: list[dict[str, str]]) -> Iterator[bytes]:
        """Weigh the history of a request, and yield the events of its answer."""
        talk = self.talk
        server = talk.first if talk.first and self._turns < TURNS // 2 else talk.server
        texts = [message["content"] for message in messages]
        history = [message for message in messages[:-1] if message["role"] != "system"]
        if len(history) < 2 * self._turns:
            self.weights.append(sum(self._counting.true(server, each["content"]) for each in history) / talk.limit)
        self._turns += 1
        said = passage(self.dice, *talk.answers)
        thoughts = passage(self.dice, "english", 20, 500) if server.reasoning else ""
        if server.reasoning == "text":
            yield chunk({"reasoning_content": thoughts})
        yield from (say(said), finish())
        if usage := self._counting.said(server, texts, said, thoughts):
            yield event({"choices": [], "usage": usage})
        yield DONE


class CountingServer:
    """A server with a conversation under each path. A context manager."""

    def __init__(self, conversations: dict[str, Conversation]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                reply = b"".join(conversations[self.path.split("/")[1]].answer(body["messages"]))
                self.send_response_only(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


class Trial(NamedTuple):
    """A conversation, the address under which it is held, and the weight that its history may have."""

    name: str
    url: str
    conversation: Conversation
    weight: tuple[float, float]

    def __str__(self) -> str:
        return self.name


def hold(rig: Rig, trial: Trial) -> Case:
    """Hold a conversation: one call of gptpipe for each turn."""
    talk, dice = trial.conversation.talk, random.Random(7)
    with rig.home() as home:
        (home / "system").write_text(passage(dice, talk.system[0], talk.system[1], talk.system[1]))
        if talk.vocabulary:
            put_vocabulary(home / ".cache/gptpipe", "o200k_base")
        call = ["gptpipe", "-n", "-s", "s", "--history-tokens", str(talk.limit), "--base-url", trial.url]
        call += ["-S", "@system"] if talk.system[1] else []
        for turn in range(TURNS):
            model = "first" if talk.first and turn < TURNS // 2 else "then"
            result = rig.run(home, *call, "-m", model, "--", passage(dice, *talk.asks))
            if wrong := manners(result) or (result.status and result.err):
                return Case(trial.name, False, f"turn {turn + 1}: {wrong}", turn + 1)
    weights = trial.conversation.weights
    least, most = trial.weight
    good = len(weights) > TURNS / 4 and least <= min(weights) and max(weights) <= most
    return Case(trial.name, good, f"{len(weights)} requests weigh {min(weights)} to {max(weights)}", TURNS)


def cases(rig: Rig) -> Iterator[Case]:
    """Hold all of the conversations."""
    with rig.home() as home:
        put_vocabulary(home)
        lengths: dict[str, Callable[[str], int]] = {}
        for encoding, model in (("o200k_base", "gpt-5"), ("cl100k_base", "gpt-4")):
            counted = meter(model, home).length
            assert counted is not None
            lengths[encoding] = remember(counted)
        conversations = {f"talk{n}": Conversation(talk, lengths) for n, (talk, _) in enumerate(TALKS.values())}
        with CountingServer(conversations) as server:
            trials = [
                Trial(name, f"{server.url}/{path}/v1", conversations[path], weight)
                for (name, (_, weight)), path in zip(TALKS.items(), conversations, strict=True)
            ]
            yield from parallel(lambda trial: hold(rig, trial), trials, 4)
