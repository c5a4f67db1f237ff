"""What ``SECURITY.md`` promises, where no other module's tests hold it: keys, and what stands where files should be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gptpipe import __version__
from gptpipe.text.strict_json import compact
from tests.conftest import Run, Spawn
from tests.harness.server import DONE, Server, finish, say

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


def kept(home: Path) -> str:
    """Return all that the program has written below its home, and the names of the files."""
    return "".join(f"{path}\n{path.read_text()}" for path in sorted(home.rglob("*")) if path.is_file())


def test_a_session_of_somebody_else_does_not_decide_where_a_key_goes(run: Run, server: Server, home: Path) -> None:
    folder = home / ".local/share/gptpipe/sessions"
    folder.mkdir(parents=True)
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    turn = {"messages": messages, "model": "m", "finish_reason": "stop"}
    for name, profile in (("one", None), ("two", "openai")):
        (folder / f"{name}.jsonl").write_text(compact({**turn, "profile": profile, "base_url": server.url}) + "\n")
    call = ("gptpipe", "--retry", "0", "--connect-timeout", "5")
    env = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    refused = run(*call, "-s", "one", "hi", env=env)
    assert refused.status == 2
    assert refused.err.startswith(f"gptpipe: the session was at {server.url}, and a session alone does not decide")
    assert run(*call, "-s", "two", "hi", env=env).status == 75  # at the profile's address, where nobody listens
    assert server.requests == []
    server.reply(say("yes"), finish(), DONE)
    assert run(*call, "-s", "one", "--base-url", server.url, "hi", env=env).text == "yes\n"
    assert server.requests[0].body["model"] == "m"
    assert len(server.requests[0].body["messages"]) == 3


def test_a_password_and_a_query_in_an_address_are_used_and_not_kept(run: Run, server: Server, home: Path) -> None:
    url = server.url.replace("http://", "http://me:passw0rd@") + "?api-version=2025&key=qu3ry"
    server.reply(say("one"), finish(), DONE)
    server.reply(b'{"error":{"message":"no qu3ry and no passw0rd"}}', status=400)
    call = ("gptpipe", "-v", "--base-url", url, "-m", "m", "-s", "s", "--meta", str(home / "meta"), "--json", "hi")
    first = run(*call)
    second = run(*call)
    shown = run("gptpipe", "--dry-run", *call[2:])
    config = run("gptpipe-config", "show", "--base-url", url, "-m", "m")
    assert (first.status, second.status, shown.status, config.status) == (0, 69, 0, 0)
    assert [request.path for request in server.requests] == ["/v1/chat/completions?api-version=2025&key=qu3ry"] * 2
    assert len(server.requests[1].body["messages"]) == 3  # the session is continued
    said = "".join(result.err + result.text for result in (first, second, shown, config))
    assert "passw0rd" not in said + kept(home)
    assert "qu3ry" not in said + kept(home)
    assert shown.json()["url"].endswith("/v1/chat/completions?api-version=***&key=***")
    assert f'"base_url":"{server.url}"' in kept(home)
    server.json(200, {"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "x"}]})
    assert run("gptpipe-models", "--base-url", url).text == "m\n"
    assert server.requests[-1].path == "/v1/models?api-version=2025&key=qu3ry"


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        (f'api_key = "{KEY}"', "api_key_env, api_key_file or api_key_command of a profile say where it is"),
        (f'api_key_env = "{KEY}"', ""),
        (f'api_key_file = "{KEY}"', ""),
        (f'api_key_command = ["{KEY}"]', ""),
        (f'model = "{KEY}"', ""),
        (f'cacert = "{KEY}"', ""),
    ],
    ids=lambda value: value.partition(" ")[0],
)
@pytest.mark.parametrize("table", ["", "[profiles.p]\n"], ids=["top", "profile"])
def test_a_key_in_the_wrong_place_of_the_settings_is_refused_and_not_shown(
    settings: str, hint: str, table: str, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "settings").write_text(f"{table}{settings}\n")
    for program in (("gptpipe", "-n", "hi"), ("gptpipe-config", "check"), ("gptpipe-config", "show")):
        result = run(*program, "--config", "settings", "-m", "echo")
        assert result.status == 78
        assert KEY[:9] not in result.err + result.text
        assert hint in result.err


@pytest.mark.parametrize(
    "option", ["-m", "-p", "-r", "-s", "--config", "--cacert", "--base-url", "--proxy", "--save-role"]
)
def test_a_key_as_the_value_of_an_option_is_refused_and_not_shown(option: str, run: Run) -> None:
    result = run("gptpipe", "-n", option, KEY, "hi")
    assert result.status in (2, 78)
    assert KEY[:9] not in result.err
    assert "looks like a key" in result.err


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
