"""``gptpipe-models``: the models that the endpoint offers."""

from __future__ import annotations

from typing import Any

import click

from gptpipe.asking.context import given, here
from gptpipe.asking.link import connect
from gptpipe.console import output
from gptpipe.errors import Absent, Status
from gptpipe.programs import options
from gptpipe.programs.cli import Command
from gptpipe.wire import batch_api


@click.command("gptpipe-models", cls=Command, options_metavar="[OPTION]...")
@options.profile
@options.tries
@options.network
@options.config
@options.verbose
def command(**values: Any) -> int:
    """Print the names of the models that the endpoint offers, one a line.

    'gptpipe-models -p ollama' asks the server of that profile. The manual is gptpipe-models(1).
    """
    output.check_stdout()
    context = here("gptpipe-models", values)
    chosen = context.resolve(given(values), need_model=False)
    names = batch_api.models(connect(context, chosen))
    if not names:
        raise Absent("the endpoint offers no models")
    output.print_text("".join(f"{name}\n" for name in names))
    return Status.OK
