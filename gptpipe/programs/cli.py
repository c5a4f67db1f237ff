"""Click, held to the rules of the shell.

Click's own ``main`` swallows EPIPE and ^C, and its ``--help`` and type errors never reach ``invoke``; so a ``main`` of
our own calls ``make_context`` and ``invoke``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import click

from gptpipe import __version__
from gptpipe.console import output
from gptpipe.errors import UsageError, clause
from gptpipe.programs import ending

WIDTH = 80


class Option(click.Option):
    """An option that is listed in the help under its group."""

    def __init__(self, *args: Any, group: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


option = partial(click.option, cls=Option)


class Action(click.Command):
    """What the first word of a program's arguments names; its help lists the options in groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": WIDTH, "terminal_width": WIDTH}
        super().__init__(*args, **{"context_settings": settings, **kwargs})

    def get_help_option(self, _: click.Context) -> click.Option | None:
        """Return ``-h``, which writes through the one function that writes."""
        return _eager(["-h", "--help"], "show this and end", click.Context.get_help)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options group by group, in the order in which the groups come; what every program has is last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, Option) and (record := param.get_help_record(ctx)) is not None:
                groups.setdefault(param.group, []).append(record)
        groups["other"] = groups.pop("other")
        for group, records in groups.items():
            with formatter.section(group.capitalize()):
                formatter.write_dl(records, col_max=27)


class Command(Action):
    """A program: its failures become statuses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        version = _eager(["--version"], "show the version and end", lambda ctx: f"{ctx.info_name} {__version__}")
        self.params.append(version)

    def main(self, *_: Any, **__: Any) -> NoReturn:
        """Run the program on ``sys.argv``, and leave the process."""
        name = ending.called(self.name or "")
        ending.run(name, partial(self._call, name, sys.argv[1:]))

    def _call(self, name: str, args: list[str]) -> int | None:
        try:
            # For -h, Click looks for a long option like it first, which takes longer than the help itself.
            with self.make_context(name, ["--help"] if args == ["-h"] else list(args)) as context:
                status: int | None = self.invoke(context)
                return status
        except click.exceptions.Exit as leaving:
            return leaving.exit_code
        except click.UsageError as error:
            raise _failure(error, name) from None


class Group(Command, click.Group):
    """A program whose first word says what to do; each word's function is an Action and returns the status."""

    command_class = Action

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"no_args_is_help": False, "subcommand_metavar": "COMMAND [ARG]...", **kwargs})

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the words, then the options."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)


def _failure(error: click.UsageError, name: str) -> UsageError:
    """Return Click's sentence in the manner of the other messages, with what may have been meant as its hint."""
    near: list[str] = getattr(error, "possibilities", None) or []  # options or words like the one that is not there
    words = error.message if near else error.format_message()  # which would name them too
    usage = f"try '{error.ctx.command_path if error.ctx else name} -h'"
    return UsageError(clause(words).replace("\n", " "), f"did you mean {' or '.join(near)}?" if near else usage)


def _eager(names: list[str], text: str, show: Callable[[click.Context], str]) -> click.Option:
    """Return an option that prints what ``show`` returns and ends the program; ``text`` is its help."""

    def callback(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            output.print_text(show(ctx))
            ctx.exit()

    return Option(names, is_flag=True, expose_value=False, is_eager=True, help=text, callback=callback, group="other")
