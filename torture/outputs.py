"""Files for ``-o`` of every kind, in file systems of every kind: replaced or written in place, whole or not at all."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import NamedTuple

from gptpipe.errors import Status
from torture.frame import Case, Rig, execute, needs, parallel

TITLE = "Files for answers"

AT_ONCE = 3
OWNER, USER = 12345, 23456  # somebody else, and who runs gptpipe where the folder is that one's

_AS_USER = (
    f"env HOME=$PWD/u setpriv --reuid={USER} --regid={USER} --clear-groups "
    "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search "
)


class Place(NamedTuple):
    """How the folder ``d`` is made: before the file is there, and after. ``prefix`` runs a command there."""

    before: str
    after: str = ":"
    prefix: str = ""


_REMOUNT = "mount -o remount,bind,ro d"
PLACES = {
    "a folder": Place("mkdir d"),
    "tmpfs": Place("mkdir d; mount -t tmpfs t d"),
    "overlay": Place(
        "mkdir o; mount -t tmpfs t o; mkdir o/low o/up o/work d; mount --bind o/low d",
        "umount d; mount -t overlay -o lowerdir=o/low,upperdir=o/up,workdir=o/work,userxattr t d",
    ),
    "a bind mount": Place("mkdir d e; mount --bind e d"),
    "a read-only mount": Place("mkdir d", f"mount --bind d d; {_REMOUNT}"),
    "a mount point": Place("mkdir d", "cp -p d/answer m; mount --bind m d/answer"),
    "a mount point in a read-only mount": Place(
        "mkdir d", f"cp -p d/answer m; mount --bind d d; mount --bind m d/answer; {_REMOUNT}"
    ),
    "a full disk": Place("mkdir d; mount -t tmpfs -o size=32k t d", "head -c 1m /dev/zero >d/fill 2>/dev/null"),
    "a sticky folder": Place(
        "mkdir d u; chmod 755 .; chown 23456 u",
        f"chmod 1777 d; chmod -R go+w d/. target; chown -R {OWNER} d target",
        _AS_USER,
    ),
}
KINDS = {
    "nothing": ":",
    "a file": "echo old >d/answer; chmod 640 d/answer",
    "hard links": "echo old >d/answer; ln d/answer d/other",
    "a symlink": "ln -s ../target d/answer",
    "a dangling symlink": "rm target; ln -s ../target d/answer",
    "a FIFO": "mkfifo d/answer",
    "/dev/null": "ln -s /dev/null d/answer",
    "/dev/full": "ln -s /dev/full d/answer",
    "a folder": "mkdir d/answer",
}
REGULAR = ("a file", "hard links")
WHOLE, CUT = "echo", "echo:cut=1"

# What is seen of the folder: everything but the content of ``answer``.
_LOOK = "(stat -c '%n %F %a %h' d/* target; ls -A d) 2>/dev/null"
_CONTENT = {
    "hard links": "(cat d/answer; cmp d/answer d/other)",
    "a FIFO": "timeout 0.3 cat <&8",
    "/dev/null": ":",
    "/dev/full": ":",
    "a folder": ":",
}
_MADE = {"nothing": ("d/answer", "answer"), "a dangling symlink": ("target",)}  # what an answer adds


class Trial(NamedTuple):
    """Where, what stands there, and which model answers."""

    place: str
    kind: str
    model: str

    def __str__(self) -> str:
        return f"{self.kind} in {self.place}, {self.model}"


def wanted(trial: Trial) -> tuple[int, str]:
    """Return the status, and what is the content then: old, new or nothing."""
    old = "old" if trial.kind in (*REGULAR, "a symlink") else ""
    into = trial.kind in ("nothing", *REGULAR)  # it is the folder d that holds the answer
    elsewhere = trial.kind == "a dangling symlink" and trial.place == "a sticky folder"  # into a folder of the owner's
    if trial.kind == "a folder" or elsewhere or (into and trial.place == "a read-only mount"):
        return Status.IOERR, old
    if trial.model == CUT:
        return Status.TEMPFAIL, old
    if trial.kind == "/dev/full" or (into and trial.place == "a full disk"):
        return Status.IOERR, old
    return 0, "" if trial.kind == "/dev/null" else "new"


def written(rig: Rig, trial: Trial) -> Case:
    """Ask once; status and content are as they should be, and nothing else in the folder has changed."""
    place = PLACES[trial.place]
    script = f"""
        echo old >target; {place.before}; {KINDS[trial.kind]}; {place.after}
        [ -p d/answer ] && exec 8<>d/answer
        {_LOOK} >before
        answer=new$(head -c 9000 /dev/zero | tr '\\0' x)
        {place.prefix}gptpipe -n -m {trial.model} -o d/answer "$answer" >out 2>err; echo $?
        {_LOOK} >after
        {_CONTENT.get(trial.kind, "cat d/answer 2>/dev/null")} | tr -d x
    """
    with rig.home() as home:
        result = execute(home, "unshare", "--mount", "bash", "-c", script)
        status, content = wanted(trial)
        texts = [(home / name).read_text() for name in ("before", "after")]
        err, out = ((home / name).read_text() for name in ("err", "out"))
        made = _MADE.get(trial.kind, ()) if status == 0 else ()
        before, after = ([line for line in text.splitlines() if line.split()[0] not in made] for text in texts)
        wrong = result.text.split() != [str(int(status)), *content.split()] or out or "Traceback" in err
        wrong = wrong or before != after
        return Case(str(trial), not wrong, f"{result}, {err!r}, wanted {status} {content!r}; {before!r} {after!r}")


def _allowed(rig: Rig, place: str) -> bool:
    """Return whether this machine lets us make a place; say so if not."""
    with rig.home() as home:
        script = f"set -e; echo old >target; {PLACES[place].before}; {KINDS['a file']}; {PLACES[place].after} || true; "
        script += f"{PLACES[place].prefix}true"
        result = execute(home, "unshare", "--mount", "bash", "-c", script)
    if result.status or "mount:" in result.err:
        print(f"SKIPPED outputs: {place} is not allowed here: {result.err.strip()}", file=sys.stderr, flush=True)
        return False
    return True


def _trials(rig: Rig) -> Iterator[Trial]:
    for place in PLACES:
        if _allowed(rig, place):
            kinds = ["a file"] if "mount point" in place else list(KINDS)
            if place == "overlay":
                kinds.remove("hard links")  # which it parts as soon as one is opened to be written
            yield from itertools.starmap(Trial, itertools.product((place,), kinds, (WHOLE, CUT)))


def cases(rig: Rig) -> Iterator[Case]:
    """Write to all of them."""
    needs("unshare", "setpriv", "mount")
    yield from parallel(lambda trial: written(rig, trial), list(_trials(rig)), AT_ONCE)
