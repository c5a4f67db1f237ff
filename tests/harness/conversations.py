"""Sessions made by hand, and looks into them, for the tests of sessions."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from gptpipe.message import Turn, to_line
from gptpipe.sessions.store import Session, SessionStore


def waiting(_: str) -> AbstractContextManager[None]:
    """Announce nothing."""
    return nullcontext()


def telling(tell: Callable[[str], object]) -> Callable[[str], AbstractContextManager[None]]:
    """Return what a lock takes to announce its wait, and tell of it when the wait begins."""

    @contextmanager
    def announce(text: str) -> Iterator[None]:
        tell(text)
        yield

    return announce


def turn(question: str, answer: str = "yes") -> Turn:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Turn(messages, model="m", finish_reason="stop", usage={"total_tokens": 10}, tokens=5)


def locked(store: SessionStore, name: str = "s", timeout: float | None = 0, **more: Any) -> Any:
    return SessionStore(store.directory, more.pop("waiting", waiting)).lock(name, timeout, **more)


def write(store: SessionStore, content: bytes, name: str = "s") -> Path:
    """Make a session by hand."""
    path = store.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def line(question: str, **more: Any) -> bytes:
    return to_line(turn(question)._replace(**more))


def bare(question: str, **more: Any) -> bytes:
    """A line that somebody else's program wrote: messages and little else."""
    return json.dumps({"messages": [{"role": "user", "content": question}], **more}).encode() + b"\n"


def questions(turns: Iterator[Turn]) -> list[str]:
    return [turn.question[0]["content"] for turn in turns]


def unexpected(text: str) -> None:
    """Be warned of what should not be."""
    raise AssertionError(text)


def content(store: SessionStore, name: str = "s") -> list[str]:
    """What a session holds, oldest first."""
    return questions(store.history(name, unexpected))[::-1]


def bytes_read() -> int:
    return int(re.findall(r"rchar: (\d+)", Path("/proc/self/io").read_text())[0])


def in_thread(store: SessionStore, use: Callable[[Session], object]) -> threading.Thread:
    """Start a thread that uses the session when it gets the lock; return when it waits for that."""
    waits = threading.Event()

    def work() -> None:
        with locked(store, timeout=None, waiting=telling(lambda _: waits.set())) as session:
            use(session)

    thread = threading.Thread(target=work)
    thread.start()
    assert waits.wait(20)
    return thread
