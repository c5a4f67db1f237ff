"""The real vocabularies, without a network: the development-only package ``bpe-openai`` carries them gzipped."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

from gptpipe.asking import tokens


def vocabulary(encoding: str) -> bytes:
    """Return the file that ``tiktoken`` would download, byte for byte: it checks its SHA-256."""
    spec = find_spec("bpe_openai")  # not imported: that would unpack them all, and warn
    assert spec is not None
    assert spec.origin is not None
    return gzip.decompress((Path(spec.origin).parent / "data" / f"{encoding}.tiktoken.gz").read_bytes())


def put_vocabulary(cache: Path, *encodings: str) -> None:
    """Put vocabularies where gptpipe expects them; ``cache`` is gptpipe's cache folder."""
    for encoding in encodings or tokens.VOCABULARIES:
        tokens.install(encoding, vocabulary(encoding), cache)
