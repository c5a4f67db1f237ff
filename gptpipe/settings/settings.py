"""What a call decided: its settings, and the folders of gptpipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xdg_base_dirs

from gptpipe.errors import ConfigError
from gptpipe.settings.built_in import BUILT_IN
from gptpipe.settings.file import EMPTY, Config
from gptpipe.text.address import masked, masked_headers

TIMES = ("max_time", "connect_timeout", "idle_timeout")


class KeyWays(NamedTuple):
    """The ways to a key that the profile names, in the order in which they are tried.

    ``needed`` is false if the profile has an empty ``api_key_env``: its server needs no key.
    """

    command: tuple[str, ...] | None = None
    file: str | None = None
    variable: str | None = None
    needed: bool = True


class Budget(NamedTuple):
    """Limits on what is spent in a day and a month, local time; None means no limit."""

    day_tokens: int | None = None
    month_tokens: int | None = None
    day_usd: float | None = None
    month_usd: float | None = None

    @property
    def in_usd(self) -> bool:
        """Whether a limit is in USD, so that prices must be known."""
        return self.day_usd is not None or self.month_usd is not None


class Price(NamedTuple):
    """USD for a million tokens. ``cached`` is None if cached input costs what other input costs."""

    input: float
    output: float
    cached: float | None = None


class Settings(NamedTuple):
    """Everything that one call decided. Times are seconds, None means no limit.

    ``model`` is after aliases. ``profile`` and ``base_url`` are both None for ``echo``; ``profile`` alone is None when
    a base URL was named without one. ``api`` is a protocol, or ``auto``. ``params`` are the request's fields, sampling
    included (``max_tokens`` under this name). ``question`` and ``answer`` are the prompts of the chat, ``remember``
    says whether it keeps what is typed. ``headers`` and URLs may hold secrets: ``repr`` masks them, and
    ``gptpipe.text.address`` has the means for others.
    """

    model: str
    profile: str | None
    base_url: str | None
    api: str = "auto"
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
    question: str | None = None
    answer: str | None = None
    remember: bool = True

    def __repr__(self) -> str:
        hidden = {
            "base_url": self.base_url and masked(self.base_url),
            "proxy": self.proxy and masked(self.proxy),
            "headers": masked_headers(self.headers),
        }
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in (self._asdict() | hidden).items())})"


def described(settings: Settings) -> str:
    """Return model and endpoint for a note."""
    where = f"profile {settings.profile}" if settings.profile else masked(settings.base_url or "built in")
    return f"model {settings.model}, {where}"


class Role(NamedTuple):
    """A role, filled. ``settings`` are what ``settings.resolve`` takes: model, profile, params, sampling, system.

    ``extract`` is ``"first"`` or ``"last"``, ``schema`` the path of a file, made absolute, ``tools`` are names and
    absolute paths.
    """

    settings: Mapping[str, Any]
    prompt: str | None = None
    schema: str | None = None
    extract: str | None = None
    tools: tuple[str, ...] = ()


class Paths(NamedTuple):
    """The folders of gptpipe; none of them needs to exist. The first four are its own below those of XDG."""

    config: Path
    data: Path
    state: Path
    cache: Path
    roles: Path  # a file for each
    tools: Path  # those that are named without a path
    sessions: Path  # a file for each conversation
    attachments: Path  # the files that conversations refer to
    usage: Path  # what requests used, a file for each day
    batches: Path  # what was submitted to Batch APIs, a folder for each
    answers: Path  # what --cache keeps


def paths() -> Paths:
    """Return the folders of gptpipe, by the present XDG variables and home directory.

    Without ``HOME`` the home directory is that of the system's list of users.

    :raises ConfigError: if the user has no home directory, or ``HOME`` is not an absolute path.
    """
    if not os.environ.get("HOME", "unset"):
        del os.environ["HOME"]  # Python would take it for the root folder
    try:
        config = xdg_base_dirs.xdg_config_home() / "gptpipe"
        data = xdg_base_dirs.xdg_data_home() / "gptpipe"
        state = xdg_base_dirs.xdg_state_home() / "gptpipe"
        cache = xdg_base_dirs.xdg_cache_home() / "gptpipe"
    except RuntimeError:
        raise ConfigError("this user has no home directory", "set HOME") from None
    if not all(path.is_absolute() for path in (config, data, state, cache)):
        raise ConfigError("HOME is not an absolute path")
    return Paths(
        config,
        data,
        state,
        cache,
        roles=config / "roles",
        tools=config / "tools",
        sessions=data / "sessions",
        attachments=data / "attachments",
        usage=state / "usage",
        batches=state / "batches",
        answers=cache / "answers",
    )


def own_prices(config: Config) -> dict[str, Price]:
    """Return the prices that the settings file gives, by model."""
    return {name: Price(**price) for name, price in config.prices.items()}


def profile_names(config: Config) -> list[str]:
    """Return the names that ``-p`` takes, sorted."""
    return sorted(BUILT_IN.keys() | config.profiles.keys())


def profile_table(name: str | None, config: Config) -> Mapping[str, Any]:
    """Return what a profile holds: the user's table over the built-in one."""
    return {**BUILT_IN.get(name, {}), **config.profiles.get(name, {})} if name else EMPTY
