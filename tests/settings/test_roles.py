from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gptpipe.errors import ConfigError, Failure, NoInput, UsageError, WriteError
from gptpipe.settings import roles
from gptpipe.settings.settings import Role
from gptpipe.text.template import escape

COMMIT = """\
+++
model = "big"
temperature = 0
extract = true
schema = "commit.json"
prompt = "In {lang}:"

[params]
top_p = 0.5

[vars]
lang = "English"
+++

Write a commit message in {lang} for {who}. {{} is JSON.

"""


def written(folder: Path, content: str | bytes, name: str = "r") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.md"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_front_matter_and_body(tmp_path: Path) -> None:
    written(tmp_path, COMMIT, "commit")
    assert roles.load(tmp_path, "commit", {"who": "Ann"}) == Role(
        settings={
            "model": "big",
            "temperature": 0,
            "params": {"top_p": 0.5},
            "system": "Write a commit message in English for Ann. {} is JSON.",
        },
        prompt="In English:",
        schema=str(tmp_path / "commit.json"),
        extract="first",
    )


def test_the_call_beats_the_roles_own_value(tmp_path: Path) -> None:
    written(tmp_path, COMMIT)
    assert roles.load(tmp_path, "r", {"who": "Ann", "lang": "{who}"}).prompt == "In {who}:"


@pytest.mark.parametrize(
    ("content", "role"),
    [
        pytest.param("Be short.\n", Role({"system": "Be short."}), id="body alone"),
        pytest.param("+++\n+++\nBe short.", Role({"system": "Be short."}), id="empty front matter"),
        pytest.param('+++\nmodel = "m"\n+++\n', Role({"model": "m"}), id="settings alone"),
        pytest.param('+++\nmodel = "m"\n+++', Role({"model": "m"}), id="no newline at the end"),
        pytest.param("", Role({}), id="empty"),
        pytest.param(
            b'\xef\xbb\xbf+++\r\nmodel = "m"\r\n+++\r\nHi\r\n', Role({"model": "m", "system": "Hi"}), id="crlf"
        ),
        pytest.param("a\n+++\nb", Role({"system": "a\n+++\nb"}), id="plus signs in the body"),
        pytest.param('+++\nextract = "last"\n+++', Role({}, extract="last"), id="last block"),
        pytest.param("+++\nextract = false\n+++", Role({}), id="no block"),
        pytest.param('+++\nschema = "/s.json"\n+++', Role({}, schema="/s.json"), id="absolute path"),
    ],
)
def test_forms(tmp_path: Path, content: str | bytes, role: Role) -> None:
    written(tmp_path, content)
    assert roles.load(tmp_path, "r", {}) == role


@pytest.mark.parametrize(
    ("content", "failure", "message", "hint"),
    [
        pytest.param(
            "+++\nmodle = 1\n+++\n", ConfigError, r"r\.md: unknown key modle", "did you mean model?", id="key"
        ),
        pytest.param("+++\nmodel = 1\n+++\n", ConfigError, r"model must be a string", None, id="kind"),
        pytest.param("+++\nextract = 1\n+++\n", ConfigError, r"extract must be true, false", None, id="number"),
        pytest.param("+++\n[params]\nstream = 1\n+++\n", ConfigError, r"params must not hold", None, id="param"),
        pytest.param("+++\n[vars]\nlang = 1\n+++\n", ConfigError, r"vars.lang must be a string", None, id="variable"),
        pytest.param(
            '+++\n[vars]\n"a{" = ""\n+++\n', ConfigError, "cannot be a field's name", None, id="variable's name"
        ),
        pytest.param("+++\nmodel = \n+++\n", ConfigError, r"r\.md: .*line 2", None, id="no TOML"),
        pytest.param('+++\nmodel = "m"\n', ConfigError, r"the line \+\+\+ that ends", None, id="unclosed"),
        pytest.param(b"+++\n+++\na\0b", ConfigError, r"r\.md: there is a NUL in line 3", None, id="NUL"),
        pytest.param(b"abc\xff", ConfigError, r"not UTF-8 at byte 3", None, id="no text"),
        pytest.param(
            "Hi {name}", UsageError, r"role r needs a value for \{name\}", "give -V name=VALUE", id="no value"
        ),
        pytest.param("{}", UsageError, r"needs a value for \{\}", "a field is written {NAME}", id="no name"),
        pytest.param("a\n{ }", ConfigError, r"/r\.md has a brace in line 2", "{{", id="brace"),
        pytest.param(
            '+++\nmodel = "m"\n+++\n\na\n{', ConfigError, r"/r\.md has a brace in line 6", "{{", id="brace below"
        ),
        pytest.param(
            '+++\n\nprompt = "{ }"\n+++\n', ConfigError, r"/r\.md: prompt has a brace in line 3", "{{", id="prompt"
        ),
        pytest.param("+++\n[profile.x]\n+++\n", ConfigError, r"profile is not a table", "[profiles.x]", id="profile.x"),
    ],
)
def test_faults(tmp_path: Path, content: str | bytes, failure: type[Failure], message: str, hint: str | None) -> None:
    written(tmp_path, content)
    with pytest.raises(failure, match=message) as caught:
        roles.load(tmp_path, "r", {})
    assert (hint or "") in (caught.value.hint or "")


