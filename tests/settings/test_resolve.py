from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gptpipe.errors import ConfigError, UsageError
from gptpipe.settings.built_in import BUILT_IN, DEFAULT_MODEL, is_echo
from gptpipe.settings.environment import ENVIRONMENT, read_file
from gptpipe.settings.file import TOP, Config
from gptpipe.settings.resolve import resolve
from gptpipe.settings.settings import Budget, KeyWays, Price, Settings, paths, profile_names
from gptpipe.text.address import masked

WORK = "https://work.example.com/v1"
OTHER = "https://other.example.com/v1"
OPENAI = "https://api.openai.com/v1"

Table = dict[str, Any]


def settle(
    options: Mapping[str, Any] | None = None,
    role: Mapping[str, Any] | None = None,
    session: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    top: Table | None = None,
    profiles: dict[str, Table] | None = None,
    aliases: dict[str, str] | None = None,
    **more: Any,
) -> Settings:
    config = Config(top=top or {}, profiles=profiles or {}, aliases=aliases or {})
    return resolve(options or {}, role or {}, session or {}, env or {}, config, **more)


# The single settings: each source's value, the strongest first. From the row, source after source is taken away, and
# what is left must win. "-p" is the profile named on the command line, "profile" one that the settings file names.
CASES: dict[str, list[tuple[str, Any, Any]]] = {
    "model": [
        ("option", "a", "a"),
        ("role", "b", "b"),
        ("session", "c", "c"),
        ("variable", "d", "d"),
        ("profile", "e", "e"),
        ("top", "f", "f"),
    ],
    "model, -p": [
        ("option", "a", "a"),
        ("role", "b", "b"),
        ("-p", "c", "c"),
        ("variable", "d", "d"),
        ("top", "e", "e"),
    ],
    "system": [
        ("option", "a", "a"),
        ("role", "b", "b"),
        ("session", "c", "c"),
        ("top", "d", "d"),
        ("", None, None),
    ],
    "proxy": [
        ("option", "http://a", "http://a"),
        ("variable", "http://b", "http://b"),
        ("profile", "http://c", "http://c"),
        ("top", "http://d", "http://d"),
        ("", None, None),
    ],
    "proxy, -p": [
        ("option", "http://a", "http://a"),
        ("-p", "http://b", "http://b"),
        ("variable", "http://c", "http://c"),
        ("top", "http://d", "http://d"),
        ("", None, None),
    ],
    "session": [("option", "a", "a"), ("variable", "b", "b"), ("", None, None)],
    "max_time": [("option", 1, 1), ("variable", "2.5", 2.5), ("top", 3, 3), ("", None, None)],
    "connect_timeout": [("option", 1.5, 1.5), ("variable", "2", 2), ("top", 3, 3), ("", None, 10)],
    "idle_timeout": [("option", 0, None), ("variable", "2", 2), ("top", 0, None), ("", None, 300)],
    "retry": [("option", 0, 0), ("variable", "1", 1), ("top", 5, 5), ("", None, 2)],
    "max_input_tokens": [("option", 1, 1), ("variable", "2", 2), ("top", 3, 3), ("", None, None)],
    "history": [("option", 0, 0), ("variable", "2", 2), ("top", 0, 0), ("", None, None)],
    "history_tokens": [("option", 0, 0), ("variable", "2", 2), ("top", 3, 3), ("", None, 32000)],
    "lock_timeout": [("option", 0, 0), ("variable", "2", 2), ("top", 3, 3), ("", None, 600)],
    "usage": [("top", False, False), ("", None, True)],
}
PEELED = [
    pytest.param(name.partition(",")[0], row[first:], id=f"{name}-{row[first][0] or 'built-in'}")
    for name, row in CASES.items()
    for first in range(len(row))
]


