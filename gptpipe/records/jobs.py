"""How many requests can be on their way at once: each needs descriptors, and the system limits these."""

from __future__ import annotations

import resource

from gptpipe.console.output import say

_EACH = 2  # descriptors of a request: its connection, and one that is being opened in its place
_OTHERS = 24


def possible(wanted: int) -> int:
    """Raise the limit of descriptors as far as it goes, and return how many jobs it allows, with a note if fewer."""
    needed = _EACH * wanted + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (OSError, ValueError):  # macOS has a limit that it does not tell
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    found = max(1, (soft - _OTHERS) // _EACH)
    say(f"{found} requests at once, not {wanted}: only {soft} files may be open (ulimit -n)")
    return found
