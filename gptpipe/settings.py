"""Options, role, session, environment and settings file made into one ``Settings``.

**One setting** comes from the first of these that has it:

1. the option
2. the role
3. the profile named by ``-p`` on this command line
4. the environment variable (``ENVIRONMENT`` lists them; an empty one is unset)
5. the profile, if it was chosen elsewhere: by role, session, environment or settings file
6. the top of the settings file
7. the built-in value

``params`` are merged field by field in the same order. So ``-p groq`` never sends what the environment meant for
OpenAI. Of built-in profiles the address and the name of the key's variable are held; the user's table of the
same name is laid over it.

**The endpoint** is chosen as one thing, by the first of option, role, session, environment and settings file that
names a profile or a base URL. What stands further down has no say:

- An option or variable that names a base URL and no profile sets aside any profile that was chosen further down.
- With both, the profile holds and the base URL replaces its address. (At the top of the settings file the
  profile's own address wins.)
- A profile without an address has that of ``GPTPIPE_BASE_URL``, the top of the settings file, or OpenAI.
- ``OPENAI_BASE_URL`` is the address of the profile ``openai``, and of no other. With ``-p openai`` a
  ``base_url`` in the user's ``[profiles.openai]`` is stronger, otherwise the variable is.
- Nothing named at all is the profile ``openai``.

**The model** is that of option, role, session, the profile of ``-p``, environment, a profile chosen elsewhere, top
of the file; at ``openai`` then ``DEFAULT_MODEL``. The session's model counts only at the session's own endpoint: if
option or role name another one, it is passed over. An alias is looked up once: what it stands for is not
looked up again, nor is the session's model, which was stored after its alias. With the model ``echo`` there is
no endpoint: profile and base URL are None, and what the profile holds is not used.

**The system message** is that of option, role, session, top of the file; an empty one is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gptpipe.config import EMPTY


class KeyWays(NamedTuple):
    """The ways to a key that the profile names, in the order in which they are tried."""

    command: tuple[str, ...] | None = None
    file: str | None = None
    variable: str | None = None


class Budget(NamedTuple):
    """Limits on what is spent in a day and a month, local time; None is no limit."""

    day_tokens: int | None = None
    month_tokens: int | None = None
    day_usd: float | None = None
    month_usd: float | None = None


class Price(NamedTuple):
    """USD for a million tokens. ``cached`` is None if cached input costs what other input costs."""

    input: float
    output: float
    cached: float | None = None


class Settings(NamedTuple):
    """Everything that one run was told. Times are seconds, None is no limit.

    ``model`` is after aliases. ``profile`` and ``base_url`` are both None for ``echo``; ``profile`` alone is None
    when a base URL was named without one. ``params`` are the request's fields, sampling included (``max_tokens``
    under this name). ``headers`` and URLs may hold secrets: ``repr`` masks them, ``gptpipe.address`` has the means.
    """

    model: str
    profile: str | None
    base_url: str | None
    system: str | None = None
    session: str | None = None
    params: Mapping[str, Any] = EMPTY
    headers: Mapping[str, str] = EMPTY
    key: KeyWays = KeyWays()
    thinks: bool = False
    allow_http: bool = False
    proxy: str | None = None
    cacert: str | None = None
    max_time: float | None = None
    connect_timeout: float | None = 10.0
    idle_timeout: float | None = 300.0
    retry: int = 2
    max_input_tokens: int | None = None
    history: int | None = None
    history_tokens: int = 32000
    lock_timeout: float = 600.0
    usage: bool = True
    budget: Budget = Budget()
    prices: Mapping[str, Price] = EMPTY
    question: str = ""
    answer: str = ""


class Paths(NamedTuple):
    """Gptpipe's own folders; none of them needs to exist."""

    config: Path
    data: Path
    state: Path
    cache: Path
