"""The packages: what pip builds from a checkout works where pipx puts it, and the source distribution tests itself."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.harness.processes import ROOT
from torture.frame import Case, Rig, execute, needs, outcome

TITLE = "Packages"

PIPX = "pipx==1.18.4"
# Of the source distribution's own tests those that need nothing of the machine but Python and bash.
TESTS = (
    "programs/test_filter",
    "programs/test_statuses",
    "programs/test_sessions",
    "documents/test_package",
    "documents/test_documents",
    "wire/test_sse",
    "wire/test_echo",
)
COMPLETIONS = (
    "share/bash-completion/completions/gptpipe",
    "share/fish/vendor_completions.d/gptpipe.fish",
    "share/zsh/site-functions/_gptpipe",
)


def command(*words: str | Path) -> None:
    """Run what must succeed."""
    subprocess.run(words, check=True, capture_output=True)


def installed(folder: Path) -> Iterator[Case]:
    """Install the wheel with pipx into a folder of its own, and use what is there."""
    wheels, home = folder / "wheels", folder / "home"
    home.mkdir()
    command(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT)
    (wheel,) = wheels.glob("*.whl")
    command(sys.executable, "-m", "venv", folder / "pipx")
    command(folder / "pipx/bin/pip", "install", "--quiet", "--disable-pip-version-check", PIPX)
    env = {
        "PIPX_HOME": str(folder / "pipx-home"),
        "PIPX_BIN_DIR": str(home / ".local/bin"),
        "PIPX_MAN_DIR": str(home / ".local/share/man"),
        "PIPX_DEFAULT_PYTHON": str(Path(sys.executable).resolve()),
    }
    result = execute(home, str(folder / "pipx/bin/pipx"), "install", "--quiet", str(wheel), env=env, timeout=300)
    yield Case("pipx install", result.status == 0, f"{result}")
    environment = folder / "pipx-home/venvs/gptpipe"
    programs = sorted(path.name for path in (home / ".local/bin").iterdir())
    for program in programs:
        result = execute(home, str(home / ".local/bin" / program), "--version")
        yield outcome(f"{program} --version", result, status=0)
    result = execute(home, str(home / ".local/bin/gptpipe"), "-m", "echo", "-s", "s", "-n", "hi")
    yield outcome("a question", result, status=0, out=b"hi\n")
    for page in sorted((ROOT / "man").iterdir()):
        # Where man looks for the pages of the programs in ~/.local/bin.
        call = ("man", "-M", str(home / ".local/share/man"), "--where", page.suffix[1:], page.stem)
        result = execute(home, *call)
        yield Case(f"man {page.stem}", result.status == 0 and page.name in result.text, f"{result}")
    for path in COMPLETIONS:
        yield Case(path, (environment / path).is_file(), f"not in {environment}")
    bash = f"source {environment / COMPLETIONS[0]} && complete -p gptpipe"
    result = execute(home, "bash", "-c", bash)
    yield Case("completion in bash", result.status == 0 and "gptpipe" in result.text, f"{result}")


def unpacked(folder: Path) -> Iterator[Case]:
    """Unpack the source distribution where nothing else is, and run its tests on its own code."""
    build = (sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder / "sdist")
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (source,) = (folder / "sdist").glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (tree,) = (folder / "unpacked").iterdir()
    command(sys.executable, "-m", "venv", folder / "venv")
    pip = (folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check")
    command(*pip, "--editable", f"{tree}[dev]")
    tests = [f"tests/{name}.py" for name in TESTS]
    call = (str(folder / "venv/bin/python"), "-m", "pytest", "-q", "-n", "2", *tests)
    result = execute(tree, *call, timeout=400)
    last = (result.text.splitlines() or [""])[-1]
    passed = int(last.split()[0]) if last[:1].isdecimal() else 0
    yield Case("the tests of the source distribution", result.status == 0, result.text[-2000:], max(1, passed))


def cases(rig: Rig) -> Iterator[Case]:
    """Build, install, use, test."""
    needs("man", "bash")
    folder = rig.folder / "packages"
    folder.mkdir()
    yield from installed(folder)
    yield from unpacked(folder)
