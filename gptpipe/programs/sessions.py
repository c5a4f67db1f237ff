"""``gptpipe-sessions``: list, show and look after conversations."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from gptpipe.asking import inputs
from gptpipe.asking.context import begin
from gptpipe.console import output
from gptpipe.errors import Absent, BadInput, Failure, NoInput, Status, UsageError
from gptpipe.programs import options
from gptpipe.programs.cli import Group, option
from gptpipe.programs.options import together
from gptpipe.sessions import attachments, transcript, upkeep
from gptpipe.sessions.store import SessionStore
from gptpipe.settings import environment, resolve, settings
from gptpipe.text.age import parse_age

_NAMED_IN_QUESTION = 10


@click.group("gptpipe-sessions", cls=Group)
def command() -> None:
    """List, show, search, copy, rename, remove and repair conversations.

    'gptpipe-sessions COMMAND -h' says what each takes. The manual is gptpipe-sessions(1).
    """
    begin({})


def _store() -> SessionStore:
    return SessionStore(settings.paths().sessions)


def _lock_timeout(given: float | None) -> float:
    env = dict(os.environ)
    config = environment.read_file(None, env)
    return resolve.resolve({"lock_timeout": given}, {}, {}, env, config, need_model=False).lock_timeout


class _Each:
    """Sessions one after the other: those named, or all. A failure is reported, and the next one follows."""

    def __init__(self, store: SessionStore, names: Sequence[str] = ()) -> None:
        self.status = Status.OK
        self._store = store
        self._named = list(dict.fromkeys(names))
        for name in names:
            store.path(name)  # before anything is done to any: a name that cannot be is a usage error

    def __iter__(self) -> Iterator[str]:
        return iter(self._named or self._store.names())

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Run the block for one session; a failure is reported and does not stop the others."""
        try:
            yield
        except Failure as failure:
            if self._named or os.path.lexists(self._store.path(name)):  # else it was removed or renamed meanwhile
                self.warn(failure.message, failure.hint, failure.status)

    def warn(self, message: str, hint: str | None = None, status: Status = NoInput.status) -> None:
        """Report a failure, and keep its status."""
        output.say(message, hint)
        self.status = status


@command.command("list")
@option("--json", "as_json", group="output", is_flag=True, help="a JSON object on each line")
@option("--header", group="output", is_flag=True, help="begin with a line that names the columns")
def list_sessions(as_json: bool, header: bool) -> int:
    """List the sessions, the last used first."""
    if as_json and header:
        raise UsageError("--json and --header exclude each other")
    each, found = _Each(store := _store()), []
    for name in each:
        with each.attempt(name):
            found.append(upkeep.summary(store, name))
    found.sort(key=lambda summary: (-summary.last_use, summary.name))
    lines = "".join(map(transcript.as_json, found)) if as_json else transcript.table(found, header=header)
    output.Printer().write(lines)
    return each.status


@command.command()
@click.argument("name")
@option("-n", "--last", "count", group="output", metavar="N", type=click.IntRange(0), help="the last N turns only")
@option("--answer", group="output", is_flag=True, help="the last answer only, as gptpipe wrote it")
@option("-x", "--extract", group="output", is_flag=True, help="the last answer's first code block only")
@option("--json", "as_json", group="output", is_flag=True, help="the lines of the file, with whole system messages")
def show(name: str, count: int | None, answer: bool, extract: bool, as_json: bool) -> int:
    """Show the turns of a session."""
    if (count is not None) + answer + extract > 1 or ((answer or extract) and as_json):
        raise UsageError("--last, --answer and --extract exclude each other, and the last two --json")
    if answer or extract:
        return _show_answer(name, extract)
    store, printer = _store(), output.Printer()
    records = (
        upkeep.oldest_first(store, name, output.say)
        if count is None
        else transcript.latest(store, name, count, output.say)
    )
    for text in map(transcript.json_line, records) if as_json else transcript.transcript(records):
        printer.write(text)
    return Status.OK


def _show_answer(name: str, block: bool) -> int:
    turn = next(_store().history(name, output.say), None)
    if turn is None:
        raise Absent(f"session {name} has no turn")
    text, failure = transcript.answer(turn, block=block)
    output.print_text(text)
    if failure:
        raise failure
    return Status.OK


