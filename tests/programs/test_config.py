from __future__ import annotations

import re
import socket
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gptpipe.asking import tokens
from gptpipe.errors import ConfigError, NoInput, Temporary, Unavailable
from gptpipe.programs import config
from gptpipe.settings.settings import Settings
from gptpipe.wire.download import download
from tests.harness.processes import ROOT
from tests.harness.server import DONE, Server, certificate, finish, say
from tests.harness.vocabulary import put_vocabulary, vocabulary


def configure(home: Path, text: str) -> None:
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


WHOLE = """
profile = "box"
system = "Be \\"brief\\"."
max_time = 60
[params]
stop = ["a"]
[aliases]
fast = "m2"
[profiles.box]
base_url = "https://u:secret@box/v1"
model = "m"
api_key_command = ["pass", "box"]
headers = { X-Key = "hidden" }
[profiles.plain]
base_url = "https://plain/v1"
thinks = true
[chat]
question = "? "
[budget]
day_tokens = 5
[prices]
m = { input = 1, output = 2 }
"""


def test_show(run: Any, home: Path) -> None:
    configure(home, WHOLE)
    result = run("gptpipe-config", "show", "-p", "box", "--temperature", "0.5", "--idle-timeout", "0")
    shown = tomllib.loads(result.text)
    assert (shown["model"], shown["profile"], shown["idle_timeout"]) == ("m", "box", 0)
    assert shown["params"] == {"temperature": 0.5, "stop": ["a"]}
    assert (shown["budget"], shown["prices"]) == ({"day_tokens": 5}, {"m": {"input": 1, "output": 2}})
    assert "secret" not in result.text
    assert "hidden" not in result.text


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-p", "groq", "-m", "fast", "-O", "x={}", "-O", "n1=null", "--max-time", "0"),
        ("-m", "echo"),
        ("--base-url", "http://u:secret@127.0.0.1/v1?key=secret", "-m", "m"),
    ],
    ids=["nothing", "profile", "echo", "address"],
)
@pytest.mark.parametrize("settings", ["", WHOLE], ids=["no file", "file"])
def test_what_show_prints_is_a_settings_file(run: Any, home: Path, settings: str, options: tuple[str, ...]) -> None:
    configure(home, settings)
    shown = run("gptpipe-config", "show", *options)
    (home / "c.toml").write_bytes(shown.out)
    config = ("--config", str(home / "c.toml"))
    assert run("gptpipe", "-n", *config, "-m", "echo", "hi") == (0, b"hi\n", "")
    again = run("gptpipe-config", "show", *config)
    assert tomllib.loads(again.text) == tomllib.loads(shown.text)
    assert "secret" not in shown.text
    if settings:
        assert '# base_url = "https://***@box/v1"' in shown.text
        assert "# headers = " in shown.text


def test_init_writes_a_file_to_begin_with_and_never_over_one(run: Any, home: Path) -> None:
    path = home / ".config/gptpipe/config.toml"
    assert run("gptpipe-config", "init") == (0, f"{path}\n".encode(), "")
    assert path.stat().st_mode & 0o777 == 0o600
    starter = path.read_text()
    assert tomllib.loads(starter) == {}
    # Each example in it can be used as it stands.
    path.write_text(re.sub(r"^# (?=\[|\w+ = )", "", starter, flags=re.MULTILINE))
    shown = tomllib.loads(run("gptpipe-config", "show").text)
    assert (shown["model"], shown["aliases"]["fast"], shown["profiles"]["work"]["api_key_env"]) == (
        "gpt-5.5",
        "gpt-5.4-mini",
        "WORK_API_KEY",
    )
    assert shown["budget"] == {"day_tokens": 1000000, "month_usd": 20}
    written = path.read_text()
    again = run("gptpipe-config", "init")
    assert (again.status, again.out, path.read_text()) == (2, b"", written)
    assert run("gptpipe-config", "init", "--config", str(home / "other/c.toml")).status == 0
    assert (home / "other/c.toml").read_text() == starter


def test_path(run: Any, home: Path) -> None:
    lines = dict(line.split("\t") for line in run("gptpipe-config", "path").text.splitlines())
    assert lines["sessions"] == f"{home}/.local/share/gptpipe/sessions"
    for name, path in lines.items():
        assert run("gptpipe-config", "path", name).text == f"{path}\n"
    assert run("gptpipe-config", "path", "session").status == 2
    assert run("gptpipe-config", "path", "vocabularies", env={"TIKTOKEN_CACHE_DIR": "/v"}).text == "/v\n"
    run("gptpipe", "-m", "echo", "-s", "s", "--cache", "1d", "hi")
    assert [name for name, path in lines.items() if Path(path).exists()] == ["sessions", "answers"]


