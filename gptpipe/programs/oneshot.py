"""One question, one answer: what ``gptpipe`` does when its command line has been read.

It stands apart from the declaration of the options, because ``-h``, ``--version`` and a usage error need none of this.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Sequence
from typing import Any

from gptpipe.asking.context import begin, given, here, role_of
from gptpipe.asking.link import Link
from gptpipe.asking.meta import Meta
from gptpipe.console import output
from gptpipe.settings.settings import Settings


def ask(words: Sequence[str], values: dict[str, Any]) -> int:
    """Ask, write, and return the status.

    ``words`` are those of the prompt, ``values`` the options as the command declares them.

    :raises Failure: if no complete answer comes.
    """
    deadline = begin(values)
    meta = Meta(values["meta"], deadline)
    with meta.written():
        if values["json"] or values["output"] is None:
            output.check_stdout()
        context = here("gptpipe", values, deadline)
        role = role_of(context, values["role"], dict(values["var"]))
        options = given(values)
        chosen = context.resolve(options, role.settings, need_model=False)
        meta.reach(chosen)
        link = Link(context)
        if words and _at_once(values, chosen):
            link.open(chosen)
        from gptpipe.programs.answering import answer  # half of what a call imports, while the way is being opened

        return answer(words, values, options, role, context, chosen, link, meta)


def _at_once(values: dict[str, Any], chosen: Settings) -> bool:
    """Return whether nothing will come between now and a request to the endpoint of these settings.

    What may come is a session, which may name another endpoint, a budget, a stored answer, an editor, or input that
    has yet to arrive.
    """
    held = any(values[name] for name in ("dry_run", "edit", "save_role", "cache", "cache_only"))
    limited = any(chosen.budget) or values["max_cost"] is not None
    waits = not values["no_stdin"] and not _there()
    return bool(chosen.model) and chosen.session is None and not (held or limited or waits)


def _there() -> bool:
    """Return whether standard input needs no wait: a file, a pipe whose writer has ended, or a terminal."""
    mode = os.fstat(0).st_mode
    if not stat.S_ISFIFO(mode):
        return stat.S_ISREG(mode) or stat.S_ISCHR(mode)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    return any(event & select.POLLHUP for _, event in poll.poll(0))
