"""Long conversations: who asks and answers what, and what a server says that it took."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

from gptpipe.asking.tokens import FRAME, PRIMING

CHINESE = "人工智能模型在命令行中回答问题，并把结果写入标准输出。"
Lengths = Mapping[str, Callable[[str], int]]  # of an encoding's name: the number of tokens in a text


def usage(prompt: int, completion: int, total: int | None = None) -> dict[str, Any]:
    total = prompt + completion if total is None else total
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def thought(reasoning: int) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": reasoning}}


class Server(NamedTuple):
    """How a server counts: with which encoding, if at all, and what it adds to each message and to each prompt.

    It may count only what it has not in its cache. Reasoning may come with the answer, told in tokens or as text.
    """

    encoding: str | None = "o200k_base"
    frame: int = FRAME
    hidden: int = PRIMING
    only_uncached: bool = False
    reasoning: str = ""


class Talk(NamedTuple):
    """A session: what it may send, its system message (in kind and words), and what is asked and answered.

    ``first`` is the server until half of the turns are over; then there is another model.
    """

    server: Server = Server()
    first: Server | None = None
    limit: int = 32_000
    system: tuple[str, int] = ("english", 0)
    asks: tuple[str, int, int] = ("english", 10, 60)
    answers: tuple[str, int, int] = ("english", 90, 250)
    vocabulary: bool = False


LINES = {
    "english": [line for text in topics.values() for line in text.splitlines() if len(line.split()) > 8],
    "code": [line for line in Path(random.__file__).read_text().splitlines() if line.strip()],
    "chinese": [
        CHINESE,
        "服务器报告其用量，而系统消息不计入预算。",
        "今天天气很好，适合去公园散步。",
        "请解释这段代码。",
    ],
}


def passage(dice: random.Random, kind: str, least: int, most: int) -> str:
    """Return whole lines: of English, about so many words."""
    return "\n".join(dice.choices(LINES[kind], k=max(1, dice.randint(least, most) // 11)))


class Counting:
    """What a server counts. It remembers the last prompt, as a cache does."""

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self._before: list[str] = []

    def true(self, server: Server, text: str) -> int:
        """Return what a message takes, in tokens of o200k_base."""
        return self._lengths["o200k_base"](text) + server.frame

    def said(self, server: Server, prompt: list[str], answer: str, thoughts: str) -> dict[str, Any] | None:
        """Return the usage that the server reports for these messages, the last one the question, and its answer."""
        if server.encoding is None:
            return None
        length = self._lengths[server.encoding]
        known = 0
        if server.only_uncached:
            pairs = zip(prompt, [*self._before, ""], strict=False)
            known = next((number for number, (new, old) in enumerate(pairs) if new != old), len(prompt))
        self._before = prompt
        said = usage(
            sum(length(text) + server.frame for text in prompt[known:]) + server.hidden,
            length(answer) + length(thoughts),
        )
        return said | thought(length(thoughts)) if server.reasoning == "tokens" else said
