"""The ways to a key.

In this order: the profile's ``api_key_command``, ``api_key_file``, ``api_key_env``; systemd's credential
``PROFILE_api_key`` (https://systemd.io/CREDENTIALS/); and for the profile ``openai``, and where no profile was named,
the credential ``openai_api_key`` and the variable ``OPENAI_API_KEY``. A way that is there and fails is an error, not
a reason to try the next. An address on this machine needs no key; one that is found is sent there all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, NamedTuple

from gptpipe.errors import ConfigError, Temporary
from gptpipe.settings.settings import OPENAI, Settings
from gptpipe.text.address import is_local, is_plain, masked, masked_headers

COMMAND_LIMIT = 30.0  # seconds
NOT_NEEDED = "none needed"  # the source of no key
LARGEST = 65536  # bytes, of a key file and of what a key command prints

_HEADER_SAFE = re.compile(r"[\x20-\x7e]+")


class Key(NamedTuple):
    """A key and where it came from, in words. The value is None if none is sent, and never in the ``repr``."""

    value: str | None
    source: str

    def __repr__(self) -> str:
        return f"Key({'***' if self.value else None}, source={self.source!r})"


def shown_headers(settings: Settings, env: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a request that matter, their values masked, and no key command run.

    That there is no key yet is no reason to show nothing.
    """
    try:
        key = find(settings, env, run=False)
    except ConfigError:
        key = None
    known = {"Authorization": "***"} if key and key.source != NOT_NEEDED else {}
    return known | {"Content-Type": "application/json"} | masked_headers(settings.headers)


def find(settings: Settings, env: Mapping[str, str], *, timeout: float | None = None, run: bool = True) -> Key:
    """Return the key for the endpoint of the settings.

    ``timeout`` is what is left of the run, in seconds. Without ``run`` a key command is named but not run.

    :raises ConfigError: if there is none though the endpoint needs one, if a way to it fails, if it cannot stand in a
        header, or if it would go over plain HTTP to another machine.
    :raises Temporary: if the run's time is over before the key command ends.
    """
    if settings.base_url is None:
        return Key(None, NOT_NEEDED)
    if settings.key.command and not run:
        return Key(None, f"command {settings.key.command[0]}, not run")
    for source, read in _ways(settings, env, timeout):
        value = read()
        if value is not None:
            _refuse_plain(settings, settings.base_url)
            _leave_no_core()
            return Key(_checked(value, source), source)
    if any(name.lower() == "authorization" for name in settings.headers):
        _refuse_plain(settings, settings.base_url)
        _leave_no_core()
        return Key(None, "the profile's header Authorization")
    if not settings.key.needed or is_local(settings.base_url):
        return Key(None, NOT_NEEDED)
    raise _no_key(settings, settings.base_url)


