"""``gptpipe-config``: show and check the settings, and look after what gptpipe keeps for itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from gptpipe.asking import cache, tokens
from gptpipe.asking.context import Context, connect, here
from gptpipe.console import output
from gptpipe.errors import ConfigError, Failure, Status, UsageError
from gptpipe.programs import check, install_docs
from gptpipe.programs.check import Finding
from gptpipe.programs.cli import Action, Group, option
from gptpipe.programs.options import config_option, given, limit_options, model_options, network_options, verbose_option
from gptpipe.settings import resolve, roles, settings
from gptpipe.settings.settings import Paths, Settings
from gptpipe.text.address import proxy_for
from gptpipe.wire.download import PATIENCE, download

PROGRAM = "gptpipe-config"


@click.group("gptpipe-config", cls=Group)
def command() -> None:
    """Show and check the settings, and look after what gptpipe keeps.

    The manual is gptpipe-config(1), that of the settings file gptpipe-config(5).
    """


@command.command(cls=Action)
@model_options
@limit_options
@network_options
@config_option
def show(**values: Any) -> int:
    """Print the settings in effect, as TOML.

    They are those of a call with the same options. Secrets are masked.
    """
    output.check_stdout()
    place = here(PROGRAM, values)
    chosen = resolve.resolve(given(values), {}, {}, place.env, place.config, need_model=False)
    output.print_text(settings.as_toml(chosen))
    return Status.OK


def _places(paths: Paths, config: str | None) -> dict[str, str]:
    return {
        "settings": config or str(paths.config / "config.toml"),
        "roles": str(paths.roles),
        "sessions": str(paths.sessions),
        "attachments": str(paths.attachments),
        "usage": str(paths.usage),
        "batches": str(paths.batches),
        "answers": str(paths.answers),
        "vocabularies": str(tokens.folder(paths.cache)),
    }


@command.command(cls=Action)
@click.argument("what", required=False)
@config_option
def path(what: str | None, **values: Any) -> int:
    """Print where things are.

    WHAT is settings, roles, sessions, attachments, usage, batches, answers or vocabularies; without it all are named.
    """
    output.check_stdout()
    place = here(PROGRAM, values)
    places = _places(place.paths, place.config.path)
    if what is None:
        output.print_text("".join(f"{name}\t{where}\n" for name, where in places.items()))
    elif what in places:
        output.print_text(places[what])
    else:
        raise UsageError(f"there is no place {what!r}", f"there are: {', '.join(places)}")
    return Status.OK


@command.command("check", cls=Action)
@option("--online", group="what", is_flag=True, help="ask the endpoint too, which costs a few tokens")
@model_options
@limit_options
@network_options
@config_option
@verbose_option
def check_(online: bool, **values: Any) -> int:
    """Tell what works and what does not.

    The status is 78 if anything does not.
    """
    output.check_stdout()
    place = here(PROGRAM, values)
    options = given(values)
    bad = _print(check.offline(options, place))
    if online and not bad:
        chosen = resolve.resolve(options, {}, {}, place.env, place.config)
        bad = _print(check.online(chosen, connect(place, chosen), place))
    if bad:
        raise ConfigError("there is something that does not work")
    return Status.OK


def _print(findings: Iterable[Finding]) -> int:
    """Print what was found, line by line, and return how much of it is bad."""
    marks = {True: "ok", False: "BAD", None: "-"}
    bad = 0
    for finding in findings:
        bad += finding.works is False
        text = " ".join(finding.text.splitlines())
        output.print_text(output.visible(f"{marks[finding.works]:<3}  {finding.name}: {text}"))
    return bad


@command.command("roles", cls=Action)
@config_option
def roles_(**values: Any) -> int:
    """Print the names of the roles, one a line."""
    output.check_stdout()
    place = here(PROGRAM, values)
    output.print_text("".join(f"{name}\n" for name in roles.names(place.paths.roles)))
    return Status.OK


@command.command("cache", cls=Action)
@option("--clear", group="what", is_flag=True, help="remove the answers")
@option("--older-than", group="what", metavar="AGE", help="remove those that are older (30m, 12h, 7d)")
@config_option
def cache_(clear: bool, older_than: str | None, **values: Any) -> int:
    """Tell how many answers are kept, or remove them.

    They are those of --cache. What was removed is counted.
    """
    output.check_stdout()
    answers = here(PROGRAM, values).paths.answers
    if clear or older_than is not None:
        age = None if older_than is None else cache.parse_age(older_than)
        output.print_text(str(cache.clear(answers, age)))
    else:
        number, size = cache.size(answers)
        output.print_text(f"{number} answers, {size} bytes")
    return Status.OK


@command.command(cls=Action)
@click.argument("encoding", required=False, type=click.Choice(list(tokens.VOCABULARIES)))
@network_options
@config_option
def tokenizer(encoding: str | None, **values: Any) -> int:
    """Fetch what counts tokens exactly.

    Without ENCODING it is o200k_base. The path of the vocabulary is printed.
    """
    output.check_stdout()
    place = here(PROGRAM, values)
    encoding = encoding or tokens.DEFAULT_ENCODING
    if not tokens.installed(encoding, place.paths.cache):
        chosen = resolve.resolve(given(values), {}, {}, place.env, place.config, need_model=False)
        data = _fetched(tokens.VOCABULARIES[encoding].url, chosen, place)
        tokens.install(encoding, data, place.paths.cache)
    output.print_text(str(tokens.vocabulary_path(encoding, place.paths.cache)))
    return Status.OK


def _fetched(url: str, chosen: Settings, place: Context) -> bytes:
    with output.waiting(f"waiting for {url}; after {PATIENCE:.0f} s this ends"):
        return download(url, chosen._replace(proxy=chosen.proxy or proxy_for(url, place.env)))


@command.command("install-docs", cls=Action)
def install() -> int:
    """Link the manual pages and completions.

    The links are below $XDG_DATA_HOME, where man and the shells look; their paths are printed.
    """
    output.check_stdout()
    failure: Failure | None = None
    for link in install_docs.links(settings.paths().data.parent):
        try:
            install_docs.install(link)
            output.print_text(str(link.path))
        except Failure as problem:
            output.say(problem.message)
            failure = problem
    if failure:
        raise failure
    return Status.OK