@pytest.mark.parametrize(("name", "row"), PEELED)
def test_order(name: str, row: list[tuple[str, Any, Any]]) -> None:
    values = {source: value for source, value, _ in row if source}
    named = any(source == "-p" for source in values)
    sources: dict[str, dict[str, Any]] = {
        "option": {"profile": "work"} if named else {},
        "role": {},
        "session": {"profile": "work"} if "session" in values and name == "model" else {},
        "variable": {},
        "profile": {"base_url": WORK},
        "top": {} if named else {"profile": "work"},
    }
    for source, value in values.items():
        where = "profile" if source == "-p" else source
        sources[where][ENVIRONMENT[name] if source == "variable" else name] = value
    if name != "model":
        sources["option"]["model"] = "m"
    found = settle(
        sources["option"],
        sources["role"],
        sources["session"],
        sources["variable"],
        sources["top"],
        {"work": sources["profile"]},
    )
    assert getattr(found, name) == row[0][2]
    assert found.profile == "work"


PARAMS = [
    ("option", {"temperature": 1}),
    ("-O", {"temperature": 2, "a": 2}),
    ("role", {"temperature": 3}),
    ("role params", {"temperature": 4, "b": 4, "c": 4}),
    ("-p", {"temperature": 5, "c": 5, "d": 5}),
    ("variable", {"temperature": 6}),
    ("top", {"temperature": 7, "max_tokens": 7}),
    ("top params", {"temperature": 8, "max_tokens": 8, "d": 8, "e": 8}),
]


@pytest.mark.parametrize("first", range(len(PARAMS)), ids=[source for source, _ in PARAMS])
@pytest.mark.parametrize("named", [True, False], ids=["-p", "profile elsewhere"])
def test_fields_of_the_request_are_merged(first: int, named: bool) -> None:
    given: dict[str, Any] = dict(PARAMS[first:])
    env = {"GPTPIPE_TEMPERATURE": "6"} if "variable" in given else {}
    order = [source for source, _ in PARAMS]
    if not named:
        order.remove("-p")
        order.insert(order.index("variable") + 1, "-p")
    expected: dict[str, Any] = {}
    for source in reversed(order):
        expected |= given.get(source, {})
    found = settle(
        {"model": "m", **given.get("option", {}), "param": given.get("-O"), "profile": "work" if named else None},
        {**given.get("role", {}), "params": given.get("role params", {})},
        {},
        env,
        {**given.get("top", {}), "params": given.get("top params", {}), "profile": "work"},
        {"work": {"params": given.get("-p", {})}},
    )
    assert found.params == expected


S = {"model": "s", "profile": "work"}  # a session at the profile work
U = {"model": "s", "base_url": OTHER}  # one at a base URL
E = {"model": "echo", "profile": None}  # one of the built-in model
PROFILES: dict[str, Table] = {
    "work": {"base_url": WORK, "model": "w"},
    "twin": {"base_url": WORK, "model": "t"},
    "far": {"base_url": OTHER, "model": "f"},
    "bare": {"base_url": OTHER},
    "homeless": {"model": "h"},
}