def test_a_variable_that_no_field_takes(tmp_path: Path) -> None:
    written(tmp_path, COMMIT)
    with pytest.raises(UsageError, match=r"role r has no field \{langg\}") as caught:
        roles.load(tmp_path, "r", {"who": "Ann", "langg": "German"})
    assert caught.value.hint == "did you mean lang?"
    written(tmp_path, "Hi")
    with pytest.raises(UsageError) as caught:
        roles.load(tmp_path, "r", {"lang": "German"})
    assert caught.value.hint == "its fields: none"


def test_what_verify_finds_is_what_a_call_would_find(tmp_path: Path) -> None:
    written(tmp_path, COMMIT)
    with pytest.raises(ConfigError, match="role r has schema and extract, which exclude each other"):
        roles.verify(tmp_path, "r")
    written(tmp_path, COMMIT.replace("extract = true", ""))
    found = roles.verify(tmp_path, "r")
    assert (found.prompt, found.settings["model"]) == ("In English:", "big")
    assert found.settings["system"] == "Write a commit message in English for who. {} is JSON."
    written(tmp_path, "a\n{ }")
    with pytest.raises(ConfigError):
        roles.verify(tmp_path, "r")


def test_missing_role(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match="no role is called 'r'"):
        roles.load(tmp_path / "none", "r", {})


def test_names_are_checked(tmp_path: Path) -> None:
    written(tmp_path, "x", "r")
    with pytest.raises(UsageError):
        roles.load(tmp_path / "roles", "../r", {})


def test_list(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden", "größe", "gro\u0308ße"):
        written(tmp_path, "", name)
    (tmp_path / "notes.txt").touch()
    assert roles.names(tmp_path) == ["a", "b", "größe"]
    assert roles.names(tmp_path / "none") == []


SAVED = Role(
    settings={
        "system": 'Say {this} {{\n+++\n"""\\',
        "model": "größe/\x7f\t",
        "temperature": 1e-05,
        "max_tokens": 10**20,
        "params": {"stop": ["\n", "x"], "logit_bias": {"1 2": -1.5}, "store": False},
    },
    prompt="Do {it}",
    schema="/s.json",
    extract="last",
)


def test_saved_role_is_read_as_it_was(tmp_path: Path) -> None:
    texts = {"system": escape(SAVED.settings["system"])}
    path = roles.save(
        tmp_path / "new" / "roles",
        "r",
        SAVED._replace(settings={**SAVED.settings, **texts}, prompt=escape(SAVED.prompt or "")),
    )
    assert roles.load(path.parent, "r", {}) == SAVED


@pytest.mark.parametrize("umask", [0, 0o777])
def test_saved_role_is_private(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = roles.save(tmp_path / "roles", "r", Role({"system": "x"}))
    finally:
        os.umask(before)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_save_refuses_to_overwrite(tmp_path: Path) -> None:
    path = written(tmp_path, "mine")
    with pytest.raises(UsageError, match="there is a role 'r' already"):
        roles.save(tmp_path, "r", Role({"system": "x"}))
    assert path.read_text() == "mine"


def test_save_refuses_what_toml_lacks(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"params": {"seed": [None]}}
    with pytest.raises(UsageError, match="null"):
        roles.save(tmp_path, "r", Role(settings))
    assert roles.names(tmp_path) == []


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot write"):
        roles.save(tmp_path / "file" / "roles", "r", Role({}))
