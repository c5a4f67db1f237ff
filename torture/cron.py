"""Cron and CI as they are: no terminal, hardly an environment, closed descriptors, odd masks, odd streams."""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from gptpipe.errors import Status
from torture.frame import BIN, Case, Rig, execute, manners, needs, outcome, parallel, session, shell

TITLE = "Cron and CI as they are"

AT_ONCE = 3
LARGE = 1_000_000  # bytes: more than any pipe holds

_WORDS = "Größe 语 \N{CAT}"
_MODES = {"plain": "", "session": "-s s", "-o": "-o answer", "--no-stream": "--no-stream", "--json": "--json"}
_LOGIN = 'env -i PATH="$PATH" HOME="$HOME"'


# Descriptors that are not there


def _closed(rig: Rig, closed: str, mode: str) -> Case:
    """Run with some of the descriptors 0 to 2 closed: nothing may go into a file that happens to get their number."""
    name = f"closed {closed or 'none'}, {mode}"
    streams = " ".join(f"{number}{'<' if number == '0' else '>'}&-" for number in closed)
    with rig.home() as home:
        result = shell(home, f"gptpipe -m echo {_MODES[mode]} hi {streams}")
        asked = "1" not in closed or mode == "-o"
        said = "" if asked or "2" in closed else "gptpipe: cannot write standard output: it is closed\n"
        if (result.status, result.err) != ((Status.OK if asked else Status.IOERR), said):
            return Case(name, False, str(result))
        return Case(name, not asked or _answered(home, mode, result.out), str(result))


def _answered(home: Path, mode: str, out: bytes) -> bool:
    """Return whether the answer is where the mode puts it, and whole, and nothing else is there."""
    if mode == "-o":
        return (home / "answer").read_bytes() == b"hi\n" and out == b""
    if mode == "session" and [turn["messages"][-1]["content"] for turn in session(home)] != ["hi"]:
        return False
    return b'"answer":"hi"' in out if mode == "--json" else out == b"hi\n"


# What the environment says


