"""``gptpipe``: one question, one answer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import click

from gptpipe import interrupt, keys, output, settings, tokens, turn
from gptpipe.address import masked, masked_headers
from gptpipe.ask import Receiver
from gptpipe.client import dialect, preload
from gptpipe.command import Command, option
from gptpipe.errors import ConfigError, Failure, Interrupted, NoInput, Refused, Status, Temporary, Truncated, UsageError
from gptpipe.inputs import decode, is_in_middle, is_piped, join, prompt_of, read_file, read_stdin, titled
from gptpipe.message import compact
from gptpipe.options import (
    config_option,
    conversation_options,
    given,
    limit_options,
    model_options,
    network_options,
    system_option,
    verbose_option,
)
from gptpipe.turn import Place, Question, Request, Run


class _Stream(Receiver):
    """Prints the answer as it arrives, or holds it back; shows reasoning on standard error if asked to."""

    def __init__(self, printer: output.Printer | None, reasoning: bool) -> None:
        self._printer = printer
        self._show_reasoning = reasoning
        self._reasoned = ""

    def begin(self) -> None:
        interrupt.catch()
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
        """End the lines that are open."""
        if self._printer:
            self._printer.end()


@click.command("gptpipe", cls=Command, options_metavar="[OPTION]...")
@click.argument("words", nargs=-1, metavar="[PROMPT]...")
@option("-f", "--file", group="message", metavar="PATH", multiple=True, help="add a file; - is standard input")
@option("-n", "--no-stdin", group="message", is_flag=True, help="do not read standard input")
@system_option
@option("--encoding", group="message", metavar="NAME", default="utf-8", help="of text input (default UTF-8)")
@conversation_options
@option("--no-save", group="conversation", is_flag=True, help="read the conversation, append nothing")
@model_options
@option(
    "-o",
    "--output",
    group="answer",
    metavar="PATH",
    help="write the answer to PATH, which changes only when the answer is complete",
)
@option("--no-stream", group="answer", is_flag=True, help="print nothing until the answer is complete")
@option("--json", group="answer", is_flag=True, help="print one JSON object: the answer and its metadata")
@option("--meta", group="answer", metavar="PATH", help="write that object to PATH, also after a failure")
@option("--reasoning", group="answer", is_flag=True, help="show the model's reasoning on standard error")
@limit_options
@network_options
@config_option
@option("--dry-run", group="other", is_flag=True, help="print the request as JSON; send, save and lock nothing")
@verbose_option
def command(words: Sequence[str], **values: Any) -> int:
    """Ask a language model: PROMPT, files and standard input in, the answer out.

    'gptpipe -m echo hello' needs no key and no network. The manual is gptpipe(1).
    """
    run = Run(time.monotonic())
    meta = output.Target(values["meta"]) if values["meta"] else None
    try:
        failure = _answer(run, words, values, meta)
        status = failure.status if failure else Status.OK
        _report(run, meta, failure, status, status.name)
    except Failure as problem:
        _report(run, meta, problem, problem.status, problem.status.name)
        raise
    except Interrupted as ending:
        _report(run, meta, Temporary("interrupted"), 128 + ending.signum, _signal_name(ending.signum))
        raise
    if failure:
        raise failure
    return Status.OK


def _signal_name(signum: int) -> str:
    return signal.Signals(signum).name


def _report(run: Run, meta: output.Target | None, failure: Failure | None, status: int, name: str) -> None:
    if meta:
        meta.write(compact(turn.describe(run, failure, status, name)).encode() + b"\n")


def _answer(run: Run, words: Sequence[str], values: dict[str, Any], meta: output.Target | None) -> Failure | None:
    """Ask and write; return why an answer that has ended is not complete, or None."""
    if values["json"] or not values["output"]:
        output.check_stdout()
    target = output.Target(values["output"]) if values["output"] else None
    place = turn.here(values["config"])
    options = given(values)
    run.settings = chosen = settings.resolve(options, {}, {}, place.env, place.config, need_model=False)
    if chosen.max_time:
        interrupt.Deadline(run.started, chosen.max_time, lambda: _expire(run, meta, chosen.max_time or 0))
    question = Question(_content(words, values), options, {}, save=not values["no_save"])
    if values["dry_run"]:
        output.print_json(_dry(turn.preview(question, place), place))
        return None
    held = bool(values["json"] or target or values["no_stream"])
    stream = _Stream(None if held else output.Printer(), values["reasoning"])
    try:
        turn.take(run, question, place, stream)
    except Failure:
        stream.end()
        raise
    stream.end()
    failure = run.answer.failure()
    if held:
        _write(run, failure, target, as_json=values["json"])
    if values["verbose"]:
        turn.note(run)
    return failure


def _write(run: Run, failure: Failure | None, target: output.Target | None, *, as_json: bool) -> None:
    """Write an answer that was held back."""
    if target and failure is None:
        text = run.answer.text
        target.write(output.encode(text if text.endswith("\n") else text + "\n"))
    if as_json and (failure is None or isinstance(failure, (Truncated, Refused))):
        status = failure.status if failure else Status.OK
        output.print_json(turn.describe(run, failure, status, status.name))
    elif failure is None and target is None:
        output.print_text(run.answer.text)


def _expire(run: Run, meta: output.Target | None, seconds: float) -> None:
    failure = Temporary(f"the run took longer than {seconds:g} s (--max-time)")
    try:
        run.settle(wait=False)
    except Failure as unsettled:
        output.say(unsettled.message, unsettled.hint)
    output.say(failure.message)
    _report(run, meta, failure, failure.status, failure.status.name)


def _content(words: Sequence[str], values: dict[str, Any]) -> str:
    """Return the message: the prompt, the files in their order, standard input."""
    files, encoding = values["file"], values["encoding"]
    if values["no_stdin"] and "-" in files:
        raise UsageError("--no-stdin and --file - exclude each other")
    prompt = prompt_of(words)
    named = {path: titled(path, decode(read_file(path), path, encoding)) for path in files if path != "-"}
    piped = ""
    if "-" in files or not values["no_stdin"]:
        piped = _piped(bool(prompt or named), explicit="-" in files, encoding=encoding)
    texts = [piped if path == "-" else named[path] for path in dict.fromkeys(files)]
    content = join([prompt, *texts] if "-" in files else [prompt, *texts, piped])
    if not content:
        raise UsageError("nothing to ask", "give a prompt, a file, or standard input; 'gptpipe -h' shows how")
    return content


def _piped(has_more: bool, *, explicit: bool, encoding: str) -> str:
    """Return the text on standard input, if it is to be read."""
    if not explicit and not is_piped():
        if has_more or not os.isatty(0):
            return ""
        output.say("reading the prompt from the terminal; ^D ends it")
    elif has_more and is_in_middle():
        output.say("reading the rest of a file that something else has begun to read: -n leaves it alone")
    data = read_stdin(output.say, preload)
    if explicit and not data:
        raise NoInput("standard input is empty, and --file - asks for it")
    return decode(data, "standard input", encoding)


def _dry(request: Request, place: Place) -> dict[str, Any]:
    chosen = request.settings
    counted = tokens.preview(request.system, request.messages, chosen.model, place.paths.cache)
    return {
        "url": masked(f"{chosen.base_url}/chat/completions") if chosen.base_url else None,
        "headers": _headers(chosen, place),
        "body": dialect(request.body, chosen),
        **counted,
        "price": None,
    }


def _headers(chosen: settings.Settings, place: Place) -> dict[str, str]:
    """Return the headers that matter, their values masked. That there is no key yet is no reason to show nothing."""
    try:
        key = keys.find(chosen, place.env, run=False)
    except ConfigError:
        key = None
    known = {"Authorization": "***"} if key and key.source != keys.NOT_NEEDED else {}
    return known | {"Content-Type": "application/json"} | masked_headers(chosen.headers)
