"""``gptpipe-config``: show and check the settings, and look after what gptpipe keeps for itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from gptpipe.asking import asker, tokens, tools
from gptpipe.asking.context import given, here
from gptpipe.asking.link import connect
from gptpipe.console import output
from gptpipe.errors import ConfigError, Failure, NoInput, Status, UsageError, WriteError
from gptpipe.programs import diagnosis, options
from gptpipe.programs.cli import Group, option
from gptpipe.programs.diagnosis import Finding
from gptpipe.settings import environment, roles, settings, written
from gptpipe.settings.keys import keyless
from gptpipe.storage import failing
from gptpipe.text.address import proxy_for
from gptpipe.text.age import parse_age
from gptpipe.text.table import table
from gptpipe.wire.download import PATIENCE, download

PROGRAM = "gptpipe-config"


@click.group("gptpipe-config", cls=Group)
def command() -> None:
    """Show and check the settings, and look after what gptpipe keeps.

    The manual is gptpipe-config(1), that of the settings file gptpipe-config(5).
    """
    output.check_stdout()


@command.command()
@options.named_model
@options.call
def show(**values: Any) -> int:
    """Print the settings in effect, as a settings file.

    A call with the same options has these settings. Secrets are masked; what a file cannot hold is a comment.
    """
    context = here(PROGRAM, values)
    chosen = context.resolve(given(values), need_model=False)
    output.print_text(written.in_effect(chosen, context.config))
    return Status.OK


@command.command()
@options.config
def init(**values: Any) -> int:
    """Write a settings file to begin with.

    It explains itself in comments. A file that is there is never overwritten. The path is printed.
    """
    file = Path(environment.named_file(values["config"], os.environ) or settings.paths().config / "config.toml")
    written.start(file)
    output.print_text(str(file))
    return Status.OK


@command.command()
@click.argument("what", required=False)
@options.config
def path(what: str | None, **values: Any) -> int:
    """Print where things are.

    WHAT is settings, roles, sessions, attachments, usage, batches, answers or vocabularies; without it all are named.
    """
    context = here(PROGRAM, values)
    paths = context.paths
    places = {
        "settings": context.config.path or paths.config / "config.toml",
        "roles": paths.roles,
        "sessions": paths.sessions,
        "attachments": paths.attachments,
        "usage": paths.usage,
        "batches": paths.batches,
        "answers": paths.answers,
        "vocabularies": tokens.folder(paths.cache),
    }
    if what is None:
        output.print_text("".join(f"{name}\t{where}\n" for name, where in places.items()))
    elif what in places:
        output.print_text(str(places[what]))
    else:
        raise UsageError(f"no place is called {what!r}", f"the places: {', '.join(places)}")
    return Status.OK


@command.command()
@option("--online", group="what", is_flag=True, help="ask the endpoint too, which costs a few tokens")
@options.named_model
@options.call
@options.verbose
def check(online: bool, **values: Any) -> int:
    """Tell what works and what does not.

    The status is 78 if anything does not.
    """
    context = here(PROGRAM, values)
    said = given(values)
    bad = _print(diagnosis.offline(said, context))
    if online and not bad:
        chosen = context.resolve(said)
        bad = _print(diagnosis.online(chosen, connect(context, chosen), context))
    if bad:
        raise ConfigError("there is something that does not work")
    return Status.OK


def _print(findings: Iterable[Finding]) -> int:
    """Print the findings, one a line, and return how many are bad."""
    marks = {True: "ok", False: "BAD", None: "-"}
    bad = 0
    for finding in findings:
        bad += finding.works is False
        text = " ".join(finding.text.splitlines())
        output.print_text(output.visible(f"{marks[finding.works]:<3}  {finding.name}: {text}"))
    return bad


@command.command("roles")
def list_roles() -> int:
    """Print the names of the roles, one a line."""
    output.print_text("".join(f"{name}\n" for name in roles.names(settings.paths().roles)))
    return Status.OK


@command.command("tools")
@options.config
def list_tools(**values: Any) -> int:
    """Print the tools in their folder and what they say of themselves.

    What is wrong with one is said on standard error.
    """
    context = here(PROGRAM, values)
    folder, env = context.paths.tools, keyless(context.env, context.config)
    rows, status = [], Status.OK
    for name in tools.names(folder):
        try:
            tool = tools.describe(tools.find(name, folder), env)
            rows.append((name, " ".join(tool.spec.description.split())))
        except Failure as failure:
            status = max(status, failure.status)
            output.say(failure.message, failure.hint)
    output.print_text(output.visible(table(rows, [False, False])) if rows else "")
    return status


@command.command("cache")
@click.argument("clear", required=False, type=click.Choice(["clear"]), metavar="[clear]")
@option("--older-than", group="what", metavar="AGE", help="clear only those that are older (30m, 12h, 7d)")
def stored_answers(clear: str | None, older_than: str | None) -> int:
    """Tell how many answers --cache keeps.

    With 'clear' they are removed, and their number is printed.
    """
    answers = settings.paths().answers
    if clear:
        age = None if older_than is None else parse_age(older_than)
        output.print_text(str(asker.forget(answers, age)))
    elif older_than is not None:
        raise UsageError("--older-than belongs to 'cache clear'")
    else:
        number, size = asker.stored(answers)
        output.print_text(f"{number} answers, {size} bytes")
    return Status.OK


@command.command()
@click.argument("encoding", required=False, type=click.Choice(list(tokens.VOCABULARIES)))
@options.way
@options.config
def tokenizer(encoding: str | None, **values: Any) -> int:
    """Fetch the vocabulary that counts tokens exactly.

    Without ENCODING it is o200k_base. The path of the vocabulary is printed.
    """
    context = here(PROGRAM, values)
    encoding = encoding or tokens.DEFAULT_ENCODING
    if not tokens.installed(encoding, context.paths.cache):
        chosen = context.resolve(given(values), need_model=False)
        url = tokens.VOCABULARIES[encoding].url
        with output.waiting(f"waiting for {url}; after {PATIENCE:.0f} s this ends"):
            data = download(url, chosen._replace(proxy=chosen.proxy or proxy_for(url, context.env)))
        tokens.install(encoding, data, context.paths.cache)
    output.print_text(str(tokens.vocabulary_path(encoding, context.paths.cache)))
    return Status.OK


@command.command("install-docs")
def install() -> int:
    """Link the manual pages and completions.

    The links are below $XDG_DATA_HOME, where man and the shells look; their paths are printed.
    """
    status = Status.OK
    for link, file in documents(settings.paths().data.parent):
        try:
            _link(link, file)
            output.print_text(str(link))
        except Failure as failure:
            output.say(failure.message)
            status = failure.status
    return status


# Where each kind of document is below the prefix of an installation, in a checkout, and by which names.
# ``pipx`` installs them; ``uv tool install`` leaves them in the tool's own folder, where nobody looks.
_KINDS = (
    ("share/man/man1", "man", "gptpipe*.1", "man/man1"),
    ("share/man/man5", "man", "gptpipe*.5", "man/man5"),
    ("share/man/man7", "man", "gptpipe*.7", "man/man7"),
    ("share/bash-completion/completions", "completions/bash", "gptpipe*", "bash-completion/completions"),
    ("share/fish/vendor_completions.d", "completions/fish", "gptpipe*.fish", "fish/vendor_completions.d"),
    ("share/zsh/site-functions", "completions/zsh", "_gptpipe", "zsh/site-functions"),
)


def documents(data: Path) -> list[tuple[Path, Path]]:
    """Return the links to make, each with the file that it leads to, below the user's data folder, ``$XDG_DATA_HOME``.

    :raises NoInput: if this installation has no documents.
    """
    checkout = Path(__file__).parents[2]  # or PREFIX/lib/pythonX.Y/site-packages of an installation
    prefix = (checkout / "../../..").resolve()  # a checkout may be less than three folders deep
    found = []
    for installed, source, pattern, target in _KINDS:
        files = sorted((checkout / source).glob(pattern)) or sorted((prefix / installed).glob(pattern))
        found += [(data / target / file.name, file) for file in files]
    if not found:
        raise NoInput(f"no manual pages are below {prefix}")
    return found


def _link(link: Path, file: Path) -> None:
    """Make a link, in place of an older one; a file that is not a link stays, as does the document where it belongs."""
    with failing(WriteError, f"cannot write {link}"):
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.exists() and link.samefile(file):
            return
        if link.is_symlink():
            link.unlink()
        link.symlink_to(file)
