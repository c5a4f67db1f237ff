"""The package: what is declared, what is built, what is installed."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import gptpipe
from gptpipe.programs import start
from tests.conftest import BIN, Run, needs
from tests.harness import programs, tools
from tests.harness.processes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and the source distribution, and return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True, capture_output=True
    )
    return folder


def test_every_command_is_a_program() -> None:
    for name, function in programs.SCRIPTS.items():
        assert function == programs.module(name).replace("programs.", "programs.start:")
        assert getattr(start, function.partition(":")[2]).args == (programs.module(name).rpartition(".")[2],)
        assert programs.command(name).name == name
        assert (BIN / name).exists()


def test_the_version_is_that_of_the_package(run: Run, shell: Run) -> None:
    assert importlib.metadata.version("gptpipe") == gptpipe.__version__
    assert run("gptpipe", "--version").text == f"gptpipe {gptpipe.__version__}\n"
    assert shell(f"{sys.executable} -m gptpipe --version").text == f"gptpipe {gptpipe.__version__}\n"


@pytest.mark.parametrize("dependency", PROJECT["project"]["dependencies"])
def test_dependencies_are_bounded_by_their_major_version(dependency: str) -> None:
    found = re.fullmatch(r"[a-z0-9-]+(?:\[\w+\])?>=(\d+)\.[\d.]+,<(\d+)", dependency)
    assert found
    assert int(found[2]) == int(found[1]) + 1


def test_pages_and_completions_are_installed_where_they_are_looked_for(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shared = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
    expected = {f"share/man/man{path.suffix[1:]}/{path.name}" for path in (ROOT / "man").iterdir()}
    expected |= {f"share/bash-completion/completions/{path.name}" for path in (ROOT / "completions/bash").iterdir()}
    expected |= {f"share/fish/vendor_completions.d/{path.name}" for path in (ROOT / "completions/fish").iterdir()}
    expected |= {f"share/zsh/site-functions/{path.name}" for path in (ROOT / "completions/zsh").iterdir()}
    assert shared == expected


def test_the_wheel_holds_the_package_alone(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if not name.startswith(f"gptpipe-{gptpipe.__version__}.")} == {
        "gptpipe"
    }
    assert "gptpipe/py.typed" in names


def test_the_source_distribution_can_be_tested(built: Path) -> None:
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", ".ci/run", "tests/conftest.py", "man/gptpipe.1", "completions/zsh/_gptpipe", "LICENSE"} <= names


def test_shell_files_are_clean(shell: Run) -> None:
    needs("shellcheck")
    result = shell("shellcheck .ci/run .ci/install completions/bash/* examples/tools/man-page", cwd=ROOT)
    assert (result.status, result.text) == (0, "")


def test_ci_installs_what_tests_need() -> None:
    listed = re.search(r"packages=\((.*?)\)", (ROOT / ".ci/install").read_text(), re.DOTALL)
    assert listed
    calls = re.findall(r"\bneeds\(([^)]*)\)", "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py")))
    needed = {name for call in calls for name in re.findall(r'"([\w-]+)"', call)} - {"no-such-tool"}
    assert {"jq", "openssl", "strace"} <= needed
    assert {tools.package(name) for name in needed} <= set(listed[1].split())


@pytest.fixture
def tools_of_debian(tmp_path: Path) -> str:
    """Stand-ins for Debian's tools on a PATH: no package is there; ``sudo`` works if there is a file ``may``."""
    scripts = {
        "id": "echo ${ID-1000}",
        "sudo": f'[[ $1 == -n && -e {tmp_path}/may ]] && "${{@:2}}"',
        "dpkg-query": "exit 1",
        "apt-get": f'echo "$DEBIAN_FRONTEND: $*" >>{tmp_path}/log; exit ${{FAILS-0}}',
    }
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    return f"{tmp_path}:/usr/bin:/bin"


@pytest.mark.parametrize("who", [{"ID": "0"}, {"ID": "1000"}], ids=["root", "sudo"])
def test_what_is_missing_is_installed(who: dict[str, str], tools_of_debian: str, shell: Run, tmp_path: Path) -> None:
    (tmp_path / "may").touch()
    result = shell(f"{ROOT}/.ci/install tmux jq", env={"PATH": tools_of_debian, "CI": "true", **who})
    assert result == (0, b"", "")
    log = (tmp_path / "log").read_text().splitlines()
    install = "noninteractive: install --quiet --yes --no-install-recommends tmux jq"
    assert log == ["noninteractive: update --quiet", install]


@pytest.mark.parametrize("who", [{"ID": "0", "FAILS": "1"}, {"ID": "1000"}], ids=["apt fails", "no sudo"])
@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)], ids=["elsewhere", "in CI"])
def test_what_cannot_be_installed_is_named(
    who: dict[str, str], ci: str, status: int, tools_of_debian: str, shell: Run
) -> None:
    result = shell(f"{ROOT}/.ci/install tmux jq", env={"PATH": tools_of_debian, "CI": ci, **who})
    words = "not installed: tmux jq\non Debian, as root: apt-get install tmux jq\n"
    assert result == (status, b"", words)
