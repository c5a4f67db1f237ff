"""``gptpipe-chat``: the interactive loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from gptpipe.asking import inputs, report
from gptpipe.asking.answer import wanted
from gptpipe.asking.asker import Receiver
from gptpipe.asking.context import here, role_of
from gptpipe.asking.turn import Call, Question, Turn
from gptpipe.console import output, signals
from gptpipe.errors import Failure, Interrupted, Status, WriteError
from gptpipe.programs import complete, line_editor, slash
from gptpipe.programs.cli import Command, option
from gptpipe.programs.options import (
    config_option,
    conversation_options,
    cost_options,
    given,
    limit_options,
    model_options,
    network_options,
    role_options,
    system_option,
    verbose_option,
)
from gptpipe.programs.slash import Talk
from gptpipe.settings.roles import Role
from gptpipe.text.markdown import Markdown
from gptpipe.wire import client


class _Lost(WriteError):
    """Standard output cannot be written: whatever else were asked would be paid for and lost."""


class _Stream(Receiver):
    """Prints the answer as it arrives: after a prompt, on a terminal with its Markdown shown unless it is ``plain``."""

    def __init__(self, prompt: str, *, plain: bool) -> None:
        self._prompt = prompt
        self._printer = output.Printer() if plain else output.Printer(styled=Markdown().feed)

    def text(self, text: str) -> None:
        if not self._printer.printed:
            output.show_error(self._prompt)
        with _losing():
            self._printer.write(text)

    def repeatable(self) -> bool:
        return not self._printer.printed

    def end(self) -> bool:
        """End the line that is open; return whether there was one."""
        with _losing():
            return self._printer.end()


@contextmanager
def _losing() -> Iterator[None]:
    try:
        yield
    except WriteError as failure:
        raise _Lost(failure.message) from failure


@click.command("gptpipe-chat", cls=Command, options_metavar="[OPTION]...")
@system_option
@role_options
@conversation_options
@model_options
@limit_options
@cost_options
@network_options
@config_option
@option("--plain", group="answer", is_flag=True, help="show answers as they were written, without bold and colour")
@option("--no-history", group="other", is_flag=True, help="keep nothing of what is typed for later chats")
@verbose_option
def command(**values: Any) -> int:
    """Talk with a language model: each line a question, until exit or the end of input.

    /help lists what else can be typed. The manual is gptpipe-chat(1).
    """
    output.check_stdout()
    place = here("gptpipe-chat", values)
    role = role_of(place, values["role"], dict(values["var"]))
    options = given(values)
    held = Talk(Call(options, role.settings, wanted(options, Role({}))), place)
    question, answer = slash.prompts(held.settings, place.env)
    person = line_editor.is_there()
    terminal = os.isatty(0) and os.isatty(output.STDERR)
    prompt = answer if person and os.isatty(output.STDOUT) else ""
    plain = values["plain"] or bool(place.env.get("NO_COLOR")) or place.env.get("TERM") == "dumb"
    signals.catch()
    if terminal:
        output.show_error(slash.greeting(held))
    lines = _typed(held, question, keep=not values["no_history"]) if person else _piped()
    with place.deadline.paused():  # each answer has its own
        status = _converse(held, lines, lambda: _Stream(prompt, plain=plain), person, values["verbose"])
    if terminal:
        output.show_error("Bye!\n")
    return Status.OK if person else status


def _piped() -> Iterator[bytes]:
    return inputs.read_lines(output.say, client.preload)


def _typed(held: Talk, prompt: str, *, keep: bool) -> Iterator[bytes]:
    words: dict[str, line_editor.Follow] = dict.fromkeys(slash.COMMANDS, tuple)
    words["/model"] = lambda: complete.model_names(held.place.config)
    words["/file"] = None
    past = held.place.paths.state / "chat-history" if keep and held.settings.remember else None
    return line_editor.read_lines(prompt, words, past, client.preload)


def _converse(held: Talk, lines: Iterator[bytes], stream: Callable[[], _Stream], person: bool, verbose: bool) -> Status:
    """Answer line by line, and return the status of the last failure.

    :raises WriteError: if an answer cannot be written.
    """
    status = Status.OK
    for line in lines:
        try:
            found = held.respond(line)
            if found is None:
                break
            if isinstance(found, str):
                output.show_error(found)
            else:
                _answer(held, found, stream(), verbose)
        except _Lost:
            raise
        except Failure as failure:
            output.say(failure.message, failure.hint)
            status = failure.status
        except Interrupted as ending:
            if not person or ending.signum != signal.SIGINT:
                raise
            signals.catch()
    return status


def _answer(held: Talk, question: Question, stream: _Stream, verbose: bool) -> None:
    """Ask and write.

    :raises Failure: if there is no answer, or it is not complete.
    """
    signals.catch()
    with signals.held():  # what is imported half way cannot be imported again
        client.load()
    turn = Turn(question, held.place)
    try:
        with held.place.deadline.of_answer():
            turn.take(stream)
    except Interrupted:
        if line_editor.is_there() and not (stream.end() and os.isatty(output.STDOUT)):
            output.show_error("\n")  # after the ^C that it shows
        raise
    finally:
        stream.end()
        if verbose:
            report.note(turn)
    if turn.answer.failure:
        raise turn.answer.failure
