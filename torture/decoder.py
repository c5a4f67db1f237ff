"""What atheris runs: any split of any bytes gives the decoder's events of the bytes in one piece.

Nothing but the decoder and what it needs is imported, since atheris has an environment of its own.
``python -m torture.decoder [OPTION OF LIBFUZZER]... [FOLDER OF SEEDS]`` runs until it is told to end.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable

from gptpipe.wire import chat, responses, sse
from gptpipe.wire.events import Event, Reasoning, Refusal, Text

MakeReader = Callable[[bool], sse.Reader]


def events(pieces: Iterable[bytes], thinks: bool = False, reader: MakeReader = chat.Reader) -> list[Event]:
    """Return the events of a body that arrives in these pieces, neighbouring pieces of text as one."""
    decoder = sse.Decoder(reader(thinks))
    found: list[Event] = []
    for piece in pieces:
        found += decoder.feed(piece)
    found += decoder.close()
    joined: list[Event] = []
    for event in found:
        last = joined[-1] if joined else None
        if isinstance(event, (Text, Reasoning, Refusal)) and type(last) is type(event):
            joined[-1] = type(event)(last[0] + event[0])
        else:
            joined.append(event)
    return joined


def split(data: bytes, sizes: bytes) -> list[bytes]:
    """Return the data in pieces of these sizes, over and over; a size of 0 is an empty piece."""
    if not any(sizes):
        return [data]
    pieces, at, number = [], 0, 0
    while at < len(data):
        size = sizes[number % len(sizes)] % 32
        pieces.append(data[at : at + size])
        at, number = at + size, number + 1
        if not any(size % 32 for size in sizes):
            return [data]
    return pieces


def agree(data: bytes, sizes: bytes, thinks: bool = False) -> None:
    """Raise AssertionError if the split makes a difference, or an event cannot be written as JSON in UTF-8."""
    for reader in (chat.Reader, responses.Reader):
        whole = events([data], thinks, reader)
        assert events(split(data, sizes), thinks, reader) == whole, (data, sizes, thinks, reader)
        json.dumps([event[:] for event in whole], ensure_ascii=False, allow_nan=False).encode()


def try_one(data: bytes) -> None:
    """Read 8 bytes as sizes and a switch, and try the rest."""
    agree(data[8:], data[:7], bool(data[7:8] > b"\x7f"))


if __name__ == "__main__":
    import atheris  # type: ignore[import-untyped]

    atheris.instrument_all()
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
