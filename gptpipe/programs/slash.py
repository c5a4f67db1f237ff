"""A conversation that a person, or a script, holds line by line: its state, and what each line means.

A line is a question, or a command, which begins with a slash; two slashes at its beginning are one of a question.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gptpipe.asking import turn
from gptpipe.asking.answer import Want
from gptpipe.asking.context import Context
from gptpipe.asking.inputs import compose, decode, part_of, read_file, text_or_file
from gptpipe.asking.turn import Question
from gptpipe.errors import UsageError
from gptpipe.message import Content, Part
from gptpipe.programs import editor
from gptpipe.sessions.store import Memory
from gptpipe.settings.resolve import resolve
from gptpipe.settings.settings import Settings

QUIT = b"QUIT"


class Talk:
    """A conversation: under which options it goes on, where it is kept, what was asked last.

    ``options`` and ``role`` are as ``settings.resolve`` takes them. If they name no session, the conversation is kept
    in memory. ``want`` holds for each answer, ``files`` go along with the next question.
    """

    def __init__(self, options: Mapping[str, Any], role: Mapping[str, Any], want: Want, place: Context) -> None:
        self.options = dict(options)
        self.role = role
        self.want = want
        self.place = place
        self.memory = Memory()
        self.files: list[str | Part] = []
        self.last: Content | None = None

    @property
    def settings(self) -> Settings:
        """What the options say; with which model the conversation goes on, its turns may say.

        :raises UsageError: ConfigError: for faulty options or settings.
        """
        return resolve(self.options, self.role, {}, self.place.env, self.place.config, need_model=False)

    def respond(self, line: bytes) -> Question | str:
        """Return what a line asks, or the text that its command shows.

        :raises Failure: if it cannot be done.
        """
        text = decode(line, "the message")
        if text.startswith("/") and not text.startswith("//"):
            return self._command(*text.split(maxsplit=1))
        text = text.removeprefix("/")
        return self.ask(text) if text.strip() else ""

    def _command(self, word: str, argument: str = "") -> Question | str:
        command = COMMANDS.get(word)
        if command is None:
            raise UsageError(
                f"there is no command {word}",
                "/help lists those that there are; a message that begins with a slash is written with two",
            )
        if argument.strip() and not command.argument:
            raise UsageError(f"nothing can follow {word}")
        if not argument.strip() and command.argument and not command.argument.startswith("["):
            raise UsageError(f"{word} needs {command.argument} after it")
        return command.do(self, argument.strip())

    def ask(self, text: str) -> Question:
        """Return the question that a text makes, with the files that were named for it."""
        self.last = compose([text, *self.files])
        self.files = []
        return self.question(self.last)

    def question(self, content: Content, *, again: bool = False) -> Question:
        """Return the question for this content. ``again`` is as in ``turn.Question``; then no stored answer will do."""
        want = self.want._replace(max_age=None) if again else self.want
        return Question(content, dict(self.options), self.role, memory=self.memory, again=again, want=want)


class Command(NamedTuple):
    """What a slash command does with the text after it; ``argument`` names that, in brackets if it may be left out.

    ``do`` returns what is to be asked, or the text to be shown.
    """

    argument: str
    help: str
    do: Callable[[Talk, str], Question | str]


def _model(talk: Talk, name: str) -> str:
    if name:
        talk.options["model"] = name
        return ""
    return f"{turn.preview(talk.question(''), talk.place).settings.model}\n"


def _system(talk: Talk, text: str) -> str:
    if text:
        talk.options["system"] = text_or_file(text)
        return ""
    return f"{turn.preview(talk.question(''), talk.place).settings.system or 'there is no system message'}\n"


def _history(talk: Talk, number: str) -> str:
    if not (number.isascii() and number.isdecimal()):
        raise UsageError(f"/history takes a number of turns, not {number}")
    talk.options["history"] = int(number)
    return ""


def _file(talk: Talk, name: str) -> str:
    path = os.path.expanduser(name)
    talk.files.append(part_of(read_file(path), path))
    return f"{path} goes along with the next question\n"


def _retry(talk: Talk, _: str) -> Question:
    if talk.last is None:
        raise UsageError("nothing was asked yet")
    return talk.question(talk.last, again=True)


def _edit(talk: Talk, text: str) -> Question | str:
    edited = editor.edit(text, talk.place.env).removesuffix("\n")
    return talk.ask(edited) if edited.strip() and edited != text else "nothing asked\n"


def _save(talk: Talk, name: str) -> str:
    if kept := talk.settings.session:
        raise UsageError(f"the conversation is kept already, as {kept}", "gptpipe-sessions copy makes another of it")
    if not talk.memory.turns:
        raise UsageError("there is nothing to save yet")
    turn.save(talk.memory.turns, name, talk.place)
    talk.options["session"] = name
    talk.memory = Memory()
    return f"kept as session {name}, with what follows\n"


def _help(_: Talk, __: str) -> str:
    commands = [(f"{word} {command.argument}", command.help) for word, command in COMMANDS.items()]
    return "".join(f"{left:<17} {right}\n" for left, right in [*commands, ("QUIT, or ^D", "end the chat")])


COMMANDS: Mapping[str, Command] = {
    "/model": Command("[NAME]", "go on with another model, or say which it is", _model),
    "/system": Command("[TEXT]", "set the system message, @PATH from a file, or show it", _system),
    "/history": Command("N", "send at most the last N turns from now on; 0 sends none", _history),
    "/file": Command("PATH", "add a file to the next question", _file),
    "/edit": Command("[TEXT]", "write the question in the editor", _edit),
    "/retry": Command("", "ask the last question again", _retry),
    "/save": Command("NAME", "keep the conversation as a session, with what follows", _save),
    "/help": Command("", "show this", _help),
}


def prompts(settings: Settings, env: Mapping[str, str]) -> tuple[str, str]:
    """Return what is shown before a question and before an answer: as set, else as the language has it."""
    language = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := env.get(name))), "")
    question, answer = ("问：", "答：") if language.startswith("zh") else ("> ", "")
    return (
        question if settings.question is None else settings.question,
        answer if settings.answer is None else settings.answer,
    )
