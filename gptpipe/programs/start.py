"""The console scripts: what must be in order before anything is imported or opened, then the program itself."""

from __future__ import annotations

import gc
import os
import signal
import sys
from functools import partial

from gptpipe.programs import plain


def _prepare() -> None:
    # Python's own SIGINT handler prints a traceback for ^C during start-up, and cannot interrupt a name lookup.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # A file opened later would get the number of a missing descriptor, and the answer would go into that file.
    # Standard output is opened for reading, so that writing to it still fails as it does on a closed one.
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)


def _speak_utf8() -> None:
    """Start anew in Python's UTF-8 mode if the locale has another encoding: arguments and names are UTF-8 in any.

    Python has it by itself in the locale C, and decodes the arguments by all others before anything can be done.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    try:
        with open("/proc/self/cmdline", "rb") as file:  # sys.orig_argv may have no way back to the bytes
            words = file.read().split(b"\0")[:-1]
    except OSError:
        return
    os.execve(sys.executable, words, {**os.environ, "PYTHONUTF8": "1"})


def _run(program: str) -> None:
    _speak_utf8()
    gc.disable()  # what the imports make lives to the end
    _prepare()
    if kind := os.environ.get("_GPTPIPE_COMPLETE"):
        from gptpipe.programs.complete import main

        sys.exit(main(kind))
    if program == "filter" and (call := plain.read(sys.argv[1:])):
        from gptpipe.programs import ending, oneshot

        ending.run(ending.called("gptpipe"), partial(oneshot.ask, *call))
    from importlib import import_module

    command = import_module(f"gptpipe.programs.{program}").command
    gc.freeze()
    if program != "filter":  # which ends soon; the others may go on for hours
        gc.enable()
    command.main()


# What the package's scripts call: one for each program.
filter, batch, chat, config, map, models, sessions, usage = (
    partial(_run, program) for program in ("filter", "batch", "chat", "config", "map", "models", "sessions", "usage")
)