def test_roles(run: Any, home: Path) -> None:
    assert run("gptpipe-config", "roles") == (0, b"", "")
    for name in ("b", "a", ".hidden"):
        path = home / f".config/gptpipe/roles/{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert run("gptpipe-config", "roles").text == "a\nb\n"


def test_cache(run: Any) -> None:
    for word in ("a", "b"):
        run("gptpipe", "-m", "echo", "--cache", "1d", word)
    assert run("gptpipe-config", "cache").text.startswith("2 answers, ")
    assert run("gptpipe-config", "cache", "--older-than", "1h").status == 2
    assert run("gptpipe-config", "cache", "clear", "--older-than", "1h").text == "0\n"
    assert run("gptpipe-config", "cache", "clear").text == "2\n"
    assert run("gptpipe-config", "cache").text == "0 answers, 0 bytes\n"
    assert run("gptpipe", "-m", "echo", "--cache-only", "a").status == 66


# check


def test_all_is_well(run: Any, home: Path) -> None:
    result = run("gptpipe-config", "check", env={"OPENAI_API_KEY": "sk-1"})
    assert result.status == 0
    assert "ok   key: environment variable OPENAI_API_KEY" in result.text
    assert "sk-1" not in result.text


@pytest.mark.parametrize(
    ("settings", "role", "bad"),
    [
        pytest.param("", "", "key", id="no key"),
        pytest.param('model = "echo"\n', "+++\nx = 1\n+++\n", "role r", id="a faulty role"),
        pytest.param('model = "echo"\n', "{a b", "role r", id="a role with a faulty field"),
        pytest.param('profile = "nowhere"\n', "", "model", id="no such profile"),
        pytest.param('model = "echo"\n', '+++\nschema = "none.json"\n+++\n', "role r", id="a role without its schema"),
        pytest.param(
            'model = "m"\nbase_url = "http://127.0.0.1:9/v1"\n',
            '+++\nprofile = "nowhere"\n+++\n',
            "role r",
            id="a role with no profile",
        ),
    ],
)
def test_what_does_not_work_is_said(run: Any, home: Path, settings: str, role: str, bad: str) -> None:
    configure(home, settings)
    (home / ".config/gptpipe/roles").mkdir()
    (home / ".config/gptpipe/roles/r.md").write_text(role)
    result = run("gptpipe-config", "check")
    assert result.status == 78
    assert [line.split(": ")[0] for line in result.text.splitlines() if line.startswith("BAD")] == [f"BAD  {bad}"]


def test_a_folder_that_is_in_the_way_is_named_once(run: Any, home: Path) -> None:
    configure(home, 'model = "echo"\n')
    (home / ".local").write_text("")
    (home / ".cache").write_text("")
    result = run("gptpipe-config", "check")
    assert [line for line in result.text.splitlines() if line.startswith("BAD")] == [
        f"BAD  folder: {home}/.local cannot be written to: sessions, usage cannot be kept",
        f"BAD  folder: {home}/.cache cannot be written to: answers cannot be kept",
    ]


@pytest.mark.parametrize(
    ("words", "meaningless"),
    [
        (["gptpipe-models"], ["--model", "--temperature", "--max-tokens", "--param", "--max-input-tokens", "--api"]),
        (["gptpipe-config", "tokenizer"], ["--base-url", "--model", "--max-time"]),
        (["gptpipe-config", "roles"], ["--config"]),
        (["gptpipe-config", "cache"], ["--config"]),
    ],
    ids=lambda value: value[-1],
)
def test_the_help_offers_only_what_means_something(run: Any, words: list[str], meaningless: list[str]) -> None:
    text = run(*words, "-h").text
    assert [name for name in meaningless if name in text] == []
    assert all(run(*words, name, "1").status == 2 for name in meaningless)


def test_a_faulty_settings_file(run: Any, home: Path) -> None:
    configure(home, "modell = 1\n")
    assert run("gptpipe-config", "check").status == 78


def marks(text: str) -> dict[str, str]:
    return {name: mark for mark, name in (line.split(": ")[0].split(maxsplit=1) for line in text.splitlines())}


def test_online(run: Any, server: Server) -> None:
    server.json(200, {"data": [{"id": "m"}]})
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    server.reply(say("one"), 0.1, say("two"), finish(usage=usage), DONE)
    server.reply(say('{"answer": "x"}'), finish(), DONE)
    result = run("gptpipe-config", "check", "--online", "--base-url", server.url, "-m", "m")
    assert result.status == 0
    found = marks(result.text)
    assert [found[name] for name in ("models", "answer", "streaming", "usage", "schema")] == ["ok"] * 5


