"""Many programs in the same sessions: killed at any moment, or while the files are moved, mended and replaced.

What is promised: a call that ended with 0 has its turn in a file that still has a name, and no file has a turn twice.
The functions return what broke a promise, one line each; the tests run them with small numbers, ``make torture`` with
large ones.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count, cycle, takewhile
from pathlib import Path

from gptpipe.message import Turn, from_line
from gptpipe.sessions.store import SessionStore
from tests.harness.processes import Process, Result

Start = Callable[..., Process]

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AT_ONCE = 4  # that are killed: each may be waiting for another, reading, answering or writing
LATEST = 1.0  # seconds until the signal comes; about half of the runs have ended by then
NAMES = ("a", "b", "c", "d")
WORDS = " ".join(map(str, range(8)))  # echo answers word by word
SYSTEMS = [f"System message {letter}. {'Be brief. ' * 20}" for letter in "ab"]  # each kept once, and referred to


def system(number: int) -> str:
    """Return the system message of a run: each for some runs in a row."""
    return SYSTEMS[number // 8 % 2]


def confused(path: Path) -> list[str]:
    """Return the turns of a session that have another system message than they were given, and what was warned of."""
    found: list[str] = []
    turns = SessionStore(path.parent).history(path.stem, found.append)
    wrong = [turn for turn in turns if turn.system != system(int(question(turn).split()[1]))]
    found += [f"{path.name}: {question(turn)!r} has the system message {turn.system!r}" for turn in wrong]
    return found


def sessions(home: Path) -> Path:
    return home / ".local/share/gptpipe/sessions"


def end(process: Process) -> Result:
    """Wait for a program's end and give back what it held."""
    try:
        return process.communicate(timeout=100)
    finally:
        process.close()


def question(turn: Turn) -> str:
    return str(turn.question[0]["content"])


def questions(data: bytes) -> list[str]:
    """Return what was asked in the lines of a session.

    :raises ValueError: if one of them is damaged.
    """
    return [question(from_line(line)) for line in data.splitlines()]


class Kills:
    """Runs in one session that a signal ends, if they have not ended before it comes."""

    def __init__(self, start: Start, home: Path) -> None:
        self.start = start
        self.path = sessions(home) / "k.jsonl"
        self.problems: list[str] = []
        self.finished: set[str] = set()
        self.ended: Counter[int] = Counter()
        self.looks = 0

    def all(self, count: int) -> list[str]:
        """Run and kill so many, with readers beside them, and return what was wrong."""
        with self.readers(), ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.run, range(count)))
        self.judge(count)
        return self.problems

    def run(self, number: int) -> None:
        asked = f"run {number} {WORDS}"
        process = self.start("gptpipe", "-m", "echo:delay=0.01", "-s", "k", "-S", system(number), "--", asked)
        signum = SIGNALS[number % len(SIGNALS)]
        if process.wait_for(random.uniform(0, LATEST)) is None:
            process.kill(signum)
        status, _, err = end(process)
        self.ended[status] += 1
        if status == 0:
            self.finished.add(asked)
        self.demand(status in (0, 128 + signum) and not err, f"run {number} ended with {status}: {err!r}")

    @contextmanager
    def readers(self) -> Iterator[None]:
        over = threading.Event()

        def read() -> None:
            while not over.is_set():
                self.look()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
        finally:
            over.set()
            reader.join()

    def look(self) -> None:
        """See that what has ended is there, and that nothing is damaged or waits."""
        expected = set(self.finished)
        status, out, err = end(self.start("gptpipe-sessions", "show", "--json", "k"))
        if status == 66 and not expected:
            return
        self.looks += 1
        missing = expected - set(questions(out))
        self.demand(status == 0 and not err and not missing, f"show ended with {status}, without {missing}: {err!r}")
        for word in ("check", "list"):
            status, out, err = end(self.start("gptpipe-sessions", word))
            self.demand(status == 0 and not err, f"{word} ended with {status}: {out!r} {err!r}")

    def judge(self, count: int) -> None:
        data, _, torn = self.path.read_bytes().rpartition(b"\n")
        turns = [from_line(line) for line in data.splitlines()]
        kept = [question(turn) for turn in turns]
        whole = {question(turn) for turn in turns if turn.finished}
        self.demand([turn.n for turn in turns] == list(range(1, len(turns) + 1)), "the numbers have gaps")
        self.demand(len(set(kept)) == len(kept), "a turn is there twice")
        self.demand(self.finished <= whole, f"finished turns are lost: {self.finished - whole}")
        self.demand(not torn, f"the last line is torn: {torn!r}")
        self.demand(b'"same_as":' in data, "no system message is shared")
        self.problems += confused(self.path)
        self.demand(0 < len(self.finished) < count and self.looks > 0, f"too little happened: {self.ended}")
        last = end(self.start("gptpipe", "-m", "echo", "-s", "k", "--", "last"))
        self.demand(last == (0, b"last\n", ""), f"a later run ended so: {last}")

    def demand(self, fulfilled: bool, problem: str) -> None:
        if not fulfilled:
            self.problems.append(problem)


