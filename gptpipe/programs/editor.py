"""Writing a text in the user's editor, and keeping the text if what it was written for fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import FileIO

from gptpipe.asking.inputs import decode, read_file
from gptpipe.console import output, signals
from gptpipe.console.signals import Deadline
from gptpipe.errors import Failure, UsageError, WriteError
from gptpipe.storage import failing


def check() -> None:
    """Raise UsageError without a terminal for an editor."""
    _terminal().close()


@contextmanager
def written(text: str, env: Mapping[str, str], deadline: Deadline) -> Iterator[str]:
    """Let the user change ``text`` in the editor, and give the block the new text, without a last newline.

    The editor is ``$VISUAL``, else ``$EDITOR``, else ``vi``. As with git, the variable is a piece of a shell's command,
    to which the file's name is added. Its time does not count towards the deadline. If the block fails, or the deadline
    ends it, the text stays in the editor's file, and a message names the file.

    :raises UsageError: if the process has no terminal, the editor fails, or nothing new was written.
    :raises WriteError: if the file cannot be written.
    :raises BadInput: if what the editor left is not text.
    """
    with _terminal() as terminal:
        path = _new_file(text)
        with _kept(path, text, deadline):
            with deadline.paused():
                _run(env.get("VISUAL") or env.get("EDITOR") or "vi", path, terminal, env)
            new = decode(read_file(path), "what the editor left").removesuffix("\n")
            if not new.strip() or new == text:
                raise UsageError(
                    "nothing is asked: the text is empty, or as it was", "what the editor saves is the prompt"
                )
            with signals.caught():  # or ^C before the first byte would end the run before the file is named
                yield new


def _terminal() -> FileIO:
    try:
        return open("/dev/tty", "r+b", buffering=0)
    except OSError:
        raise UsageError("the editor needs a terminal") from None


def _new_file(text: str) -> str:
    import tempfile

    with failing(WriteError, "cannot write a file for the editor"):
        descriptor, path = tempfile.mkstemp(prefix="gptpipe-", suffix=".md")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    return path


@contextmanager
def _kept(path: str, text: str, deadline: Deadline) -> Iterator[None]:
    """Remove the file after the block. If the block fails, keep and name a file that holds something new."""
    place = f"what was written is in {path}"
    try:
        with deadline.ending(lambda: output.say(place)):
            yield
    except BaseException as ending:
        if not _is_new(path, text):
            _remove(path)
        elif isinstance(ending, Failure):
            ending.hint = f"{ending.hint}; {place}" if ending.hint else place
        else:  # a signal, or the reader of the answer is gone
            output.say(place)
        raise
    _remove(path)


def _is_new(path: str, text: str) -> bool:
    with suppress(OSError), open(path, "rb") as file:
        data = file.read()
        return bool(data.strip()) and data.removesuffix(b"\n") != text.encode()
    return False


def _remove(path: str) -> None:
    with suppress(OSError):  # the editor may have removed the file, or put something else there
        os.unlink(path)


def _run(editor: str, path: str, terminal: FileIO, env: Mapping[str, str]) -> None:
    import subprocess

    # ^C belongs to the editor. A handler, unlike SIG_IGN, is not handed down to it.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = subprocess.call(
            ["/bin/sh", "-c", f'{editor} "$1"', editor, path], env=env, stdin=terminal, stdout=terminal, stderr=terminal
        )
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        how = f"ended with {status}" if status > 0 else f"died of signal {-status}"
        raise UsageError(f"the editor failed: {editor} {how}", "VISUAL or EDITOR names another one")
