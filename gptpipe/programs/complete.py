"""Names that the shells' completions cannot list by themselves: those in the settings file.

The completions call ``_GPTPIPE_COMPLETE=KIND gptpipe``, where KIND is ``models`` or ``profiles``; the answer is
one name a line. This runs at a press of TAB, so it imports neither Click nor the SDK.
"""

from __future__ import annotations

import os
from signal import SIGPIPE

from gptpipe.console import output, signals
from gptpipe.errors import Failure, Status
from gptpipe.settings import environment, settings
from gptpipe.settings.file import Config


def main(kind: str) -> int:
    """Print the names of a kind and return the status. Faulty settings give no message: a line is being typed."""
    try:
        config = environment.read_file(None, os.environ)
        names = settings.profile_names(config) if kind == "profiles" else model_names(config)
        output.write_all(output.STDOUT, output.encode("".join(f"{name}\n" for name in names)))
    except Failure as failure:
        return failure.status
    except BrokenPipeError:  # another key was pressed
        signals.die_of(SIGPIPE)
    return Status.OK


def model_names(config: Config) -> list[str]:
    """Return the models that the settings name, in any place, and the built-in one."""
    chosen = {table["model"] for table in (config.top, *config.profiles.values()) if "model" in table}
    return sorted(chosen | config.aliases.keys() | {"echo"})
