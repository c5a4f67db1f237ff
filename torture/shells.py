"""Shells: scripts as people write them, and the programs that run others: a failure stops what it should stop.

Completions by real keystrokes are in ``tests/documents/test_completions.py``.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from gptpipe.errors import Status
from tests.harness.processes import Result
from torture.frame import Case, Rig, environment, execute, needs, outcome, parallel, session

TITLE = "Shells"

# Models that end in each way, and the status.
ENDS = {
    "echo": Status.OK,
    "echo:cut=2": Status.TEMPFAIL,
    "echo:finish=length": Status.TRUNCATED,
    "echo:refuse": Status.REFUSED,
    "echo:empty": Status.ABSENT,
    "echo:status=401": Status.NOPERM,
    "echo:status=404": Status.UNAVAILABLE,
    "echo:status=413": Status.DATAERR,
    "echo:status=503": Status.TEMPFAIL,
}
SHELLS = ("bash", "dash", "zsh", "bash --posix")
EVERY = 30  # calls of those who run many at once


class Script(NamedTuple):
    """A script with the model in ``$M``, and what it prints: ``ok`` when the answer is complete, else ``failed``.

    In these ``STATUS`` stands for the status of gptpipe.
    """

    name: str
    text: str
    ok: str
    failed: str
    status: str = "0"  # of the script, when gptpipe fails
    shells: tuple[str, ...] = SHELLS


STRICT = "set -euo pipefail"
LINE = 'gptpipe -m "$M" -n --no-stream -- "$l"'
ALL = ("bash", "zsh")  # the shells that have pipefail on this machine
SCRIPTS = (
    Script("set -e stops", 'set -e; gptpipe -m "$M" -n -o out x; echo after', "after\n", "", "STATUS"),
    Script("set -e in a function", 'set -e; f() { gptpipe -m "$M" -n -o out x; echo in; }; f', "in\n", "", "STATUS"),
    Script("assignment", 'set -e; a=$(gptpipe -m "$M" -n --no-stream x); echo "got $a"', "got x\n", "", "STATUS"),
    Script("pipefail", f"{STRICT}; gptpipe -m $M -n --no-stream x | cat; echo after", "x\nafter\n", "", "STATUS", ALL),
    Script("in the middle", f"{STRICT}; echo x | gptpipe -m $M --no-stream | cat; echo y", "x\ny\n", "", "STATUS", ALL),
    Script("without pipefail", 'gptpipe -m "$M" -n --no-stream x | cat; echo $?', "x\n0\n", "0\n"),
    Script("if", 'if gptpipe -m "$M" -n -o out x; then echo yes; else echo "no $?"; fi', "yes\n", "no STATUS\n"),
    Script("or", 'gptpipe -m "$M" -n -o out x || echo "failed $?"', "", "failed STATUS\n"),
    Script("and", 'gptpipe -m "$M" -n -o out x && echo yes; true', "yes\n", ""),
    Script("not", '! gptpipe -m "$M" -n -o out x; echo $?', "1\n", "0\n"),
    Script("while read", f"seq 2 | while read -r l; do {LINE} || echo $l $?; done", "1\n2\n", "1 STATUS\n2 STATUS\n"),
    Script("for, until one fails", f"for l in 1 2; do {LINE} || exit; done; echo end", "1\n2\nend\n", "", "STATUS"),
    Script(
        "case",
        'gptpipe -m "$M" -n -o out x; case $? in 0) echo a;; 75) echo later;; *) echo never;; esac',
        "a\n",
        "LATER\n",
    ),
    Script(
        "exit trap", "trap 'echo $?' EXIT; set -e; gptpipe -m $M -n -o out x; echo y", "y\n0\n", "STATUS\n", "STATUS"
    ),
    Script("subshell", '(gptpipe -m "$M" -n -o out x); echo $?', "0\n", "STATUS\n"),
    Script("background", 'gptpipe -m "$M" -n -o out x & wait $!; echo $?', "0\n", "STATUS\n"),
    Script("here document", 'gptpipe -m "$M" --no-stream <<E\na b\nE\necho $?', "a b\n0\n", "STATUS\n"),
    Script("process substitution", 'cat <(gptpipe -m "$M" -n --no-stream x); echo $?', "x\n0\n", "0\n", "0", ALL),
    Script("exec", 'exec gptpipe -m "$M" -n --no-stream x', "x\n", "", "STATUS"),
    Script("tee", 'gptpipe -m "$M" -n --no-stream x | tee copy >/dev/null; cat copy', "x\n", ""),
    Script("temporary file", 't=$(mktemp); gptpipe -m "$M" -n x >"$t" 2>/dev/null && cat "$t"; rm "$t"', "x\n", ""),
    Script("nohup", 'nohup gptpipe -m "$M" -n --no-stream x; echo $?', "x\n0\n", "STATUS\n"),
    Script("timeout", 'timeout 20 gptpipe -m "$M" -n --no-stream x; echo $?', "x\n0\n", "STATUS\n"),
    Script("env", 'env -u HOME gptpipe -m "$M" -n --no-stream x; echo $?', "x\n0\n", "STATUS\n"),
    Script("nice, setsid", 'nice setsid -w gptpipe -m "$M" -n --no-stream x; echo $?', "x\n0\n", "STATUS\n"),
    Script("xargs", 'printf "a\\nb\\n" | xargs -n 1 gptpipe -m "$M" -n --no-stream --; echo $?', "a\nb\n0\n", "123\n"),
    Script(
        "find -exec", 'echo hi >f; find . -name f -exec gptpipe -m "$M" -n --no-stream {} +; echo $?', "./f\n0\n", "1\n"
    ),
)


def scripted(rig: Rig, script: Script, shell: str, model: str) -> Case:
    """Run a script with a model that ends in one way."""
    status = ENDS[model]
    name = f"{script.name}, {shell}, {model}"
    with rig.home() as home:
        env = {"M": model, "GPTPIPE_RETRY": "0"}
        result = execute(home, *shell.split(), "-c", script.text, env=env)
        wanted = script.ok if status == Status.OK else script.failed
        wanted = wanted.replace("LATER", "later" if status == Status.TEMPFAIL else "never")
        wanted = wanted.replace("STATUS", str(int(status)))
        code = "0" if status == Status.OK else script.status.replace("STATUS", str(int(status)))
        ok = (result.text, str(result.status)) == (wanted, code) and "Traceback" not in result.err
        return Case(name, ok, f"{result} instead of {wanted!r}, {code}")


# Signals

SLOW = "gptpipe -m echo:delay=0.05 -n -s s -- " + "word " * 400


class Stop(NamedTuple):
    """A script that is stopped while its answer comes, the signal, to whom it goes, and what is left of it."""

    name: str
    text: str
    number: int = signal.SIGINT
    status: frozenset[int] = frozenset()
    out: str | None = None


STOPS = (
    Stop("a loop ends at ^C", f"for i in 1 2 3; do {SLOW}; done; echo after >&2", status=frozenset({130})),
    Stop("a list ends at ^C", f"{SLOW}; echo after >&2", status=frozenset({130})),
    Stop("a pipeline ends at ^C", f"{SLOW} | cat; echo after >&2", status=frozenset({130})),
    Stop("trap INT runs", f"trap 'echo trapped >&2; exit 7' INT; {SLOW}; echo after >&2", status=frozenset({7})),
    Stop("trap '' INT is kept", f"trap '' INT; {SLOW}; echo over >&2", status=frozenset({0})),
    Stop("SIGTERM to all", f"{SLOW}; echo after >&2", signal.SIGTERM, frozenset({143})),
    Stop("SIGHUP to all", f"{SLOW}; echo after >&2", signal.SIGHUP, frozenset({129})),
    Stop("nohup lives on", f"nohup {SLOW}", signal.SIGHUP, frozenset({0})),
    Stop("set -e", f"set -e; {SLOW}; echo after >&2", status=frozenset({130})),
    Stop("timeout -s INT", f"timeout -s INT 2 {SLOW}; echo $? >&2", 0, frozenset({0})),
    Stop("timeout", f"timeout 2 {SLOW}; echo $? >&2", 0, frozenset({0})),
    Stop("timeout --preserve-status", f"timeout --preserve-status 2 {SLOW}; echo $? >&2", 0, frozenset({0})),
    Stop("head", f"{SLOW} | head -c 9; echo ${{PIPESTATUS[0]}} >&2", 0, frozenset({0})),
)
SAID = {"timeout -s INT": "124", "timeout": "124", "timeout --preserve-status": "143", "head": "141"}


def stopped(rig: Rig, stop: Stop) -> Case:
    """Stop a script in mid-answer: it ends as with any other program, and the turn is kept as unfinished."""
    with rig.home() as home:
        process = subprocess.Popen(
            ["bash", "-c", stop.text],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=home,
            env=environment(home),
            start_new_session=True,
        )
        assert process.stdout
        seen = process.stdout.read(5)
        if stop.number:
            os.killpg(process.pid, stop.number)
        out, err = process.communicate(timeout=60)
        code = process.returncode
        result = Result(128 - code if code < 0 else code, seen + out, err.decode())
        (turn, *more) = session(home) or [{}]
        complete = stop.name in ("trap '' INT is kept", "nohup lives on")
        kept = not more and bool(turn) and (turn["finish_reason"] == "stop") == complete
        said = SAID.get(stop.name, "") in result.err and "after" not in result.err and "Traceback" not in result.err
        return Case(stop.name, result.status in stop.status and kept and said, f"{result} {turn}")


# Those who run many at once

MAKEFILE = """\
all: $(patsubst %.txt,%.out,$(wildcard *.txt))
%.out: %.txt
\tgptpipe -f $< -s notes -o $@ 'Repeat.'
"""


def crowds(rig: Rig) -> Iterator[Case]:
    """Let xargs, GNU parallel, make and the shell run many calls beside each other, in one conversation."""
    lines = "".join(f"line {n}\n" for n in range(EVERY))
    each = "gptpipe -m echo -n -s s --"
    for name, script in {
        "xargs -P": f"xargs -d '\\n' -n 1 -P 6 {each} <lines",
        "parallel": f"parallel --will-cite -j 6 {each} {{}} <lines",
        "parallel --pipe": "parallel --will-cite -j 6 --pipe -N 1 gptpipe -m echo -s s <lines",
        "jobs": f'while IFS= read -r l; do {each} "$l" & done <lines; wait',
    }.items():
        with rig.home() as home:
            (home / "lines").write_text(lines)
            result = execute(home, "bash", "-c", script, timeout=120)
            case = outcome(name, result, status=0)
            same = sorted(result.text.splitlines()) == sorted(lines.splitlines())
            numbers = [turn["n"] for turn in session(home)]
            ok = case.ok and same and numbers == list(range(1, EVERY + 1))
            yield Case(name, ok, f"{case.detail} {result} {numbers}", EVERY)
    yield from made(rig)
    with rig.home() as home:
        (home / "lines").write_text(lines)
        script = "parallel --will-cite --halt now,fail=1 -j 2 gptpipe -m echo:status=401 -n -- {} <lines; echo $?"
        result = execute(home, "bash", "-c", script, timeout=60)
        yield Case("parallel --halt", result.text.strip().isdecimal() and result.text.strip() != "0", f"{result}")


def made(rig: Rig) -> Iterator[Case]:
    """Let make build files side by side: what fails leaves none, and is built the next time."""
    with rig.home() as home:
        (home / "Makefile").write_text(MAKEFILE)
        for n in range(EVERY):
            (home / f"{n}.txt").write_text(f"{n}\n")
        env = {"GPTPIPE_MODEL": "echo"}
        failing = env | {"GPTPIPE_MODEL": "echo:cut=3", "GPTPIPE_RETRY": "0"}
        result = execute(home, "make", "-k", "-j", "6", env=failing, timeout=120)
        made = list(home.glob("*.out"))
        yield Case("make -k -j, cut answers", result.status == 2 and not made, f"{result} {made}", EVERY)
        result = execute(home, "make", "-j", "6", env=env, timeout=120)
        wrong = [n for n in range(EVERY) if not (home / f"{n}.out").read_text().endswith(f"==> {n}.txt <==\n{n}\n")]
        finished = [turn for turn in session(home, "notes") if turn["finish_reason"]]
        ok = result.status == 0 and not wrong and len(finished) == EVERY
        yield Case("make -j", ok, f"{result} {wrong} {len(finished)}", EVERY)
        result = execute(home, "make", "-j", "6", env=env)
        yield Case("make again", result.status == 0 and "gptpipe" not in result.text, f"{result}")


# Words that a shell passes on

WORDS = (
    *(
        "-",
        "--",
        "-h",
        "-n",
        "--help",
        "-x",
        "--version",
        "a b",
        " a",
        "a ",
        "*",
        "$HOME",
        "`id`",
        "'",
        '"',
        "\\",
        "\\n",
    ),
    *("", "é", "\N{CAT}", "a\nb", "a\n", "\t", "chat", "list", "show", "0", "=", "a=b", "@file", "{}", "%s", "!!", "~"),
)


def worded(rig: Rig, shell: str) -> Case:
    """Pass words in the way that the manual says, by every shell: the message is the word."""
    wrong = []
    script = 'while IFS= read -r word; do gptpipe -m echo -n --json -- "$word" </dev/null; done <words'
    words = [word for word in WORDS if word.strip() and "\n" not in word]
    with rig.home() as home:
        (home / "words").write_text("".join(f"{word}\n" for word in words))
        result = execute(home, *shell.split(), "-c", script, timeout=120)
        answers = [json.loads(line)["answer"] for line in result.text.splitlines()]
        wrong = [pair for pair in itertools.zip_longest(words, answers) if pair[0] != pair[1]]
        return Case(f"words, {shell}", not wrong and not result.err, f"{wrong} {result.err}", len(words))


def cases(rig: Rig) -> Iterator[Case]:
    """Run scripts, stop them, run many."""
    needs(*(shell.split()[0] for shell in SHELLS), "parallel", "make", "xargs", "timeout", "nohup", "setsid")
    pairs = [(script, shell) for script in SCRIPTS for shell in script.shells]
    models = itertools.cycle(list(ENDS)[1:])
    triples = [(*pair, model) for pair in pairs for model in ("echo", next(models))]
    yield from parallel(lambda triple: scripted(rig, *triple), triples, 3)
    yield from parallel(lambda stop: stopped(rig, stop), STOPS, 3)
    yield from parallel(lambda shell: worded(rig, shell), SHELLS, 2)
    yield from crowds(rig)
