"""The answer to one question: the message is put together, the model asked, and what it says written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from gptpipe.asking import report, turn
from gptpipe.asking.asker import Receiver
from gptpipe.asking.context import Context
from gptpipe.asking.inputs import compose, part_of, piped, prompt_of, read_file
from gptpipe.asking.link import Link
from gptpipe.asking.meta import Meta
from gptpipe.asking.turn import Call, Question, Turn
from gptpipe.asking.want import Want, wanted
from gptpipe.console import output, signals
from gptpipe.console.target import Target
from gptpipe.errors import Failure, Refused, Status, Truncated, UsageError
from gptpipe.message import Part
from gptpipe.programs import editor
from gptpipe.settings import roles
from gptpipe.settings.settings import Role, Settings
from gptpipe.text.template import as_template, escape
from gptpipe.usage.budget import check_budget
from gptpipe.wire.client import preload


def answer(
    words: Sequence[str],
    values: dict[str, Any],
    options: dict[str, Any],
    role: Role,
    context: Context,
    chosen: Settings,
    link: Link,
    meta: Meta,
) -> int:
    """Ask, write, and return the status.

    ``values`` are the options as the command declares them, ``options`` those that were given, ``chosen`` the settings
    that they make with the role.

    :raises Failure: if no complete answer comes.
    """
    call = Call(options, role.settings, wanted(options, role, context))
    target = None if values["output"] is None else Target(values["output"])
    given_prompt = prompt_of(words) or role.prompt or ""
    saves = values["save_role"] is not None
    alone = not (given_prompt or values["edit"])
    others = [] if saves else _others(values, partial(_meanwhile, call.want, chosen, context, values), alone=alone)
    question = Question("", call, chosen, save=not values["no_save"])
    with _prompt(given_prompt, question, context, link, values) as prompt:
        if saves:
            roles.save(context.paths.roles, values["save_role"], _role(prompt, options, role))
            return Status.OK
        content = compose([prompt, *others])
        if not content:
            raise UsageError("nothing to ask", "give a prompt, a file, or standard input; 'gptpipe -h' shows how")
        question = question._replace(content=content)
        if values["dry_run"]:
            output.print_json(report.previewed(turn.preview(question, context), context))
            return Status.OK
        asked = Turn(question, context, link)
        meta.reach(asked)
        _take(asked, call.want, values, target, context.deadline.started)
        if asked.answer.failure:
            raise asked.answer.failure
    return Status.OK


def _prompt(
    text: str, question: Question, context: Context, link: Link, values: dict[str, Any]
) -> AbstractContextManager[str]:
    """Give the block the prompt; with ``-e`` what the user makes of it, when nothing else can fail before a request."""
    if not values["edit"]:
        return nullcontext(text)
    editor.check()
    if not values["dry_run"] and values["save_role"] is None:
        turn.prepare(question, context, link)
    return editor.written(text, context.env, context.deadline)


def _take(asked: Turn, want: Want, values: dict[str, Any], target: Target | None, started: float) -> None:
    """Ask, and write the answer as it comes, or when it has ended."""
    held = bool(values["json"] or target or values["no_stream"] or want.schema or want.extract or want.calls_only)
    stream = _Stream(held=held, reasoning=values["reasoning"])
    note = report.note if values["verbose"] else lambda _: None
    try:
        asked.take(stream)
    except Failure:
        note(asked)
        raise
    if held:
        _write(asked, target, started if values["json"] else None)
    note(asked)


def _write(asked: Turn, target: Target | None, started: float | None) -> None:
    """Write an answer that was held back; with ``started``, the object of ``--json``."""
    failure = asked.answer.failure
    if target and failure is None:
        target.write(output.encode(asked.answer.printed.removesuffix("\n") + "\n"))
    if started is not None and (failure is None or isinstance(failure, (Truncated, Refused))):
        output.print_json(report.describe(asked, failure, started))
    elif failure is None and not target:
        output.print_text(asked.answer.printed)


class _Stream(Receiver):
    """Prints the answer as it arrives, or holds it back; shows reasoning if asked to."""

    def __init__(self, *, held: bool, reasoning: bool) -> None:
        self._printer = output.Printer()
        self._held = held
        self._show_reasoning = reasoning
        self._reasoned = ""

    def begin(self) -> None:
        signals.catch()
        if self._reasoned and not self._reasoned.endswith("\n"):
            output.show_error("\n")

    def text(self, text: str) -> None:
        if not self._held:
            self._printer.write(text)

    def reasoning(self, text: str) -> None:
        if self._show_reasoning:
            self._reasoned = text
            output.show_error(text)

    def repeatable(self) -> bool:
        return not (self._reasoned or self._printer.printed)

    def end(self) -> bool:
        return self._printer.end()


_BESIDE_A_ROLE = {"config", "edit", "encoding", "no_stdin", "role", "save_role", "var", "verbose"}


def _role(prompt: str, options: dict[str, Any], role: Role) -> Role:
    """Return the role with which a later call does what this one does; raise UsageError if a role cannot hold that."""
    held = {*roles.KEPT, "param", "extract", "schema", "tool", *_BESIDE_A_ROLE}
    refused = [name for name, value in options.items() if name not in held and value is not False]
    if refused:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in refused)
        raise UsageError(
            f"a role cannot hold {named}", "it holds texts, model, profile, parameters, tools, -x or --schema"
        )
    kept = {name: options[name] for name in roles.KEPT if name in options}
    params = {**role.settings.get("params", {}), **options.get("param", {})}
    extract, path = options.get("extract"), options.get("schema")
    if not extract and not path:
        extract, path = role.extract, role.schema
    # What was written for this call may have fields; in the texts of an older role they are filled already.
    settings = {**role.settings, **kept, "params": params}
    if system := settings.get("system"):
        settings["system"] = as_template(system) if "system" in kept else escape(system)
    text = escape(prompt) if prompt == role.prompt else as_template(prompt)
    tools = [os.path.abspath(tool) if "/" in tool else tool for tool in options.get("tool", ())]
    return Role(settings, text or None, path and os.path.abspath(path), extract, (*role.tools, *tools))


def _meanwhile(want: Want, chosen: Settings, context: Context, values: dict[str, Any]) -> None:
    """Do what can be done while standard input is still to come, if a request will follow."""
    if not (want.stored or values["dry_run"]):
        check_budget(chosen, context.paths, over=want.over_budget)
        preload(chosen)


def _others(values: dict[str, Any], meanwhile: Callable[[], None], *, alone: bool) -> list[str | Part]:
    """Return what the message holds beside the prompt: the files in their order, and standard input.

    ``meanwhile`` is called if standard input is waited for. ``alone`` says that no prompt was given.
    """
    given_paths, encoding = values["file"], values["encoding"]
    paths = [path for at, path in enumerate(given_paths) if path != "-" or "-" not in given_paths[:at]]
    if values["no_stdin"] and "-" in paths:
        raise UsageError("--no-stdin and --file - exclude each other")
    parts = {path: part_of(read_file(path), path, encoding) for path in paths if path != "-"}
    if not values["no_stdin"]:
        data = piped(meanwhile, alone=alone and not parts, explicit="-" in paths)
        parts["-"] = part_of(data, "-", encoding)
    order = paths if "-" in paths else [*paths, "-"]
    return [parts[path] for path in order if path in parts]
