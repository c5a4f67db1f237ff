"""One question, one answer: what ``gptpipe`` does when its command line has been read.

It stands apart from the declaration of the options, because ``-h``, ``--version`` and a usage error need none of this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

from gptpipe.asking import report, turn
from gptpipe.asking.answer import wanted
from gptpipe.asking.asker import Receiver
from gptpipe.asking.context import Context, begin, here, role_of
from gptpipe.asking.inputs import compose, part_of, piped, prompt_of, read_file
from gptpipe.asking.turn import Question, Run
from gptpipe.console import output, signals
from gptpipe.console.signals import Deadline
from gptpipe.errors import Failure, Interrupted, Refused, Status, Temporary, Truncated, UsageError
from gptpipe.message import Content
from gptpipe.programs import editor
from gptpipe.programs.options import given
from gptpipe.settings import resolve, roles
from gptpipe.settings.roles import Role
from gptpipe.text.strict_json import compact
from gptpipe.text.template import as_template, escape
from gptpipe.usage.budget import check_budget
from gptpipe.wire.client import preload


class _Stream(Receiver):
    """Prints the answer as it arrives, or holds it back; shows reasoning if asked to."""

    def __init__(self, printer: output.Printer | None, *, reasoning: bool) -> None:
        self._printer = printer
        self._show_reasoning = reasoning
        self._reasoned = ""

    def begin(self) -> None:
        signals.catch()
        self._end_reasoning()

    def text(self, text: str) -> None:
        if self._printer:
            self._printer.write(text)

    def reasoning(self, text: str) -> None:
        if self._show_reasoning:
            self._reasoned = text
            output.show_error(text)

    def repeatable(self) -> bool:
        return not self._reasoned and not (self._printer and self._printer.printed)

    def _end_reasoning(self) -> None:
        if self._reasoned and not self._reasoned.endswith("\n"):
            output.show_error("\n")

    def end(self) -> None:
        """End the line that is open."""
        if self._printer:
            self._printer.end()


def ask(words: Sequence[str], values: dict[str, Any]) -> int:
    """Ask, write, and return the status.

    ``words`` are those of the prompt, ``values`` the options as the command declares them.

    :raises Failure: if there is no answer, or it is not complete.
    """
    deadline = begin(values)
    run = Run(deadline.started)
    meta = None if values["meta"] is None else output.Target(values["meta"])
    try:
        with deadline.ending(lambda: _expire(run, meta, deadline)):
            failure = _answer(run, words, values, deadline)
        status = failure.status if failure else Status.OK
        _report(run, meta, failure, status, status.name)
    except Failure as problem:
        _report(run, meta, problem, problem.status, problem.status.name)
        raise
    except Interrupted as ending:
        _report_signal(run, meta, "interrupted", ending.signum)
        raise
    except BrokenPipeError:
        _report_signal(run, meta, "the reader of the answer is gone", signal.SIGPIPE)
        raise
    if failure:
        raise failure
    return Status.OK


def _report_signal(run: Run, meta: output.Target | None, message: str, signum: int) -> None:
    _report(run, meta, Temporary(message), 128 + signum, signal.Signals(signum).name)


def _report(run: Run, meta: output.Target | None, failure: Failure | None, status: int, name: str) -> None:
    if meta:
        meta.write(compact(report.describe(run, failure, status, name)).encode() + b"\n")


def _answer(run: Run, words: Sequence[str], values: dict[str, Any], deadline: Deadline) -> Failure | None:
    """Ask and write; return why an answer that has ended is not complete, or None."""
    if values["json"] or values["output"] is None:
        output.check_stdout()
    place = here("gptpipe", values, deadline)
    options = given(values)
    role = role_of(place, values["role"], dict(values["var"]))
    run.settings = chosen = resolve.resolve(options, role.settings, {}, place.env, place.config, need_model=False)
    target = None if values["output"] is None else output.Target(values["output"])
    prompt = prompt_of(words) or role.prompt or ""
    if values["edit"]:
        prompt = _edited(prompt, place)
    want = wanted(options, role)
    if values["save_role"] is not None:
        roles.save(place.paths.roles, values["save_role"], _role(prompt, options, role))
        return None
    if not (want.stored or values["dry_run"]):
        check_budget(chosen, place.paths, over=want.over_budget)  # before the SDK is imported beside the reading
    question = Question(_content(prompt, values), options, role.settings, save=not values["no_save"], want=want)
    if values["dry_run"]:
        output.print_json(report.previewed(turn.preview(question, place), place))
        return None
    try:
        return _take(run, question, place, values, target)
    finally:
        run.enter()


def _take(
    run: Run, question: Question, place: Context, values: dict[str, Any], target: output.Target | None
) -> Failure | None:
    """Ask and write; return why an answer that has ended is not complete, or None."""
    want = question.want
    held = bool(values["json"] or target or values["no_stream"] or want.schema or want.extract)
    stream = _Stream(None if held else output.Printer(), reasoning=values["reasoning"])
    try:
        turn.take(run, question, place, stream)
    except Failure:
        stream.end()
        if values["verbose"]:
            report.note(run)
        raise
    stream.end()
    failure = run.answer.failure()
    if held:
        _write(run, failure, target, as_json=values["json"])
    if values["verbose"]:
        report.note(run)
    return failure


def _write(run: Run, failure: Failure | None, target: output.Target | None, *, as_json: bool) -> None:
    """Write an answer that was held back."""
    if target and failure is None:
        text = run.answer.printed
        target.write(output.encode(text if text.endswith("\n") else text + "\n"))
    if as_json and (failure is None or isinstance(failure, (Truncated, Refused))):
        status = failure.status if failure else Status.OK
        output.print_json(report.describe(run, failure, status, status.name))
    elif failure is None and target is None:
        output.print_text(run.answer.printed)


def _expire(run: Run, meta: output.Target | None, deadline: Deadline) -> None:
    failure = deadline.late()
    try:
        run.settle(wait=False)
    except Failure as unsettled:
        output.say(unsettled.message, unsettled.hint)
    _report(run, meta, failure, failure.status, failure.status.name)
    run.enter(failure.status)


def _edited(prompt: str, place: Context) -> str:
    """Return the prompt as the editor has left it.

    :raises UsageError: if there is nothing new in it.
    """
    text = editor.edit(prompt, place.env).removesuffix("\n")
    if not text.strip() or text == prompt:
        raise UsageError("nothing is asked: the text is empty, or as it was", "what the editor saves is the prompt")
    return text


# What a call may say beside --save-role that a role does not hold: where the texts come from.
_BESIDE_A_ROLE = {"config", "edit", "encoding", "no_stdin", "role", "save_role", "var", "verbose"}


def _role(prompt: str, options: dict[str, Any], role: Role) -> Role:
    """Return the role that makes of a later call what this one is.

    :raises UsageError: if a role cannot hold it.
    """
    held = {*roles.KEPT, "param", "extract", "schema", *_BESIDE_A_ROLE}
    refused = [name for name, value in options.items() if name not in held and value is not False]
    if refused:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in refused)
        raise UsageError(f"a role cannot hold {named}", "it holds texts, model, profile, parameters, -x or --schema")
    kept = {name: options[name] for name in roles.KEPT if name in options}
    params = {**role.settings.get("params", {}), **options.get("param", {})}
    extract, path = options.get("extract"), options.get("schema")
    if not extract and not path:
        extract, path = role.extract, role.schema
    # What was written for this call may have fields; of an older role the fields are filled.
    settings = {**role.settings, **kept, "params": params}
    if system := settings.get("system"):
        settings["system"] = as_template(system) if "system" in kept else escape(system)
    text = escape(prompt) if prompt == role.prompt else as_template(prompt)
    return Role(settings, text or None, path and os.path.abspath(path), extract)


def _content(prompt: str, values: dict[str, Any]) -> Content:
    """Return the message: the prompt, the files in their order, standard input."""
    given_paths, encoding = values["file"], values["encoding"]
    paths = [path for at, path in enumerate(given_paths) if path != "-" or "-" not in given_paths[:at]]
    if values["no_stdin"] and "-" in paths:
        raise UsageError("--no-stdin and --file - exclude each other")
    parts = {path: part_of(read_file(path), path, encoding) for path in paths if path != "-"}
    if not values["no_stdin"]:
        instant = values["dry_run"] or values["cache"] or values["cache_only"]  # may not need the SDK
        data = piped(
            output.say,
            (lambda: None) if instant else preload,
            alone=not (prompt or parts),
            explicit="-" in paths,
        )
        parts["-"] = part_of(data, "-", encoding)
    order = paths if "-" in paths else [*paths, "-"]
    content = compose([prompt, *(parts[path] for path in order if path in parts)])
    if not content:
        raise UsageError("nothing to ask", "give a prompt, a file, or standard input; 'gptpipe -h' shows how")
    return content
