"""Counting tokens, weighing turns, and fitting history to a limit.

A byte-level tokenizer never yields more tokens than there are bytes, so the length settles most limits. What a turn
weighs comes from the server's own ``usage``. Only where neither will do is the text tokenized, by ``tiktoken`` with
a vocabulary that is already on disk: nothing here downloads one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gptpipe.errors import OverLimit, ProtocolError, WriteError
from gptpipe.message import Counts, Message, Turn, counts, size, wording
from gptpipe.storage import failing, make_folder
from gptpipe.storage import replace as replace_file

# The most that the frame of a message takes; added to its bytes it gives a bound that holds for every chat format.
FRAME_BOUND = 8

# What the chat format of the encodings below adds: three tokens and the role to a message, three before the answer.
# https://github.com/openai/openai-cookbook/blob/main/examples/How_to_count_tokens_with_tiktoken.ipynb
FRAME = 4
PRIMING = 3

# An allowance for an image, a document or a recording: what it takes, only the server knows. An image takes up to
# 1,445 tokens of gpt-4o (https://platform.openai.com/docs/guides/images-vision#calculating-costs).
ATTACHMENT = 1500

# A turn of prose or code has four or five; one that seems to have more than this was not counted as it stands.
BYTES_PER_TOKEN = 8

DEFAULT_ENCODING = "o200k_base"
_SAME_VOCABULARY = {"o200k_harmony": "o200k_base"}

# The time that tiktoken takes grows faster than a run without a space, and 1,000,000 spaces overflow the stack of
# its regular expression. So it gets pieces: cut where every encoding cuts, before a space between two small letters,
# or, in a run that has no such place, anywhere, which costs a token or two.
_PIECE = re.compile(r".{1,10000}(?:(?<=[a-z])(?= [a-z])|\Z)|.{1,10000}", re.DOTALL)


class Vocabulary(NamedTuple):
    """What ``tiktoken`` needs for an encoding: where the file comes from, and its SHA-256 in hexadecimal."""

    url: str
    sha256: str


# As in tiktoken_ext/openai_public.py, of the encodings that chat models have.
VOCABULARIES: Mapping[str, Vocabulary] = {
    "o200k_base": Vocabulary(
        "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "cl100k_base": Vocabulary(
        "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
}


def folder(cache: Path) -> Path:
    """Return where the vocabularies lie: where ``tiktoken``'s own variables say, else under gptpipe's cache folder."""
    own = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(own) if own else cache / "tiktoken"


def vocabulary_path(encoding: str, cache: Path) -> Path:
    """Return where a vocabulary lies; ``cache`` is gptpipe's cache folder."""
    import hashlib  # OpenSSL comes with it: only those who count pay for it

    return folder(cache) / hashlib.sha1(VOCABULARIES[encoding].url.encode(), usedforsecurity=False).hexdigest()


def installed(encoding: str, cache: Path) -> bool:
    """Whether the vocabulary is on disk, and whole."""
    try:
        return _is_whole(encoding, vocabulary_path(encoding, cache).read_bytes())
    except OSError:
        return False


def install(encoding: str, data: bytes, cache: Path) -> Path:
    """Put a downloaded vocabulary where ``tiktoken`` looks for it, and return the path.

    :raises ProtocolError: if it is not the one that ``tiktoken`` expects.
    :raises WriteError: if it cannot be written.
    """
    if not _is_whole(encoding, data):
        raise ProtocolError(
            f"what came from {VOCABULARIES[encoding].url} is not the vocabulary {encoding}: its SHA-256 is another"
        )
    path = vocabulary_path(encoding, cache)
    with failing(WriteError, f"cannot write {path}"):
        make_folder(path.parent)
        replace_file(str(path), data, 0o600)
    return path


def _is_whole(encoding: str, data: bytes) -> bool:
    import hashlib

    return hashlib.sha256(data).hexdigest() == VOCABULARIES[encoding].sha256


def bound(message: Message) -> int:
    """Return a number of tokens that a message's text does not exceed, whatever the tokenizer.

    An attachment has no text; it counts as ATTACHMENT tokens, which it may exceed.
    """
    return _heft(message) + FRAME_BOUND


def bound_all(messages: Iterable[Message]) -> int:
    """Return the sum of the bounds."""
    return sum(map(bound, messages))


