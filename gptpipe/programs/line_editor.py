"""The chat's prompt on a terminal: a line editor with history, completion and messages of several lines.

Enter sends; Alt-Enter (or Esc and Enter) begins a new line; what is pasted is not sent. ``prompt_toolkit`` writes to
standard error, because standard output belongs to the answers.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptpipe.console import output, signals
from gptpipe.errors import Interrupted, WriteError
from gptpipe.storage import failing, make_folder, open_regular

if TYPE_CHECKING:
    from prompt_toolkit.application import Application
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History

# The words that a message may begin with, and for each what gives the words that may follow; None is names of files.
Follow = Callable[[], Iterable[str]] | None
Words = Mapping[str, Follow]


def is_there() -> bool:
    """Return whether a person types and sees a prompt: standard input and error are terminals, and not dumb ones."""
    return os.isatty(0) and os.isatty(output.STDERR) and os.environ.get("TERM") != "dumb"


def read_lines(prompt: str, words: Words, past: Path | None, meanwhile: Callable[[], None]) -> Iterator[bytes]:
    """Yield what the user types, each message after ``prompt``, until ^D. ^C begins a message anew.

    ``words`` are completed. Messages are kept in the file ``past``, to be found again in later runs; without one they
    are found again in this run alone. ``meanwhile`` is called once a prompt stands.

    :raises Interrupted: if another signal came; the terminal is as it was before.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.output import create_output

    keys = KeyBindings()
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    session: PromptSession[str] = PromptSession(
        message=prompt,
        prompt_continuation=lambda width, _line, _wrap: " " * width,
        history=_history(past),
        completer=_completer(words),
        complete_while_typing=False,
        key_bindings=keys,
        enable_suspend=True,
        output=create_output(sys.stderr),
    )

    def begin() -> None:
        _leave_on_signals(get_app())
        meanwhile()

    while True:
        try:
            with signals.held():  # the line editor takes the signals, and ^C is a key to it
                text = session.prompt(pre_run=begin)
        except KeyboardInterrupt:
            continue
        except Interrupted as ending:  # by the time it is raised, ^C may be a signal again
            if ending.signum == signal.SIGINT:
                continue
            raise
        except EOFError:
            return
        yield text.encode("utf-8", "surrogateescape")


def _leave_on_signals(app: Application[Any]) -> None:
    """Leave the prompt on a signal: its default action would leave the terminal as the line editor has set it."""

    def leave(number: int) -> None:
        if not app.is_done:
            app.exit(exception=Interrupted(number))

    for number in (signal.SIGTERM, signal.SIGHUP):
        if app.loop and signal.getsignal(number) is not signal.SIG_IGN:
            app.loop.add_signal_handler(number, leave, number)


def _history(path: Path | None) -> History:
    """Return the messages of earlier runs; without a file, or a place for it, those of this run are not kept."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if path is None:
        return InMemoryHistory()

    class Past(FileHistory):
        def store_string(self, string: str) -> None:
            with suppress(OSError):  # the question can be asked even if the disk is full
                super().store_string(string)

    try:
        with failing(WriteError, f"cannot write {path}"):
            make_folder(path.parent)
            os.close(open_regular(path, os.O_RDWR | os.O_CREAT))  # made by FileHistory, others could read it
    except WriteError as failure:
        output.say(f"what is typed is not kept: {failure.message}")
        return InMemoryHistory()
    return Past(path)


def _completer(words: Words) -> Completer:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    paths = PathCompleter(expanduser=True)

    class Following(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            word, blank, typed = document.text_before_cursor.partition(" ")
            if not blank:
                yield from _beginning(word, words)
            elif follow := words.get(word, tuple):
                yield from _beginning(typed, follow())
            else:
                yield from map(_entered, paths.get_completions(Document(typed), complete_event))

    def _beginning(typed: str, names: Iterable[str]) -> Iterator[Completion]:
        return (Completion(name, -len(typed)) for name in names if name.startswith(typed))

    def _entered(found: Completion) -> Completion:
        """Return the completion; that of a folder ends with a slash, so that TAB goes on inside."""
        slash = "/" if found.display_text.endswith("/") else ""
        return Completion(found.text + slash, found.start_position, found.display)

    return Following()
