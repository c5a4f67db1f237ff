"""What no test may touch: the network beyond loopback, and the real home of whoever runs the tests.

Python reports both to audit hooks (https://docs.python.org/3/library/audit_events.html); this one raises. The
name of the exception is the message. A hook cannot be removed, so it is installed once for a process.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PATHS = {"open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.scandir"}


class NetworkTouched(RuntimeError):
    """A test looked up, or connected to, an address that is not this machine's."""


class RealHomeTouched(RuntimeError):
    """A test opened, listed or changed something in gptpipe's own folders under the real home."""


def real_folders(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return gptpipe's folders of whoever runs the tests, whose environment this is."""
    home = Path(env.get("HOME") or Path.home())
    defaults = {
        "XDG_CONFIG_HOME": home / ".config",
        "XDG_DATA_HOME": home / ".local/share",
        "XDG_STATE_HOME": home / ".local/state",
        "XDG_CACHE_HOME": home / ".cache",
    }
    return tuple(os.path.join(env.get(name) or default, "gptpipe") for name, default in defaults.items())


def is_here(host: object) -> bool:
    """Whether a host is this machine, or a name that cannot be any (RFC 6761)."""
    if host is None:
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return name in ("", "localhost") or name.endswith((".localhost", ".invalid"))


def install() -> None:
    """Raise from now on, in this process and those that it forks, for what no test may touch."""
    forbidden = real_folders(os.environ)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            host = args[0]
        elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
            host = args[1][0]
        elif event in PATHS and isinstance(args[0], str) and args[0].startswith(forbidden):
            raise RealHomeTouched(args[0])
        else:
            return
        if not is_here(host):
            raise NetworkTouched(host)

    sys.addaudithook(hook)
