"""Whether SIGPIPE was ignored when this program began: then a reader that is gone is a failed write, as in ``cat``."""

from __future__ import annotations

import os
from signal import SIGPIPE

# Python ignores the signal in itself, whatever it was before, so only the parent tells. These ignore it in themselves
# alone: what they start has the default action.
_ALONE = ("python", "pypy", "node", "strace")


def was_ignored() -> bool:
    """Return whether the parent process ignores SIGPIPE, as a shell does after ``trap '' PIPE``; Linux only."""
    folder = f"/proc/{os.getppid()}"
    try:
        if os.path.basename(os.readlink(f"{folder}/exe")).startswith(_ALONE):
            return False
        with open(f"{folder}/status", encoding="ascii", errors="replace") as file:
            masks = [line.split()[1] for line in file if line.startswith("SigIgn:")]
    except OSError:
        return False
    return any(int(mask, 16) >> (SIGPIPE - 1) & 1 for mask in masks)
