"""The machine's faults: disks that fail or are full, homes that are not there, no descriptors, clocks, signals.

Kills in a session are in ``torture.sessions``.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gptpipe.errors import Status
from gptpipe.wire.echo import Knobs
from tests.harness.server import DONE, Server, finish, say
from torture.frame import BIN, Case, Rig, execute, manners, needs, outcome, parallel, session, shell

TITLE = "The machine's faults"

KILLS = PAUSES = 100
AT_ONCE = 3  # processes that start for themselves, each a second of work

Try = Callable[[Rig], Case]

_DATA = ".local/share/gptpipe/sessions/s.jsonl"


# System calls that fail


class Fault(NamedTuple):
    """A system call that strace makes fail, and what must come of it.

    ``path`` bounds the fault to a file below the home; ``args`` are those of the call that meets it.
    """

    what: str
    inject: str
    status: int
    args: tuple[str, ...] = ()
    path: str = ""
    lost: int = 0  # bytes of standard output that strace swallows


_FAILING = ("ENOSPC", "EIO", "EDQUOT", "EFBIG", "EROFS")


def _faults() -> Iterator[Fault]:
    """Yield the faults; each call has a session with one turn, an old file at ``answer``, and prints ``new``."""
    save, keep, out = ("-s", "s"), ("--cache", "1d", "--no-stream"), ("-o", "answer")
    for error in _FAILING:
        yield Fault("session", f"write:error={error}", Status.IOERR, save, _DATA)
        yield Fault("usage", f"write:error={error}", 0, (), "usage")
        yield Fault("cache", f"write:error={error}:when=1", 0, keep)
        # A folder that takes no new file has the answer written in place.
        yield Fault("-o", f"write:error={error}:when=1", 0 if error == "EROFS" else Status.IOERR, out)
        yield Fault("stdout", f"write:error={error}:when=1", Status.IOERR)
        yield Fault("stdout and session", f"write:error={error}:when=1", Status.IOERR, save)
    for error in ("EIO", "ENOSPC"):
        yield Fault("session", f"fsync:error={error}", Status.IOERR, save, _DATA)
        yield Fault("-o", f"fsync:error={error}:when=1", Status.IOERR, out)
        yield Fault("cache", f"fsync:error={error}:when=4", 0, keep)  # after those of three new folders
        yield Fault("-o", f"rename:error={error}:when=1", Status.IOERR, out)
    for call in ("write", "fsync"):
        yield Fault("session", f"{call}:error=EINTR:when=1", 0, save, _DATA)
        yield Fault("-o", f"{call}:error=EINTR:when=1", 0, out)
    yield Fault("stdout", "write:error=EINTR:when=1", 0)
    yield Fault("stdout", "write:error=EAGAIN:when=1", 0)
    yield Fault("stdout", "write:error=EPIPE:when=1", 128 + signal.SIGPIPE)
    yield Fault("stdout, a short write", "write:retval=2:when=1", 0, lost=2)
    yield Fault("session, a short write", "write:retval=2:when=1", Status.IOERR, save, _DATA)
    yield Fault("usage, a short write", "write:retval=2:when=1", 0, (), "usage")
    yield Fault("usage", "openat:error=EACCES", 0, (), "usage")
    yield Fault("session", "openat:error=EACCES", Status.NOINPUT, save, _DATA)
    yield Fault("session", "openat:error=EMFILE", Status.NOINPUT, save, _DATA)
    yield Fault("session", "flock:error=ENOLCK", Status.IOERR, save, _DATA)
    yield Fault("session", "pread64:error=EIO", Status.NOINPUT, save, _DATA)
    yield Fault("a file", "read:error=EIO", Status.NOINPUT, ("-f", "answer"), "answer")
    yield Fault("settings", "read:error=EIO", Status.CONFIG, ("--config", "settings"), "settings")
    yield Fault("standard input", "read:error=EIO", Status.NOINPUT, ("-f", "-"), "input")
    yield Fault(
        "a folder that cannot be synced", "fsync:error=EINVAL:when=1+", 0, ("-s", "new"), ".local/share/gptpipe"
    )


def _injected(rig: Rig, fault: Fault) -> Case:
    """Run gptpipe once as it should, and once with the fault; compare what is on the disk then."""
    name = f"{fault.what}: {fault.inject}"
    with rig.home() as home, Server(Knobs(text="new")) as server:
        (home / "answer").write_text("old\n")
        (home / "settings").write_text("")
        (home / "input").write_text("")
        # What echo answers costs nothing, so it is not booked.
        model = ["--base-url", server.url, "-m", "m"] if fault.path == "usage" else ["-m", "echo"]
        rig.run(home, "gptpipe", *model, "-s", "s", "one")
        path = next(home.rglob("usage/*.jsonl")) if fault.path == "usage" else home / fault.path
        bound = [f"--trace-path={path}"] if fault.path else []
        call = [str(BIN / "gptpipe"), *model, *fault.args, *(() if "-" in fault.args else ("-n",)), "new"]
        inject = ["-e", f"inject={fault.inject}"]
        with (home / "input").open() as stdin:
            result = execute(
                home, "strace", "-f", "-qq", "-o", "/dev/null", *bound, *inject, *call, stdin=stdin.fileno()
            )
        wrong = _damage(home, fault, result.status)
        expected = b"" if result.status or "-o" in fault.args else b"new\n"[fault.lost :]
        if fault.what.startswith("session"):
            expected = b"new\n" if not fault.inject.startswith(("open", "flock", "pread")) else b""
        quiet = result._replace(err="") if result.status == 0 else result  # a note about usage or cache may stand there
        case = outcome(name, quiet, status=fault.status)
        if case.ok and (wrong or result.out != expected):
            return Case(name, False, f"{wrong or 'wrong output'}; {result}")
        return case


def _damage(home: Path, fault: Fault, status: int) -> str:
    """Return what is on the disk and should not be, or nothing."""
    turns = session(home)
    if [turn["n"] for turn in turns] not in ([1], [1, 2]):
        return f"turns {turns}"
    if status == 0 and "s" in fault.args and len(turns) < 2:
        return "a turn is lost"
    if (home / "answer").read_text() != ("new\n" if status == 0 and "-o" in fault.args else "old\n"):
        return "the file of -o is not as it should be"
    left = [path.name for path in home.rglob(".*") if path.is_file()]
    return f"left behind: {left}" if left else ""


# Homes, disks and limits


class Place(NamedTuple):
    """A script, run where this machine's file systems are its own to change, and what must come of it."""

    what: str
    script: str
    out: str
    stderr: bool = False  # whether words on standard error belong to it


