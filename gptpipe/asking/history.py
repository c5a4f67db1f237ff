"""History: which turns are sent with a question, and how many tokens a turn adds to a later prompt.

That number comes from the server's own ``usage``, so that fitting history needs no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from math import inf
from pathlib import Path
from sys import maxsize
from typing import NamedTuple

from gptpipe.asking.tokens import Meter, attachments, bound_all, heft, meter
from gptpipe.message import Counts, Message, Turn, counts, size

# A turn of prose or code has four or five; one that seems to have more than this was not counted as it stands.
BYTES_PER_TOKEN = 8


def trim(turns: Sequence[Turn], fixed: Sequence[Message], limit: int, model: str, cache: Path) -> list[Turn]:
    """Return as many of the latest turns as fit ``tokens.check`` beside the ``fixed`` messages, oldest first."""
    if bound_all(fixed) + sum(bound_all(turn.history) for turn in turns) <= limit:
        return list(turns)
    found = meter(model, cache)
    return _latest(reversed(turns), limit - found.prompt(fixed), lambda turn: found.count(turn.history))


def weight(turn: Turn) -> int:
    """Return the tokens that a turn adds to a later prompt, their bound if it does not say."""
    return turn.tokens if turn.tokens is not None and turn.tokens > 0 else bound_all(turn.history)


def fit(past: Iterable[Turn], *, tokens: float = inf, turns: int | None = None) -> list[Turn]:
    """Return the latest finished turns that fit both limits, whole, oldest first.

    ``past`` comes newest first; it is read up to the first turn that does not fit.
    """
    most = None if turns is None else min(turns, maxsize)
    return _latest(islice((turn for turn in past if turn.finished), most), tokens, weight)


def _latest(past: Iterable[Turn], room: float, taken: Callable[[Turn], int]) -> list[Turn]:
    """Return the turns, given newest first, that fit the room together, oldest first."""
    kept: list[Turn] = []
    for turn in past:
        room -= taken(turn)
        if room < 0:
            break
        kept.append(turn)
    return kept[::-1]


def weigh(turn: Turn, reasoning: str, sent: Sequence[Turn], cache: Path) -> Turn:
    """Return a turn that just ended with what it adds to a later prompt, by the rules of gptpipe-session(5).

    ``reasoning`` is the reasoning text that came with the answer, ``sent`` the turns that were sent as history,
    ``cache`` gptpipe's cache folder. A server that reports no usage leaves it to the tokenizer, or to the bound.
    """
    used = counts(turn.usage)
    if not used.input and not used.output:
        found = meter(turn.model or "", cache) if turn.finished else Meter(None, False)  # the others are never sent
        return turn._replace(tokens=found.count(turn.history), tokens_estimated=not found.exact(turn.history))
    answer = _answer_tokens(turn, reasoning, used)
    question = _question_tokens(turn, sent, used, answer.tokens)
    return turn._replace(
        tokens=answer.tokens + question.tokens,
        tokens_estimated=answer.estimated or question.estimated,
        system_tokens=used.input - sum(map(weight, sent)) - question.tokens if used.input else None,
    )


class _Part(NamedTuple):
    tokens: int
    estimated: bool


def _answer_tokens(turn: Turn, reasoning: str, used: Counts) -> _Part:
    """Return the reply's share of what the server counted: all but the reasoning."""
    length = sum(map(size, turn.reply))
    if used.reasoning:
        tokens = used.output - used.reasoning
    else:
        tokens = _share(used.output, length, len(reasoning.encode("utf-8", "replace")))
    most = bound_all(turn.reply)
    return _Part(tokens, False) if 1 <= tokens <= most else _Part(most, True)


def _question_tokens(turn: Turn, sent: Sequence[Turn], used: Counts, answer: int) -> _Part:
    """Return what the prompt holds beside the turns sent and the system message.

    What the system message takes, with all that the server adds of its own, is known from the turn before; the first
    turn shares by bytes. Sharing each time would add up the small error of a large system message. If the turn before
    was counted too high, this question comes out too low, even below 1. It stays so as far as the turn's own text
    allows, because then the sum of the turns is right again. This does not hold for a server that counts less than
    what it was sent, such as only what was not in its cache.
    """
    most = bound_all(turn.question)
    rest = used.input - sum(map(weight, sent))
    carried = _carried(turn, sent)
    if carried is None:
        tokens = _share(rest, sum(map(heft, turn.question)), len((turn.system or "").encode("utf-8", "replace")))
    else:
        tokens = rest - carried
    if tokens > most and not any(map(attachments, turn.question)):
        return _Part(most, True)
    if tokens >= 1:
        return _Part(tokens, False)
    possible = carried is not None and answer + tokens >= sum(map(size, turn.history)) / BYTES_PER_TOKEN
    return _Part(tokens if possible else most, True)


def _carried(turn: Turn, sent: Sequence[Turn]) -> int | None:
    """Return the ``system_tokens`` of the turn before, if it had the same system message, model and endpoint."""
    if not sent:
        return None
    before = sent[-1]
    same = (before.system, before.model, before.profile, before.base_url)
    return before.system_tokens if same == (turn.system, turn.model, turn.profile, turn.base_url) else None


def _share(tokens: int, part: int, other: int) -> int:
    """Return the part of the tokens that falls to ``part`` bytes beside ``other`` bytes."""
    return round(tokens * part / (part + other)) if part + other else tokens
