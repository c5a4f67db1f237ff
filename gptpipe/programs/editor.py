"""Writing a text in the user's editor."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress

from gptpipe.asking.inputs import decode, read_file
from gptpipe.errors import UsageError, WriteError


def edit(text: str, env: Mapping[str, str]) -> str:
    """Return a text as the editor has left it: ``$VISUAL``, else ``$EDITOR``, else ``vi``, on this process's terminal.

    As git has it, the variable is a piece of a shell's command, to which the file's name is added.

    :raises UsageError: if there is no terminal, or the editor fails.
    :raises WriteError: if there is no place for the file.
    :raises BadInput: if what it has left is no text.
    """
    import tempfile

    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        raise UsageError("the editor needs a terminal") from None
    try:
        descriptor, path = tempfile.mkstemp(prefix="gptpipe-", suffix=".md")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            _run(env.get("VISUAL") or env.get("EDITOR") or "vi", path, terminal, env)
            return decode(read_file(path), "what the editor has left")
        finally:
            with suppress(OSError):  # an editor that removed it, or put something else there, fails by what is read
                os.unlink(path)
    except OSError as error:
        raise WriteError(f"cannot write a file for the editor: {error.strerror}") from error
    finally:
        os.close(terminal)


def _run(editor: str, path: str, terminal: int, env: Mapping[str, str]) -> None:
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
