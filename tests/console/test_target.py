"""``-o`` and ``--meta`` on files of every kind: what is there stays what it was, and no paid answer is lost."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.harness.tools import needs_right_to

CALL = "gptpipe -m echo -n"
OTHER = 12345  # somebody else


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    for parent in (path, *path.parents):
        if parent.stat().st_uid == os.geteuid() and parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    return path


@pytest.fixture
def other(shell: Any, home: Path) -> Any:
    """Run a shell line as another user, with a home of its own, who may read all (the interpreter may be root's)."""
    needs_right_to("setpriv", f"--reuid={OTHER}", "--clear-groups", "true")
    elsewhere = home / "other"
    elsewhere.mkdir()
    os.chown(elsewhere, OTHER, OTHER)
    home.chmod(0o755)
    settings = " ".join(f"{name}={elsewhere}" for name in ("HOME", "TMPDIR"))
    settings += "".join(f" XDG_{name}_HOME={elsewhere}/{name}" for name in ("CONFIG", "DATA", "STATE", "CACHE"))

    def run(line: str) -> Any:
        ids = f"--reuid={OTHER} --regid={OTHER} --clear-groups"
        capabilities = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
        return shell(f"{settings} setpriv {ids} {capabilities} bash -c '{line}'")

    return run


@pytest.mark.parametrize("option", ["-o", "--meta"])
def test_a_bind_mounted_file_gets_the_answer(shell: Any, folder: Path, option: str) -> None:
    needs_right_to("unshare", "--mount", "true")
    for name in ("here", "there"):
        (folder / name).write_text("something longer than the answer\n" * 50)
    script = f"mount --bind folder/here folder/there && {CALL} {option} folder/there hi"
    result = shell(f"unshare --mount sh -c '{script}'")
    assert result.status == 0, result.err
    text = (folder / "here").read_text()
    assert text == "hi\n" if option == "-o" else '"answer":"hi"' in text
    assert text.count("\n") == 1
    assert sorted(os.listdir(folder)) == ["here", "there"]


def test_hard_links_stay_links(shell: Any, folder: Path) -> None:
    (folder / "one").write_text("old")
    os.link(folder / "one", folder / "two")
    assert shell(f"{CALL} -o folder/one hi").status == 0
    assert (folder / "two").read_text() == "hi\n"
    assert (folder / "one").stat().st_nlink == 2


def test_root_keeps_owner_and_mode(shell: Any, folder: Path) -> None:
    needs_right_to("setpriv", f"--reuid={OTHER}", "--clear-groups", "true")
    path = folder / "f"
    path.write_text("old")
    os.chown(path, OTHER, OTHER + 1)
    path.chmod(0o640)
    inode = path.stat().st_ino
    assert shell(f"umask 077; {CALL} -o folder/f hi").status == 0
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (OTHER, OTHER + 1, 0o640)
    assert status.st_ino != inode  # by a rename all the same
    assert path.read_text() == "hi\n"


def test_a_file_of_somebody_else_in_a_sticky_folder(other: Any, folder: Path) -> None:
    (folder / "f").write_text("old")
    (folder / "f").chmod(0o666)
    folder.chmod(0o1777)
    result = other(f"{CALL} -o folder/f hi")
    assert (result.status, result.err) == (0, "")
    assert (folder / "f").read_text() == "hi\n"
    assert ((folder / "f").stat().st_uid, os.listdir(folder)) == (0, ["f"])


def test_a_writable_file_in_a_folder_that_is_not(other: Any, folder: Path) -> None:
    (folder / "f").write_text("a long old text\n" * 9)
    os.chown(folder / "f", OTHER, OTHER)
    result = other(f"{CALL} -o folder/f hi")
    assert (result.status, result.err) == (0, "")
    assert (folder / "f").read_text() == "hi\n"


@pytest.mark.parametrize("name", ["new", "readonly"])
def test_what_cannot_be_written_is_found_before_anything_is_asked(
    other: Any, server: Any, folder: Path, name: str
) -> None:
    (folder / "readonly").write_text("old")
    result = other(f"gptpipe --base-url {server.url} -m m -n -o folder/{name} hi")
    assert (result.status, result.err) == (74, f"gptpipe: cannot write folder/{name}: Permission denied\n")
    assert server.requests == []


def test_without_proc(shell: Any, folder: Path) -> None:
    needs_right_to("unshare", "--mount", "true")
    script = f"mount -t tmpfs none /proc && {CALL} -o folder/f hi"
    assert shell(f"unshare --mount sh -c '{script}'").status == 0
    assert (folder / "f").read_text() == "hi\n"


@pytest.mark.parametrize("name", ["漢" * 80, "é" * 127, "a" * 255], ids=["80 of 3 bytes", "127 of 2", "255 of 1"])
def test_every_name_that_the_system_takes(run: Any, folder: Path, name: str) -> None:
    path = folder / name
    for text in ("one", "two"):
        assert run("gptpipe", "-m", "echo", "-n", "-o", str(path), text) == (0, b"", "")
        assert path.read_text() == f"{text}\n"
    assert os.listdir(folder) == [name]


def test_a_disk_that_is_full_after_the_answer(shell: Any, folder: Path, tmp_path: Path) -> None:
    """The trial before the request still has room; the answer has not, and neither has a mount point in place."""
    needs_right_to("unshare", "--mount", "true")
    (tmp_path / "elsewhere").mkdir()
    script = (
        "mount -t tmpfs -o size=64k none folder && echo old >folder/f && "
        f"TMPDIR=$PWD/elsewhere {CALL} -o folder/f -f long; echo $?; cat folder/f; ls -A folder"
    )
    (tmp_path / "long").write_text("x" * 200_000 + "\n")
    result = shell(f"unshare --mount sh -c '{script}'")
    assert result.text.splitlines() == ["74", "old", "f"]
    first, hint = result.err.splitlines()
    assert first == "gptpipe: cannot write folder/f: No space left on device"
    named = re.fullmatch(r"the answer is in (/.*)", hint)
    assert named
    assert Path(named[1]).parent == tmp_path / "elsewhere"
    assert "x" * 200_000 in Path(named[1]).read_text()
    assert Path(named[1]).stat().st_mode & 0o777 == 0o600


def test_the_results_of_a_map_keep_mode_owner_and_links(shell: Any, folder: Path) -> None:
    needs_right_to("setpriv", f"--reuid={OTHER}", "--clear-groups", "true")  # only root may give a file away
    path = folder / ("漢" * 80)
    script = f"printf 'b\\na\\n' | gptpipe-map -m echo -o {path} '{{}}'"
    assert shell(script).status == 0
    os.chown(path, OTHER, OTHER)
    path.chmod(0o640)
    again = f"printf 'a\\nb\\n' | gptpipe-map -m echo --resume -o {path} '{{}}'"
    assert shell(again).status == 0
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (OTHER, OTHER, 0o640)
    os.link(path, folder / "two")
    assert shell(script.replace("-m echo", "-m echo --resume")).status == 0
    assert path.read_text() == (folder / "two").read_text()
    assert path.read_text().count("\n") == 2
