"""Tools: how they are found, how they describe themselves, and what the model is told of a call."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptpipe.asking import tools
from gptpipe.asking.tools import Called, Toolbox
from gptpipe.errors import ConfigError, Failure, NoInput
from tests.harness.leash import Leash
from tests.harness.toolbox import DESCRIPTION, write_tool


@pytest.fixture
def leash(tmp_path: Path) -> Iterator[Leash]:
    leash = Leash(tmp_path)
    yield leash
    leash.close()


def load(*paths: Path | str) -> tuple[tools.Tool, ...]:
    return tools.load([str(path) for path in paths], Path("/nonexistent"), os.environ)


def failure(*paths: Path | str) -> Failure:
    with pytest.raises(Failure) as caught:
        load(*paths)
    return caught.value


def call(path: Path, arguments: str = '{"order":4711}', name: str = "lookup", **more: Any) -> Called:
    return tools.call(name, arguments, Toolbox(load(path), os.environ, **more))


# Finding


def test_a_tool_is_a_path_or_a_name_in_the_folder(tmp_path: Path) -> None:
    path = write_tool(tmp_path, "cat")
    assert tools.find("lookup", tmp_path) == tools.find(str(path), Path("/nonexistent")) == str(path)


def test_a_name_is_not_looked_for_on_the_path_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tool(tmp_path, "cat")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = failure("lookup")
    assert isinstance(found, NoInput)
    assert found.message == "no such tool: /nonexistent/lookup"
    assert found.hint is not None
    assert "named ./lookup" in found.hint


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        pytest.param(None, 0, "no such tool: {}", id="not there"),
        pytest.param(b"#!/bin/sh\n", 0o644, "the tool {} is not executable", id="not executable"),
        pytest.param(b"echo {}\n", 0o755, "the tool {} cannot be run: exec format error", id="no first line"),
        pytest.param(b"#!/nonexistent/sh\n", 0o755, "the tool {} cannot be run: no such file", id="no interpreter"),
    ],
)
def test_what_cannot_be_run_is_not_there(tmp_path: Path, content: bytes | None, mode: int, message: str) -> None:
    path = tmp_path / "lookup"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    found = failure(path)
    assert isinstance(found, NoInput)
    assert found.message.startswith(message.format(path))


def test_a_folder_is_not_a_tool(tmp_path: Path) -> None:
    assert failure(tmp_path).message == f"no such tool: {tmp_path}"


# Descriptions


def test_a_description(tmp_path: Path) -> None:
    (tool,) = load(write_tool(tmp_path, "cat", more="is ignored"))
    assert tool.spec._asdict() == {"name": "lookup", **DESCRIPTION}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        pytest.param({"name": "look up"}, "name must be 1 to 64 of the characters", id="name with a blank"),
        pytest.param({"name": "x" * 65}, "name must be", id="long name"),
        pytest.param({"name": "bücher"}, "name must be", id="name beyond ASCII"),
        pytest.param({"name": ""}, "name must be", id="empty name"),
        pytest.param({"name": None}, "name must be", id="no name"),
        pytest.param({"name": 5}, "name must be", id="a number as name"),
        pytest.param({"name": "lookup\n"}, "name must be", id="name with a newline"),
        pytest.param({"description": None}, "description must be", id="no description"),
        pytest.param({"description": " "}, "description must be", id="empty description"),
        pytest.param({"parameters": None}, "parameters must be", id="no parameters"),
        pytest.param({"parameters": {}}, "parameters must be", id="parameters without type"),
        pytest.param({"parameters": {"type": "array"}}, "parameters must be", id="parameters of another type"),
        pytest.param({"parameters": [1]}, "parameters must be", id="parameters in a list"),
        pytest.param(
            {"parameters": {"type": "object", "properties": {"a": {"type": "objekt"}}}},
            "not a schema that can be used: at $.properties.a.type",
            id="a type that is unknown",
        ),
        pytest.param(
            {"parameters": {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/"}}}},
            "not a schema that can be used: 'http://127.0.0.1:9/'",
            id="a reference that would be fetched",
        ),
    ],
)
def test_a_bad_description(tmp_path: Path, said: dict[str, Any], message: str) -> None:
    path = write_tool(tmp_path, "cat", f"cat <<'END'\n{json.dumps({'name': 'lookup', **DESCRIPTION, **said})}\nEND")
    found = failure(path)
    assert isinstance(found, ConfigError)
    assert found.message.startswith(f"the tool {path} describes itself badly: ")
    assert message in found.message


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("", "describes itself badly: it does not print JSON", id="nothing"),
        pytest.param("echo hello", "describes itself badly: it does not print JSON", id="not JSON"),
        pytest.param("echo '[1]'", "describes itself badly: it does not print a JSON object", id="not an object"),
        pytest.param('printf \'{"name":"\\377"}\'', "describes itself badly: it does not print JSON", id="not UTF-8"),
        pytest.param("echo '{\"name\":NaN}'", "describes itself badly: it does not print JSON: it holds NaN", id="NaN"),
        pytest.param("yes", "describes itself badly: it prints more than 65536 bytes", id="flood"),
        pytest.param("echo a >&2; echo no >&2; exit 3", "ended with status 3 when it was to describe", id="fails"),
        pytest.param("kill -9 $$", "ended with status 137", id="killed"),
    ],
)
def test_a_description_that_is_none(tmp_path: Path, script: str, message: str) -> None:
    path = write_tool(tmp_path, "cat", script)
    found = failure(path)
    assert isinstance(found, ConfigError)
    assert found.message.startswith(f"the tool {path} {message}")


def test_the_last_line_of_standard_error_is_shown(tmp_path: Path) -> None:
    path = write_tool(tmp_path, "cat", "printf 'first\\nno \\033[2J config\\n' >&2; exit 3")
    assert failure(path).message.endswith(': "no ^[[2J config"')


def test_a_description_that_does_not_come(tmp_path: Path, leash: Leash, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "DESCRIBE_LIMIT", 0.3)
    path = write_tool(tmp_path, "cat", f"{leash.hold}; trap '' TERM; sleep 60 & sleep 60")
    found = failure(path)
    assert isinstance(found, ConfigError)
    assert found.message == f"the tool {path} did not describe itself within 0.3 s"
    leash.check_released()


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    one, other = write_tool(tmp_path, "cat"), tmp_path / "other"
    other.write_bytes(one.read_bytes())
    other.chmod(0o755)
    found = failure(one, other)
    assert isinstance(found, ConfigError)
    assert found.message == f"the tools {one} and {other} are both called lookup"
    assert len(load(one, one)) == 1


# Calls


def test_a_call(tmp_path: Path) -> None:
    called = call(write_tool(tmp_path, "cat; echo ' found'"))
    assert called.result == '{"order":4711} found\n'
    assert called.listed() == {
        "name": "lookup",
        "arguments": {"order": 4711},
        "status": 0,
        "seconds": called.seconds,
    }
    assert str(called).startswith('lookup {"order":4711}: status 0, ')


MISBEHAVING = [
    pytest.param("exit 3", 3, "error: the tool ended with status 3", id="fails"),
    pytest.param(
        "printf 'a\\nb\\n' >&2; exit 1", 1, "error: the tool ended with status 1\na\nb", id="fails with words"
    ),
    pytest.param(
        "seq 100 >&2; exit 1",
        1,
        "\n".join(["error: the tool ended with status 1", *map(str, range(81, 101))]),
        id="fails with many words",
    ),
    pytest.param("printf '\\033[2J' >&2; exit 1", 1, "error: the tool ended with status 1\n^[[2J", id="drives"),
    pytest.param(
        "yes", 141, "y\n" * 32768 + "\n[the result is longer than 65536 bytes: the rest is cut off]", id="floods"
    ),
    pytest.param(
        "printf x; yes é | tr -d '\\n'",
        141,
        "x" + "é" * 32767 + "\n[the result is longer than 65536 bytes: the rest is cut off]",
        id="floods, cut within a character",
    ),
    pytest.param("printf 'a\\377'", 0, "error: the result is not UTF-8 text: byte 1 is 0xff", id="binary"),
    pytest.param("printf 'a\\0'", 0, "error: the result is not text: byte 1 is NUL", id="NUL"),
    pytest.param("kill -9 $$", 137, "error: the tool ended with status 137", id="killed"),
    pytest.param("exec <&-; echo done", 0, "done\n", id="closes its input"),
    pytest.param("exec >&-; exit 0", 0, "", id="closes its output"),
    pytest.param("sleep 60 & yes >&2 & echo done", 0, "done\n", id="forks"),
    pytest.param("exec 2>&1; read line </dev/tty || echo none", 0, "none", id="asks on the terminal"),
]


@pytest.mark.parametrize(("script", "status", "told"), MISBEHAVING)
def test_a_call_that_goes_wrong(tmp_path: Path, leash: Leash, script: str, status: int, told: str) -> None:
    called = call(write_tool(tmp_path, f"{leash.hold}; {script}"))
    assert called.status == status
    assert called.result == told or called.result.endswith(f"{told}\n")
    leash.check_released()


@pytest.mark.parametrize(
    ("name", "arguments", "kept", "told"),
    [
        pytest.param("find", "{}", {}, "error: no such tool: find; there are: lookup", id="unknown name"),
        pytest.param("lookup", '{"order":', '{"order":', "error: the arguments are not JSON: ", id="not JSON"),
        pytest.param("lookup", "NaN", "NaN", "error: the arguments are not JSON: it holds NaN", id="NaN"),
        pytest.param("lookup", "[1]", [1], "error: the arguments are not valid for the tool: at $: ", id="no object"),
        pytest.param(
            "lookup",
            '{"order":"x"}',
            {"order": "x"},
            "error: the arguments are not valid for the tool: at $.order: 'x' is not of type 'integer'",
            id="not valid",
        ),
        pytest.param("lookup", "", {}, "error: the arguments are not valid for the tool: at $: 'order' is", id="empty"),
    ],
)
def test_a_call_that_is_not_run(tmp_path: Path, name: str, arguments: str, kept: Any, told: str) -> None:
    called = call(write_tool(tmp_path, f"touch {tmp_path}/ran"), arguments, name)
    assert called.status is None
    assert called.arguments == kept
    assert called.result.startswith(told)
    assert not (tmp_path / "ran").exists()
    assert str(called).endswith(": not run")


def test_empty_arguments_are_an_empty_object(tmp_path: Path) -> None:
    path = write_tool(tmp_path, "cat", parameters={"type": "object"})
    assert call(path, "").result == call(path, " ").result == "{}"


def test_a_tool_that_is_gone(tmp_path: Path) -> None:
    path = write_tool(tmp_path, "cat")
    box = Toolbox(load(path), os.environ)
    path.unlink()
    assert tools.call("lookup", '{"order":1}', box).result == (
        "error: the tool cannot be run: No such file or directory"
    )


def test_a_schema_that_refers_to_itself_without_end(tmp_path: Path) -> None:
    endless = {"type": "object", "$ref": "#"}
    called = call(write_tool(tmp_path, "cat", parameters=endless))
    assert called.status is None
    assert "without end" in called.result


def test_a_name_that_begins_with_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tool(tmp_path, "cat", name="-x")
    monkeypatch.chdir(tmp_path)
    (tool,) = tools.load(["./-x"], Path("/nonexistent"), os.environ)
    assert tool.spec.name == "-x"


def test_approval(tmp_path: Path) -> None:
    asked: list[str] = []

    def says(answer: bool) -> Any:
        def approve(question: str) -> bool:
            asked.append(question)
            return answer

        return approve

    path = write_tool(tmp_path, "cat")
    assert call(path, approve=says(True)).status == 0
    refused = call(path, approve=says(False))
    assert (refused.status, refused.result) == (None, "error: the user does not allow this call")
    assert asked == ['run the tool lookup {"order":4711}?'] * 2
    call(path, "{}", approve=says(True))
    assert len(asked) == 2  # what would not run is not asked about


def test_seconds(tmp_path: Path) -> None:
    before = time.monotonic()
    called = call(write_tool(tmp_path, "sleep 0.2"))
    assert 0.2 <= called.seconds <= time.monotonic() - before


# The environment


def test_names_of_the_folder(tmp_path: Path) -> None:
    write_tool(tmp_path, "cat", name="b")
    write_tool(tmp_path, "cat", name="a")
    (tmp_path / ".hidden").touch()
    (tmp_path / "folder").mkdir()
    assert tools.names(tmp_path) == ["a", "b"]
    assert tools.names(tmp_path / "none") == []
