"""What reaches the disk, in which order, and what is left when the disk fails: seen and done by strace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.harness.processes import ROOT


def trace(
    folder: Path, options: list[str], *command: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the session worker on ``folder / "sessions"`` under strace, which writes to ``folder / "trace"``."""
    needs("strace")
    worker = [sys.executable, "-m", "tests.harness.session_worker", str(folder / "sessions"), *command]
    return subprocess.run(
        ["strace", "-qq", "-y", "-o", str(folder / "trace"), *options, *worker],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


FAULTS = {
    "full disk": (
        "inject=write:error=ENOSPC:when=2",
        74,
        "cannot write session s: .*/s.jsonl: No space left on device",
    ),
    "failing disk": ("inject=write:error=EIO:when=2", 74, "cannot write session s: .*/s.jsonl: Input/output error"),
    "short write": (
        "inject=write:retval=7:when=2",
        74,
        r"cannot write session s: .*/s.jsonl: only 7 of \d+ bytes could be .*",
    ),
    "failing fsync": ("inject=fsync:error=EIO:when=2", 74, "cannot write session s: .*/s.jsonl: Input/output error"),
    "interrupted write": ("inject=write:error=EINTR:when=2", 0, ""),
    "interrupted fsync": ("inject=fsync:error=EINTR:when=2", 0, ""),
    "unreadable": (
        "inject=pread64:error=EIO:when=2+",
        74,
        "cannot (read|write) session s: .*/s.jsonl: Input/output error",
    ),
    "no locks": ("inject=flock:error=ENOLCK:when=2", 74, "cannot open session s: .*/s.jsonl: No locks available"),
    "not supported": (
        "inject=flock:error=ENOSYS:when=2",
        74,
        "cannot open session s: .*/s.jsonl: Function not implemented",
    ),
}


@pytest.mark.parametrize(("fault", "status", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_in_the_second_turn_leaves_the_first(tmp_path: Path, fault: str, status: int, message: str) -> None:
    path = tmp_path / "sessions/s.jsonl"
    worker = trace(tmp_path, [f"--trace-path={path}", "-e", fault], "append", "s", "turn", "2")
    assert worker.returncode == status
    assert re.fullmatch(message, worker.stderr.strip())
    assert re.findall(r"turn-\d", path.read_text()) == (["turn-0"] if status else ["turn-0", "turn-1"])
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    ("place", "fault", "status"),
    [
        ("sessions/s.jsonl", "write:error=ENOSPC", 74),
        ("sessions/s.jsonl", "write:retval=7", 74),
        ("sessions/s.jsonl", "fsync:error=EIO", 74),
        ("sessions", "fsync:error=EIO", 74),
        ("sessions", "fsync:error=EINVAL", 0),
    ],
)
def test_a_fault_in_the_first_turn_leaves_no_session(tmp_path: Path, place: str, fault: str, status: int) -> None:
    worker = trace(tmp_path, [f"--trace-path={tmp_path / place}", "-e", f"inject={fault}"], "append", "s", "turn", "1")
    assert worker.returncode == status
    assert (tmp_path / "sessions/s.jsonl").exists() == (status == 0)


def test_a_write_cut_short_by_a_full_disk_is_taken_back(tmp_path: Path) -> None:
    limit = {"WORKER_FSIZE": "10000"}
    worker = trace(tmp_path, ["-e", "trace=none"], "append", "s", "turn", "9", "3000", env=limit)
    assert worker.returncode == 74
    assert re.fullmatch(
        r"cannot write session s: .*/s.jsonl: only \d+ of \d+ bytes could be written", worker.stderr.strip()
    )
    data = (tmp_path / "sessions/s.jsonl").read_bytes()
    assert data.count(b"\n") == worker.stdout.count("\n") == 3
    assert data.endswith(b"}\n")


TRACED = "trace=write,fsync,mkdir,mkdirat,link,linkat,rename,renameat,renameat2,unlink,unlinkat"


def calls(folder: Path) -> list[str]:
    """Return the traced calls that succeeded, in their order, each with its paths in the folder."""
    found = []
    for line in (folder / "trace").read_text().splitlines():
        paths = re.findall(rf"{re.escape(str(folder))}([^\">]*)(?=[\">])", line)
        if paths and " = -1 " not in line:
            name = re.sub(r"at2?$", "", line.partition("(")[0])
            short = [re.sub(r"/\.[0-9a-f]{16}$", "/NEW", path)[1:] or "." for path in paths]
            found.append(" ".join([name, *short]))
    return found


GOOD = '{"messages":[{"role":"user","content":"q"}],"n":1}\n'
FIRST = ["write sessions/a.jsonl", "fsync sessions/a.jsonl", "fsync sessions"]
MOVED = ["write sessions/a.jsonl.damaged", "fsync sessions/a.jsonl.damaged", "fsync sessions"]
NEW = ["write sessions/NEW", "fsync sessions/NEW"]
ORDERS = {
    "first turn": ("append a x 1", None, ["mkdir sessions", "fsync .", *FIRST]),
    "first turn in an empty file": ("append a x 1", "", FIRST),
    "later turn": ("append a x 1", GOOD, FIRST[:2]),
    "copy": ("copy a b", GOOD, [*NEW, "link sessions/NEW sessions/b.jsonl", "unlink sessions/NEW", "fsync sessions"]),
    "forced copy": ("copy a b --force", GOOD, [*NEW, "rename sessions/NEW sessions/b.jsonl", "fsync sessions"]),
    "rename": (
        "rename a b",
        GOOD,
        ["link sessions/a.jsonl sessions/b.jsonl", "fsync sessions", "unlink sessions/a.jsonl"],
    ),
    "forced rename": ("rename a b --force", GOOD, ["rename sessions/a.jsonl sessions/b.jsonl"]),
    "repair": (
        "repair a",
        GOOD + "damaged\n",
        [*MOVED, *NEW, "rename sessions/NEW sessions/a.jsonl", "fsync sessions"],
    ),
}


@pytest.mark.parametrize(("command", "content", "expected"), ORDERS.values(), ids=ORDERS)
def test_what_was_written_is_on_disk_before_the_next_step(
    tmp_path: Path, command: str, content: str | None, expected: list[str]
) -> None:
    if content is not None:
        (tmp_path / "sessions").mkdir()
        (tmp_path / "sessions/a.jsonl").write_text(content)
    worker = trace(tmp_path, ["-e", TRACED], *command.split())
    assert (worker.returncode, worker.stderr) == (0, "")
    assert calls(tmp_path) == expected