_ASK = 'ask() { gptpipe -n -m echo "$@"; }; '
_READ_ONLY = 'mount --bind "$HOME" "$HOME"; mount -o remount,bind,ro "$HOME"; '
_NOBODY = "unset HOME; exec unshare --map-user=54321 "  # who is in no list of users
_PASSWD = 'echo "root:x:0:0::$HOME:/bin/sh" >p; mount --bind p /etc/passwd; '
_SMALL = 'mkdir t; mount -t tmpfs -o size=64k,nr_inodes=64 t t; export HOME="$PWD/t"; '
_BIG = "big=$(head -c 9000 /dev/zero | tr '\\0' x); "
_LISTED = "ls .local/share/gptpipe"

PLACES = (
    Place("read-only home", _READ_ONLY + "ask hi; echo $?", "hi\n0\n"),
    Place("read-only home, session", _READ_ONLY + "ask -s s hi; echo $?", "74\n", True),
    Place("read-only home, cache", _READ_ONLY + "ask --cache 1d hi; echo $?", "hi\n0\n"),
    Place("read-only home, -o", _READ_ONLY + "ask -o answer hi; echo $?", "74\n", True),
    Place("read-only home, --meta", _READ_ONLY + "ask --meta meta hi; echo $?", "74\n", True),
    Place("read-only home, old session", f"ask -s s a; {_READ_ONLY} ask -s s b; echo $?", "a\n74\n", True),
    Place("read-only home, --no-save", f"ask -s s a; {_READ_ONLY} ask --no-save -s s b; echo $?", "a\nb\n0\n"),
    Place(
        "no HOME",
        f'{_PASSWD} env -i PATH="$PATH" gptpipe -n -m echo -s s hi; echo $?; {_LISTED}',
        "hi\n0\nsessions\n",
    ),
    Place("no home at all", _NOBODY + "bash -c 'gptpipe -n -m echo hi; echo $?'", "78\n", True),
    Place("HOME empty", f"{_PASSWD} export HOME=; ask -s s hi; echo $?; {_LISTED}", "hi\n0\nsessions\n"),
    Place("HOME nowhere", "export HOME=/proc/none; ask hi; echo $?", "hi\n0\n"),
    Place("HOME nowhere, session", "export HOME=/proc/none; ask -s s hi; echo $?", "74\n", True),
    Place("HOME a device", "export HOME=/dev/null; ask hi; echo $?; ask -s s hi; echo $?", "hi\n0\n74\n", True),
    Place("HOME a file", ">f; export HOME=$PWD/f; ask hi; echo $?; ask -s s hi; echo $?", "hi\n0\n74\n", True),
    Place(
        "a disk that fills up: what ended with 0 is there, and it goes on when there is room",
        f"{_SMALL} {_BIG} n=0; f=t/{_DATA}; "
        "until ask -s s --history 0 $big >out; s=$?; ((s)); do n=$((n+1)); cmp -s out <(echo $big) || echo bad; done; "
        "echo $s; "
        "echo $((n > 0)) $(($(wc -l <$f) == n)) $(tail -c 1 $f | wc -l); "
        "mount -o remount,size=256k t; ask -s s --history 0 more; echo $? $(($(wc -l <$f) - n))",
        "74\n1 1 1\nmore\n0 1\n",
        True,
    ),
    Place(
        "a full disk, -o",
        f"{_SMALL} {_BIG} echo old >t/a; head -c 60000 /dev/zero >t/fill; ask -o t/a $big; echo $? $(cat t/a); ls t",
        "74 old\na\nfill\n",
        True,
    ),
    Place(
        "a full disk, usage and cache", _SMALL + "head -c 65536 /dev/zero >t/f; ask --cache 1d hi; echo $?", "hi\n0\n"
    ),
    Place("no inodes", _SMALL + "mkdir t/{1..80} 2>e; ask hi; echo $?; ask -s s hi; echo $?", "hi\n0\n74\n", True),
    Place(
        "files of at most 1 KiB",
        f"ulimit -f 1; for i in {{1..9}}; do ask -s s x >o || {{ echo $?; break; }}; done; wc -l <{_DATA}",
        "74\n2\n",
        True,
    ),
    Place(
        "an address space of 1 GiB",
        "ulimit -v 1048576; head -c 500000000 /dev/zero | tr '\\0' x | gptpipe -m echo; echo $?",
        "65\n",
        True,
    ),
    *(Place(f"{n} descriptors", f"ulimit -n {n}; ask -s s --cache 1d hi; echo $?", "hi\n0\n") for n in range(5, 13)),
)


