"""The documents say what the programs do: their lists are compared with the code's own."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from gptpipe import __version__
from gptpipe.errors import Status
from gptpipe.message import Turn, from_line, to_line
from gptpipe.settings import built_in, environment, file, roles
from gptpipe.wire import echo
from tests.conftest import Run, needs
from tests.harness import manual, programs
from tests.harness.processes import ROOT

CODE = re.compile(r"^```sh\n(.*?)^```$|`([^`\n]+)`", re.MULTILINE | re.DOTALL)


def helps(program: str) -> Iterator[list[str]]:
    """Yield the words that ask for each help text of a program: its own and those of its subcommands."""
    yield ["-h"]
    found = programs.command(program)
    if isinstance(found, click.Group):
        yield from ([name, "-h"] for name in found.commands)


def options_in_help(text: str) -> set[str]:
    heads = re.findall(r"^ +(-.*?)(?: {2,}|$)", text, re.MULTILINE)
    return {option for head in heads for option in re.findall(r"(?:^|[ ,/])(--?[a-zA-Z0-9][\w-]*)", head)}


def options_in_page(page: str) -> set[str]:
    found = set()
    for head in manual.items(manual.source(page)):
        found |= {f"--{name}" for name in re.findall(r"\bFl Fl (\S+)", head)}
        found |= {f"-{name}" for name in re.findall(r"(?<!Fl )\bFl (?!Fl )(\S+)", head)}
    return found


@pytest.mark.parametrize("page", manual.PAGES, ids=lambda page: page.name)
def test_mandoc_has_nothing_to_say(page: Path) -> None:
    needs("mandoc")
    found = subprocess.run(["mandoc", "-Tlint", "-W", "warning", page], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize("page", manual.PAGES, ids=lambda page: page.name)
def test_what_is_copied_from_a_page_is_ascii_as_typed(page: Path) -> None:
    """In a UTF-8 terminal groff turns these characters into others, which no shell understands."""
    for display in manual.displays(page.name):
        assert not re.search(r"(?<!\\)-|['`^~]", display.source), display.name


@pytest.mark.parametrize("page", manual.PAGES, ids=lambda page: page.name)
def test_pages_refer_to_pages_that_exist(page: Path) -> None:
    for name, number in re.findall(r"\bXr (gptpipe\S*) (\d)", page.read_text()):
        assert (manual.MAN / f"{name}.{number}").exists(), name


@pytest.mark.parametrize("program", programs.NAMES)
def test_options_of_the_help_are_those_of_the_page(program: str, run: Run) -> None:
    found: set[str] = set().union(*(options_in_help(run(program, *words).text) for words in helps(program)))
    assert found
    assert options_in_page(f"{program}.1") == found


def test_the_readme_uses_only_options_that_exist() -> None:
    code = "\n".join(block or inline for block, inline in CODE.findall(manual.README))
    used = re.findall(r"\b(gptpipe(?:-[a-z]+)?)\b((?: [^|&;\n`]+)?)", code)
    known = {name: options_in_page(f"{name}.1") for name, _ in used}
    wrong = [
        (name, option)
        for name, words in used
        for option in re.findall(r"(?<= )--?[a-zA-Z][\w-]*", words.partition(" -- ")[0])
        if known[name] and option not in known[name]
    ]
    assert not wrong
    assert known["gptpipe"]


def test_the_readme_lists_the_programs() -> None:
    part = manual.README.split("## The programs\n")[1].split("\n## ")[0]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert sorted(re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE)) == sorted(scripts)


def test_the_readme_names_the_two_commands_as_the_makefile_has_them() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert "```sh\nmake demo\nmake check\n```" in manual.README
    assert {"demo", "check"} <= targets


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == __version__


def test_statuses() -> None:
    rows = [head.split() for head in manual.items(manual.section("gptpipe.1", "EXIT STATUS"))]
    assert rows == [[str(int(status)), status.name] for status in Status]
    readme = re.findall(r"^\| (\d+) \|", manual.README, re.MULTILINE)
    assert readme == [str(int(status)) for status in Status]


def test_environment() -> None:
    names = {name for head in manual.items(manual.section("gptpipe.1", "ENVIRONMENT")) for name in head.split()}
    own = {name for name in names if name.startswith("GPTPIPE_")}
    assert own == set(environment.ENVIRONMENT.values())


def test_each_variable_stands_for_the_option_of_its_name() -> None:
    text = manual.plain(manual.section("gptpipe.1", "ENVIRONMENT"))
    short = {"model": "m", "profile": "p", "session": "s"}
    for option, variable in environment.ENVIRONMENT.items():
        said = re.search(rf"^\.It Ev {variable}\n\.Fl (.*)$", text, re.MULTILINE)
        assert said, variable
        assert said[1] == (short.get(option) or f"Fl {option.replace('_', '-')}")


def keys_under(title: str) -> set[str]:
    """Return the keys that gptpipe-config(5) lists under a heading."""
    heads = manual.items(manual.section("gptpipe-config.5", title, "Sh" if title.isupper() else "Ss"))
    lists = [names for head in heads for names in re.findall(r"\bIc (.*?) No =", head)]
    return {key for names in lists for key in names.split(" , ")}


@pytest.mark.parametrize(
    ("title", "keys"),
    [
        ("Top of the file", file.TOP.keys()),
        ("[profiles.NAME]", file.PROFILE.keys()),
        ("[chat]", file.SHAPE["chat"].keys()),
        ("[budget]", file.SHAPE["budget"].keys()),
        ("ROLES", roles._SHAPE.keys()),
    ],
    ids=["top", "profile", "chat", "budget", "role"],
)
def test_keys_of_the_settings_file_and_of_roles(title: str, keys: Any) -> None:
    assert keys_under(title) == set(keys)


def test_tables_of_the_settings_file() -> None:
    headings = re.findall(r"^\.Ss \[([a-z]+)(?:\.NAME)?\]$", manual.source("gptpipe-config.5"), re.MULTILINE)
    assert sorted(headings) == sorted(file.SHAPE.keys() - file.TOP.keys())


def test_built_in_profiles() -> None:
    text = manual.section("gptpipe-config.5", "[profiles.NAME]", "Ss")
    rows = re.findall(r"^\.It Cm (\w+)\n\.Lk (\S+)(?: ,\n\.Ev (\w+))?$", text, re.MULTILINE)
    expected = {
        (name, profile["base_url"], "OPENAI_API_KEY" if name == "openai" else profile["api_key_env"])
        for name, profile in built_in.BUILT_IN.items()
    }
    assert set(rows) == expected


def test_knobs_of_echo() -> None:
    heads = manual.items(manual.section("gptpipe.1", "THE MODEL ECHO"))
    assert {head.split()[1] for head in heads} == set(echo.Knobs._fields)


def test_keys_of_a_session_line() -> None:
    every = Turn([{"role": "user", "content": "x"}], base_url="x", tokens_estimated=True, system_tokens=1)
    heads = manual.items(manual.section("gptpipe-session.5", "DESCRIPTION"))
    described = [head.removeprefix("Ql ") for head in heads if head.startswith("Ql ")]
    assert described == list(json.loads(to_line(every)))


def test_the_example_of_a_session_line_is_one() -> None:
    line = json.dumps(json.loads(manual.display("gptpipe-session.5", "turn")), ensure_ascii=False).encode()
    assert json.loads(to_line(from_line(line))) == json.loads(line)


def test_the_example_of_a_line_that_takes_a_turn_back_is_one() -> None:
    line = manual.display("gptpipe-session.5", "taken-back").replace("\n", "").encode()
    assert json.loads(to_line(from_line(line))) == json.loads(line)
    assert from_line(line).undo == 1


def test_the_example_of_the_json_output_has_its_keys(run: Run) -> None:
    example = json.loads(manual.display("gptpipe.1", "answer"))
    real = run("gptpipe", "-m", "echo", "--json", "hi").json()
    assert list(real) == list(example)
    assert list(real["seconds"]) == list(example["seconds"])


def test_the_example_of_a_dry_run_has_its_keys(run: Run) -> None:
    example = json.loads(manual.display("gptpipe.1", "dry-run"))
    real = run("gptpipe", "-m", "gpt-5.5", "--dry-run", "hello", env={"OPENAI_API_KEY": "sk-test"}).json()
    assert list(real) == list(example)
    assert real["url"] == example["url"]
    assert real["headers"] == example["headers"]
    assert real["body"] == example["body"]
    assert list(real["tokens"]) == list(example["tokens"])


def test_the_example_of_a_settings_file_is_one(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(manual.display("gptpipe-config.5", "config"))
    found = file.load(path, required=True)
    assert found.top["model"] in found.aliases