ENVIRONMENTS: dict[str, dict[str, str]] = {
    "LC_ALL=C": {"LC_ALL": "C"},
    "LC_ALL=POSIX": {"LC_ALL": "POSIX"},
    "a locale that is not there": {"LC_ALL": "xx_XX.ISO-8859-1"},
    "no locale": {},
    "PYTHONUTF8=0": {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    "PYTHONIOENCODING": {"PYTHONIOENCODING": "ascii"},
    "PYTHONUNBUFFERED": {"PYTHONUNBUFFERED": "1"},
    "PYTHONWARNINGS": {"PYTHONWARNINGS": "error"},
    "PYTHONOPTIMIZE": {"PYTHONOPTIMIZE": "2"},
    "PYTHONDEVMODE": {"PYTHONDEVMODE": "1"},
    "PYTHONMALLOC": {"PYTHONMALLOC": "debug"},
    "PYTHONINSPECT": {"PYTHONINSPECT": "1"},
    "TERM unknown": {"TERM": "no-such-terminal"},
    "COLUMNS": {"COLUMNS": "0", "LINES": "-1"},
    "TMPDIR nowhere": {"TMPDIR": "/nowhere"},
    "TZ nowhere": {"TZ": "Nowhere/None"},
}


def _environment(rig: Rig, name: str) -> Case:
    """Characters of every width, as argument, input and file, under each environment: the same bytes come out."""
    with rig.home() as home:
        (home / _WORDS).write_text(_WORDS)
        wanted = f"{_WORDS}\n\n==> {_WORDS} <==\n{_WORDS}\n\n{_WORDS}\n".encode()
        env = {"LC_ALL": None, **ENVIRONMENTS[name]}
        call = (str(BIN / "gptpipe"), "-m", "echo", "-s", "s", "-f", _WORDS, _WORDS)
        return outcome(name, execute(home, *call, stdin=_WORDS.encode(), env=env), status=0, out=wanted, err="")


class Script(NamedTuple):
    """A line of a crontab, and what it prints."""

    what: str
    script: str
    out: str


SCRIPTS = (
    Script("env -i", f"{_LOGIN} gptpipe -m echo hi </dev/null 2>&1; echo $?", "hi\n0\n"),
    Script("env -i, session", f"{_LOGIN} gptpipe -m echo -s s hi </dev/null 2>&1; echo $?", "hi\n0\n"),
    Script("no terminal", f"setsid -w {_LOGIN} gptpipe -m echo hi </dev/null 2>&1; echo $?", "hi\n0\n"),
    Script("nothing to ask", f"setsid -w {_LOGIN} gptpipe -m echo </dev/null 2>/dev/null; echo $?", "2\n"),
    Script("no key", f"{_LOGIN} gptpipe hi </dev/null 2>/dev/null; echo $?", "78\n"),
    Script("a pipeline", f"echo hi | {_LOGIN} gptpipe -m echo 2>&1 | {_LOGIN} gptpipe -m echo 2>&1", "hi\n"),
    Script(
        "a loop", "for i in 1 2 3; do echo $i; done | while read -r l; do gptpipe -n -m echo -- $l; done", "1\n2\n3\n"
    ),
    Script("in the background", "gptpipe -m echo hi & wait $!; echo $?", "hi\n0\n"),
    Script("input is write-only", "gptpipe -m echo hi 0>f 2>/dev/null; echo $?", "66\n"),
    Script("input is /dev/full", "gptpipe -m echo hi </dev/full 2>&1; echo $?", "hi\n0\n"),
    Script("input is /dev/zero", "gptpipe -m echo hi </dev/zero 2>&1; echo $?", "hi\n0\n"),
    Script("input is an empty file", ">f; gptpipe -m echo hi <f 2>&1; echo $?", "hi\n0\n"),
    Script("output is full", "gptpipe -n -m echo hi 2>/dev/null >/dev/full; echo $?", "74\n"),
    Script("output and error are full", "gptpipe -n -m echo hi >/dev/full 2>&1; echo $?", "74\n"),
    Script("error is full", "gptpipe -n -m echo:cut=1 --retry 0 hi 2>/dev/full; echo $?", "h\n75\n"),
    Script("output is read-only", ">f; gptpipe -n -m echo hi 1<f 2>/dev/null; echo $?", "74\n"),
    Script("nobody reads", "gptpipe -n -m echo hi 2>&1 | true; echo ${PIPESTATUS[0]} >s; grep -cxE '0|141' s", "1\n"),
    Script(
        "nobody reads errors",
        "gptpipe -n -m echo:cut=1 --retry 0 hi 2> >(true) | cat; echo ${PIPESTATUS[0]}",
        "h\n75\n",
    ),
    Script(
        "input never starts", "sleep 9 | gptpipe -m echo --max-time 1 hi 2>/dev/null; echo ${PIPESTATUS[1]}", "75\n"
    ),
    Script(
        "input stalls", "(echo hi; sleep 9) | gptpipe -m echo --max-time 1 2>/dev/null; echo ${PIPESTATUS[1]}", "75\n"
    ),
    Script("input never ends", "yes | gptpipe -m echo --max-time 1 2>/dev/null; echo ${PIPESTATUS[1]}", "75\n"),
    Script("input drips", "(for i in 1 2 3; do echo $i; sleep 0.1; done) | gptpipe -m echo 2>&1", "1\n2\n3\n"),
    Script(
        "a FIFO that nobody writes", "mkfifo p; gptpipe -n -m echo --max-time 1 -f p hi 2>/dev/null; echo $?", "75\n"
    ),
    Script(
        "the lock is never free",
        "gptpipe -m echo:stall=0 -n -s s a & sleep 1; gptpipe -n -m echo -s s --max-time 1 b 2>&1; echo $?; kill $!",
        "gptpipe: the run took longer than 1 s (--max-time)\n75\n",
    ),
)


def _scripted(rig: Rig, script: Script) -> Case:
    with rig.home() as home:
        result = shell(home, script.script)
        return Case(script.what, result.text == script.out and not result.err, str(result))


# Masks and streams


def _masked(rig: Rig, umask: int, mode: str) -> Case:
    """Folders are 0700 and files 0600 under any mask; the file of -o is the user's own, and obeys it."""
    name = f"umask {umask:04o}, {mode}"
    with rig.home() as home:
        script = f"umask {umask:04o}; for i in 1 2; do gptpipe -n -m echo --cache 1d {_MODES[mode]} hi || echo $?; done"
        result = shell(home, script)
        found = {path: stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*")}
        ours = {path: mode for path, mode in found.items() if "gptpipe" in path.parts}
        wrong = [f"{path} {mode:o}" for path, mode in ours.items() if mode != (0o700 if path.is_dir() else 0o600)]
        if mode == "-o" and found[home / "answer"] != 0o666 & ~umask:
            wrong.append(f"answer {found[home / 'answer']:o}")
        return Case(name, not wrong and bool(ours) and not result.err, f"{wrong}, {result}")


def _non_blocking(rig: Rig, unbuffered: bool, kind: str, slow: float) -> Case:
    """A large answer into a stream that does not block, read slowly: every byte arrives."""
    name = f"non-blocking {kind}, read {'slowly' if slow else 'at once'}{', PYTHONUNBUFFERED' * unbuffered}"
    data = b"x" * LARGE + b"\n"
    with rig.home() as home:
        if kind == "pipe":
            read, write = os.pipe()
        else:
            ours, theirs = socket.socketpair()
            read, write = ours.detach(), theirs.detach()
        fcntl.fcntl(write, fcntl.F_SETFL, fcntl.fcntl(write, fcntl.F_GETFL) | os.O_NONBLOCK)
        came: list[bytes] = []

        def reader() -> None:
            while block := os.read(read, 1 << 16):
                came.append(block)
                time.sleep(slow)

        thread = threading.Thread(target=reader)
        thread.start()
        env = {"PYTHONUNBUFFERED": "1"} if unbuffered else {}
        try:
            result = execute(home, str(BIN / "gptpipe"), "-m", "echo", stdin=data, env=env, stdout=write)
        finally:
            os.close(write)
            thread.join()
            os.close(read)
        whole = b"".join(came) == data
        return Case(
            name, result.status == 0 and whole and not manners(result), f"{sum(map(len, came))} bytes, {result}"
        )


def cases(rig: Rig) -> Iterator[Case]:
    """Try all of them."""
    needs("bash", "setsid")
    streams = itertools.product((False, True), ("pipe", "socket"), (0, 0.002))
    jobs = [
        *(
            partial(_closed, rig, "".join(some), mode)
            for n in range(4)
            for some in combinations("012", n)
            for mode in _MODES
        ),
        *(partial(_environment, rig, name) for name in ENVIRONMENTS),
        *(partial(_scripted, rig, script) for script in SCRIPTS),
        *(
            partial(_masked, rig, umask, mode)
            for umask in (0, 0o22, 0o77, 0o777)
            for mode in ("plain", "session", "-o")
        ),
        *(partial(_non_blocking, rig, *stream) for stream in streams),
    ]
    yield from parallel(lambda job: job(), jobs, AT_ONCE)