# options, role, session, environment, top of the file -> model, profile, base URL
ENDPOINTS: dict[str, tuple[Table, Table, Table, dict[str, str], Table, tuple[str, str | None, str | None]]] = {
    "nothing": ({}, {}, {}, {}, {}, (DEFAULT_MODEL, "openai", OPENAI)),
    "-p": ({"profile": "work"}, {}, {}, {}, {}, ("w", "work", WORK)),
    "role": ({}, {"profile": "work"}, {}, {}, {}, ("w", "work", WORK)),
    "session": ({}, {}, S, {}, {}, ("s", "work", WORK)),
    "variable": ({}, {}, {}, {"GPTPIPE_PROFILE": "work"}, {}, ("w", "work", WORK)),
    "file": ({}, {}, {}, {}, {"profile": "work"}, ("w", "work", WORK)),
    "-p before role": ({"profile": "work"}, {"profile": "far"}, {}, {}, {}, ("w", "work", WORK)),
    "role before session": ({}, {"profile": "far"}, S, {}, {}, ("f", "far", OTHER)),
    "session before variable": ({}, {}, S, {"GPTPIPE_PROFILE": "far"}, {}, ("s", "work", WORK)),
    "variable before file": ({}, {}, {}, {"GPTPIPE_PROFILE": "work"}, {"profile": "far"}, ("w", "work", WORK)),
    # --base-url
    "--base-url before file": ({"base_url": OTHER, "model": "m"}, {}, {}, {}, {"profile": "work"}, ("m", None, OTHER)),
    "--base-url before role": ({"base_url": OTHER, "model": "m"}, {"profile": "work"}, {}, {}, {}, ("m", None, OTHER)),
    "--base-url before session": ({"base_url": OTHER, "model": "m"}, {}, S, {}, {}, ("m", None, OTHER)),
    "--base-url before variable": (
        {"base_url": OTHER, "model": "m"},
        {},
        {},
        {"GPTPIPE_PROFILE": "work"},
        {},
        ("m", None, OTHER),
    ),
    "--base-url and -p": ({"base_url": OTHER, "profile": "work"}, {}, {}, {}, {}, ("w", "work", OTHER)),
    "--base-url, model of the variable": ({"base_url": OTHER}, {}, {}, {"GPTPIPE_MODEL": "v"}, {}, ("v", None, OTHER)),
    "--base-url, model of the file": ({"base_url": OTHER}, {}, {}, {}, {"model": "t"}, ("t", None, OTHER)),
    # GPTPIPE_BASE_URL
    "variable URL": ({"model": "m"}, {}, {}, {"GPTPIPE_BASE_URL": OTHER}, {"profile": "work"}, ("m", None, OTHER)),
    "variable URL and profile": (
        {},
        {},
        {},
        {"GPTPIPE_BASE_URL": OTHER, "GPTPIPE_PROFILE": "work"},
        {},
        ("w", "work", OTHER),
    ),
    "-p before variable URL": ({"profile": "work"}, {}, {}, {"GPTPIPE_BASE_URL": OTHER}, {}, ("w", "work", WORK)),
    "session before variable URL": ({}, {}, S, {"GPTPIPE_BASE_URL": OTHER}, {}, ("s", "work", WORK)),
    "--base-url before variable URL": (
        {"base_url": WORK, "model": "m"},
        {},
        {},
        {"GPTPIPE_BASE_URL": OTHER},
        {},
        ("m", None, WORK),
    ),
    "-p of no address, variable URL": (
        {"profile": "homeless"},
        {},
        {},
        {"GPTPIPE_BASE_URL": OTHER},
        {},
        ("h", "homeless", OTHER),
    ),
    # the top of the file
    "file URL": ({"model": "m"}, {}, {}, {}, {"base_url": OTHER}, ("m", None, OTHER)),
    "file URL and profile": ({}, {}, {}, {}, {"base_url": OTHER, "profile": "work"}, ("w", "work", WORK)),
    "file URL for a profile without": (
        {},
        {},
        {},
        {},
        {"base_url": OTHER, "profile": "homeless"},
        ("h", "homeless", OTHER),
    ),
    "a profile without an address": ({"profile": "homeless"}, {}, {}, {}, {}, ("h", "homeless", OPENAI)),
    # OPENAI_BASE_URL
    "OPENAI_BASE_URL": ({"model": "m"}, {}, {}, {"OPENAI_BASE_URL": OTHER}, {}, ("m", "openai", OTHER)),
    "OPENAI_BASE_URL, -p openai": (
        {"profile": "openai"},
        {},
        {},
        {"OPENAI_BASE_URL": OTHER},
        {},
        (DEFAULT_MODEL, "openai", OTHER),
    ),
    "OPENAI_BASE_URL, another profile": ({}, {}, S, {"OPENAI_BASE_URL": OTHER}, {}, ("s", "work", WORK)),
    "OPENAI_BASE_URL, homeless": (
        {"profile": "homeless"},
        {},
        {},
        {"OPENAI_BASE_URL": OTHER},
        {},
        ("h", "homeless", OPENAI),
    ),
    "GPTPIPE_BASE_URL before OPENAI_BASE_URL": (
        {"model": "m"},
        {},
        {},
        {"OPENAI_BASE_URL": OTHER, "GPTPIPE_BASE_URL": WORK},
        {},
        ("m", None, WORK),
    ),
    "empty is unset": (
        {},
        {},
        {},
        {"OPENAI_BASE_URL": "", "GPTPIPE_BASE_URL": "", "GPTPIPE_MODEL": "", "GPTPIPE_PROFILE": ""},
        {},
        (DEFAULT_MODEL, "openai", OPENAI),
    ),
    # the session's model
    "-p, own": ({"profile": "work"}, {}, S, {}, {}, ("s", "work", WORK)),
    "-p, another": ({"profile": "far"}, {}, S, {}, {}, ("f", "far", OTHER)),
    "-p, another of the same address": ({"profile": "twin"}, {}, S, {}, {}, ("t", "twin", WORK)),
    "-p, another, -m": ({"profile": "far", "model": "m"}, {}, S, {}, {}, ("m", "far", OTHER)),
    "-p, another, role": ({"profile": "far"}, {"model": "r"}, S, {}, {}, ("r", "far", OTHER)),
    "-p, another, variable": (
        {"profile": "bare"},
        {},
        S,
        {"GPTPIPE_MODEL": "v"},
        {"model": "t"},
        ("v", "bare", OTHER),
    ),
    "-p, another, profile before variable": (
        {"profile": "far"},
        {},
        S,
        {"GPTPIPE_MODEL": "v"},
        {},
        ("f", "far", OTHER),
    ),
    "-p, another, file": ({"profile": "bare"}, {}, S, {}, {"model": "t"}, ("t", "bare", OTHER)),
    "-p openai, another": ({"profile": "openai"}, {}, S, {}, {}, (DEFAULT_MODEL, "openai", OPENAI)),
    "-p at the session's URL": ({"profile": "far"}, {}, U, {}, {}, ("s", "far", OTHER)),
    "--base-url, own": ({"base_url": OTHER + "/"}, {}, U, {}, {}, ("s", None, OTHER)),
    "--base-url of the session's profile": ({"base_url": WORK}, {}, S, {}, {}, ("s", None, WORK)),
    "--base-url, another": ({"base_url": WORK}, {}, U, {}, {"model": "t"}, ("t", None, WORK)),
    "session at a URL, file's profile": ({}, {}, U, {}, {"profile": "work"}, ("w", "work", WORK)),
    "session at a URL, role's profile": ({}, {"profile": "far"}, U, {}, {}, ("s", "far", OTHER)),
    "session at a URL, variable of the same": ({}, {}, U, {"GPTPIPE_BASE_URL": OTHER}, {}, ("s", None, OTHER)),
    "session at a URL, file's of the same": ({}, {}, U, {}, {"base_url": OTHER + "/"}, ("s", None, OTHER)),
    "session at a URL, one with a password": (
        {},
        {},
        U,
        {"GPTPIPE_BASE_URL": OTHER.replace("//", "//u:p@") + "?api-version=1"},
        {},
        ("s", None, OTHER.replace("//", "//u:p@") + "?api-version=1"),
    ),
    "session at a URL, echo": ({"model": "echo"}, {}, U, {}, {}, ("echo", None, None)),
    "session with a profile and a URL": ({}, {}, {**S, "base_url": "http://evil.example"}, {}, {}, ("s", "work", WORK)),
    "role of the session's profile": ({}, {"profile": "work"}, S, {}, {}, ("s", "work", WORK)),
    "session's model before variable": ({}, {}, S, {"GPTPIPE_MODEL": "v"}, {}, ("s", "work", WORK)),
    "a model and no endpoint": ({}, {}, {"model": "s"}, {}, {"profile": "work"}, ("s", "work", WORK)),
    # echo
    "echo": ({"model": "echo"}, {}, {}, {}, {}, ("echo", None, None)),
    "echo and -p": ({"model": "echo:empty", "profile": "work"}, {}, {}, {}, {}, ("echo:empty", None, None)),
    "echo and an unknown profile": ({"model": "echo", "profile": "none"}, {}, {}, {}, {}, ("echo", None, None)),
    "echo and a faulty URL": ({"model": "echo", "base_url": "x"}, {}, {}, {}, {}, ("echo", None, None)),
    "echo of the variable": ({}, {}, {}, {"GPTPIPE_MODEL": "echo"}, {"profile": "bare"}, ("echo", None, None)),
    "echo in a session of another": ({"model": "echo"}, {}, S, {}, {}, ("echo", None, None)),
    "session with echo": ({}, {}, E, {"GPTPIPE_BASE_URL": OTHER}, {"profile": "work"}, ("echo", None, None)),
    "session with echo, -m": ({"model": "m"}, {}, E, {}, {"profile": "work"}, ("m", "work", WORK)),
    "session with echo, -p": ({"profile": "work"}, {}, E, {}, {}, ("w", "work", WORK)),
    "session with echo, -p openai": ({"profile": "openai"}, {}, E, {}, {}, (DEFAULT_MODEL, "openai", OPENAI)),
    "session with echo, --base-url": ({"base_url": OTHER}, {}, E, {}, {"model": "t"}, ("t", None, OTHER)),
    "echoes is a model": ({"model": "echoes"}, {}, {}, {}, {}, ("echoes", "openai", OPENAI)),
}


