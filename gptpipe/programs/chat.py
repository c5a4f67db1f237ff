"""``gptpipe-chat``: the interactive loop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import click

from gptpipe.asking import inputs, report, turn
from gptpipe.asking.answer import wanted
from gptpipe.asking.asker import Receiver
from gptpipe.asking.context import here, role_of
from gptpipe.asking.turn import Question, Run
from gptpipe.console import output, signals
from gptpipe.errors import Failure, Interrupted, Status
from gptpipe.programs import complete, line_editor, slash
from gptpipe.programs.cli import Command
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
from gptpipe.wire import client


class _Stream(Receiver):
    """Prints the answer as it arrives; on a terminal, after a prompt."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._printer = output.Printer()

    def text(self, text: str) -> None:
        if not self._printer.printed:
            output.show_error(self._prompt)
        self._printer.write(text)

    def repeatable(self) -> bool:
        return not self._printer.printed

    def end(self) -> bool:
        """End the line that is open; return whether there was one."""
        return self._printer.end()


@click.command("gptpipe-chat", cls=Command, options_metavar="[OPTION]...")
@system_option
@role_options
@conversation_options
@model_options
@limit_options
@cost_options
@network_options
@config_option
@verbose_option
def command(**values: Any) -> int:
    """Talk with a language model: each line a question, until QUIT or the end of input.

    /help lists what else can be typed. The manual is gptpipe-chat(1).
    """
    output.check_stdout()
    place = here("gptpipe-chat", values)
    role = role_of(place, values["role"], dict(values["var"]))
    options = given(values)
    held = Talk(options, role.settings, wanted(options, Role({})), place)
    question, answer = slash.prompts(held.settings, place.env)
    person = line_editor.is_there()
    prompt = answer if person and os.isatty(output.STDOUT) else ""
    signals.catch()
    with place.deadline.paused():  # each answer has its own
        status = _converse(held, _typed(held, question) if person else _piped(), prompt, person, values["verbose"])
    output.show_error("Bye!\n")
    return Status.OK if person else status


def _piped() -> Iterator[bytes]:
    return inputs.read_lines(output.say, client.preload)


def _typed(held: Talk, prompt: str) -> Iterator[bytes]:
    words: dict[str, line_editor.Follow] = dict.fromkeys(slash.COMMANDS, tuple)
    words["/model"] = lambda: complete.model_names(held.place.config)
    words["/file"] = None
    return line_editor.read_lines(prompt, words, held.place.paths.state / "chat-history", client.preload)


def _converse(held: Talk, lines: Iterator[bytes], prompt: str, person: bool, verbose: bool) -> Status:
    """Answer line by line, and return the status of the last failure."""
    status = Status.OK
    for line in lines:
        if line.strip() == slash.QUIT:
            break
        try:
            found = held.respond(line)
            if isinstance(found, str):
                output.show_error(found)
            else:
                _answer(held, found, _Stream(prompt), verbose)
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
    run = Run(time.monotonic())
    try:
        with held.place.deadline.of_answer():
            turn.take(run, question, held.place, stream)
    except Interrupted:
        if line_editor.is_there() and not (stream.end() and os.isatty(output.STDOUT)):
            output.show_error("\n")  # after the ^C that it shows
        raise
    finally:
        stream.end()
        run.enter()
        if verbose:
            report.note(run)
    if failure := run.answer.failure():
        raise failure
