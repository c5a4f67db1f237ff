"""Seeing that a process, and what it started, is gone: each holds a FIFO open, and the kernel closes it for them."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest


class Leash:
    """A FIFO. A shell takes hold of it with ``hold``, and so do all processes that the shell starts from then on."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "leash"
        os.mkfifo(self.path)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    @property
    def hold(self) -> str:
        """The line of shell script."""
        return f"exec 9>'{self.path}'; echo held >&9"

    def taken(self, timeout: float = 20) -> None:
        """Wait until somebody holds it."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        assert poll.poll(timeout * 1000), f"nobody took hold within {timeout} s"

    def check_released(self, timeout: float = 5) -> None:
        """Fail unless somebody held it, and nobody does soon."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        data = b""
        while poll.poll(timeout * 1000):
            block = os.read(self._descriptor, 4096)
            if not block:
                assert data, "nobody took hold"
                return
            data += block
        pytest.fail(f"a process is still there after {timeout} s")

    def close(self) -> None:
        """Close our end."""
        os.close(self._descriptor)
