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
OpenAI. A built-in profile has an address and the name of the key's variable. The user's table of the
same name overrides it key by key.

**The endpoint** is chosen as one thing, by the first of option, role, session, environment and settings file that
names a profile or a base URL. What stands further down is ignored:

- A session is data, perhaps somebody else's, so it names a profile only. If its last turn went to a base URL without a
  profile, it is continued only where the call itself leads to the same address, names a profile, or has ``--base-url``.
- An option or variable that names a base URL and no profile sets aside any profile that was chosen further down.
- With both, the profile holds and the base URL replaces its address. (At the top of the settings file the
  profile's own address wins.)
- A profile without an address has that of ``GPTPIPE_BASE_URL``, the top of the settings file, or OpenAI.
- ``OPENAI_BASE_URL`` is the address of the profile ``openai``, and of no other. With ``-p openai`` a
  ``base_url`` in the user's ``[profiles.openai]`` is stronger, otherwise the variable is.
- If nothing is named, it is the profile ``openai``.

**The model** is that of option, role, session, the profile of ``-p``, environment, a profile chosen elsewhere, top
of the file; at ``openai`` then ``DEFAULT_MODEL``. The session's model counts only at the session's own endpoint. An
alias is looked up once: what it stands for is not looked up again, nor is the session's model, which was stored after
its alias. With the model ``echo`` profile and base URL are None, and what the profile holds is not used.

**The system message** is that of option, role, session, top of the file; an empty text means none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from gptpipe.errors import ConfigError, UsageError
from gptpipe.settings.built_in import BUILT_IN, DEFAULT_MODEL, OPENAI, is_echo
from gptpipe.settings.environment import given, variables
from gptpipe.settings.file import EMPTY, SAMPLING, Config, dotted, nearest
from gptpipe.settings.settings import TIMES, Budget, KeyWays, Settings, own_prices, profile_names, profile_table
from gptpipe.settings.values import profile_name
from gptpipe.text.address import check_base_url, check_proxy, is_local, masked, proxy_for, same

# Settings that one layer decides, without a rule of their own.
_PLAIN = ("api", "session", "retry", "max_input_tokens", "history", "history_tokens", "lock_timeout", "usage")

# Who named the endpoint: places in the order of the module's docstring.
_OPTION, _ROLE, _SESSION, _ENVIRONMENT, _FILE, _NOBODY = range(6)


class _Sources(NamedTuple):
    """Where settings come from, checked, the strongest first; ``env`` for the variables that are not gptpipe's own."""

    options: Mapping[str, Any]
    role: Mapping[str, Any]
    session: Mapping[str, Any]
    variables: Mapping[str, Any]
    config: Config
    env: Mapping[str, str]


class _Choice(NamedTuple):
    """An endpoint as it was named, and the level that named it."""

    level: int
    profile: str | None
    base_url: str | None


Layers = list[Mapping[str, Any]]


def resolve(
    options: Mapping[str, Any],
    role: Mapping[str, Any],
    session: Mapping[str, Any],
    env: Mapping[str, str],
    config: Config,
    *,
    need_model: bool = True,
) -> Settings:
    """Return the settings of one run by the rules of this module's docstring.

    ``options`` are those of the command line, by long name with underscores; None is not given. ``role`` holds
    ``model``, ``profile``, ``params``, sampling and ``system``; ``session`` the ``model``, ``profile``, ``base_url``
    and ``system`` of the last finished turn. Without ``need_model`` a missing model is ``""``, not an error.

    :raises UsageError: for a faulty option or variable, and for a session at an address that only the session names.
    :raises ConfigError: for a profile that does not exist, no model, or a URL or CA file that cannot be used.
    """
    sources = _Sources(given(options), role, session, variables(env), config, env)
    choice = _choose(sources.options, role, {"profile": session.get("profile")}, sources.variables, config.top)
    held = profile_table(choice.profile, config)
    layers = _layers(sources, held, named=choice.level == _OPTION)
    model = _model(choice, layers, sources)
    way: dict[str, Any] = {"base_url": None}
    if is_echo(model):
        choice, held = choice._replace(profile=None), EMPTY
        layers = _layers(sources, held, named=False)
    else:
        way = _way(choice, layers, sources)
    times: dict[str, Any] = {name: _first(layers, name) or None for name in TIMES}  # 0 means no limit
    found = Settings(
        model=model,
        profile=choice.profile,
        system=_first([sources.options, role, session, config.top], "system") or None,
        params=_params(layers),
        headers=held.get("headers", EMPTY),
        key=_key_ways(held),
        thinks=held.get("thinks", False),
        allow_http=held.get("allow_http", False),
        budget=Budget(**config.budget),
        prices=own_prices(config),
        question=config.chat.get("question"),
        answer=config.chat.get("answer"),
        remember=config.chat.get("history", True),
        **way,
        **{name: _first(layers, name) for name in _PLAIN},
        **times,
    )
    return check_model(found) if need_model else found


def _way(choice: _Choice, layers: Layers, sources: _Sources) -> dict[str, Any]:
    """Return the address of the endpoint and the way there: proxy and authorities."""
    _check_profile(choice, sources.config)
    base_url = _address(choice, sources)
    _refuse_a_foreign_session(choice, base_url, sources.session)
    proxy = _proxy(base_url, layers, sources)
    return {"base_url": base_url, "proxy": proxy, "cacert": _ca_file(_first(layers, "cacert"))}


def check_model(found: Settings) -> Settings:
    """Return the settings, or raise ConfigError if nothing has named a model."""
    if found.model:
        return found
    if found.profile:
        table, lists = f" under [profiles.{dotted((found.profile,))}]", f"-p {found.profile}"
    else:
        table, lists = "", "--base-url URL"
    raise ConfigError(
        "no model was named",
        f'give -m MODEL, or write model = "MODEL"{table} in the settings file; gptpipe-models {lists} names them',
    )


def _choose(*levels: Mapping[str, Any]) -> _Choice:
    """Return the endpoint of the first level that names one."""
    for level, table in enumerate(levels):
        profile, base_url = table.get("profile"), table.get("base_url")
        if profile or base_url:
            return _Choice(level, profile and profile_name(profile), base_url)
    return _Choice(_NOBODY, OPENAI, None)


def _layers(sources: _Sources, held: Mapping[str, Any], *, named: bool) -> Layers:
    """Return the layers of single settings, the strongest first. ``named`` says that ``-p`` chose the profile."""
    middle = (held, sources.variables) if named else (sources.variables, held)
    return [sources.options, sources.role, *middle, sources.config.top, Settings._field_defaults]


def _first(layers: Layers, name: str) -> Any:
    return next((layer[name] for layer in layers if layer.get(name) is not None), None)


def _params(layers: Layers) -> dict[str, Any]:
    """Return the request's fields: in each layer ``params`` or ``-O``, and over them those that are settings."""
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged |= layer.get("params") or {}
        merged |= layer.get("param") or {}
        merged |= {name: layer[name] for name in SAMPLING if layer.get(name) is not None}
    return merged


def _model(choice: _Choice, layers: Layers, sources: _Sources) -> str:
    """Return the model, its alias resolved, or ``""`` if nothing names one."""
    named = _first([sources.options, sources.role], "model")
    stored: str | None = sources.session.get("model")
    if named is None and stored and _is_sessions_own(choice, sources):
        return stored
    model: str = _first(layers, "model") or (DEFAULT_MODEL if choice.profile == OPENAI else "")
    return sources.config.aliases.get(model, model)


def _is_sessions_own(choice: _Choice, sources: _Sources) -> bool:
    """Return whether the endpoint is the one that the session's model belongs to."""
    profile, base_url = sources.session.get("profile"), sources.session.get("base_url")
    if choice.level == _SESSION or not (profile or base_url):
        return choice.level > _ROLE
    if choice.profile and profile:
        return bool(choice.profile == profile)
    own = _address(_Choice(_SESSION, profile, None), sources) if profile else str(base_url)
    return same(_address(choice, sources), own)


def _refuse_a_foreign_session(choice: _Choice, base_url: str, session: Mapping[str, Any]) -> None:
    """Raise UsageError if only the session names its address: a key would go there."""
    there = session.get("base_url")
    if not there or session.get("profile") or choice.level == _OPTION or (choice.profile and choice.level != _NOBODY):
        return
    if not same(there, base_url):
        raise UsageError(
            f"the session was at {masked(there)}, and a session alone does not decide where a key goes",
            "--base-url URL or -p PROFILE says where it goes on",
        )


def _address(choice: _Choice, sources: _Sources) -> str:
    """Return the base URL of the endpoint."""
    if choice.base_url and (choice.profile is None or choice.level != _FILE):
        return check_base_url(choice.base_url)
    profile = choice.profile or OPENAI
    written = sources.config.profiles.get(profile, {}).get("base_url")
    variable = sources.env.get("OPENAI_BASE_URL") if profile == OPENAI else None
    held = (written or variable) if choice.level == _OPTION else (variable or written)
    return check_base_url(
        held
        or BUILT_IN.get(profile, {}).get("base_url")
        or _first([sources.variables, sources.config.top], "base_url")
        or BUILT_IN[OPENAI]["base_url"]
    )


def _check_profile(choice: _Choice, config: Config) -> None:
    known = profile_names(config)
    if choice.profile is None or choice.profile in known:
        return
    near = nearest(choice.profile, known)
    raise ConfigError(
        f"no profile is called {choice.profile!r}"
        + (", with which the session goes on" if choice.level == _SESSION else ""),
        f"did you mean {near}?" if near else f"the profiles: {', '.join(known)}",
    )


def _proxy(base_url: str, layers: Layers, sources: _Sources) -> str | None:
    """Return the proxy: of a setting (``""`` is none) or of variables, but these give none for this machine."""
    local = is_local(base_url)
    setting: str | None = _first([layer for layer in layers if not (local and layer is sources.variables)], "proxy")
    if setting is not None:
        return check_proxy(setting) if setting else None
    return None if local else proxy_for(base_url, sources.env)


def _ca_file(path: str | None) -> str | None:
    """Return the path of a file that can be read. It is not opened: it may be a pipe."""
    if path is None:
        return None
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"the CA file {path} cannot be read: {str(error.strerror).lower()}") from None
    if stat.S_ISDIR(mode) or not os.access(path, os.R_OK):
        raise ConfigError(f"the CA file {path} cannot be read: it is a directory, or access is denied")
    return path


def _key_ways(held: Mapping[str, Any]) -> KeyWays:
    variable = held.get("api_key_env")
    return KeyWays(held.get("api_key_command"), held.get("api_key_file"), variable or None, needed=variable != "")
