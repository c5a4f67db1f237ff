"""Files that are not text: known by their content, sent as content parts, kept once for all sessions.

A session's line holds no file. Where the API's form has ``data:image/png;base64,…`` (for audio, bare base64), the line
has ``attachment:image/png;sha256,HEX``; the bytes are in the file HEX of the attachments' folder, named by their
SHA-256. The form is specified in gptpipe-session(5). WriteError says that a file could not be stored or removed, or the
folder not be locked.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptpipe.errors import BadInput, WriteError
from gptpipe.message import Message, Part
from gptpipe.storage import failing, make_folder, open_regular, replace, sync_folder

MIB = 1 << 20

_MAGIC = (
    rb"(?s)(?P<png>\x89PNG\r\n\x1a\n)|(?P<jpeg>\xff\xd8\xff)|(?P<gif>GIF8[79]a)|(?P<webp>RIFF.{4}WEBP)"
    rb"|(?P<pdf>%PDF-)|(?P<wav>RIFF.{4}WAVE)|(?P<mpeg>ID3[\x02-\x04])"
)
_FAMILY = {"pdf": "application", "wav": "audio", "mpeg": "audio"}  # all others are images

# What the API takes of one file, and of all in one request. https://platform.openai.com/docs/guides/images-vision,
# https://platform.openai.com/docs/guides/pdf-files, https://platform.openai.com/docs/guides/speech-to-text
_LIMITS = {"image": 20 * MIB, "application": 50 * MIB, "audio": 25 * MIB}
_LIMIT_OF_ALL = 50 * MIB

# Where a part of this type holds its bytes.
_SLOTS = {"image_url": "url", "file": "file_data", "input_audio": "data"}
_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_AUDIO_FORMATS = {media: name for name, media in _AUDIO_TYPES.items()}

_DATA = r"data:([\w.+-]+/[\w.+-]+);base64,"
_REFERENCE = r"(?a)attachment:([\w.+-]+/[\w.+-]+);sha256,([0-9a-f]{64})"
_NAMED = rb";sha256,([0-9a-f]{64})"
_STORED = r"[0-9a-f]{64}"
_PASSES = 5

Warn = Callable[[str], None]


def sniff(head: bytes) -> str | None:
    """Return the media type of a file by its first 16 bytes, or None if files of this kind are sent as text."""
    match = re.match(_MAGIC, head)
    if match:
        kind = str(match.lastgroup)
        return f"{_FAMILY.get(kind, 'image')}/{kind}"
    return "audio/mpeg" if _is_mp3_frame(head) else None


def _is_mp3_frame(head: bytes) -> bool:
    """Return whether a header of MPEG layer III begins here, with a version, bit rate and sampling rate that exist."""
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return False
    return head[1] >> 3 & 3 != 1 and head[2] >> 4 not in (0, 15) and head[2] >> 2 & 3 != 3


def part_for(data: bytes, name: str) -> Part | None:
    """Return the content part for a file, or None if files of its kind are not sent as parts.

    ``name`` is the path; the part of a PDF has its last component. BadInput if it is larger than the API takes.
    """
    media = sniff(data[:16])
    if media is None:
        return None
    family = media.partition("/")[0]
    if len(data) > _LIMITS[family]:
        limit = f"the API takes {_LIMITS[family] // MIB} MB of {'a PDF' if family == 'application' else family}"
        raise BadInput(f"{name} has {_megabytes(len(data))}: {limit}")
    text = _base64(data)
    if family == "audio":
        return {"type": "input_audio", "input_audio": {"data": text, "format": _AUDIO_FORMATS[media]}}
    if family == "application":
        named = "stdin.pdf" if name == "-" else os.path.basename(name)
        return {"type": "file", "file": {"filename": named, "file_data": f"data:{media};base64,{text}"}}
    return {"type": "image_url", "image_url": {"url": f"data:{media};base64,{text}"}}


def _megabytes(size: int) -> str:
    """Return a size in words, rounded up, so that one byte above a limit does not look like the limit."""
    return f"{-(-size * 10 // MIB) / 10} MB"


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def check_total(messages: Iterable[Message]) -> None:
    """Raise BadInput if the files of a whole request are too large together."""
    total = sum(len(text) * 3 // 4 for message in messages for text in map(_bytes_of, _parts(message)) if text)
    if total > _LIMIT_OF_ALL:
        raise BadInput(
            f"the files of the request have {_megabytes(total)}: the API takes {_LIMIT_OF_ALL // MIB} MB",
            "those of earlier turns count: --history N sends fewer turns",
        )


def _parts(message: Message) -> list[Part]:
    content = message.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _bytes_of(part: Part) -> str | None:
    """Return the field in which a part of this type holds its bytes, or None."""
    kind = str(part.get("type"))
    slot = part.get(kind) if kind in _SLOTS else None
    text = slot.get(_SLOTS[kind]) if isinstance(slot, dict) else None
    return text if isinstance(text, str) else None


def _with_bytes(part: Part, text: str) -> Part:
    kind = str(part["type"])
    return {**part, kind: {**part[kind], _SLOTS[kind]: text}}


def _changed(messages: Iterable[Message], change: Callable[[Part, str], Part]) -> list[Message]:
    """Return copies of the messages in which each part that holds bytes is changed."""

    def part_of(part: Any) -> Any:
        text = _bytes_of(part) if isinstance(part, dict) else None
        return part if text is None else change(part, text)

    return [
        {**message, "content": list(map(part_of, message["content"]))} if _parts(message) else message
        for message in messages
    ]


def detach(messages: Iterable[Message], directory: Path) -> list[Message]:
    """Return the messages as a session keeps them: files are stored in ``directory`` and referred to.

    Call this inside :func:`holding`, and write the line that refers to the files there too.
    """

    def change(part: Part, text: str) -> Part:
        match = re.match(_DATA, text)
        if match:
            media, text = match[1], text[match.end() :]
        elif part["type"] == "input_audio" and part["input_audio"].get("format") in _AUDIO_TYPES:
            media = _AUDIO_TYPES[part["input_audio"]["format"]]
        else:
            return part  # the address of a file that is elsewhere
        try:
            data = a2b_base64(text, strict_mode=True)
        except ValueError:
            return part
        return _with_bytes(part, f"attachment:{media};sha256,{store(directory, data)}")

    return _changed(messages, change)


def attach(messages: Iterable[Message], directory: Path, warn: Warn) -> list[Message]:
    """Return the messages as the API takes them: references are replaced by the files.

    For a file that is missing or damaged, ``warn`` gets a text with its name, and the model reads a note in its place:
    one lost file must not end a conversation.
    """

    def change(part: Part, text: str) -> Part:
        match = re.fullmatch(_REFERENCE, text)
        if not match:
            return part
        data = fetch(directory, match[2])
        if data is None:
            warn(f"{directory / match[2]} is missing or damaged: the {match[1]} file of an earlier turn is not sent")
            return {"type": "text", "text": f"[A file was here, {match[1]}, and is gone.]"}
        encoded = _base64(data)
        return _with_bytes(part, encoded if part["type"] == "input_audio" else f"data:{match[1]};base64,{encoded}")

    return _changed(messages, change)


def reference(part: Part) -> str | None:
    """Return the text by which a part of a session's line refers to a stored file, or None."""
    text = _bytes_of(part)
    return text if text is not None and re.fullmatch(_REFERENCE, text) else None