@pytest.mark.parametrize("case", ENDPOINTS.values(), ids=ENDPOINTS.keys())
def test_endpoint_and_model(
    case: tuple[Table, Table, Table, dict[str, str], Table, tuple[str, str | None, str | None]],
) -> None:
    options, role, session, env, top, expected = case
    found = settle(options, role, session, env, top, PROFILES)
    assert (found.model, found.profile, found.base_url) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"profile": "openai"}, WORK),
        ({}, OTHER),
    ],
    ids=["-p", "default"],
)
def test_the_users_openai_against_openai_base_url(options: Table, expected: str) -> None:
    found = settle(options, env={"OPENAI_BASE_URL": OTHER}, profiles={"openai": {"base_url": WORK}})
    assert found.base_url == expected


def test_a_built_in_profile_is_merged_with_the_users() -> None:
    found = settle({"profile": "groq"}, profiles={"groq": {"model": "m", "api_key_file": "/k", "thinks": True}})
    assert found.base_url == BUILT_IN["groq"]["base_url"]
    assert found.key == KeyWays(file="/k", variable="GROQ_API_KEY")
    assert found.thinks
    assert "groq" in profile_names(Config())
    assert profile_names(Config(profiles=PROFILES)) == sorted({*BUILT_IN, *PROFILES})


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_profiles_are_usable(name: str) -> None:
    found = settle({"profile": name, "model": "m"})
    assert found.base_url == BUILT_IN[name]["base_url"]
    assert found.key.needed is not found.base_url.startswith("http://localhost:")


