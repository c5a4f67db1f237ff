"""The ways to a key.

In this order: the profile's ``api_key_command``, ``api_key_file``, ``api_key_env``; systemd's credential
``PROFILE_api_key`` (https://systemd.io/CREDENTIALS/); and for the profile ``openai``, and where no profile was named,
the credential ``openai_api_key`` and the variable ``OPENAI_API_KEY``. If the first way that is there fails, that is
an error, and the next is not tried. An address on this machine needs no key, but gets one that is found.
"""

from __future__ import annotations

import os
import re
import resource
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from gptpipe.errors import ConfigError
from gptpipe.settings.built_in import BUILT_IN, OPENAI
from gptpipe.settings.file import Config
from gptpipe.settings.settings import Settings
from gptpipe.text.address import is_local, masked, masked_headers

COMMAND_LIMIT = 30.0  # seconds
NOT_NEEDED = "none needed"  # the source of no key
_SHORTEST = 8  # characters of a key that is looked for in other values: a shorter one may stand there by chance
_ADDRESSES = ("OPENAI_BASE_URL", "GPTPIPE_BASE_URL", "GPTPIPE_PROXY")
LARGEST = 65536  # bytes, of a key file and of what a key command prints

_HEADER_SAFE = re.compile(r"[\x20-\x7e]+")


Run = Callable[..., Any]  # gptpipe.console.children.run


class Key(NamedTuple):
    """A key and where it came from, in words. The value is None if none is sent, and never in the ``repr``."""

    value: str | None
    source: str

    def __repr__(self) -> str:
        return f"Key({'***' if self.value else None}, source={self.source!r})"


