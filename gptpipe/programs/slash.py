"""A conversation that a person, or a script, holds line by line: its state, and what each line means.

A line is a question, or a command, which begins with a slash. A question that begins with a slash is written with two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from gptpipe.asking import turn
from gptpipe.asking.context import Context
from gptpipe.asking.inputs import compose, decode, part_of, read_file, text_or_file
from gptpipe.asking.link import Link
from gptpipe.asking.turn import Call, Question
from gptpipe.console import output
from gptpipe.errors import UsageError
from gptpipe.message import Content, Part, text_of
from gptpipe.programs import editor
from gptpipe.sessions import attachments
from gptpipe.sessions.store import Memory, NoSession
from gptpipe.sessions.undo import take_back
from gptpipe.settings.environment import ENVIRONMENT
from gptpipe.settings.settings import Settings

_LEAVING = (b"exit", b"quit")  # in any case: QUIT too
_SHOWN = 60  # characters of a question that was taken back


class Talk:
    """A conversation: its options, where it is kept, what was asked last. What cannot be done raises a Failure.

    ``call`` is what holds for each question; commands change its options. If they name no session, the conversation is
    kept in memory. ``files`` go along with the next question.
    """

    def __init__(self, call: Call, context: Context) -> None:
        self.call = call
        self.context = context
        self.link = Link(context)
        self.memory = Memory()
        self.files: list[str | Part] = []
        self.last: Content | None = None

    @property
    def settings(self) -> Settings:
        """What the options and the settings file say. The model may be another one: that of the session's last turn."""
        return self.context.resolve(self.call.options, self.call.role, need_model=False)

    def set(self, **options: Any) -> None:
        """Change options of what follows; None is an option that is not given."""
        self.call = self.call._replace(options={**self.call.options, **options})

    @property
    def current(self) -> Settings:
        """The settings under which the conversation goes on. Reads the session, whose profile may be gone."""
        return turn.preview(self.question(""), self.context).settings

    def respond(self, line: bytes) -> Question | str | None:
        """Return what a line asks, or the text that its command shows; None if it ends the chat."""
        if line.strip().lower() in _LEAVING:
            return None
        text = decode(line, "the message")
        if text.startswith("/") and not text.startswith("//"):
            return self._command(*text.split(maxsplit=1))
        text = text.removeprefix("/")
        return self.ask(text) if text.strip() else ""

    def _command(self, word: str, argument: str = "") -> Question | str | None:
        command = COMMANDS.get(word)
        if command is None:
            raise UsageError(
                f"no such command: {word}",
                "/help lists the commands; a question that begins with a slash is written with two",
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
        """Return the question for this content. ``again`` is as in ``turn.Question``; then no stored answer is used."""
        call = self.call._replace(want=self.call.want._replace(max_age=None)) if again else self.call
        return Question(content, call, self.settings, memory=self.memory, again=again)


class Command(NamedTuple):
    """What a slash command does with the text after it. ``argument`` names the text, in brackets if it is optional.

    ``do`` returns the question to be asked, or the text to be shown; None ends the chat. ``help`` is empty if /help
    does not list the command.
    """

    argument: str
    help: str
    do: Callable[[Talk, str], Question | str | None]


def _model(talk: Talk, name: str) -> str:
    if name:
        talk.set(model=name)
        return ""
    return f"{talk.current.model}\n"


def _system(talk: Talk, text: str) -> str:
    if text:
        talk.set(system=text_or_file(text))
        return ""
    return f"{talk.current.system or 'no system message'}\n"


def _history(talk: Talk, number: str) -> str:
    if not (number.isascii() and number.isdecimal()):
        raise UsageError(f"/history takes a number of turns, not {number}")
    talk.set(history=int(number))
    return ""


def _file(talk: Talk, name: str) -> str:
    path = os.path.expanduser(name)
    talk.files.append(part_of(read_file(path), path))
    return f"{path} goes along with the next question\n"


def _retry(talk: Talk, _: str) -> Question:
    content = talk.last if talk.last is not None else _last_question(talk)
    if content is None:
        raise UsageError("nothing was asked yet")
    return talk.question(content, again=True)


def _last_question(talk: Talk) -> Content | None:
    """Return what the conversation's last turn asked, its files in it."""
    name = talk.settings.session
    past = talk.context.sessions.history(name, output.say) if name else talk.memory.history()
    with suppress(NoSession):
        if last := next(past, None):
            messages = attachments.attach(last.question, talk.context.paths.attachments, output.say)
            return next((message["content"] for message in reversed(messages)), None)
    return None


def _undo(talk: Talk, _: str) -> str:
    chosen = talk.settings
    taken = None
    if chosen.session is None:
        taken = talk.memory.turns.pop() if talk.memory.turns else None
    else:
        with (
            suppress(NoSession),
            talk.context.sessions.lock(chosen.session, chosen.lock_timeout, output.say, create=False) as session,
        ):
            taken = take_back(session)
    if taken is None:
        raise UsageError("no turn to take back")
    talk.last = None
    asked = " ".join("".join(text_of(message.get("content")) for message in taken.question).split())
    return f"taken back: {asked[:_SHOWN]}{'…' if len(asked) > _SHOWN else ''}\n"


def _clear(talk: Talk, _: str) -> str:
    if left := talk.settings.session:
        # A session goes on with the model and the endpoint of its last turn. So does what is said after it.
        chosen = talk.current
        kept = {"model": chosen.model, "profile": chosen.profile, "system": chosen.system or ""}
        talk.set(session=None, **(kept if chosen.profile else {**kept, "base_url": chosen.base_url}))
        env = {name: value for name, value in talk.context.env.items() if name != ENVIRONMENT["session"]}
        talk.context = talk.context._replace(env=env)
    talk.memory = Memory()
    talk.last = None
    talk.files = []
    return f"a new conversation begins; session {left} stays as it is\n" if left else "a new conversation begins\n"


def _tools(talk: Talk, _: str) -> str:
    lines = [f"{spec.name:<17} {' '.join(spec.description.split())}\n" for spec in talk.call.want.specs]
    return "".join(lines) or "no tools; --tool PATH or a role names them\n"


def _leave(_: Talk, __: str) -> None:
    return None


def _edit(talk: Talk, text: str) -> Question:
    with editor.written(text, talk.context.env, talk.context.deadline) as new:
        return talk.ask(new)


def _save(talk: Talk, name: str) -> str:
    if kept := talk.settings.session:
        raise UsageError(f"the conversation is kept already, as {kept}", "gptpipe-sessions copy makes another of it")
    if not talk.memory.turns:
        raise UsageError("there is nothing to save yet")
    turn.save(talk.memory.turns, name, talk.context)
    talk.set(session=name)
    talk.memory = Memory()
    return f"kept as session {name}, with what follows\n"


def _help(_: Talk, __: str) -> str:
    commands = [(f"{word} {command.argument}", command.help) for word, command in COMMANDS.items() if command.help]
    return "".join(f"{left:<17} {right}\n" for left, right in commands)


COMMANDS: Mapping[str, Command] = {
    "/model": Command("[NAME]", "go on with another model, or say which it is", _model),
    "/system": Command("[TEXT]", "set the system message, @PATH from a file, or show it", _system),
    "/history": Command("N", "send at most the last N turns from now on; 0 sends none", _history),
    "/file": Command("PATH", "add a file to the next question", _file),
    "/edit": Command("[TEXT]", "write the question in the editor", _edit),
    "/retry": Command("", "ask the last question again", _retry),
    "/undo": Command("", "take the last turn back", _undo),
    "/clear": Command("", "begin a new conversation", _clear),
    "/tools": Command("", "list the tools that the model may call", _tools),
    "/save": Command("NAME", "keep the conversation as a session, with what follows", _save),
    "/help": Command("", "show this", _help),
    "/exit": Command("", "end the chat, as exit, /quit, /bye and ^D do", _leave),
    "/quit": Command("", "", _leave),
    "/bye": Command("", "", _leave),
}


def greeting(talk: Talk) -> str:
    """Return the line with which a chat on a terminal begins: model, session, how to leave."""
    chosen = talk.current
    kept = f"session {chosen.session}" if chosen.session else "no session"
    return f"{chosen.model}, {kept}; /help lists the commands, exit or ^D leaves\n"


def prompts(settings: Settings, env: Mapping[str, str]) -> tuple[str, str]:
    """Return what is shown before a question and before an answer: as set, else as the language has it."""
    language = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := env.get(name))), "")
    question, answer = ("问: ", "答: ") if language.startswith("zh") else ("> ", "")
    return (
        question if settings.question is None else settings.question,
        answer if settings.answer is None else settings.answer,
    )