def test_what_a_profile_holds_is_used_with_it_only() -> None:
    held: Table = {
        "base_url": WORK,
        "headers": {"x-team": "t"},
        "params": {"seed": 1},
        "thinks": True,
        "allow_http": True,
        "api_key_command": ("pass", "show"),
        "api_key_env": "",
    }
    found = settle({"profile": "work", "model": "m"}, profiles={"work": held})
    assert (found.headers, found.params, found.thinks, found.allow_http) == ({"x-team": "t"}, {"seed": 1}, True, True)
    assert found.key == KeyWays(command=("pass", "show"), needed=False)
    for options in ({"profile": "work", "model": "echo"}, {"base_url": WORK, "model": "m"}):
        other = settle(options, top={"profile": "work"}, profiles={"work": held})
        assert (dict(other.headers), other.params, other.thinks, other.allow_http) == ({}, {}, False, False)
        assert other.key == KeyWays()


@pytest.mark.parametrize(
    ("options", "session", "model"),
    [
        ({"model": "fast"}, {}, "gpt-5.4-mini"),
        ({"model": "twice"}, {}, "fast"),
        ({"model": "rehearse"}, {}, "echo:fails=1"),
        ({"model": "gpt-5.4"}, {}, "gpt-5.4"),
        ({}, {}, "gpt-5.4-mini"),
        ({}, {"model": "fast", "profile": "openai"}, "fast"),
    ],
    ids=["one step", "no chain", "echo", "no alias", "of the variable", "not of the session"],
)
def test_aliases(options: Table, session: Table, model: str) -> None:
    aliases = {"fast": "gpt-5.4-mini", "twice": "fast", "rehearse": "echo:fails=1"}
    assert settle(options, session=session, env={"GPTPIPE_MODEL": "fast"}, aliases=aliases).model == model


