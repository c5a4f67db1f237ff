"""A command of the user's own that judges an answer (``--check``)."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from threading import Lock

from gptpipe.console import children, output
from gptpipe.errors import NoInput, Temporary, UsageError
from gptpipe.storage import failing

_LINES = 20  # of standard error that the model is shown


class Judge:
    """Runs the command for each answer; ``env`` is its environment. Several threads may use it at once.

    :raises UsageError: if ``command`` cannot be taken apart into words.
    :raises NoInput: if the program does not exist or cannot be run.
    """

    def __init__(self, command: str, env: Mapping[str, str]) -> None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--check {command!r}: {str(error).lower()}") from None
        program = shutil.which(words[0], path=env.get("PATH")) if words else None
        if program is None:
            raise NoInput(f"--check {command!r} cannot be run: no such program")
        self._name = words[0]
        self._words = [program, *words[1:]]
        self._env = env
        self._announced = Lock()

    def __call__(self, text: str) -> str | None:
        """Return why the answer is not good enough, or None if it is; Temporary if the command cannot be run now."""
        waiting = output.waiting_together(f"waiting for {self._name} to check an answer", self._announced)
        with failing(Temporary, f"--check cannot run {self._name}"), waiting:
            ended = children.run(self._words, env=self._env, data=text.encode())
        if not ended.status:
            return None
        said = "\n".join(ended.err.decode("utf-8", "replace").strip().splitlines()[-_LINES:])
        return said or f"{self._name} ended with status {ended.status}"