def _placed(rig: Rig, place: Place) -> Case:
    with rig.home() as home:
        result = execute(home, "unshare", "--map-root-user", "--mount", "bash", "-c", _ASK + place.script)
        if "Traceback" in result.err or result.text != place.out or (result.err and not place.stderr):
            return Case(place.what, False, str(result))
        return Case(place.what, True)


def _descriptors(rig: Rig, server: Server, count: int) -> Case:
    """A real connection with few descriptors: the answer, or a failure that says so."""
    name = f"{count} descriptors, a connection"
    with rig.home() as home:
        call = f"ulimit -n {count}; gptpipe -n --base-url {server.url} -m m --retry 0 hi"
        return outcome(name, shell(home, call), status={Status.OK, Status.TEMPFAIL})


# The clock


_CLOCKS = ("-10y", "+10y", "-1d", "1970-01-01 00:00:01", "2038-01-19 03:14:07", "2100-02-28 23:59:59")


def _clock(rig: Rig, to: str) -> Case:
    """The clock jumps in the middle of an answer; the turn is kept."""
    with rig.home() as home, Server() as server:
        file = home / "clock"
        file.write_text("+0")
        (library,) = itertools.islice(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), 1)
        env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        server.reply(say("Hel"), lambda: file.write_text(to), 0.2, say("lo"), finish(), DONE)
        call = (f"{BIN}/gptpipe", "-n", "--base-url", server.url, "-m", "m", "-s", "s")
        result = execute(home, *call, "--cache", "1h", "hi", env=env)
        after = execute(home, *call, "--cache", "1d", "--json", "hi again", env=env)
        turns = [(turn["n"], turn["finish_reason"]) for turn in session(home)]
        case = outcome(f"the clock jumps to {to}", result, status=0, out=b"Hello\n", err="")
        if case.ok and (after.status or turns != [(1, "stop"), (2, "stop")]):
            return case._replace(ok=False, detail=f"{after}, {turns}")
        return case


# Signals