def shown_headers(settings: Settings, env: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a request with masked values; no key command is run, and a missing key left out."""
    try:
        key = find(settings, env, None)
    except ConfigError:
        key = None
    known = {"Authorization": "***"} if key and key.source != NOT_NEEDED else {}
    return known | {"Content-Type": "application/json"} | masked_headers(settings.headers)


def find(settings: Settings, env: Mapping[str, str], run: Run | None) -> Key:
    """Return the key for the endpoint of the settings.

    ``run`` runs a key command; if it is None, the command is named but not run.

    :raises ConfigError: if the endpoint needs a key and none is found, if a way to it fails, if it cannot stand in a
        header, or if it would go over plain HTTP to another machine.
    """
    if settings.base_url is None:
        return Key(None, NOT_NEEDED)
    if settings.key.command and run is None:
        return Key(None, f"command {settings.key.command[0]}, not run")
    for source, read in _ways(settings, env, run):
        value = read()
        if value is not None:
            _guard(settings, settings.base_url)
            return Key(_checked(value, source), source)
    if any(name.lower() == "authorization" for name in settings.headers):
        _guard(settings, settings.base_url)
        return Key(None, "the profile's header Authorization")
    if not settings.key.needed or is_local(settings.base_url):
        return Key(None, NOT_NEEDED)
    raise _no_key(settings, settings.base_url)


def _ways(
    settings: Settings, env: Mapping[str, str], run: Run | None
) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """Yield each way to the key: its name, and a function that returns the key, or None if there is none."""
    ways = settings.key
    if (command := ways.command) and run:
        yield f"command {command[0]}", lambda: _from_command(command, env, run)
    if file := ways.file:
        yield f"file {file}", lambda: _from_file(file, private=True)
    if variable := ways.variable:
        yield f"environment variable {variable}", lambda: env.get(variable) or None
    credential = f"{settings.profile or OPENAI}_api_key"
    if folder := env.get("CREDENTIALS_DIRECTORY"):
        path = os.path.join(folder, credential)
        # systemd guards the folder, and sets the modes in it by its own rules.
        yield f"credential {credential}", lambda: _from_file(path, private=False) if os.path.lexists(path) else None
    if settings.profile in (OPENAI, None):
        yield "environment variable OPENAI_API_KEY", lambda: env.get("OPENAI_API_KEY") or None


def _from_file(path: str, *, private: bool) -> str:
    try:
        # Without O_NONBLOCK a FIFO would hold the run in silence.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"the key file {path} is not a regular file")
            if private and status.st_uid == os.geteuid() and status.st_mode & 0o077:
                raise ConfigError(f"others can read the key file {path}", f"chmod 600 {path}")
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"the key file {path} cannot be read: {str(error.strerror).lower()}") from None
    return _decoded(data, f"the key file {path}")


def _from_command(command: tuple[str, ...], env: Mapping[str, str], run: Run) -> str:
    name = f"api_key_command {command[0]}"
    try:
        ended = run(command, env=env, until=time.monotonic() + COMMAND_LIMIT, most=LARGEST)
    except TimeoutError:
        raise ConfigError(f"{name} did not end within {COMMAND_LIMIT:g} s") from None
    except OSError as error:
        raise ConfigError(f"{name} cannot be run: {str(error.strerror).lower()}") from None
    if ended.cut:
        raise ConfigError(f"{name} prints more than {LARGEST} bytes, which is not a key")
    if ended.status:
        raise ConfigError(
            f"{name} ended with status {ended.status}",
            "run it by hand to see why: what it says may hold the key, and is not shown",
        )
    return _decoded(ended.out.partition(b"\n")[0], name)


def _decoded(data: bytes, what: str) -> str:
    if len(data) > LARGEST:
        raise ConfigError(f"{what} holds more than {LARGEST} bytes, which cannot be a key")
    try:
        key = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} gives no text: byte {error.start} is not UTF-8") from None
    if not key.strip():
        raise ConfigError(f"{what} gives an empty key")
    return key


def _checked(value: str, source: str) -> str:
    """Return the key without white space around it; ConfigError, without the key, if no header can carry it."""
    key = value.strip()
    if not _HEADER_SAFE.fullmatch(key):
        raise ConfigError(
            f"the key from {source} cannot be sent: it is empty, has several lines, or holds a character beyond ASCII"
        )
    return key


def _guard(settings: Settings, base_url: str) -> None:
    """Refuse to send a key over plain HTTP, and write no core file if this process crashes: the key would be in it."""
    if base_url.startswith("http:") and not is_local(base_url) and not settings.allow_http:
        raise ConfigError(
            f"the key would go to {masked(base_url)} over plain HTTP",
            "use https, or write allow_http = true in the profile if the way there is safe",
        )
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _no_key(settings: Settings, base_url: str) -> ConfigError:
    where = f"the profile {settings.profile}" if settings.profile else masked(base_url)
    variable = settings.key.variable or (None if settings.profile not in (OPENAI, None) else "OPENAI_API_KEY")
    ways = [
        *([f"set {variable}"] if variable else []),
        "give the profile api_key_command, api_key_file or api_key_env",
        f"or pass the systemd credential {settings.profile or OPENAI}_api_key",
    ]
    return ConfigError(f"no key for {where}", f"{', '.join(ways)}; -m echo needs none")


def keyless(env: Mapping[str, str], config: Config, *known: str | None) -> dict[str, str]:
    """Return the environment for a program that must not see a key.

    These variables are left out: those that profiles name for their keys, whether this call uses them or not; the
    folder of systemd's credentials; gptpipe's own addresses, if they have a password or a query; and every variable
    whose value has one of these keys, or a ``known`` one, in it.
    """
    profiles = [*BUILT_IN.values(), *config.profiles.values()]
    variables = {"OPENAI_API_KEY", *(profile["api_key_env"] for profile in profiles if "api_key_env" in profile)}
    secrets = [key.strip() for key in (*map(env.get, variables), *known) if key and len(key.strip()) >= _SHORTEST]
    with_secret = (name for name in _ADDRESSES if masked(value := env.get(name, "")) != value)
    hidden = {*variables, "CREDENTIALS_DIRECTORY", *with_secret}
    return {
        name: value
        for name, value in env.items()
        if name not in hidden and not any(secret in value for secret in secrets)
    }
