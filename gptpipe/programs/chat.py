"""``gptpipe-chat``: the interactive loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click

from gptpipe.asking import inputs, report
from gptpipe.asking.asker import Receiver
from gptpipe.asking.context import given, here, role_of
from gptpipe.asking.tools import Called
from gptpipe.asking.turn import Call, Question, Turn
from gptpipe.asking.want import wanted
from gptpipe.console import output, signals
from gptpipe.errors import Failure, Interrupted, KeyRefused, Status
from gptpipe.programs import complete, line_editor, options, slash
from gptpipe.programs.cli import Command, option
from gptpipe.programs.slash import Talk
from gptpipe.settings.settings import Role
from gptpipe.text.markdown import Markdown
from gptpipe.wire import client


class _Stream(Receiver):
    """Prints the answer as it arrives."""

    def __init__(self, prompt: str, *, plain: bool) -> None:
        self._prompt = prompt
        self._printer = output.Printer() if plain else output.Printer(styled=Markdown().feed)

    def text(self, text: str) -> None:
        if not self._printer.printed:
            output.show_error(self._prompt)
        self._printer.write(text)

    def called(self, call: Called) -> None:
        output.show_error(f"[{call}]\n")

    def repeatable(self) -> bool:
        return not self._printer.printed

    def end(self) -> bool:
        return self._printer.end()


@click.command("gptpipe-chat", cls=Command, options_metavar="[OPTION]...")
@options.instructions
@options.conversation
@options.model
@options.chat_tools
@options.run
@option("--plain", group="answer", is_flag=True, help="show answers as they were written, without bold and colour")
@option("--no-history", group="other", is_flag=True, help="keep nothing of what is typed for later chats")
@options.verbose
def command(**values: Any) -> int:
    """Talk with a language model: each line a question, until exit or the end of input.

    /help lists what else can be typed. The manual is gptpipe-chat(1).
    """
    output.check_stdout()
    context = here("gptpipe-chat", values)
    role = role_of(context, values["role"], dict(values["var"]))
    said = given(values)
    talk = Talk(Call(said, role.settings, wanted(said, Role({}, tools=role.tools), context)), context)
    question, answer = slash.prompts(talk.settings, context.env)
    person = line_editor.is_there()
    plain = values["plain"] or bool(context.env.get("NO_COLOR")) or context.env.get("TERM") == "dumb"
    prompt = answer if person and os.isatty(output.STDOUT) else ""
    stream = partial(_Stream, prompt, plain=plain)
    seen = os.isatty(0) and os.isatty(output.STDERR)  # in a pipe cron would mail what is said
    signals.catch()
    with context.deadline.paused():  # each answer has a deadline of its own
        if seen:
            output.show_error(slash.greeting(talk))
        preload = partial(client.preload, talk.settings)
        lines = _typed(talk, question, preload, keep=not values["no_history"]) if person else inputs.read_lines(preload)
        status = _converse(talk, lines, stream, person=person, verbose=values["verbose"])
        if seen:
            output.show_error("Bye!\n")
    return Status.OK if person else status


def _typed(talk: Talk, prompt: str, preload: Callable[[], None], *, keep: bool) -> Iterator[bytes]:
    words: dict[str, line_editor.Follow] = dict.fromkeys(slash.COMMANDS, tuple)
    words["/model"] = lambda: complete.model_names(talk.context.config)
    words["/file"] = None
    past = talk.context.paths.state / "chat-history" if keep and talk.settings.remember else None
    return line_editor.read_lines(prompt, words, past, preload)


def _converse(
    talk: Talk, lines: Iterator[bytes], stream: Callable[[], _Stream], *, person: bool, verbose: bool
) -> Status:
    """Answer line by line, and return the status of the last failure. Lost output ends the chat.

    For a ``person`` at the line editor, ^C ends an answer only.
    """
    status = Status.OK
    for line in lines:
        try:
            found = talk.respond(line)
            if found is None:
                break
            if isinstance(found, str):
                output.show_error(found)
            else:
                _answer(talk, found, stream(), person=person, verbose=verbose)
        except output.Lost:
            raise
        except Failure as failure:
            output.say(failure.message, failure.hint)
            status = failure.status
            if isinstance(failure, KeyRefused):
                talk.link.close()  # for the next question the key command may have a new one
        except Interrupted as ending:
            if not person or ending.signum != signal.SIGINT:
                raise
            signals.catch()
    return status


def _answer(talk: Talk, question: Question, stream: _Stream, *, person: bool, verbose: bool) -> None:
    """Ask and write; raise the failure of an answer that is not complete."""
    signals.catch()
    with signals.held():  # what is imported half way cannot be imported again
        client.load(question.settings)
    turn = Turn(question, talk.context, talk.link)
    try:
        with talk.context.deadline.of_answer():
            turn.take(stream)
    except Interrupted:
        if person and not (stream.end() and os.isatty(output.STDOUT)):
            output.show_error("\n")  # after the ^C that it shows
        raise
    finally:
        stream.end()
        if verbose:
            report.note(turn)
    if turn.answer.failure:
        raise turn.answer.failure
