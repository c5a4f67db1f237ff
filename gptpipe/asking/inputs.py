"""What the message is made of: the prompt, files, and standard input, each checked to be text.

gptpipe(1) has the rules under DESCRIPTION. What cannot be read is a NoInput, what is not text a BadInput.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from gptpipe.console.output import patience, say, visible, waiting_for
from gptpipe.errors import BadInput, NoInput, UsageError
from gptpipe.message import Content, Part
from gptpipe.sessions import attachments

_BLOCK = 1 << 16
_STDIN = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


def prompt_of(words: Sequence[str]) -> str:
    """Return the arguments joined by one space, decoded strictly as UTF-8 whatever the locale."""
    return decode(os.fsencode(" ".join(words)), "the prompt")


def decode(data: bytes, name: str, encoding: str | None = None) -> str:
    """Return the text in the bytes. ``name`` says in a message where they come from.

    ``encoding`` is that of ``--encoding``, a UsageError if it is unknown; None is UTF-8, for what that option does not
    reach. A BadInput names the byte's offset, also that of a NUL.
    """
    codec = encoding or "utf-8"
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{name} is not {codec.upper()} text: byte {error.start} is 0x{data[error.start]:02x}",
            "--encoding NAME reads other encodings" if encoding else None,
        ) from None
    except (LookupError, UnicodeError):
        raise UsageError(f"unknown encoding '{encoding}'") from None
    try:
        text.encode()
    except UnicodeEncodeError as half:  # UTF-7 and unicode_escape have such; in UTF-8 it cannot be sent
        at = len(text[: half.start].encode(codec))
        raise BadInput(f"{name} is not text: what stands at byte {at} is half of a surrogate pair") from None
    if (at := text.find("\0")) >= 0:
        raise BadInput(f"{name} is not text: byte {len(text[:at].encode(codec))} is NUL")
    return text


def read_file(path: str) -> bytes:
    """Return the content of a file."""
    try:
        # If it were opened again, a regular file would be read from its start, and once more as standard input.
        with waiting_for(path), open(os.dup(0) if path in _STDIN else path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NoInput(f"cannot read {path or repr(path)}: {reason}") from error


def text_or_file(text: str, encoding: str | None = None) -> str:
    """Return the text, or the content of the file for ``@PATH``. ``@@`` at the beginning stands for an ``@``."""
    if text.startswith("@") and not text.startswith("@@"):
        return decode(read_file(text[1:]), text[1:], encoding)
    return decode(text.removeprefix("@").encode("utf-8", "surrogateescape"), "an argument")


def part_of(data: bytes, path: str, encoding: str | None = None) -> str | Part:
    """Return a file as a part of the message: a content part for an image, a PDF or a recording, else its text.

    ``encoding`` is as in :func:`decode`. BadInput also if it is larger than the API takes.
    """
    part = attachments.part_for(data, path)
    if part is not None:
        return part
    name = "standard input" if path == "-" else path
    text = decode(data, name, encoding)
    return text if path == "-" else titled(path, text)


def compose(parts: Sequence[str | Part]) -> Content:
    """Return the content of a message, a string if all is text: neighbouring texts are joined by blank lines."""
    pieces: list[str | Part] = []
    for is_text, run in groupby(parts, lambda part: isinstance(part, str)):
        same = list(run)
        pieces += [join([part for part in same if isinstance(part, str)])] if is_text else same
    return merged(pieces)


def merged(pieces: Iterable[str | Part]) -> Content:
    """Return the pieces, neighbouring texts joined by nothing: as a string if there is nothing but text."""
    parts: list[Part] = []
    for piece in pieces:
        if not isinstance(piece, str):
            parts.append(piece)
        elif parts and parts[-1]["type"] == "text":
            parts[-1] = {"type": "text", "text": parts[-1]["text"] + piece}
        elif piece:
            parts.append({"type": "text", "text": piece})
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def read_lines(meanwhile: Callable[[], None]) -> Iterator[bytes]:
    """Yield the lines of standard input without newlines, each as it comes; ``meanwhile`` is as in :func:`blocks`."""
    message = "waiting for a line of standard input: its end ends this"
    rest = b""
    for block in blocks(0, "standard input", message, meanwhile):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def blocks(
    descriptor: int, name: str, message: str | None, meanwhile: Callable[[], None] = lambda: None
) -> Iterator[bytes]:
    """Yield the bytes of a descriptor as they come, to its end. ``name`` says in a message what it is.

    The first wait that lasts is announced with the ``message``, if there is one. ``meanwhile`` is called once, before
    the first wait.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(0):
        meanwhile()
    while True:
        if message and not poll.poll(patience() * 1000):
            say(message)
            message = None
        poll.poll()
        try:
            block = os.read(descriptor, _BLOCK)
        except BlockingIOError:
            continue
        except OSError as error:
            raise NoInput(f"cannot read {name}: {error.strerror}") from error
        if not block:
            return
        yield block


def piped(meanwhile: Callable[[], None], *, alone: bool, explicit: bool) -> bytes:
    """Return what is on standard input, if it should be read: a pipe, a socket or a regular file; else nothing.

    ``explicit`` is whether ``-f -`` asks for it, and then NoInput if it is empty; ``alone`` whether there is nothing
    else to ask. ``meanwhile`` is as in :func:`blocks`.
    """
    message: str | None = "waiting for standard input to end: -n does not read it, --max-time bounds it"
    status = os.fstat(0)
    regular = stat.S_ISREG(status.st_mode)
    if not explicit and not (regular or stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode)):
        if not alone or not os.isatty(0):
            return b""
        say("reading the prompt from the terminal; ^D ends it")
        message = None
    elif not alone and regular and 0 < os.lseek(0, 0, os.SEEK_CUR) < status.st_size:
        say("reading the rest of a file that something else has begun to read: -n leaves it alone")
    data = b"".join(blocks(0, "standard input", message, meanwhile))
    if explicit and not data:
        raise NoInput("standard input is empty, and --file - asks for it")
    return data


def titled(path: str, text: str) -> str:
    """Return a file's text with its name in a line before it, as ``head`` writes it."""
    name = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return f"==> {' '.join(visible(name).splitlines())} <==\n{text}"


def join(texts: Sequence[str]) -> str:
    """Return the texts with a blank line between each two; the last one stays as it is, to the byte."""
    kept = [text for text in texts if text]
    return "".join(text + ("\n" if text.endswith("\n") else "\n\n") for text in kept[:-1]) + "".join(kept[-1:])
