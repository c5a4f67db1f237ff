"""Counting tokens.

A byte-level tokenizer never yields more tokens than there are bytes, so the length settles most limits. Only
where it does not, the text is tokenized, by ``tiktoken`` with a vocabulary that is already on disk: nothing here
downloads one. ``cache`` is gptpipe's cache folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gptpipe.errors import OverLimit, ProtocolError, WriteError
from gptpipe.message import Message, size, wording
from gptpipe.storage import failing, make_folder, replace

# The most that the frame of a message takes; added to its bytes it gives a bound that holds for every chat format.
FRAME_BOUND = 8

# What the chat format of the encodings below adds: three tokens and the role to a message, three before the answer.
# https://github.com/openai/openai-cookbook/blob/main/examples/How_to_count_tokens_with_tiktoken.ipynb
FRAME = 4
PRIMING = 3

# An allowance for an image, a document or a recording: what it takes, only the server knows. An image takes up to
# 1,445 tokens of gpt-4o (https://platform.openai.com/docs/guides/images-vision#calculating-costs).
ATTACHMENT = 1500

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
    """Return the folder of the vocabularies: that of ``tiktoken``'s own variables, else one in gptpipe's cache."""
    own = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(own) if own else cache / "tiktoken"


def vocabulary_path(encoding: str, cache: Path) -> Path:
    """Return the path of a vocabulary."""
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
        replace(path, data)
    return path


def _is_whole(encoding: str, data: bytes) -> bool:
    import hashlib

    return hashlib.sha256(data).hexdigest() == VOCABULARIES[encoding].sha256


def bound(message: Message) -> int:
    """Return the most tokens of a message, by any tokenizer. An attachment counts as ATTACHMENT, and may be more."""
    return heft(message) + FRAME_BOUND


def bound_all(messages: Iterable[Message]) -> int:
    """Return the sum of the bounds."""
    return sum(map(bound, messages))


def estimate(messages: Iterable[Message]) -> int:
    """Estimate the tokens of messages, cheaply: four bytes of prose are a token."""
    return sum(-(-size(message) // 4) + ATTACHMENT * attachments(message) + FRAME for message in messages)


def heft(message: Message) -> int:
    """Return the size of a message in bytes, with an allowance for each attachment."""
    return size(message) + ATTACHMENT * attachments(message)


def attachments(message: Message) -> int:
    """Return how many content parts of a message are not text."""
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
        """Return whether the count of the messages is exact."""
        return self.length is not None and self.native and not any(map(attachments, messages))

    def _message(self, message: Message) -> int:
        assert self.length is not None
        return self.length(wording(message)) + ATTACHMENT * attachments(message) + FRAME


def meter(model: str, cache: Path) -> Meter:
    """Return the meter for a model. What ``tiktoken`` does not know is counted with DEFAULT_ENCODING."""
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
    """Return the function that counts the tokens of a text."""
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
