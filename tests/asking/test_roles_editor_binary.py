"""What a call is given beyond its words: roles, a text from the editor, files that are no text."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import needs
from tests.harness.server import Server
from tests.sessions.test_attachments import MP3, PDF, PNG, WAV

ECHO = ("gptpipe", "-m", "echo")


def asking(server: Server, *options: str) -> tuple[str, ...]:
    return ("gptpipe", "--base-url", server.url, "-m", "m", *options)


def write_role(home: Path, name: str, text: str) -> Path:
    folder = home / ".config/gptpipe/roles"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text)
    return folder


# Roles

COMMIT = """+++
prompt = "Write a commit message in {language}."
model = "echo"
temperature = 0.2
params = { seed = 7 }

[vars]
language = "English"
+++
You write {{commit} messages in {language}.
"""


def test_a_role_is_a_whole_command(run: Any, shell: Any, home: Path) -> None:
    needs("git")
    write_role(home, "commit", COMMIT)
    script = "git init -q . && echo x >f && git add f && git diff --staged | gptpipe -r commit"
    assert shell(script).text.startswith("Write a commit message in English.\n\ndiff --git")


def test_what_a_role_sends(run: Any, server: Server, home: Path) -> None:
    write_role(home, "commit", COMMIT)
    run(*asking(server, "-r", "commit", "-V", "language=French"))
    run(*asking(server, "-r", "commit", "--temperature", "1", "-O", "top_p=1", "-S", "Mine.", "own prompt"))
    first, second = (request.body for request in server.requests)
    assert [message["content"] for message in first["messages"]] == [
        "You write {commit} messages in French.",
        "Write a commit message in French.",
    ]
    assert (first["temperature"], first["seed"]) == (0.2, 7)
    assert [message["content"] for message in second["messages"]] == ["Mine.", "own prompt"]
    assert (second["temperature"], second["seed"], second["top_p"]) == (1, 7, 1)


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        pytest.param(["-r", "greet"], 2, "{name}", id="a value is missing"),
        pytest.param(["-r", "none"], 66, "none", id="no such role"),
        pytest.param(["-r", "../x"], 2, "../x", id="no name"),
        pytest.param(["-r", "bad"], 78, "temprature", id="unknown key"),
        pytest.param(["-V", "name=x"], 2, "--role", id="a value without a role"),
        pytest.param(["-r", "greet", "-V", "nmae=x"], 2, "did you mean name?", id="a value without a field"),
        pytest.param(["-r", "torn"], 78, "/roles/torn.md has a brace in line 3", id="brace"),
        pytest.param(["-r", "greet", "-V", "name"], 2, "KEY=VALUE", id="no value"),
    ],
)
def test_roles_that_cannot_be_used(run: Any, home: Path, options: list[str], status: int, words: str) -> None:
    write_role(home, "greet", "Greet {name}.")
    write_role(home, "bad", "+++\ntemprature = 1\n+++\n")
    write_role(home, "torn", "+++\n+++\nA { brace")
    result = run(*ECHO, *options, "x")
    assert result.status == status
    assert words in result.err


def test_a_role_extracts_and_validates(run: Any, home: Path) -> None:
    folder = write_role(home, "code", '+++\nextract = "last"\n+++\n')
    write_role(home, "data", '+++\nschema = "n.json"\n+++\n')
    (folder / "n.json").write_text('{"type": "integer"}')
    blocks = b"```\none\n```\n```\ntwo\n```\n"
    assert run(*ECHO, "-r", "code", stdin=blocks).text == "two\n"
    assert run(*ECHO, "-r", "code", "-x", stdin=blocks).text == "one\n"
    assert run(*ECHO, "-r", "data", "7").text == "7\n"
    assert run(*ECHO, "-r", "data", "--repair", "0", "seven").status == 5
    assert run(*ECHO, "-r", "data", "-x", stdin=blocks).text == "one\n"
    run(*ECHO, "-r", "data", "-x", "--save-role", "both", "say")
    assert run(*ECHO, "-r", "both", stdin=blocks).text == "one\n"
    write_role(home, "torn", '+++\nschema = "n.json"\nextract = true\n+++\n')
    assert run(*ECHO, "-r", "torn", "7").status == 78


def test_a_call_is_saved_as_a_role(run: Any, server: Server, home: Path, tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text('{"type": "integer"}')
    settings = ("-m", "small", "--temperature", "0.5", "-O", 'a={"b":[1]}', "-S", "Be {brief}.", "--schema", "n.json")
    assert run("gptpipe", *settings, "--save-role", "mine", "Say", "{x}").out == b""
    assert run("gptpipe-config", "roles").text == "mine\n"
    run("gptpipe", "--base-url", server.url, "-r", "mine", "-V", "brief=short", "-V", "x=1", cwd=home)
    body = server.requests[0].body
    assert [message["content"] for message in body["messages"]] == ["Be short.", "Say 1"]
    assert (body["model"], body["temperature"], body["a"]) == ("small", 0.5, {"b": [1]})
    assert body["response_format"]["json_schema"]["schema"] == {"type": "integer"}
    again = run("gptpipe", "-m", "echo", "--save-role", "mine", "x")
    assert (again.status, len(server.requests)) == (2, 2)


def test_of_a_saved_role_the_text_that_is_not_a_field_stays_what_it_is(run: Any, home: Path) -> None:
    write_role(home, "old", "JSON like {{} for {who}.")
    assert run(*ECHO, "-r", "old", "-V", "who=Ann {x}", "--save-role", "filled", "f() {} {n}").status == 0
    result = run("gptpipe", "-r", "filled", "-V", "n=1", "--dry-run")
    contents = [message["content"] for message in result.json()["body"]["messages"]]
    assert contents == ["JSON like {} for Ann {x}.", "f() {} 1"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["-f", "f"], "--file"),
        (["--base-url", "http://127.0.0.1:1/v1"], "--base-url"),
        (["-s", "x"], "--session"),
        (["--max-time", "3", "-o", "x"], "--output, --max-time"),
        (["--no-stream"], "--no-stream"),
        (["--cache", "1d"], "--cache"),
    ],
    ids=lambda value: str(value),
)
def test_what_a_role_cannot_hold_is_refused_by_name(run: Any, home: Path, options: list[str], named: str) -> None:
    result = run(*ECHO, "-n", "-v", "--save-role", "x", *options, "x")
    assert (result.status, list(home.rglob("*.md"))) == (2, [])
    assert all(name in result.err for name in named.split(", "))


# The editor


def edited(spawn: Any, editor: str, *words: str, **more: Any) -> Any:
    return spawn(*ECHO, "-e", *words, tty="in err", env={"EDITOR": editor}, **more).communicate(b"\n")


def test_the_prompt_is_written_in_the_editor(spawn: Any) -> None:
    assert edited(spawn, "sed -i s/cat/dog/", "a cat").text == "a dog\n"


@pytest.mark.parametrize(
    ("editor", "words"),
    [
        pytest.param("true", ("same",), id="unchanged"),
        pytest.param("true", (), id="nothing"),
        pytest.param("truncate -s 0", ("text",), id="emptied"),
        pytest.param("false", ("text",), id="failed"),
        pytest.param("kill -9 $$;", ("text",), id="killed"),
    ],
)
def test_nothing_is_asked(spawn: Any, home: Path, editor: str, words: tuple[str, ...]) -> None:
    result = edited(spawn, editor, *words)
    assert (result.status, result.out) == (2, b"")
    assert not list(home.rglob("usage"))


@pytest.mark.parametrize("editor", ["rm", "mv -t ."], ids=["removed", "moved"])
def test_a_text_that_the_editor_took_away(spawn: Any, editor: str) -> None:
    result = edited(spawn, editor, "text")
    assert (result.status, result.out) == (66, b"")
    assert re.search(r"gptpipe: cannot read \S*/gptpipe-\w+\.md: No such file or directory", result.err)


def test_without_a_terminal_there_is_no_editor(run: Any) -> None:
    result = run(*ECHO, "-e", "x", env={"EDITOR": "true"})
    assert (result.status, result.out) == (2, b"")
    assert "terminal" in result.err


# Files that are no text


def sent(server: Server) -> Any:
    return server.requests[-1].body["messages"][-1]["content"]


def test_files_arrive_as_the_parts_of_the_protocol(run: Any, server: Server, tmp_path: Path) -> None:
    for name, data in {"a.txt": PNG, "b.pdf": PDF, "c": WAV, "d.png": MP3, "e.gif": b"text\n"}.items():
        (tmp_path / name).write_bytes(data)
    files = [word for name in ("a.txt", "b.pdf", "c", "d.png", "e.gif") for word in ("-f", name)]
    assert run(*asking(server, *files, "look"), stdin=b"piped").status == 0
    encoded = [base64.b64encode(data).decode() for data in (PNG, PDF, WAV, MP3)]
    assert sent(server) == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded[0]}"}},
        {"type": "file", "file": {"filename": "b.pdf", "file_data": f"data:application/pdf;base64,{encoded[1]}"}},
        {"type": "input_audio", "input_audio": {"data": encoded[2], "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": encoded[3], "format": "mp3"}},
        {"type": "text", "text": "==> e.gif <==\ntext\n\npiped"},
    ]


@pytest.mark.parametrize("options", [[], ["-f", "-"]], ids=["piped", "named"])
def test_standard_input_may_be_an_image(run: Any, server: Server, options: list[str]) -> None:
    assert run(*asking(server, *options, "look"), stdin=PNG).status == 0
    assert [part["type"] for part in sent(server)] == ["text", "image_url"]


def test_a_session_refers_to_files_and_sends_them_again(run: Any, server: Server, home: Path, tmp_path: Path) -> None:
    for name, data in {"a.png": PNG, "b.pdf": PDF, "c.wav": WAV}.items():
        (tmp_path / name).write_bytes(data)
    run(*asking(server, "-s", "s", "-f", "a.png", "-f", "b.pdf", "-f", "c.wav", "look"))
    first = sent(server)
    run(*asking(server, "-s", "s", "-f", "a.png", "and again"))
    run(*asking(server, "-s", "s", "what was it?"))
    messages = server.requests[-1].body["messages"]
    assert messages[0]["content"] == first
    assert messages[2]["content"][1] == first[1]
    folder = home / ".local/share/gptpipe"
    session = (folder / "sessions/s.jsonl").read_text()
    assert "base64" not in session
    assert session.count("attachment:image/png;sha256,") == 2
    assert len([path for path in (folder / "attachments").iterdir() if len(path.name) == 64]) == 3


def test_a_lost_file_does_not_end_the_conversation(run: Any, server: Server, home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    run(*asking(server, "-s", "s", "-f", "a.png", "look"))
    for path in home.rglob("attachments/*"):
        path.unlink()
    result = run(*asking(server, "-s", "s", "and?"))
    assert result.status == 0
    assert "missing or damaged" in result.err
    assert "and is gone" in json.dumps(server.requests[-1].body["messages"][0])


def test_a_file_over_the_limit_is_refused_with_the_limit(run: Any, server: Server, tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(PNG)
        file.truncate(21 << 20)
    result = run(*asking(server, "-f", "a.png", "look"))
    assert (result.status, server.requests) == (65, [])
    assert "20 MB" in result.err


def test_a_file_counts_as_tokens(run: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    assert run(*asking(server, "--max-input-tokens", "1000", "-f", "a.png", "look")).status == 6
    assert run(*asking(server, "--max-input-tokens", "2000", "-f", "a.png", "look")).status == 0
