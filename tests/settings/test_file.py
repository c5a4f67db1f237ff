from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gptpipe.errors import ConfigError
from gptpipe.settings import file, values

WHOLE = """
model = "fast"
profile = "work"
system = ""
temperature = 0
max_tokens = 100
reasoning_effort = "low"
max_time = 60
connect_timeout = 0.5
idle_timeout = 0
retry = 0
max_input_tokens = 1000
base_url = "https://host/v1"
api = "responses"
proxy = ""
cacert = "ca.pem"
history = 0
history_tokens = 32000
lock_timeout = 0
usage = true

[params]
top_p = 0.5
stop = ["a", {b = true}]

[aliases]
fast = "gpt-5.4-mini"
rehearse = "echo:delay=0.1"

[profiles.work]
base_url = "https://work.example.com/v1"
model = "m"
api_key_env = "WORK_KEY"
api_key_command = ["pass", "show", "work"]
api_key_file = "~/work.key"
proxy = "socks5h://proxy:1080"
cacert = "/etc/ca.pem"
headers = {x-team = "a b"}
params = {seed = 1}
api = "chat"
thinks = true
allow_http = true

[profiles.openai]
model = "gpt-5.4"

[chat]
question = "問："
answer = ""
history = false

[budget]
day_tokens = 1000
month_tokens = 10000
day_usd = 0.5
month_usd = 10

[prices."my/model"]
input = 1
output = 2.5
cached = 0
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def load(path: Path, text: str) -> file.Config:
    path.write_text(text, encoding="utf-8")
    return file.load(path, required=True)


def failure(path: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path, text)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def test_the_whole_file(path: Path) -> None:
    found = load(path, WHOLE)
    assert found.path == str(path)
    assert found.top["temperature"] == 0
    assert found.top["usage"] is True
    assert found.top["params"] == {"top_p": 0.5, "stop": ["a", {"b": True}]}
    assert found.aliases == {"fast": "gpt-5.4-mini", "rehearse": "echo:delay=0.1"}
    assert found.profiles["work"]["api_key_command"] == ("pass", "show", "work")
    assert found.profiles["openai"] == {"model": "gpt-5.4"}
    assert found.chat == {"question": "問：", "answer": "", "history": False}
    assert found.budget == {"day_tokens": 1000, "month_tokens": 10000, "day_usd": 0.5, "month_usd": 10}
    assert found.prices == {"my/model": {"input": 1, "output": 2.5, "cached": 0}}


def test_the_whole_file_is_the_whole_shape(path: Path) -> None:
    found = load(path, WHOLE)
    tables = {"aliases", "profiles", "chat", "budget", "prices"}
    assert found.top.keys() | tables == file.SHAPE.keys()
    assert found.profiles["work"].keys() == file.PROFILE.keys()
    assert found.chat.keys() == file.SHAPE["chat"].keys()
    assert found.budget.keys() == file.SHAPE["budget"].keys()


def test_paths_are_taken_from_the_files_folder_and_home(path: Path, home: Path) -> None:
    found = load(path, WHOLE)
    assert found.top["cacert"] == str(path.parent / "ca.pem")
    assert found.profiles["work"]["api_key_file"] == str(home / "work.key")
    assert found.profiles["work"]["cacert"] == "/etc/ca.pem"


def test_no_file(path: Path) -> None:
    assert file.load(path, required=False) == file.Config()
    with pytest.raises(ConfigError):
        file.load(path, required=True)


def test_an_empty_file(path: Path) -> None:
    assert load(path, "") == file.Config(path=str(path), top={})
    assert file.load("/dev/null", required=True).top == {}


def test_the_repr_shows_no_secret(path: Path) -> None:
    found = load(path, 'proxy = "http://me:hunter2@host"\n[profiles.p]\nheaders = {x-key = "hunter2"}')
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("modle = 1", "modle", "did you mean model?"),
        ("[profiles.work]\nmodle = 'x'", "profiles.work.modle", "did you mean profiles.work.model?"),
        ("[profiles.'a.b']\nmodle = 'x'", None, None),
        ("[profiles.'a@b']\nmodle = 'x'", 'profiles."a@b".modle', 'did you mean profiles."a@b".model?'),
        ("[chat]\nquesion = 'x'", "chat.quesion", "did you mean chat.question?"),
        ("[budget]\nday_token = 1", "budget.day_token", "did you mean budget.day_tokens?"),
        ("[alias]\nx = 'y'", "alias", "did you mean aliases?"),
        ("zzz = 1", "zzz", "what can stand there: aliases, api, base_url, "),
    ],
    ids=lambda value: None if value is None else repr(value)[:40],
)
def test_an_unknown_key(path: Path, text: str, where: str | None, hint: str | None) -> None:
    error = failure(path, text)
    if where is None:
        assert 'profiles."a.b".modle' in error.message
        return
    assert error.message == f"{path}: unknown key {where}"
    assert error.hint is not None
    assert hint is not None
    assert error.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("model = 1", "model"),
        ("model = ''", "model"),
        ('model = "a\\u0000"', "model"),
        ("profile = ['openai']", "profile"),
        ("temperature = '1'", "temperature"),
        ("temperature = nan", "temperature"),
        ("temperature = true", "temperature"),
        ("max_tokens = 0", "max_tokens"),
        ("max_tokens = 1.5", "max_tokens"),
        ("max_time = -1", "max_time"),
        ("max_time = inf", "max_time"),
        ("idle_timeout = '5'", "idle_timeout"),
        ("retry = -1", "retry"),
        ("retry = 1.0", "retry"),
        ("retry = true", "retry"),
        ("history = -1", "history"),
        ("max_input_tokens = 0", "max_input_tokens"),
        ("usage = 'no'", "usage"),
        ("usage = 0", "usage"),
        ("params = 1", "params"),
        ("params = {model = 'x'}", "params"),
        ("params = {n = 2}", "params"),
        ("params = {x = nan}", "params"),
        ("params = {x = [1979-05-27]}", "params"),
        ("aliases = 'x'", "aliases"),
        ("aliases = {x = 1}", "aliases.x"),
        ("profiles = 1", "profiles"),
        ("profiles = {x = 1}", "profiles.x"),
        ("profiles.x.headers = {a = 1}", "profiles.x.headers"),
        ("profiles.x.headers = {'a b' = 'x'}", "profiles.x.headers"),
        ('profiles.x.headers = {a = "x\\ny"}', "profiles.x.headers"),
        ("profiles.x.headers = {a = 'é'}", "profiles.x.headers"),
        ("profiles.x.headers = {a = ' x'}", "profiles.x.headers"),
        ("profiles.x.headers = {a = 'x '}", "profiles.x.headers"),
        ("profiles.x.api_key_command = 'pass show'", "profiles.x.api_key_command"),
        ("profiles.x.api_key_command = []", "profiles.x.api_key_command"),
        ("profiles.x.api_key_command = ['a', 1]", "profiles.x.api_key_command"),
        ("profiles.x.thinks = 1", "profiles.x.thinks"),
        ('api = "both"', "api"),
        ("budget.day_tokens = 0", "budget.day_tokens"),
        ("budget.day_usd = 0", "budget.day_usd"),
        ("prices.m = {input = 1}", "prices.m"),
        ("prices.m = {input = 1, output = 1, inptu = 1}", "prices.m"),
        ("prices.m = {input = -1, output = 1}", "prices.m"),
        ("chat = {question = 1}", "chat.question"),
    ],
    ids=str,
)
def test_a_faulty_value(path: Path, text: str, where: str) -> None:
    assert failure(path, text).message.startswith(f"{path}: {where} ")


def test_fields_of_the_request_that_are_nested_deeper_than_json_can_be_written() -> None:
    """As a key of so many parts is, which tomllib takes half a minute to read."""
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"x": deep}
    with pytest.raises(ValueError, match="must hold only what JSON has"):
        values.params(deep)


def test_a_faulty_header_is_not_shown(path: Path) -> None:
    assert "hunter2" not in failure(path, 'profiles.x.headers = {a = "hunter2\\n"}').message


@pytest.mark.parametrize("name", ["a/b", "..", "-x", ""], ids=repr)
def test_a_faulty_name_of_a_profile(path: Path, name: str) -> None:
    failure(path, f"[profiles.'{name}']")
    failure(path, f"profile = '{name}'")


def test_a_profiles_name_is_normalised(path: Path) -> None:
    assert load(path, "[profiles.'e\u0301']\n").profiles.keys() == {"\u00e9"}


def test_a_byte_order_mark_is_none_of_the_text(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfmodel = 'a'\r\n")  # as editors of Windows write it
    assert file.load(path, required=False).top == {"model": "a"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"model = 'a'\nx y\n", "line 2"),
        (b"model = 'a'\nmodel = 'b'\n", "line 2"),
        (b"model = '\xff'\n", "not UTF-8 at byte 9"),
        (b"[" * 5000, ""),
    ],
    ids=["syntax", "twice", "encoding", "depth"],
)
def test_no_toml(path: Path, data: bytes, says: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        file.load(path, required=False)
    assert caught.value.message.startswith(f"{path}: ")
    assert says in caught.value.message


def test_a_file_that_cannot_be_read(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match="is a directory"):
        file.load(path, required=False)


def test_a_role_is_checked_by_the_same_shapes() -> None:
    shape: dict[str, Any] = {**file.SAMPLING, "model": values.text}
    assert file.read_table({"model": "m", "temperature": 1}, shape, source="role commit") == {
        "model": "m",
        "temperature": 1,
    }
    with pytest.raises(ConfigError, match="role commit: temperature must be a number"):
        file.read_table({"temperature": "hot"}, shape, source="role commit")


def test_a_budget_needs_the_usage(path: Path) -> None:
    assert "exclude each other" in failure(path, "usage = false\n[budget]\nday_tokens = 1\n").message
    assert load(path, "usage = false\n").top["usage"] is False


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[profile.work]\n", "did you mean [profiles.work]?"),
        ("[profiles.p]\napi_key = 'x'\n", "a key is not written here"),
        ("openai_api_key = 'x'\n", "a key is not written here"),
    ],
)
def test_hints_at_what_was_meant(path: Path, text: str, hint: str) -> None:
    assert hint in (failure(path, text).hint or "")
