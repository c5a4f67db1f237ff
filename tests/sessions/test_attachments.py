from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from gptpipe.errors import BadInput, WriteError
from gptpipe.sessions import attachments
from gptpipe.text.strict_json import compact

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
PDF = b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n"
WAV = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data\0\0\0\0"
MP3 = b"\xff\xfb\x90\x64" + bytes(413)


@pytest.mark.parametrize(
    ("data", "media"),
    [
        pytest.param(PNG, "image/png", id="png"),
        pytest.param(b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg", id="jpeg"),
        pytest.param(b"GIF87a\1\0", "image/gif", id="gif87"),
        pytest.param(b"GIF89a\1\0", "image/gif", id="gif89"),
        pytest.param(b"RIFF\n\0\0\0WEBPVP8 ", "image/webp", id="webp"),
        pytest.param(PDF, "application/pdf", id="pdf"),
        pytest.param(WAV, "audio/wav", id="wav"),
        pytest.param(b"ID3\x03\0\0\0\0\0\0", "audio/mpeg", id="mp3 with a tag"),
        pytest.param(MP3, "audio/mpeg", id="mp3"),
        pytest.param(b"\xff\xf3\x48\xc4", "audio/mpeg", id="mp3 of 16 kHz"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"\x89PNG\n\x1a\n", None, id="png after a line-end conversion"),
        pytest.param(b"GIF is a format", None, id="text"),
        pytest.param(b"ID3 is a tag", None, id="text about tags"),
        pytest.param("ÿûþ".encode("latin-1") + b" text", None, id="latin-1 text"),
        pytest.param("\ufeffhé".encode("utf-16-le"), None, id="utf-16"),
        pytest.param(b"\xff\xfb\xfc\x00", None, id="mpeg without a bit rate"),
        pytest.param(b"RIFF\n\0\0\0AVI LIST", None, id="avi"),
        pytest.param(b"PK\x03\x04", None, id="zip"),
    ],
)
def test_sniff(data: bytes, media: str | None) -> None:
    assert attachments.sniff(data) == media


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


IMAGE_PART = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(PNG)}"}}
PDF_FILE = {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{b64(PDF)}"}
PDF_PART = {"type": "file", "file": PDF_FILE}
PIPED_PART = {"type": "file", "file": PDF_FILE | {"filename": "stdin.pdf"}}
WAV_PART = {"type": "input_audio", "input_audio": {"data": b64(WAV), "format": "wav"}}
MP3_PART = {"type": "input_audio", "input_audio": {"data": b64(MP3), "format": "mp3"}}


@pytest.mark.parametrize(
    ("data", "name", "part"),
    [
        pytest.param(PNG, "x.txt", IMAGE_PART, id="png"),
        pytest.param(PDF, "dir/a.pdf", PDF_PART, id="pdf"),
        pytest.param(PDF, "-", PIPED_PART, id="piped pdf"),
        pytest.param(WAV, "x", WAV_PART, id="wav"),
        pytest.param(MP3, "x", MP3_PART, id="mp3"),
        pytest.param(b"text", "a.png", None, id="text"),
    ],
)
def test_part(data: bytes, name: str, part: dict[str, Any] | None) -> None:
    assert attachments.part_for(data, name) == part


@pytest.mark.parametrize(
    ("head", "megabytes", "message"),
    [
        pytest.param(PNG, 20, "big has 20.1 MB: the API takes 20 MB of image", id="image"),
        pytest.param(PDF, 50, "big has 50.1 MB: the API takes 50 MB of a PDF", id="pdf"),
        pytest.param(WAV, 25, "big has 25.1 MB: the API takes 25 MB of audio", id="audio"),
    ],
)
def test_one_file_too_large(head: bytes, megabytes: int, message: str) -> None:
    fits = head.ljust(megabytes * attachments.MIB, b"\0")
    assert attachments.part_for(fits, "big") is not None
    with pytest.raises(BadInput, match=message):
        attachments.part_for(fits + b"\0", "big")


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def test_all_files_too_large() -> None:
    image = attachments.part_for(PNG.ljust(15 * attachments.MIB, b"\0"), "x")
    assert image is not None
    attachments.check_total([message(image, image), message({"type": "text", "text": "x"}, image)])
    with pytest.raises(BadInput, match=r"60\.1 MB: the API takes 50 MB"):
        attachments.check_total(
            [message(image, image), message(image), {"role": "user", "content": "x"}, message(image)]
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "attachments"


def test_session_line_refers_to_the_files(folder: Path) -> None:
    text = {"type": "text", "text": "what is this?"}
    asked = [{"role": "system", "content": "s"}, message(text, IMAGE_PART, PDF_PART, WAV_PART, MP3_PART, IMAGE_PART)]
    kept = attachments.detach(asked, folder)
    line = compact(kept)
    assert "base64" not in line
    assert kept[1]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": f"attachment:image/png;sha256,{attachments.store(folder, PNG)}"},
    }
    assert kept[1]["content"][3]["input_audio"]["format"] == "wav"
    assert len([name for name in os.listdir(folder) if name != ".lock"]) == 4
    assert attachments.attach(kept, folder, pytest.fail) == asked
    assert asked[1]["content"][1] == IMAGE_PART


@pytest.mark.parametrize(
    "part",
    [
        pytest.param({"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}, id="address"),
        pytest.param({"type": "image_url", "image_url": {"url": "data:image/png;base64,###"}}, id="no base64"),
        pytest.param({"type": "file", "file": {"file_id": "file-1"}}, id="uploaded file"),
        pytest.param({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "flac"}}, id="other audio"),
        pytest.param({"type": "image_url", "image_url": None}, id="nothing"),
        pytest.param({"type": "text", "text": "attachment:image/png;sha256," + "0" * 64}, id="text"),
        pytest.param({"type": ["x"]}, id="odd type"),
        pytest.param("x", id="no part"),
    ],
)
def test_what_is_no_file_stays(folder: Path, part: Any) -> None:
    messages = [{"role": "user", "content": [part]}]
    assert attachments.detach(messages, folder) == messages
    assert attachments.attach(messages, folder, pytest.fail) == messages
    assert not folder.exists()


@pytest.mark.parametrize("content", [None, b"other"], ids=["missing", "damaged"])
def test_lost_file_is_told(folder: Path, content: bytes | None) -> None:
    kept = attachments.detach([message(IMAGE_PART, WAV_PART)], folder)
    path = folder / attachments.store(folder, PNG)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    warnings: list[str] = []
    [attached] = attachments.attach(kept, folder, warnings.append)
    assert attached["content"][0] == {"type": "text", "text": "[A file was here, image/png, and is gone.]"}
    assert attached["content"][1] == WAV_PART
    assert len(warnings) == 1
    assert str(path) in warnings[0]


def test_storing_again_mends_a_file_that_was_cut(folder: Path) -> None:
    path = folder / attachments.store(folder, PNG)
    os.truncate(path, 10)
    assert attachments.fetch(folder, path.name) is None
    attachments.store(folder, PNG)
    assert attachments.fetch(folder, path.name) == PNG


@pytest.mark.parametrize("umask", [0, 0o777])
def test_stored_files_are_private(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with attachments.holding(folder):
            path = folder / attachments.store(folder, PNG)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (folder.parent, folder, path, folder / ".lock")]
    assert modes == [0o700, 0o700, 0o600, 0o600]


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot write"):
        attachments.store(tmp_path / "file" / "x", PNG)
    with pytest.raises(WriteError, match="cannot lock"), attachments.holding(tmp_path / "file" / "x"):
        pass


def session(folder: Path, name: str, *parts: dict[str, Any]) -> Path:
    path = folder.parent / "sessions" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("a") as file:
        file.write(compact({"messages": attachments.detach([message(*parts)], folder)}) + "\n")
    return path


def stored(folder: Path) -> set[bytes | None]:
    return {attachments.fetch(folder, name) for name in os.listdir(folder) if name != ".lock"}


def test_sweep_removes_what_no_session_names(folder: Path) -> None:
    with attachments.holding(folder):
        one = session(folder, "one", IMAGE_PART, PDF_PART)
        two = session(folder, "two", IMAGE_PART)
    assert attachments.sweep(folder, one.parent) == 0
    one.unlink()
    assert attachments.sweep(folder, one.parent) == 1
    assert stored(folder) == {PNG}
    two.rename(two.with_name("three.jsonl"))
    assert attachments.sweep(folder, one.parent) == 0
    two.with_name("three.jsonl").unlink()
    assert attachments.sweep(folder, one.parent) == 1
    assert stored(folder) == set()


def test_sweep_leaves_what_is_just_being_written(folder: Path) -> None:
    with attachments.holding(folder), attachments.holding(folder):
        attachments.store(folder, PNG)
        assert attachments.sweep(folder, folder.parent / "sessions") == 0
    assert attachments.sweep(folder, folder.parent / "sessions") == 1


def test_sweep_without_attachments(folder: Path) -> None:
    assert attachments.sweep(folder, folder.parent / "sessions") == 0
    assert not folder.exists()


def test_sweep_finds_a_session_that_is_renamed_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with attachments.holding(folder):
        path = session(folder, "one", IMAGE_PART)
    listdir = os.listdir
    listed: list[str] = []

    def renaming(directory: Path) -> list[str]:
        names = listdir(directory)
        if directory == path.parent and not listed:
            listed.extend(names)
            path.rename(path.with_name("two.jsonl"))
        return names

    monkeypatch.setattr(os, "listdir", renaming)
    assert attachments.sweep(folder, path.parent) == 0
    assert listed == ["one.jsonl"]
    assert stored(folder) == {PNG}


def test_has_files() -> None:
    assert attachments.has_files([message({"type": "text", "text": "x"}, PDF_PART)])
    assert not attachments.has_files([message({"type": "text", "text": "x"}), {"role": "user", "content": "x"}])