def _leave_no_core() -> None:
    """From here on, write no core file if this process is killed or crashes: the key would be in it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _ways(
    settings: Settings, env: Mapping[str, str], timeout: float | None
) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """Yield each way to the key: what it is called, and how to read it; None is no key there."""
    ways = settings.key
    if command := ways.command:
        yield f"command {command[0]}", lambda: _from_command(command, env, timeout)
    if file := ways.file:
        yield f"file {file}", lambda: _from_file(file, private=True)
    if variable := ways.variable:
        yield f"environment variable {variable}", lambda: env.get(variable) or None
    credential = f"{settings.profile or OPENAI}_api_key"
    if folder := env.get("CREDENTIALS_DIRECTORY"):
        yield f"credential {credential}", lambda: _from_credential(os.path.join(folder, credential))
    if settings.profile in (OPENAI, None):
        yield "environment variable OPENAI_API_KEY", lambda: env.get("OPENAI_API_KEY") or None


def _from_credential(path: str) -> str | None:
    # systemd guards the folder, and sets the modes in it by its own rules.
    return _from_file(path, private=False) if os.path.lexists(path) else None


def _from_file(path: str, *, private: bool) -> str:
    try:
        # Without O_NONBLOCK a FIFO would hold the run in silence.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"the key file {path} is no regular file")
            if private and status.st_uid == os.geteuid() and status.st_mode & 0o077:
                raise ConfigError(f"others can read the key file {path}", f"chmod 600 {path}")
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"the key file {path} cannot be read: {str(error.strerror).lower()}") from None
    return _decoded(data, f"the key file {path}")


def _from_command(command: tuple[str, ...], env: Mapping[str, str], timeout: float | None) -> str:
    import subprocess  # 10 ms, paid only by whoever has a key command

    name = f"api_key_command {command[0]}"
    limit = COMMAND_LIMIT if timeout is None else min(COMMAND_LIMIT, timeout)
    deadline = time.monotonic() + limit
    try:
        # In a session of its own it cannot ask on the terminal, where a pipeline would wait for it in silence, and
        # its children can be ended together with it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,  # as it was: this process drops OPENAI_* for the SDK
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"{name} cannot be run: {str(error.strerror).lower()}") from None
    assert process.stdout
    with process.stdout as output:
        try:
            data = _collect(output, deadline, name)
            status = process.wait(max(0.0, deadline - time.monotonic()))
        except BaseException as error:
            _end(process.pid)
            process.wait()
            if not isinstance(error, TimeoutError | subprocess.TimeoutExpired):
                raise
            if limit < COMMAND_LIMIT:
                raise Temporary(f"{name} did not end within --max-time") from None
            raise ConfigError(f"{name} did not end within {limit:g} s") from None
    if status:
        how = f"ended with status {status}" if status > 0 else f"died of signal {-status}"
        raise ConfigError(f"{name} {how}", "run it by hand to see why: what it says may hold the key, and is not shown")
    return _decoded(data.partition(b"\n")[0], name)


def _collect(output: IO[bytes], deadline: float, name: str) -> bytes:
    """Return what comes up to the end.

    :raises TimeoutError: if the end has not come by the deadline.
    :raises ConfigError: if it is more than LARGEST bytes.
    """
    poll = select.poll()
    poll.register(output, select.POLLIN)
    data = b""
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = os.read(output.fileno(), LARGEST)
        if not chunk:
            return data
        data += chunk
        if len(data) > LARGEST:
            raise ConfigError(f"{name} prints more than {LARGEST} bytes, which is no key")
    raise TimeoutError


def _end(group: int) -> None:
    # The leader has not been waited for, so its id, and with it that of the group, cannot have passed to another.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _decoded(data: bytes, what: str) -> str:
    if len(data) > LARGEST:
        raise ConfigError(f"{what} holds more than {LARGEST} bytes, which is no key")
    try:
        key = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} gives no text: byte {error.start} is not UTF-8") from None
    if not key.strip():
        raise ConfigError(f"{what} gives an empty key")
    return key


def _checked(value: str, source: str) -> str:
    """Return the key without white space around it.

    :raises ConfigError: if an HTTP header cannot carry it; the message never shows it.
    """
    key = value.strip()
    if not _HEADER_SAFE.fullmatch(key):
        raise ConfigError(
            f"the key from {source} cannot be sent: it is empty, has several lines, or holds a character beyond ASCII"
        )
    return key


def _refuse_plain(settings: Settings, base_url: str) -> None:
    if is_plain(base_url) and not is_local(base_url) and not settings.allow_http:
        raise ConfigError(
            f"the key would go to {masked(base_url)} over plain HTTP",
            "use https, or write allow_http = true in the profile if the way there is safe",
        )


def _no_key(settings: Settings, base_url: str) -> ConfigError:
    where = f"the profile {settings.profile}" if settings.profile else masked(base_url)
    variable = settings.key.variable or (None if settings.profile not in (OPENAI, None) else "OPENAI_API_KEY")
    ways = [
        *([f"set {variable}"] if variable else []),
        "give the profile api_key_command, api_key_file or api_key_env",
        f"or pass the systemd credential {settings.profile or OPENAI}_api_key",
    ]
    return ConfigError(f"there is no key for {where}", f"{', '.join(ways)}; -m echo needs none")
