"""A process that uses the session store, for tests that need several, or one to kill or to trace.

``python -m WORKER FOLDER append NAME,… LABEL COUNT [BYTES]`` adds turns whose question is ``LABEL-I``,
each to one of the sessions. When a turn is on disk it tells its question, and that of the turn which it saw before.
``python -m WORKER FOLDER copy|rename A B [--force]``, ``remove A`` and ``repair A`` do as they say.
"""

from __future__ import annotations

import os
import random
import resource
import sys
from itertools import islice
from pathlib import Path

from gptpipe.errors import Failure
from gptpipe.sessions import upkeep
from gptpipe.sessions.store import SessionStore
from tests.harness.conversations import questions, turn


def append(store: SessionStore, names: str, label: str, count: str, size: str = "3") -> None:
    for number in range(int(count)):
        with store.lock(random.choice(names.split(",")), 60) as session:
            before = questions(islice(session.history(), 1))
            session.append(turn(f"{label}-{number}", "y" * int(size)))
        os.write(1, " ".join([f"{label}-{number}", *before, "\n"]).encode())


def main(folder: str, command: str, *arguments: str) -> int:
    store = SessionStore(Path(folder))
    if limit := os.environ.get("WORKER_FSIZE"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        if command == "append":
            append(store, *arguments)
        elif command in ("copy", "rename"):
            source, target, *force = arguments
            getattr(upkeep, command)(store, source, target, force=bool(force), timeout=60)
        elif command == "remove":
            upkeep.remove(store, *arguments, timeout=60)
        else:
            upkeep.repair(store, *arguments, timeout=60)
    except Failure as failure:
        os.write(2, f"{failure.message}\n".encode())
        return failure.status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