def test_what_an_endpoint_cannot_do(run: Any, server: Server) -> None:
    server.json(404, {"error": {"message": "no"}})
    server.reply(say("one"), finish(), DONE)
    server.reply(say("no JSON"), finish(), DONE)
    server.reply(say("no JSON"), finish(), DONE)
    result = run("gptpipe-config", "check", "--online", "--base-url", server.url, "-m", "m")
    assert result.status == 0
    found = marks(result.text)
    assert [found[name] for name in ("models", "answer", "streaming", "usage", "schema")] == ["-", "ok", "-", "-", "-"]


def test_a_key_that_is_refused(run: Any, server: Server) -> None:
    server.json(401, {"error": {"message": "no"}}, times=2)
    result = run("gptpipe-config", "check", "--online", "--base-url", server.url, "-m", "m")
    assert result.status == 78
    assert marks(result.text)["answer"] == "BAD"


def test_online_check_ends_by_max_time(run: Any, server: Server) -> None:
    server.reply(hang=True, times=2)
    result = run("gptpipe-config", "check", "--online", "--base-url", server.url, "-m", "m", "--max-time", "1")
    assert (result.status, result.err) == (75, "gptpipe-config: the run took longer than 1 s (--max-time)\n")


# tokenizer and install-docs


def test_a_vocabulary_that_is_there_is_not_fetched(run: Any, home: Path) -> None:
    put_vocabulary(home / ".cache/gptpipe")
    result = run("gptpipe-config", "tokenizer", "--proxy", "http://127.0.0.1:1")
    assert result.status == 0
    assert Path(result.text.strip()).exists()


@contextmanager
def proxied(server: Server) -> Iterator[str]:
    """Give the address of a proxy that connects to the server, whoever is asked for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client, socket.create_connection((server.host, server.port)) as there:
                while not client.recv(4096).endswith(b"\r\n\r\n"):
                    pass
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=forward, args=(there, client))
                back.start()
                forward(client, there)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_a_vocabulary_is_fetched_by_the_proxy(run: Any, home: Path, tmp_path: Path, damaged: bool) -> None:
    context, path = certificate(tmp_path, "DNS:openaipublic.blob.core.windows.net")
    with Server(tls=context) as server, proxied(server) as proxy:
        server.reply(b"nothing" if damaged else vocabulary("cl100k_base"))
        env = {"https_proxy": proxy}
        result = run("gptpipe-config", "tokenizer", "cl100k_base", "--cacert", str(path), env=env)
        assert server.requests[0].path == "/encodings/cl100k_base.tiktoken"
    assert result.status == (76 if damaged else 0)
    assert tokens.installed("cl100k_base", home / ".cache/gptpipe") is not damaged


def test_a_vocabulary_that_cannot_be_fetched(run: Any, tmp_path: Path) -> None:
    result = run("gptpipe-config", "tokenizer", "cl100k_base", "--proxy", "http://127.0.0.1:1")
    assert (result.status, result.out) == (75, b"")
    assert run("gptpipe-config", "tokenizer", "p50k_base").status == 2


def test_download(server: Server, tmp_path: Path) -> None:
    server.reply(b"data")
    server.reply(status=404)
    plain = Settings("", None, None)
    assert download(server.url, plain) == b"data"
    with pytest.raises(Unavailable):
        download(server.url, plain)
    context, path = certificate(tmp_path)
    with Server(tls=context) as secure:
        secure.reply(b"secret")
        assert download(secure.url, plain._replace(cacert=str(path))) == b"secret"
        with pytest.raises(ConfigError):
            download(secure.url, plain)
    with pytest.raises(Temporary):
        download(server.url, plain._replace(proxy="http://127.0.0.1:1"))


def test_install_docs(run: Any, home: Path) -> None:
    result = run("gptpipe-config", "install-docs")
    assert result.status == 0
    data = home / ".local/share"
    pages = {path.name for path in (ROOT / "man").iterdir()}
    assert {path.name for path in data.glob("man/man?/*")} == pages
    assert {path.name for path in data.glob("bash-completion/completions/*")} == {
        path.name for path in (ROOT / "completions/bash").iterdir()
    }
    assert all(path.is_file() for path in map(Path, result.text.splitlines()))
    assert run("gptpipe-config", "install-docs") == result
    page = data / "man/man1/gptpipe.1"
    page.unlink()
    page.write_text("mine")
    refused = run("gptpipe-config", "install-docs")
    assert (refused.status, refused.err.count("\n")) == (74, 1)
    assert page.read_text() == "mine"


def test_docs_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package may lie in a folder at the root, which has no prefix above it."""
    monkeypatch.setattr(config, "__file__", "/nowhere/gptpipe/programs/config.py")
    with pytest.raises(NoInput, match=r"no manual pages are below /$"):
        config.documents(tmp_path)