class Moves:
    """Calls in several sessions at once, whose files are copied, renamed, removed, mended and edited meanwhile."""

    def __init__(self, start: Start, home: Path) -> None:
        self.start = start
        self.folder = sessions(home)
        self.graves = home / "graves"  # what was removed has a second name there
        self.graves.mkdir()
        self.problems: list[str] = []
        self.done: Counter[str] = Counter()
        self.numbers = count()
        self.sizes: dict[Path, int] = {}  # of what was removed, when it was

    def all(self, processes: int, rounds: int) -> list[str]:
        """Run so many in each session at once, so many times, and return what was wrong."""
        asked = [f"{name} {number}" for number in range(processes * rounds) for name in NAMES]
        with self.movers(), ThreadPoolExecutor(processes * len(NAMES)) as pool:
            ended = list(pool.map(self.ask, asked))
        for text, (status, out, err) in zip(asked, ended, strict=True):
            warned = all(line.endswith(" skipped") for line in err.splitlines())  # of what waits for its repair
            if (status, out, warned) != (0, f"{text}\n".encode(), True):
                self.problems.append(f"{text} ended with {status}: {out!r} {err!r}")
        self.judge(set(asked))
        return self.problems

    def ask(self, text: str) -> Result:
        name, number = text.split()
        return end(self.start("gptpipe", "-m", "echo:delay=0.005", "-s", name, "-S", system(int(number)), "--", text))

    @contextmanager
    def movers(self) -> Iterator[None]:
        """Let a thread for each session do one thing to it after the other."""
        over = threading.Event()
        ways = (self.copy, self.rename, self.repair, self.edit, self.remove)

        def move(name: str) -> None:
            for way in takewhile(lambda _: not over.is_set(), cycle(ways)):
                with suppress(FileNotFoundError):  # of a session that was moved away and is not begun anew
                    if way(name, f"{name}-{next(self.numbers)}"):
                        self.done[way.__name__] += 1

        threads = [threading.Thread(target=move, args=(name,)) for name in NAMES]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def call(self, *args: str) -> bool:
        """Run gptpipe-sessions and return whether it did what it should, and not for want of a session."""
        status, _, err = end(self.start("gptpipe-sessions", *args))
        if status not in (0, 66):
            self.problems.append(f"{args} ended with {status}: {err!r}")
        return status == 0

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def copy(self, name: str, new: str) -> bool:
        return self.call("copy", name, new)

    def rename(self, name: str, new: str) -> bool:
        return self.call("rename", name, new)

    def remove(self, name: str, new: str) -> bool:
        grave = self.graves / new
        os.link(self.path(name), grave)
        removed = self.call("remove", "--yes", name)
        if removed:  # and not told that there is none, since its first turn was being asked
            self.sizes[grave] = grave.stat().st_size
        return removed

    def repair(self, name: str, _: str) -> bool:
        fd = os.open(self.path(name), os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"damaged\n")
        os.close(fd)
        return self.call("check", "--repair", name)

    def edit(self, name: str, new: str) -> bool:
        """Save a file as an editor does: the old one becomes the backup, a new one takes its place."""
        path = self.path(name)
        text = path.read_bytes()
        os.link(path, path.with_name(f"{new}~"))
        changed = path.with_name(f".{new}.swp")
        changed.write_bytes(text[: text.rfind(b"\n") + 1])
        changed.rename(path)
        return True

    def judge(self, asked: set[str]) -> None:
        """See that each turn has a name, and that none is in one file twice."""
        found: set[str] = set()
        for path in (*self.folder.iterdir(), *self.graves.iterdir()):
            if not path.name.endswith(".damaged"):
                kept = questions(path.read_bytes().replace(b"damaged\n", b""))
                found.update(kept)
                if len(set(kept)) < len(kept):
                    self.problems.append(f"{path.name} has a turn twice")
                if path.suffix == ".jsonl":
                    self.problems += [each for each in confused(path) if "damaged" not in each]
        for grave, size in self.sizes.items():
            if grave.stat().st_size != size:
                self.problems.append(f"{grave.name} got a turn after it was removed")
        if found != asked:
            self.problems.append(f"turns are lost: {asked - found}")
        if len(self.done) < 5:
            self.problems.append(f"too little was moved: {self.done}")
