"""Programs from outside that tests use: what happens to a test whose program is missing.

In continuous integration (``CI=true``) the test fails. Elsewhere it is skipped, and the end of the run names each
missing program, the tests that did not run, and the command that installs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Debian's packages that have another name than the program.
PACKAGES = {
    "SUPPORTED": "locales",
    "bash_completion": "bash-completion",
    "col": "bsdextrautils",
    "flock": "util-linux",
    "localedef": "locales",
    "man": "man-db",
    "setpriv": "util-linux",
    "systemd-analyze": "systemd",
    "unshare": "util-linux",
    "vi": "vim",
}


def package(program: str) -> str:
    """Return the Debian package that brings a program, or a file given by its path."""
    name = Path(program).name
    return PACKAGES.get(name, name)


def in_ci() -> bool:
    """Whether this is a run of continuous integration, where nothing may be skipped."""
    return os.environ.get("CI") == "true"


def needs(*programs: str) -> None:
    """Skip the test when one of the programs, or a file given by its path, is missing; in CI fail it."""
    missing = [program for program in programs if shutil.which(program) is None and not Path(program).is_file()]
    if not missing:
        return
    if in_ci():
        packages = " ".join(map(package, missing))
        pytest.fail(f"{', '.join(missing)} not found: apt-get install {packages}", pytrace=False)
    pytest.skip(f"not found: {', '.join(missing)}")


def needs_right_to(*command: str) -> None:
    """Skip the test when the system does not allow a command, as a container or a chroot may; in CI fail it."""
    needs(command[0])
    if subprocess.run(command, capture_output=True, check=False).returncode:
        (pytest.fail if in_ci() else pytest.skip)(f"not allowed: {' '.join(command)}")


def skipped(reports: Iterable[Any], reason: str) -> dict[str, dict[str, int]]:
    """Return, for each program or command that a reason names, which tests were skipped and how often."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for report in reports:
        words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if match := re.search(rf"{reason}: (.+)", words):
            for each in match[1].split(", "):
                found[each][report.nodeid.partition("[")[0]] += 1
    return found


def summary(reports: Iterable[Any]) -> Iterator[str]:
    """Yield the lines for the end of a run: what was not tested, for want of what, and how to install it."""
    missing, forbidden = skipped(reports, "not found"), skipped(reports, "not allowed")
    for what, tests in sorted((missing | forbidden).items()):
        yield f"{what} is {'missing' if what in missing else 'not allowed here'}, so these did not run:"
        yield from (f"  {test}{f' ({count} cases)' if count > 1 else ''}" for test, count in tests.items())
    if missing:
        yield f"to install them on Debian, as root: apt-get install {' '.join(sorted({*map(package, missing)}))}"
