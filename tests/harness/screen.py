"""A terminal that shows what a person would see: a shell in a window of tmux."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.tools import needs


class Screen:
    """A window of 80 columns and 30 lines, in which bash runs with the prompt ``$``."""

    def __init__(self, socket: Path, folder: Path) -> None:
        self._tmux = ["tmux", "-f", "/dev/null", "-S", str(socket)]
        self._call("new-session", "-d", "-x", "80", "-y", "30", "-c", str(folder), "PS1='$ ' bash --norc --noprofile")

    def _call(self, *args: str) -> str:
        return subprocess.run([*self._tmux, *args], check=True, capture_output=True, text=True, timeout=20).stdout

    def send(self, *keys: str) -> None:
        """Press keys: each a text, or a name as tmux has it, such as ``Enter`` and ``C-c``."""
        self._call("send-keys", "--", *keys)

    def text(self) -> str:
        """Return what is shown, without what is blank at its end."""
        return self._call("capture-pane", "-p").rstrip()

    def until(self, end: str) -> str:
        """Wait until the screen ends with the text, and return the screen. Nothing tells when a screen changes."""
        deadline = time.monotonic() + 20
        while not (shown := self.text()).endswith(end):
            assert time.monotonic() < deadline, shown
            time.sleep(0.02)
        return shown

    def close(self) -> None:
        """End the window, and what runs in it."""
        self._call("kill-server")


@pytest.fixture
def screen(tmp_path: Path, home: Path) -> Iterator[Screen]:
    needs("tmux")
    window = Screen(tmp_path / "tmux", tmp_path)
    yield window
    window.close()
