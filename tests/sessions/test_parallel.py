"""Many processes in the same sessions, others that move and mend them meanwhile, and kills at any moment."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import selectors
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptpipe.console.output import silent
from gptpipe.errors import NoInput, UsageError
from gptpipe.message import from_line
from gptpipe.sessions.store import SessionStore
from gptpipe.sessions.upkeep import copy, damages, remove, rename, repair
from tests.harness.conversations import questions
from tests.harness.processes import ROOT

SESSIONS = ["a", "b", "c", "d"]


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


Worker = subprocess.Popen[bytes]


def worker(store: SessionStore, *arguments: str) -> Worker:
    command = [sys.executable, "-m", "tests.harness.session_worker", str(store.directory), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def acknowledged(process: Worker) -> list[list[str]]:
    """Return what a process tells until it ends: of each turn its question, and the question that it saw before."""
    assert process.stdout
    return [line.split() for line in process.stdout.read().decode().splitlines()]


def append_at_once(
    store: SessionStore, count: int, names: str, turns: str, meanwhile: Callable[[], object] | None = None
) -> list[list[str]]:
    """Let ``count`` processes add turns, do ``meanwhile`` until all have ended well, and return what they told."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(worker(store, "append", names, f"w{n}", turns)) for n in range(count)]
        while meanwhile and any(process.poll() is None for process in started):
            meanwhile()
        told = [line for process in started for line in acknowledged(process)]
        assert [process.wait(60) for process in started] == [0] * count
    return sorted(told)


def test_twenty_at_once_take_their_turns_and_each_sees_the_one_before(store: SessionStore) -> None:
    told = append_at_once(store, 20, "s", "1")
    turns = list(store.history("s", pytest.fail))[::-1]
    assert [turn.n for turn in turns] == list(range(1, 21))
    pairs = itertools.pairwise(["", *questions(iter(turns))])
    assert told == sorted([after, before] if before else [after] for before, after in pairs)
    assert store.path("s").read_bytes().count(b"\n") == 20


def all_turns(*folders: Path) -> dict[Path, list[str]]:
    """Return the questions in each file of the folders; a damaged line fails."""
    files = [path for folder in folders for path in folder.iterdir() if not path.name.endswith(".damaged")]
    return {
        path: questions(from_line(line) for line in path.read_bytes().splitlines() if line != b"damaged")
        for path in files
    }


class Disturbance:
    """What happens to the sessions while processes add to them: each call does one of ``ways``, in their order."""

    def __init__(self, store: SessionStore, *ways: str) -> None:
        self.store = store
        self.ways = ways
        self.count = 0
        self.done: Counter[str] = Counter()
        self.graves = store.directory.with_name("graves")
        self.graves.mkdir()
        self.buried: dict[Path, int] = {}

    def __call__(self) -> None:
        way = self.ways[self.count % len(self.ways)]
        self.count += 1
        with contextlib.suppress(NoInput, UsageError, FileNotFoundError):
            getattr(self, way)(random.choice(SESSIONS))
            self.done[way] += 1

    def rename(self, name: str) -> None:
        rename(self.store, name, f"renamed-{self.count}", force=False, timeout=60)

    def remove(self, name: str) -> None:
        with self.buried_after(name):
            remove(self.store, name, timeout=60)

    def repair(self, name: str) -> None:
        fd = os.open(self.store.path(name), os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"damaged\n")
        os.close(fd)
        repair(self.store, name, timeout=60)

    def copy(self, name: str) -> None:
        copy(self.store, name, f"copy-{self.count}", force=False, timeout=60)

    def replace(self, name: str) -> None:
        other = f"other-{self.count}"
        copy(self.store, name, other, force=False, timeout=60)
        with self.buried_after(name):
            copy(self.store, other, name, force=True, timeout=60)

    @contextlib.contextmanager
    def buried_after(self, name: str) -> Iterator[None]:
        """Keep what the block does away with where it can be looked at: nothing may be added to it any more."""
        grave = self.graves / str(self.count)
        os.link(self.store.path(name), grave)
        yield
        self.buried[grave] = grave.stat().st_size

    def edit(self, name: str) -> None:
        """Save a file as an editor does: the old one becomes the backup, a new one takes its place."""
        path = self.store.path(name)
        text = path.read_bytes()
        os.link(path, path.with_name(f"{path.name}~{self.count}"))
        new = path.with_name(f".{path.name}.swp")
        new.write_bytes(text[: text.rfind(b"\n") + 1])
        new.rename(path)


def test_fifty_at_once_lose_and_double_nothing_while_files_are_renamed_removed_and_mended(store: SessionStore) -> None:
    disturbance = Disturbance(store, "rename", "remove", "repair")
    told = [line[0] for line in append_at_once(store, 50, ",".join(SESSIONS), "4", disturbance)]
    files = all_turns(store.directory, disturbance.graves)
    assert sorted(turn for turns in files.values() for turn in turns) == sorted(told)
    assert len(told) == 200
    assert {grave: grave.stat().st_size for grave in disturbance.buried} == disturbance.buried
    assert set(disturbance.done) == set(disturbance.ways)


def test_no_turn_is_lost_while_files_are_copied_replaced_and_edited(store: SessionStore) -> None:
    disturbance = Disturbance(store, "copy", "replace", "edit")
    told = [line[0] for line in append_at_once(store, 20, ",".join(SESSIONS), "4", disturbance)]
    files = all_turns(store.directory, disturbance.graves)
    assert {turn for turns in files.values() for turn in turns} == set(told)
    assert {grave: grave.stat().st_size for grave in disturbance.buried} == disturbance.buried
    assert [path for path, turns in files.items() if len(set(turns)) < len(turns)] == []
    assert set(disturbance.done) == set(disturbance.ways)


def test_kills_at_any_moment_cost_no_turn_that_was_told(store: SessionStore) -> None:
    told: list[str] = []
    missing: list[set[str]] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.05):
            expected = set(told)
            if expected:
                missing.append(expected - set(questions(store.history("s", silent))))

    reader = threading.Thread(target=look)
    reader.start()
    for kill in range(30):
        with worker(store, "append", "s", f"k{kill}", "1000", "300000") as process:
            told += read_some(process, random.randint(1, 3))
            process.kill()
            told += [line[0] for line in acknowledged(process)]
    stop.set()
    reader.join()
    kept = questions(store.history("s", silent))
    assert set(told) <= set(kept)
    assert len(set(kept)) == len(kept) <= len(told) + 30
    assert len(list(damages(store, "s"))) <= 30
    assert missing
    assert not any(missing)


def read_some(process: Worker, count: int) -> list[str]:
    """Return the questions of the next turns; then let a random moment pass, which a further turn may end."""
    assert process.stdout
    found = [process.stdout.readline().decode().split()[0] for _ in range(count)]
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.select(random.random() / 100)
    return found