def estimate(messages: Iterable[Message]) -> int:
    """Return about how many tokens messages have, as cheaply as can be: four bytes of prose are one."""
    return sum(-(-size(message) // 4) + ATTACHMENT * _attachments(message) + FRAME for message in messages)


def _heft(message: Message) -> int:
    return size(message) + ATTACHMENT * _attachments(message)


def _attachments(message: Message) -> int:
    content = message.get("content")
    if not isinstance(content, list):
        return 0
    return sum(isinstance(part, dict) and not isinstance(part.get("text"), str) for part in content)


class Meter(NamedTuple):
    """How messages are counted for one model.

    ``length`` is that of a text in tokens, None without a vocabulary: then the bound is all that is known. ``native``
    says whether the encoding is known to be the model's.
    """

    length: Callable[[str], int] | None
    native: bool

    def count(self, messages: Iterable[Message]) -> int:
        """Return the tokens of the messages, without the PRIMING that a whole prompt has."""
        return sum(map(bound if self.length is None else self._message, messages))

    def prompt(self, messages: Iterable[Message]) -> int:
        """Return the tokens of the messages as the whole prompt."""
        return self.count(messages) + (0 if self.length is None else PRIMING)

    def exact(self, messages: Iterable[Message]) -> bool:
        """Whether the count of the messages is no estimate."""
        return self.length is not None and self.native and not any(map(_attachments, messages))

    def _message(self, message: Message) -> int:
        assert self.length is not None
        return self.length(wording(message)) + ATTACHMENT * _attachments(message) + FRAME


def meter(model: str, cache: Path) -> Meter:
    """Return what counts for a model: ``tiktoken``, if the vocabulary is on disk. ``cache`` is gptpipe's cache folder.

    A model that ``tiktoken`` does not know is counted with DEFAULT_ENCODING.
    """
    if not any(vocabulary_path(encoding, cache).exists() for encoding in VOCABULARIES):
        return Meter(None, False)
    from tiktoken.model import encoding_name_for_model

    try:
        encoding = encoding_name_for_model(model)
    except KeyError:
        encoding = ""
    vocabulary = _SAME_VOCABULARY.get(encoding, encoding)
    native = vocabulary in VOCABULARIES
    if not native:
        vocabulary = DEFAULT_ENCODING
    if not installed(vocabulary, cache):  # of one that is damaged, tiktoken would download another
        return Meter(None, False)
    return Meter(_length(vocabulary, cache), native)


def _length(encoding: str, cache: Path) -> Callable[[str], int]:
    """Return what counts the tokens of a text."""
    from tiktoken import get_encoding

    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(vocabulary_path(encoding, cache).parent)
    try:
        encode = get_encoding(encoding).encode_ordinary
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
    return lambda text: sum(len(encode(piece)) for piece in _PIECE.findall(text))


def preview(system: Sequence[Message], messages: Sequence[Message], model: str, cache: Path) -> dict[str, Any]:
    """Return the tokens of a request as ``--dry-run`` shows them.

    ``messages`` begin with ``system`` and end with the question. ``total`` is what the server should report as
    ``prompt_tokens``.
    """
    found = meter(model, cache)
    tokens = {
        "system": found.count(system),
        "history": found.count(messages[len(system) : -1]),
        "message": found.count(messages[-1:]),
        "total": found.prompt(messages),
    }
    return {"tokens": tokens, "tokens_estimated": not found.exact(messages)}


def check(messages: Sequence[Message], limit: int, model: str, cache: Path) -> None:
    """Refuse a prompt that is larger than ``--max-input-tokens``. Its length settles most cases.

    :raises OverLimit: if it has more tokens than ``limit``, or may have, without a vocabulary to count it with.
    """
    if bound_all(messages) <= limit:
        return
    found = meter(model, cache)
    tokens = found.prompt(messages)
    if tokens <= limit:
        return
    if found.length is None:
        raise OverLimit(
            f"the prompt may have up to {tokens} tokens, and --max-input-tokens allows {limit}",
            "gptpipe-config tokenizer fetches what an exact count needs",
        )
    about = "" if found.exact(messages) else "about "
    raise OverLimit(f"the prompt has {about}{tokens} tokens, and --max-input-tokens allows {limit}")


def trim(turns: Sequence[Turn], fixed: Sequence[Message], limit: int, model: str, cache: Path) -> list[Turn]:
    """Return the latest of the turns, oldest first, with which the prompt passes :func:`check`, if any does.

    ``fixed`` is what is sent beside them.
    """
    if bound_all(fixed) + sum(bound_all(turn.history) for turn in turns) <= limit:
        return list(turns)
    found = meter(model, cache)
    room = limit - found.prompt(fixed)
    kept: list[Turn] = []
    for turn in reversed(turns):
        room -= found.count(turn.history)
        if room < 0:
            break
        kept.insert(0, turn)
    return kept


def weight(turn: Turn) -> int:
    """Return the tokens that a turn adds to a later prompt, their bound if it does not say."""
    return turn.tokens if turn.tokens is not None and turn.tokens > 0 else bound_all(turn.history)


def fit(past: Iterable[Turn], *, tokens: int | None = None, turns: int | None = None) -> list[Turn]:
    """Return the latest finished turns that fit both limits, whole, oldest first. None is no limit.

    ``past`` comes newest first; of it no more is read than up to the first turn that does not fit.
    """
    sent: list[Turn] = []
    used = 0
    for turn in past if turns != 0 else ():
        if not turn.finished:
            continue
        used += weight(turn)
        if tokens is not None and used > tokens:
            break
        sent.append(turn)
        if len(sent) == turns:
            break
    sent.reverse()
    return sent


def weigh(turn: Turn, reasoning: str, sent: Sequence[Turn], cache: Path) -> Turn:
    """Return a turn that just ended with what it adds to a later prompt, by the rules of gptpipe-session(5).

    ``reasoning`` is the reasoning text that came with the answer, ``sent`` the turns that were sent as history,
    ``cache`` gptpipe's cache folder. A server that reports no usage leaves it to the tokenizer, or to the bound.
    """
    used = counts(turn.usage)
    if not used.input and not used.output:
        found = meter(turn.model or "", cache) if turn.finished else Meter(None, False)  # the others are never sent
        return replace(turn, tokens=found.count(turn.history), tokens_estimated=not found.exact(turn.history))
    answer = _answer_tokens(turn, reasoning, used)
    question = _question_tokens(turn, sent, used, answer.tokens)
    return replace(
        turn,
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

    What the system message takes, with all that the server adds of its own, the turn before has found; the
    first turn shares by bytes. Shared again each time, a small error of a large system message would add up. A turn
    before that was counted too high shows as a question that is too low, even below 1: then the sum of the turns is
    right again if that stands, as long as the turn's own text allows it. A server that counts less than what it was
    sent (only what was not in its cache) leaves no such question.
    """
    most = bound_all(turn.question)
    rest = used.input - sum(map(weight, sent))
    carried = _carried(turn, sent)
    if carried is None:
        tokens = _share(rest, sum(map(_heft, turn.question)), len((turn.system or "").encode("utf-8", "replace")))
    else:
        tokens = rest - carried
    if tokens > most and not any(map(_attachments, turn.question)):
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