def test_an_empty_system_message_is_none() -> None:
    assert settle({"system": ""}, session={"system": "s"}, top={"system": "t"}).system is None


@pytest.mark.parametrize(
    ("base_url", "options", "env", "top", "proxy"),
    [
        (WORK, {}, {"HTTPS_PROXY": "proxy:1"}, {}, "http://proxy:1"),
        (WORK, {}, {"HTTPS_PROXY": "http://a", "GPTPIPE_PROXY": "http://b"}, {}, "http://b"),
        (WORK, {"proxy": ""}, {"HTTPS_PROXY": "http://a", "GPTPIPE_PROXY": "http://b"}, {}, None),
        (WORK, {}, {"HTTPS_PROXY": "http://a"}, {"proxy": ""}, None),
        (WORK, {"proxy": "http://b"}, {"NO_PROXY": "*"}, {}, "http://b"),
        ("http://localhost:1/v1", {}, {"http_proxy": "http://a", "GPTPIPE_PROXY": "http://b"}, {}, None),
        ("http://localhost:1/v1", {}, {"GPTPIPE_PROXY": "http://b"}, {"proxy": "http://c"}, "http://c"),
        ("http://127.0.0.1:1/v1", {"proxy": "http://b"}, {"all_proxy": "http://a"}, {}, "http://b"),
    ],
    ids=str,
)
def test_proxy(base_url: str, options: Table, env: dict[str, str], top: Table, proxy: str | None) -> None:
    assert settle({"base_url": base_url, "model": "m", **options}, env=env, top=top).proxy == proxy


def test_echo_needs_no_proxy_and_no_ca_file() -> None:
    found = settle({"model": "echo", "proxy": "x://y", "cacert": "/none"}, env={"HTTPS_PROXY": "z://"})
    assert (found.proxy, found.cacert) == (None, None)