def has_files(messages: Iterable[Message]) -> bool:
    """Return whether any part of the messages is more than text."""
    return any(_bytes_of(part) is not None for message in messages for part in _parts(message))


def store(directory: Path, data: bytes) -> str:
    """Store the bytes once and return their SHA-256 in hexadecimal digits. They are on disk when this returns."""
    digest = _digest(data)
    path = directory / digest
    with failing(WriteError, f"cannot write {path}"):
        make_folder(directory)
        if not _is_stored(path, len(data)):
            replace(path, data)
            sync_folder(directory)  # or a crash loses the file that a finished turn refers to
    return digest


def _digest(data: bytes) -> str:
    from hashlib import sha256  # 4 ms for OpenSSL, not paid without files

    return sha256(data).hexdigest()


def _is_stored(path: Path, size: int) -> bool:
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def fetch(directory: Path, digest: str) -> bytes | None:
    """Return the bytes stored under the digest, or None if they are missing or damaged."""
    try:
        with open(open_regular(directory / digest, os.O_RDONLY), "rb") as file:
            data = file.read()
    except (OSError, WriteError):
        return None
    return data if _digest(data) == digest else None


@contextmanager
def holding(directory: Path) -> Iterator[None]:
    """Keep :func:`sweep` away while files are stored and the line that refers to them is written."""
    with failing(WriteError, f"cannot lock {directory}"):
        make_folder(directory)
        fd = _lock(directory, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(fd)


def _lock(directory: Path, operation: int) -> int:
    fd = open_regular(directory / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(fd, operation)
    except BaseException:
        os.close(fd)
        raise
    return fd


def sweep(directory: Path, sessions: Path) -> int:
    """Remove the stored files that no file in the folder of sessions names; return how many there were.

    While a turn with a file is being written somewhere, or names of sessions keep changing, nothing is removed: the
    next call does it.
    """
    with failing(WriteError, f"cannot sweep {directory}"):
        try:
            fd = _lock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (FileNotFoundError, BlockingIOError):
            return 0
        try:
            stored = {name for name in os.listdir(directory) if re.fullmatch(_STORED, name)}
            unused = stored - _named(sessions, stored) if stored else stored
            for digest in unused:
                os.unlink(directory / digest)
            return len(unused)
        finally:
            os.close(fd)


def _named(sessions: Path, stored: set[str]) -> set[str]:
    """Return the digests that the sessions of a folder name, or all stored ones if the folder keeps changing.

    A session that is renamed meanwhile may be missed under both names, so two listings in a row must be the same.
    """
    before: list[str] | None = None
    named: set[str] = set()
    for _ in range(_PASSES):
        listing = sorted(os.listdir(sessions)) if sessions.is_dir() else []
        if listing == before:
            return named
        named = {digest for name in listing for digest in _named_in(sessions / name)}
        before = listing
    return stored


def _named_in(path: Path) -> Iterator[str]:
    try:
        fd = open_regular(path, os.O_RDONLY)
    except (FileNotFoundError, WriteError):
        return
    with open(fd, "rb") as file:
        for line in file:
            yield from (digest.decode() for digest in re.findall(_NAMED, line))
