"""What ``SECURITY.md`` promises, where no other module's tests hold it: keys, and what stands where files should be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gptpipe import __version__
from tests.conftest import Run, Spawn
from tests.harness.server import Server, say

KEY = "sk-secret-0123456789"


@pytest.mark.parametrize(
    "way", ["api_key_env = 'MY_KEY'", f"headers = {{ Authorization = 'Bearer {KEY}' }}"], ids=["key", "header"]
)
def test_no_core_file_can_hold_the_key(way: str, spawn: Spawn, server: Server, tmp_path: Path) -> None:
    server.reply(say("A"), hang=True)
    (tmp_path / "settings").write_text(f"[profiles.p]\nbase_url = '{server.url}'\n{way}\n")
    process = spawn("gptpipe", "--config", "settings", "-p", "p", "-m", "m", "hi", env={"MY_KEY": KEY})
    process.read(b"A")
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 ", limits, re.MULTILINE)


RAW = "HTTP/1.1 200 OK\r\n"
REPEATED = {
    "the header's key": (f"<title>{KEY}</title>", 400, False),
    "a header line that is none": (f"{RAW}{KEY}\r\n\r\n", 200, True),
    "a chunk's size that is none": (f"{RAW}transfer-encoding: chunked\r\n\r\n{KEY}\r\n", 200, True),
    "a page that is shown up to the middle of the key": (f"<p>{'x' * 45} {KEY}</p>", 200, False),
}


@pytest.mark.parametrize(("reply", "status", "raw"), REPEATED.values(), ids=REPEATED)
def test_what_the_server_repeats_of_a_key_is_masked(
    reply: str, status: int, raw: bool, run: Run, server: Server, tmp_path: Path
) -> None:
    server.reply(reply.encode(), status=status, raw=raw)
    header = f"headers = {{ Authorization = 'Bearer {KEY}' }}"
    (tmp_path / "settings").write_text(f"[profiles.p]\nbase_url = '{server.url}'\n{header}\n")
    result = run("gptpipe", "--config", "settings", "-p", "p", "-m", "m", "--retry", "0", "--meta", "meta", "hi")
    assert "***" in result.err
    assert KEY[:9] not in result.err + (tmp_path / "meta").read_text()


def test_a_symlink_that_leads_to_itself_for_a_session(run: Run, home: Path) -> None:
    path = home / ".local/share/gptpipe/sessions/s.jsonl"
    path.parent.mkdir(parents=True)
    path.symlink_to(path)
    result = run("gptpipe", "-m", "echo", "-s", "s", "hi")
    assert result.status == 74
    assert "is not a regular file" in result.err


@pytest.mark.parametrize("program", ["gptpipe", "gptpipe-chat"])
def test_the_name_of_a_session_is_checked_before_anything_is_asked(program: str, run: Run, home: Path) -> None:
    result = run(program, "-m", "echo", "-s", "../x")
    assert result.status == 2
    assert "'../x' cannot be a session name" in result.err


def test_a_request_names_the_program_and_not_the_machine(run: Run, server: Server) -> None:
    run("gptpipe", "--base-url", server.url, "-m", "m", "hi")
    headers = server.requests[0].headers
    assert headers["user-agent"] == f"gptpipe/{__version__}"
    assert not {"x-stainless-os", "x-stainless-arch", "x-stainless-runtime-version"} & headers.keys()