def test_ca_file(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        settle({"cacert": str(path)})
    with pytest.raises(ConfigError, match="directory"):
        settle({"cacert": str(tmp_path)})
    path.write_text("")
    assert settle({"cacert": str(path)}).cacert == str(path)
    assert settle(env={"GPTPIPE_CACERT": str(path)}).cacert == str(path)
    reader, writer = os.pipe()
    assert settle({"cacert": f"/dev/fd/{reader}"}).cacert == f"/dev/fd/{reader}"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_time": -1.0}, "--max-time must not be negative"),
        ({"max_time": float("nan")}, "--max-time must be a number"),
        ({"idle_timeout": float("inf")}, "--idle-timeout must be a number"),
        ({"temperature": float("nan")}, "--temperature must be a number"),
        ({"retry": -1}, "--retry must be"),
        ({"history": -1}, "--history must be"),
        ({"history_tokens": -1}, "--history-tokens must be"),
        ({"max_tokens": 0}, "--max-tokens must be"),
        ({"max_input_tokens": 0}, "--max-input-tokens must be"),
        ({"lock_timeout": -0.1}, "--lock-timeout must"),
        ({"model": ""}, "--model must not be empty"),
        ({"param": {"stream": False}}, "--param must not hold 'stream'"),
        ({"param": {"x": float("inf")}}, "--param must hold only what JSON has"),
        ({"profile": "a/b"}, "'a/b' cannot be a profile"),
    ],
    ids=str,
)
def test_a_faulty_option(options: Table, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        settle(options)
    assert caught.value.message.startswith(says)


def test_json_null_is_a_value_of_a_param() -> None:
    assert settle({"param": {"stop": None}}).params == {"stop": None}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GPTPIPE_MAX_TIME", "soon"),
        ("GPTPIPE_MAX_TIME", "-1"),
        ("GPTPIPE_CONNECT_TIMEOUT", "nan"),
        ("GPTPIPE_IDLE_TIMEOUT", "inf"),
        ("GPTPIPE_RETRY", "1.5"),
        ("GPTPIPE_HISTORY", "-1"),
        ("GPTPIPE_HISTORY_TOKENS", "many"),
        ("GPTPIPE_LOCK_TIMEOUT", "1e999"),
        ("GPTPIPE_TEMPERATURE", "hot"),
        ("GPTPIPE_MAX_INPUT_TOKENS", "0"),
        ("GPTPIPE_MODEL", "\udcff"),
        ("GPTPIPE_SESSION", "a/b"),
        ("GPTPIPE_PROFILE", "a b"),
    ],
)
def test_a_faulty_variable(variable: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        settle({"max_time": 1.0}, env={variable: value})
    assert caught.value.message.startswith(f"{variable} ")


def test_the_list_of_variables_is_closed() -> None:
    assert settle(env={"GPTPIPE_MAX_TOKENS": "x", "GPTPIPE_NONSENSE": "y"}) == settle()
    assert all(variable == f"GPTPIPE_{option.upper()}" for option, variable in ENVIRONMENT.items())
    assert ENVIRONMENT.keys() - TOP.keys() == {"config", "session"}


@pytest.mark.parametrize(
    ("options", "session", "message", "hint"),
    [
        ({"profile": "wrok"}, {}, "no profile is called 'wrok'", "did you mean work?"),
        ({"profile": "zzz"}, {}, "no profile is called 'zzz'", "the profiles: anthropic, bare, "),
        (
            {},
            {"model": "m", "profile": "gone"},
            "no profile is called 'gone', with which the session goes on",
            "the profiles",
        ),
        ({"profile": "bare"}, {}, "no model was named", "gptpipe-models -p bare"),
        ({"base_url": WORK}, {}, "no model was named", "-m MODEL, or write model = "),
        ({"base_url": "work.example.com", "model": "m"}, {}, "the base URL work.example.com cannot be used", ""),
        ({"proxy": "socks4://host"}, {}, "the proxy socks4://host cannot be used", ""),
    ],
    ids=str,
)
def test_a_refused_endpoint(options: Table, session: Table, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settle(options, session=session, profiles=PROFILES)
    assert caught.value.message.startswith(message)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("options", "env", "top"),
    [
        ({}, {}, {}),
        ({"model": "m"}, {}, {}),
        ({}, {"GPTPIPE_BASE_URL": WORK}, {}),
        ({}, {}, {"base_url": WORK}),
        ({}, {"OPENAI_BASE_URL": WORK}, {}),
    ],
    ids=["nothing", "-m", "variable of another", "file's of another", "OPENAI_BASE_URL of another"],
)
@pytest.mark.parametrize("there", [OTHER, "https://u:secret@evil.example/v1?key=secret", "https://[", "evil"])
def test_a_session_alone_does_not_decide_where_a_key_goes(
    options: Table, env: dict[str, str], top: Table, there: str
) -> None:
    with pytest.raises(UsageError) as caught:
        settle(options, session={"model": "s", "base_url": there}, env=env, top=top, profiles=PROFILES)
    assert caught.value.message.startswith(f"the session was at {masked(there)}, ")
    assert "secret" not in caught.value.message
    assert "--base-url URL or -p PROFILE" in str(caught.value.hint)


def test_a_model_is_not_always_needed() -> None:
    assert settle({"base_url": WORK}, need_model=False).model == ""


def test_budget_prices_and_prompts() -> None:
    config = Config(
        budget={"day_tokens": 5},
        prices={"m": {"input": 1.0, "output": 2.0}},
        chat={"question": "?", "answer": "!", "history": False},
    )
    found = resolve({}, {}, {}, {}, config)
    assert found.budget == Budget(day_tokens=5)
    assert found.prices == {"m": Price(1.0, 2.0, None)}
    assert (found.question, found.answer, found.remember) == ("?", "!", False)


def test_the_repr_shows_no_secret() -> None:
    found = settle(
        {"profile": "work", "model": "m", "proxy": "http://me:hunter2@proxy"},
        profiles={"work": {"base_url": "https://me:hunter2@host/v1", "headers": {"x-key": "hunter2"}}},
    )
    assert "hunter2" not in repr(found)
    assert "x-key" in repr(found)


@pytest.mark.parametrize(("model", "echo"), [("echo", True), ("echo:cut=3", True), ("echo-1", False), ("Echo", False)])
def test_is_echo(model: str, echo: bool) -> None:
    assert is_echo(model) is echo


def test_read_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, other = tmp_path / "xdg/gptpipe/config.toml", tmp_path / "other.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert read_file(None, {}) == Config()
    usual.parent.mkdir(parents=True)
    usual.write_text("retry = 1")
    other.write_text("retry = 2")
    assert read_file(None, {}).top == {"retry": 1}
    assert read_file(None, {"GPTPIPE_CONFIG": str(other)}).top == {"retry": 2}
    assert read_file(str(other), {"GPTPIPE_CONFIG": "/none"}).top == {"retry": 2}
    for option, env in (("/none", {}), (None, {"GPTPIPE_CONFIG": "/none"})):
        with pytest.raises(ConfigError, match="/none: no such settings file"):
            read_file(option, env)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths()._asdict() == {
        "config": Path("/c/gptpipe"),
        "data": tmp_path / ".local/share/gptpipe",
        "state": tmp_path / ".local/state/gptpipe",
        "cache": tmp_path / ".cache/gptpipe",
        "roles": Path("/c/gptpipe/roles"),
        "tools": Path("/c/gptpipe/tools"),
        "sessions": tmp_path / ".local/share/gptpipe/sessions",
        "attachments": tmp_path / ".local/share/gptpipe/attachments",
        "usage": tmp_path / ".local/state/gptpipe/usage",
        "batches": tmp_path / ".local/state/gptpipe/batches",
        "answers": tmp_path / ".cache/gptpipe/answers",
    }


def test_a_relative_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "here")
    monkeypatch.delenv("XDG_DATA_HOME")
    with pytest.raises(ConfigError, match="HOME"):
        paths()


