from __future__ import annotations

import os
import select
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gptpipe.console import children
from gptpipe.errors import ConfigError
from gptpipe.settings import keys
from gptpipe.settings.file import Config
from gptpipe.settings.keys import Key
from gptpipe.settings.settings import KeyWays, Settings

HTTPS = "https://host.example.com/v1"
LAN = "http://host.example.com/v1"
LOCAL = "http://localhost:8000/v1"

find = partial(keys.find, run=children.run)


def settings(*, profile: str | None = "work", base_url: str | None = HTTPS, **more: Any) -> Settings:
    return Settings("m", profile, base_url, **more)


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """Return a folder as systemd makes one, with the credentials of work and openai."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "work_api_key").write_text("credential\n")
    (folder / "openai_api_key").write_text("openai-credential\n")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("file\n")
    path.chmod(0o600)
    return path


def command(script: str) -> KeyWays:
    return KeyWays(command=("sh", "-c", script))


def refusal(found: Settings, env: dict[str, str] | None = None, **more: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        find(found, env or {}, **more)
    return caught.value


def test_the_order(credentials: Path, file: Path) -> None:
    env = {"CREDENTIALS_DIRECTORY": str(credentials), "WORK_KEY": "variable", "OPENAI_API_KEY": "openai-variable"}
    ways = KeyWays(("echo", "command"), str(file), "WORK_KEY")
    assert find(settings(key=ways), env) == Key("command", "command echo")
    ways = ways._replace(command=None)
    assert find(settings(key=ways), env) == Key("file", f"file {file}")
    ways = ways._replace(file=None)
    assert find(settings(key=ways), env) == Key("variable", "environment variable WORK_KEY")
    env["WORK_KEY"] = ""
    assert find(settings(key=ways), env) == Key("credential", "credential work_api_key")
    (credentials / "work_api_key").unlink()
    refusal(settings(key=ways), env)
    for profile in ("openai", None):
        assert find(settings(profile=profile), env) == Key("openai-credential", "credential openai_api_key")
    (credentials / "openai_api_key").unlink()
    for profile in ("openai", None):
        found = find(settings(profile=profile), env)
        assert found == Key("openai-variable", "environment variable OPENAI_API_KEY")
    refusal(settings(), env)


def test_echo_needs_none() -> None:
    found = settings(profile=None, base_url=None)
    assert find(found, {"OPENAI_API_KEY": "k"}) == Key(None, "none needed")


@pytest.mark.parametrize(
    ("found", "env", "key"),
    [
        (settings(base_url=LOCAL), {}, None),
        (settings(base_url=LOCAL, profile=None), {}, None),
        (settings(base_url=LOCAL, profile=None), {"OPENAI_API_KEY": "k"}, "k"),
        (settings(base_url=LOCAL), {"OPENAI_API_KEY": "k"}, None),
        (settings(base_url=LOCAL, key=KeyWays(variable="WORK_KEY")), {"WORK_KEY": "k"}, "k"),
        (settings(base_url=LOCAL, key=KeyWays(variable="WORK_KEY")), {}, None),
        (settings(base_url=LAN, key=KeyWays(needed=False)), {}, None),
        (settings(base_url=LAN, key=KeyWays(variable="WORK_KEY"), allow_http=True), {"WORK_KEY": "k"}, "k"),
        (settings(headers={"authorization": "Basic x"}), {}, None),
        (settings(base_url=LAN, headers={"Authorization": "Basic x"}, allow_http=True), {}, None),
    ],
    ids=[
        "local",
        "local URL",
        "local URL, OPENAI_API_KEY",
        "local profile, OPENAI_API_KEY is another's",
        "local, configured",
        "local, configured, unset",
        "a server that asks for none",
        "plain HTTP allowed",
        "a header instead",
        "a header instead, plain HTTP allowed",
    ],
)
def test_whether_one_is_sent(found: Settings, env: dict[str, str], key: str | None) -> None:
    assert find(found, env).value == key


@pytest.mark.parametrize(
    "found",
    [
        settings(base_url=LAN, key=KeyWays(variable="WORK_KEY")),
        settings(base_url=LAN, headers={"Authorization": "Basic x"}),
        settings(base_url="http://me:pw@host/v1", profile=None),
    ],
    ids=["key", "header", "URL"],
)
def test_plain_http_is_refused(found: Settings) -> None:
    error = refusal(found, {"WORK_KEY": "k", "OPENAI_API_KEY": "k"})
    assert "over plain HTTP" in error.message
    assert "pw" not in error.message
    assert "allow_http" in (error.hint or "")


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (settings(profile="openai"), ["OPENAI_API_KEY", "api_key_command", "openai_api_key", "-m echo"]),
        (settings(profile=None), ["OPENAI_API_KEY", "openai_api_key", "-m echo"]),
        (
            settings(profile="groq", key=KeyWays(variable="GROQ_API_KEY")),
            ["GROQ_API_KEY", "api_key_file", "groq_api_key"],
        ),
        (settings(), ["api_key_command", "api_key_file", "api_key_env", "work_api_key"]),
    ],
    ids=["openai", "URL", "built-in", "own"],
)
def test_no_key_names_the_ways_to_give_one(found: Settings, names: list[str]) -> None:
    error = refusal(found)
    assert error.message.startswith("no key for ")
    assert [name for name in names if name not in (error.hint or "")] == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601], ids=oct)
def test_a_key_file_that_others_can_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    error = refusal(settings(key=KeyWays(file=str(file))))
    assert error.message == f"others can read the key file {file}"
    assert error.hint == f"chmod 600 {file}"


def test_a_key_file_of_another_user_is_that_users_affair(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    assert find(settings(key=KeyWays(file=str(file))), {}).value == "file"


def test_a_credential_has_the_mode_that_systemd_gave_it(credentials: Path) -> None:
    (credentials / "work_api_key").chmod(0o440)
    assert find(settings(), {"CREDENTIALS_DIRECTORY": str(credentials)}).value == "credential"


@pytest.mark.parametrize("data", [b"", b" \n", b"\xff\n", b"a\nb\n", b"a\0b", b"a\x7f", "ключ".encode(), b"k" * 70000])
def test_a_key_that_is_none(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    error = refusal(settings(key=KeyWays(file=str(file))))
    assert str(file) in error.message
    assert "ключ" not in error.message


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\udcff", "é", "   "], ids=ascii)
def test_a_variable_that_is_no_key(value: str) -> None:
    error = refusal(settings(profile="openai"), {"OPENAI_API_KEY": value})
    assert "OPENAI_API_KEY" in error.message
    assert value.strip() == "" or value not in error.message


def test_white_space_around_a_key_is_not_sent() -> None:
    assert find(settings(profile="openai"), {"OPENAI_API_KEY": " k\r\n"}).value == "k"


def test_a_key_file_that_is_missing_or_no_file(tmp_path: Path, file: Path) -> None:
    missing, fifo = tmp_path / "missing", tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (missing, fifo, tmp_path):
        assert str(path) in refusal(settings(key=KeyWays(file=str(path)))).message


def test_a_faulty_way_is_not_passed_over(file: Path) -> None:
    file.unlink()
    refusal(settings(profile="openai", key=KeyWays(file=str(file))), {"OPENAI_API_KEY": "k"})


def test_the_first_line_of_a_key_command_is_the_key() -> None:
    assert find(settings(key=command("echo ' k '; echo more")), {}).value == "k"


def test_a_key_command_has_neither_shell_nor_input_nor_error_output(capfd: pytest.CaptureFixture[str]) -> None:
    assert find(settings(key=KeyWays(("printf", "%s", "$HOME;"))), {}).value == "$HOME;"
    assert find(settings(key=command("cat; echo noise >&2; echo k")), {}).value == "k"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("ways", "says"),
    [
        (KeyWays(("gptpipe-no-such-program",)), "api_key_command gptpipe-no-such-program cannot be run: no such file"),
        (KeyWays(("/",)), "api_key_command / cannot be run: permission denied"),
        (command("echo hunter2; exit 3"), "api_key_command sh ended with status 3"),
        (command("echo hunter2; kill -9 $$"), "api_key_command sh ended with status 137"),
        (command(":"), "api_key_command sh gives an empty key"),
        (command("printf '\\nhunter2'"), "api_key_command sh gives an empty key"),
        (command("printf 'hunter2\\377\\n'"), "api_key_command sh gives no text"),
        (command("printf 'hunter2\\ta\\n'"), "the key from command sh cannot be sent"),
        (KeyWays(("yes", "hunter2")), "api_key_command yes prints more than 65536 bytes"),
    ],
    ids=["missing", "directory", "status", "signal", "nothing", "empty line", "no text", "control", "endless"],
)
def test_a_key_command_that_fails(ways: KeyWays, says: str) -> None:
    error = refusal(settings(key=ways))
    assert error.message.startswith(says)
    assert "hunter2" not in f"{error.message}{error.hint}"


def test_a_key_command_has_the_environment_that_the_program_had() -> None:
    assert find(settings(key=command("echo $OPENAI_KEEPER")), {"OPENAI_KEEPER": "k"}).value == "k"


def test_a_key_command_is_not_run_when_nothing_is_to_be_sent(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    found = find(settings(key=KeyWays(("touch", str(mark)))), {}, run=None)
    assert found == Key(None, "command touch, not run")
    assert not mark.exists()


@pytest.mark.parametrize(
    "script",
    ["sleep 60 & sleep 60", "sleep 60 & exec >&-; sleep 60"],
    ids=["output open", "output closed"],
)
def test_a_key_command_that_does_not_end(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process that it started holds the FIFO open, so its end is the end of all of them."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(keys, "COMMAND_LIMIT", 0.2)
    error = refusal(settings(key=command(f"exec 9>'{fifo}'; printf started >&9; {script}")))
    assert error.message == "api_key_command sh did not end within 0.2 s"
    assert os.read(reader, 100) == b"started"
    poll = select.poll()
    poll.register(reader, select.POLLHUP)
    assert poll.poll(10_000)
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_a_key_command_may_leave_a_child() -> None:
    assert find(settings(key=command("sleep 60 & echo k")), {}).value == "k"


def test_the_repr_shows_no_key() -> None:
    assert "hunter2" not in repr(Key("hunter2", "file x"))
    assert repr(Key(None, "none needed")) == "Key(None, source='none needed')"


def test_no_command_no_subprocess() -> None:
    script = (
        "import sys\n"
        "from gptpipe.settings import file as config, keys, resolve as settings\n"
        "found = settings.resolve({}, {}, {}, {}, config.Config())\n"
        "print(keys.find(found, {'OPENAI_API_KEY': 'k'}, None).source, 'subprocess' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "environment variable OPENAI_API_KEY False\n"


def test_an_environment_without_keys() -> None:
    profiles = {"work": {"api_key_env": "WORK_KEY"}, "local": {"api_key_env": ""}}
    env = {
        "OPENAI_API_KEY": "sk-openai-1",
        "WORK_KEY": " sk-work-12\n",
        "GROQ_API_KEY": "sk-groq-12",
        "CREDENTIALS_DIRECTORY": "/run/credentials/x",
        "COPY": "sk-openai-1",
        "CURL_HEADER": "Authorization: Bearer sk-work-12",
        "FROM_COMMAND": "x sk-command-1",
        "PATH": "/bin",
        "LANG": "C",
    }
    found = keys.keyless(env, Config(profiles=profiles), "sk-command-1", None)
    assert found == {"PATH": "/bin", "LANG": "C"}


def test_a_short_key_is_not_looked_for_in_other_values() -> None:
    env = {"OPENAI_API_KEY": "x", "PATH": "/usr/X11/bin:/x"}
    assert keys.keyless(env, Config()) == {"PATH": "/usr/X11/bin:/x"}


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "GPTPIPE_BASE_URL", "GPTPIPE_PROXY"])
@pytest.mark.parametrize("address", ["https://u:secret-pw@h/v1", "https://h/v1?key=secret-key"])
def test_a_tool_does_not_see_an_address_with_a_secret(name: str, address: str) -> None:
    assert keys.keyless({name: address}, Config()) == {}
    assert keys.keyless({name: "https://h/v1"}, Config()) == {name: "https://h/v1"}
