"""Pieces of an answer: reasoning in the text."""

from __future__ import annotations

import pytest

from gptpipe.errors import ProtocolError
from gptpipe.wire import chat
from gptpipe.wire.events import Done, Error, Event, Finish, Reasoning, Text
from gptpipe.wire.sse import Decoder
from gptpipe.wire.thinking import cut_thinking
from tests.harness.decoding import chunk, decode, joined, say, says
from tests.harness.server import DONE, event

STOP = chunk({}, "stop")
RATE = {"message": "slow down", "code": 429}
HI = say("hi")

THINKS: list[tuple[str, bytes, list[Event]]] = [
    (
        "closed",
        says("hm", " so</th", "ink>", "\n\n", "hi", " all") + STOP,
        [Reasoning("hm so"), Text("hi all"), Finish("stop")],
    ),
    ("opened-all-the-same", says("<think>hm</think>hi") + STOP, [Reasoning("hm"), Text("hi"), Finish("stop")]),
    ("complete-without-a-tag", says("hi", " all") + STOP, [Text("hi all"), Finish("stop")]),
    ("done-without-a-tag", says("hi", " all") + DONE, [Text("hi all"), Done()]),
    ("other-finish-without-a-tag", says("hi") + chunk({}, "eos"), [Text("hi"), Finish("eos")]),
    ("too-long", says("hm", " so") + chunk({}, "length"), [Reasoning("hm so"), Finish("length")]),
    ("filtered", says("hm") + chunk({}, "content_filter"), [Reasoning("hm"), Finish("content_filter")]),
    ("cut", says("hm", " so</thi"), [Reasoning("hm so</thi")]),
    ("error", says("hm") + event({"error": RATE}) + DONE, [Reasoning("hm"), Error(RATE), Done()]),
    ("opened-and-never-closed", says("<think>", "hm") + STOP, [Reasoning("hm"), Finish("stop")]),
    ("reasoning-comes-beside", chunk({"reasoning": "hm"}) + HI, [Reasoning("hm"), Text("hi")]),
    ("empty", says("</think>", "hi"), [Text("hi")]),
    ("later-tags-are-text", says("a</think>b</think>c"), [Reasoning("a"), Text("b</think>c")]),
]


def read(*packets: bytes, thinks: bool = False) -> list[Event]:
    return decode(chat.Reader(thinks), *packets)


@pytest.mark.parametrize(("data", "events"), [case[1:] for case in THINKS], ids=[case[0] for case in THINKS])
def test_thinking_that_the_template_opened(data: bytes, events: list[Event]) -> None:
    assert joined(read(data, thinks=True)) == events


def test_an_answer_after_thinking_passes_on_at_once() -> None:
    decoder = Decoder(chat.Reader(thinks=True))
    assert decoder.feed(says("hm", "so")) == []
    assert decoder.feed(say("</think>h")) == [Reasoning("hmso"), Text("h")]
    assert decoder.feed(say("i")) == [Text("i")]


def test_text_passes_on_at_once() -> None:
    decoder = Decoder(chat.Reader())
    assert decoder.feed(say("a <")) == [Text("a <")]
    assert decoder.feed(say("/think>")) == [Text("/think>")]


def test_reasoning_passes_on_at_once() -> None:
    decoder = Decoder(chat.Reader())
    assert decoder.feed(says("<think>", "hm", " <")) == [Reasoning("hm"), Reasoning(" ")]
    assert decoder.feed(say("b")) == [Reasoning("<b")]


def test_close_twice_says_nothing_twice() -> None:
    decoder = Decoder(chat.Reader())
    decoder.feed(say("<thi")[:-2])
    assert decoder.close() == [Text("<thi")]
    assert decoder.close() == []


HOSTILE = " ".join("`" * length for length in range(1, 3000))  # code spans that are not closed, each of another length
CUTS = {
    "none": ("hi", "", "hi"),
    "plain": ("hm\n</think>\n\nhi\n", "hm\n", "hi\n"),
    "nothing-before": ("</think>hi", "", "hi"),
    "nothing-after": ("hm</think>", "hm", ""),
    "first-of-two": ("a</think>b</think>c", "a", "b</think>c"),
    "opened": ("say <think>a</think>b", "", "say <think>a</think>b"),
    "opened-after": ("a</think>b <think>", "a", "b <think>"),
    "inline": ("the `</think>` tag", "", "the `</think>` tag"),
    "inline-then-tag": ("the `</think>` tag</think>hi", "the `</think>` tag", "hi"),
    "inline-double": ("the `` `</think>` `` tag", "", "the `` `</think>` `` tag"),
    "opening-tag-in-code": ("no `<think>` here</think>hi", "no `<think>` here", "hi"),
    "odd-backtick": ("it`s\nfine</think>a `b`", "it`s\nfine", "a `b`"),
    "fence": ("```xml\n</think>\n```\nhi", "", "```xml\n</think>\n```\nhi"),
    "fence-then-tag": ("```\nx\n```\nhm</think>hi", "```\nx\n```\nhm", "hi"),
    "tildes": (" ~~~ a`b\n</think>\n~~~~\n</think>hi", " ~~~ a`b\n</think>\n~~~~\n", "hi"),
    "long-fence": ("````\n```\n</think>\n````", "", "````\n```\n</think>\n````"),
    "unclosed-fence": ("```\nx</think>hi", "", "```\nx</think>hi"),
    "hostile": (HOSTILE + "</think>hi", HOSTILE, "hi"),
    "no-fence": ("    ```\n</think>hi", "    ```\n", "hi"),
}


@pytest.mark.parametrize(("text", "reasoning", "answer"), CUTS.values(), ids=CUTS)
def test_cut_thinking(text: str, reasoning: str, answer: str) -> None:
    assert cut_thinking(text) == (reasoning, answer)


def test_white_space_before_an_answer_is_not_held_for_ever() -> None:
    assert Decoder(chat.Reader()).feed(says(*[" "] * 5000)) != []


def test_an_endless_answer_ends_in_a_failure() -> None:
    pieces = [say("x" * (1 << 20))] * 65
    with pytest.raises(ProtocolError, match="an answer of more than 64 MiB"):
        decode(chat.Reader(), *pieces)