def test_a_user_without_a_home_is_told_to_set_one() -> None:
    script = (
        "import os, pwd\n"
        "from gptpipe import errors\nfrom gptpipe.settings import settings\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "try: settings.paths()\n"
        "except errors.ConfigError as error: print(error.message, error.hint, sep='; ')\n"
    )
    found = subprocess.run([sys.executable, "-c", script], env={}, capture_output=True, text=True, check=True)
    assert found.stdout == "this user has no home directory; set HOME\n"


def test_without_home_the_list_of_users_says() -> None:
    script = "from gptpipe.settings import settings; print(settings.paths().config.is_absolute())"
    found = subprocess.run([sys.executable, "-c", script], env={}, capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"


def test_settling_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from gptpipe.settings import file as config, resolve as settings\n"
        "settings.resolve({'proxy': 'http://p'}, {}, {}, {}, config.load('/none', required=False))\n"
        "print(*sorted({'tomllib', 'difflib', 'subprocess', 'dataclasses', 'openai'} & sys.modules.keys()))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "\n"


def test_the_protocol() -> None:
    held: Table = {"work": {"base_url": WORK, "model": "m", "api": "responses"}}
    assert settle({"model": "m"}).api == "auto"
    assert settle({"profile": "work"}, profiles=held).api == "responses"
    assert settle({"profile": "work", "api": "chat"}, profiles=held).api == "chat"
    assert settle({"model": "echo"}, top={"api": "responses"}).api == "responses"
    with pytest.raises(UsageError, match="--api must be one of auto, chat, responses"):
        settle({"api": "completions", "model": "m"})