def _replaced(rig: Rig, number: int) -> Case:
    """Kill a run that replaces a file: the old content or the new is there, and nothing else."""
    dice = random.Random(number)
    with rig.home() as home:
        (home / "answer").write_text("old\n")
        call = ("gptpipe", "-n", "-m", "echo", "-o", "answer", "--cache", "1d", "new")
        with rig.spawn(home, *call) as process:
            if process.wait_for(dice.uniform(0.0, 0.06)) is None:
                process.kill(signal.SIGKILL)
            status = process.wait()
        text = (home / "answer").read_text()
        ok = text == "new\n" if status == 0 else text in ("old\n", "new\n")
        left = [path.name for path in home.rglob(".new*")]
        return Case(f"killed at -o, {number}", ok and not left, f"status {status}, {text!r}, {left}")


def _paused(rig: Rig, number: int) -> Case:
    """Stop a run at a random moment and let it go on: nothing is lost."""
    dice = random.Random(number)
    with rig.home() as home:
        with rig.spawn(home, "gptpipe", "-n", "-m", "echo:delay=0.01", "-s", "s", "one two three") as process:
            if process.wait_for(dice.uniform(0.0, 0.12)) is None:
                process.kill(signal.SIGSTOP)
                time.sleep(0.05)
                process.kill(signal.SIGCONT)
            result = process.communicate()
        return outcome(f"suspended {number}", result, status=0, out=b"one two three\n", err="")


def _held(rig: Rig) -> Case:
    """A suspended run keeps its lock: another one waits no longer than it was told, and then it is its turn."""
    with rig.home() as home, rig.spawn(home, "gptpipe", "-n", "-m", "echo:delay=0.5", "-s", "s", "a b") as first:
        first.read(until=b"a")
        os.kill(first.pid, signal.SIGSTOP)
        second = rig.run(home, "gptpipe", "-n", "-m", "echo", "-s", "s", "--lock-timeout", "0.2", "c")
        os.kill(first.pid, signal.SIGCONT)
        third = rig.run(home, "gptpipe", "-n", "-m", "echo", "-s", "s", "d")
        status = (first.wait(), second.status, third.status, len(session(home)))
        return Case("suspended with the lock", status == (0, 75, 0, 2) and not manners(second), f"{status}, {second}")


_WAIT = ">out 2>/dev/null & until [ -s out ]; do sleep 0.05; done; "
_END = " $!; wait $! 2>/dev/null; echo $?; cat out"
IGNORED = {
    "trap '' INT": ("trap '' INT; {ask} " + _WAIT + "kill -INT" + _END, b"0\nHello\n"),
    "trap '' TERM": ("trap '' TERM; {ask} " + _WAIT + "kill -TERM" + _END, b"0\nHello\n"),
    "nohup": ("nohup {ask} " + _WAIT + "kill -HUP" + _END, b"0\nHello\n"),
    "nohup, then TERM": ("nohup {ask} " + _WAIT + "kill -TERM" + _END, b"143\nHel"),
    "INT, not ignored": ("set -m; {ask} " + _WAIT + "kill -INT" + _END, b"130\nHel"),
    "setsid": ("setsid -w {ask}; echo $?", b"Hello\n0\n"),
}


def _ignored(rig: Rig, what: str) -> Case:
    """A signal that was ignored at the start stays so."""
    script, out = IGNORED[what]
    with rig.home() as home, Server() as server:
        server.reply(say("Hel"), 1.2, say("lo"), finish(), DONE)
        result = shell(home, script.format(ask=f"gptpipe -n --base-url {server.url} -m m hi"))
        return outcome(what, result, status=0, out=out, err="")


def cases(rig: Rig) -> Iterator[Case]:
    """Try all of them."""
    needs("strace", "unshare", "faketime", "setsid")
    yield from parallel(lambda number: _replaced(rig, number), range(KILLS))
    yield from parallel(lambda number: _paused(rig, number), range(PAUSES))
    yield _held(rig)
    slow: list[tuple[Any, ...]] = [(_injected, fault) for fault in _faults()]
    slow += [(_placed, place) for place in PLACES]
    slow += [(_clock, to) for to in _CLOCKS]
    slow += [(_ignored, what) for what in IGNORED]
    with Server(record=False) as server:
        slow += [(lambda rig, count: _descriptors(rig, server, count), count) for count in range(5, 13)]
        yield from parallel(lambda item: item[0](rig, item[1]), slow, AT_ONCE)
