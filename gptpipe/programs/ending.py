"""How a program ends: the one place where failures become statuses and lines on standard error."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from gptpipe.console import output, signals
from gptpipe.errors import Failure, Interrupted, Status, UsageError, exhausted


def called(program: str) -> str:
    """Return the name that the program was called by; under ``python -m`` that is its own."""
    name = os.path.basename(sys.argv[0])
    return program if name.startswith("__main__") else name


def run(name: str, program: Callable[[], int | None]) -> NoReturn:
    """Run a program under a name, and leave the process with its status, or by the signal that ended it."""
    output.named(name)
    # Python's own clean-up takes longer than many a run; nothing is buffered, and what is open is settled.
    status = _status(name, program)
    signals.end_groups()  # a thread that is left may wait for a tool
    os._exit(status)


def _status(name: str, program: Callable[[], int | None]) -> int:
    try:
        return int(program() or Status.OK)
    except UsageError as failure:
        return _said(UsageError(failure.message, failure.hint or f"try '{name} -h'"))
    except Failure as failure:
        return _said(failure)
    except BrokenPipeError:
        signals.die_of(signal.SIGPIPE)
    except (Interrupted, KeyboardInterrupt) as ending:
        signals.die_of(getattr(ending, "signum", signal.SIGINT))
    except MemoryError:
        output.say("out of memory")
        return Status.DATAERR
    except Exception as error:
        if temporary := exhausted(error):
            return _said(temporary)
        import traceback

        output.show_error(traceback.format_exc())
        return Status.BUG


def _said(failure: Failure) -> int:
    """Say what happened, and return its status."""
    output.say(failure.message, failure.hint)
    return failure.status
