"""The harness itself: other tests can only be believed if it does what it promises."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Fresh, Run, Spawn, needs
from tests.harness import guard
from tests.harness.processes import REAL_ENVIRONMENT, ROOT


def test_a_run_is_a_process_of_its_own_with_its_own_environment(run: Run, spawn: Spawn, home: Path) -> None:
    assert run("gptpipe", "-m", "echo", "-s", "kept", "one").status == 0
    assert (home / ".local/share/gptpipe/sessions/kept.jsonl").exists()
    assert run("gptpipe", "two", env={"GPTPIPE_MODEL": "echo"}).out == b"two\n"
    assert spawn("gptpipe", "-m", "echo", "three").pid != os.getpid()


def test_standard_input_can_be_bytes_a_descriptor_or_a_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"from the file")
    read, write = os.pipe()
    os.write(write, b"from the pipe")
    os.close(write)
    assert run("gptpipe", "-m", "echo", stdin=b"given").out == b"given\n"
    assert run("gptpipe", "-m", "echo", stdin=path).out == b"from the file\n"
    assert run("gptpipe", "-m", "echo", stdin=read).out == b"from the pipe\n"
    os.close(read)


def test_much_can_go_in_and_out_at_once(run: Run) -> None:
    data = b"0123456789abcde\n" * 16384
    assert run("gptpipe", "-m", "echo", stdin=data).out == data


def test_an_end_by_a_signal_is_what_a_shell_shows(spawn: Spawn) -> None:
    process = spawn("gptpipe", "-m", "echo:stall=3", "hello")
    assert process.read(b"hel") == b"hel"
    process.kill(signal.SIGTERM)
    assert process.wait() == 143


def test_a_terminal_is_one_for_the_program(run: Run) -> None:
    assert run("gptpipe", "-m", "echo:text=a\x1b[1mb", "x", tty="out").out == b"a^[[1mb\n"
    assert run("gptpipe", "-m", "echo:text=a\x1b[1mb", "x").out == b"a\x1b[1mb\n"
    assert run("gptpipe", "-m", "echo", stdin=b"typed\n", tty=True).out.startswith(b"typed")


def test_a_shell_finds_the_programs_and_shows_their_statuses(shell: Run) -> None:
    assert shell("printf hi | gptpipe -m echo; echo $?").out == b"hi\n0\n"
    assert shell("cat; exit 3", stdin=b"fed") == (3, b"fed", "")


def test_a_fresh_run_tells_what_it_imported(fresh: Callable[..., Fresh]) -> None:
    told = fresh("gptpipe", "--version")
    assert (told.status, told.err) == (0, "")
    assert "click" in told.modules
    assert "openai" not in told.modules


def test_the_network_is_out_of_reach(run: Run) -> None:
    with pytest.raises(guard.NetworkTouched), socket.socket() as probe:
        probe.connect(("192.0.2.1", 80))
    with pytest.raises(guard.NetworkTouched):
        socket.getaddrinfo("example.com", 80)
    refused = run("gptpipe", "--base-url", "https://192.0.2.1/v1", "hi", "-m", "m", env={"OPENAI_API_KEY": "k"})
    assert refused.status != 0
    assert "NetworkTouched" in refused.err


def test_the_real_home_is_out_of_reach() -> None:
    for folder in guard.real_folders(REAL_ENVIRONMENT):
        with pytest.raises(guard.RealHomeTouched):
            Path(folder, "config.toml").read_bytes()


@pytest.mark.parametrize(
    ("ci", "outcome", "words"),
    [
        ("true", pytest.fail.Exception, "no-such-tool not found: apt-get install no-such-tool"),
        ("", pytest.skip.Exception, "not found: no-such-tool"),
    ],
    ids=["fails in CI", "skips elsewhere"],
)
def test_a_missing_program(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[Exception], words: str) -> None:
    monkeypatch.setenv("CI", ci)
    needs("bash")
    with pytest.raises(outcome, match=words):
        needs("bash", "no-such-tool")


def test_the_end_of_a_run_names_what_was_not_tested(tmp_path: Path) -> None:
    """A run of pytest with a PATH on which there is no jq: it is green, and says what it skipped."""
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import *\nfrom tests.conftest import pytest_terminal_summary\n"
    )
    (tmp_path / "test_x.py").write_text(
        "import pytest\nfrom tests.conftest import needs\n"
        "@pytest.mark.parametrize('n', [1, 2])\ndef test_a(n): needs('jq')\ndef test_b(): needs('localedef', 'jq')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-c", str(ROOT / "pyproject.toml"), str(tmp_path)]
    env = REAL_ENVIRONMENT | {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT), "CI": ""}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert (done.returncode, "3 skipped" in lines[-1]) == (0, True), done.stdout
    assert "jq is missing, so these did not run:" in lines
    assert any(line.endswith("test_x.py::test_a (2 cases)") for line in lines)
    assert "to install them on Debian, as root: apt-get install jq locales" in lines
    command[command.index("-n") + 1] = "0"
    done = subprocess.run(command, cwd=tmp_path, env=env | {"CI": "true"}, capture_output=True, text=True, check=False)
    assert (done.returncode, "3 failed" in done.stdout) == (1, True), done.stdout