@command.command()
@click.argument("pattern")
@option("-i", "--ignore-case", group="search", is_flag=True, help="take small and capital letters as the same")
@option("-l", "--names", group="output", is_flag=True, help="the names of sessions that match, without the lines")
def search(pattern: str, ignore_case: bool, names: bool) -> int:
    """Search all sessions for a regular expression.

    Each line that matches is written after the name of its session and the number of its turn.
    """
    expression = inputs.decode(os.fsencode(pattern), "the pattern")
    try:
        compiled = re.compile(expression, re.IGNORECASE if ignore_case else 0)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None
    each = _Each(store := _store())
    printer = output.Printer()
    for name in each:
        with each.attempt(name):
            for number, line in transcript.matches(store, name, compiled, output.say):
                printer.write(f"{name}\n" if names else f"{name}:{number}:{line}\n")
                if names:
                    break
    return each.status if printer.printed or each.status else Status.ABSENT


@command.command()
@click.argument("name")
def path(name: str) -> int:
    """Print the path of a session's file."""
    output.print_text(os.fspath(_store().path(name)))
    return Status.OK


_from_a_to_b = together(
    click.argument("source", metavar="A"),
    click.argument("target", metavar="B"),
    option("--force", group="change", is_flag=True, help="replace B if it exists"),
    options.lock,
)


@command.command()
@_from_a_to_b
def copy(source: str, target: str, force: bool, lock_timeout: float | None) -> int:
    """Fork session A: B begins with its turns."""
    upkeep.copy(_store(), source, target, force=force, timeout=_lock_timeout(lock_timeout))
    return Status.OK


@command.command()
@_from_a_to_b
def rename(source: str, target: str, force: bool, lock_timeout: float | None) -> int:
    """Give the session A the name B."""
    upkeep.rename(_store(), source, target, force=force, timeout=_lock_timeout(lock_timeout))
    return Status.OK


@command.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@option("--older-than", group="change", metavar="AGE", help="only those not used for so long (12h, 90d, 4w)")
@option("-y", "--yes", group="change", is_flag=True, help="do not ask")
@options.lock
def remove(names: Sequence[str], older_than: str | None, yes: bool, lock_timeout: float | None) -> int:
    """Remove sessions, and the files that only they refer to."""
    if not names and older_than is None:
        raise UsageError("nothing to remove", "name sessions, or say --older-than AGE")
    since = None if older_than is None else time.time() - parse_age(older_than)
    timeout = _lock_timeout(lock_timeout)
    each = _Each(store := _store(), names)
    chosen: list[str] = []
    for name in each:
        with each.attempt(name):
            last_use = upkeep.summary(store, name).last_use
            if since is None or last_use <= since:
                chosen.append(name)
    if not chosen or not (yes or _agreed(chosen)):
        return each.status
    for name in chosen:
        with each.attempt(name):
            upkeep.remove(store, name, timeout=timeout, unused_since=since)
    attachments.sweep(settings.paths().attachments, store.directory)
    return each.status


def _agreed(names: list[str]) -> bool:
    """Ask on the terminal whether to remove the sessions."""
    if not (os.isatty(output.STDIN) and os.isatty(output.STDERR)):
        raise UsageError("a question needs a terminal", "--yes removes without asking")
    more = len(names) - _NAMED_IN_QUESTION
    listed = ", ".join(names[:_NAMED_IN_QUESTION]) + (f" and {more} more" if more > 0 else "")
    return output.prompt(f"remove {listed}? [y/N] ").strip().lower() in (b"y", b"yes")


@command.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@option("--repair", group="change", is_flag=True, help="move damaged lines into a file beside the session's")
@options.lock
def check(names: Sequence[str], repair: bool, lock_timeout: float | None) -> int:
    """List damaged lines, of all sessions or of those named."""
    timeout = _lock_timeout(lock_timeout) if repair else 0
    each = _Each(store := _store(), names)
    printer = output.Printer()
    left = 0
    for name in each:
        with each.attempt(name):
            found = list(upkeep.damages(store, name))
            left += len(found)
            for damage in found:
                printer.write(f"{name}:{damage.number}: damaged, {damage.length} bytes at byte {damage.offset}\n")
            if found and repair:
                upkeep.repair(store, name, timeout=timeout)
                left -= len(found)
    if left:
        raise BadInput(f"damaged lines: {left}", None if repair else "--repair moves them aside")
    return each.status
