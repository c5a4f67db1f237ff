from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gptpipe.asking import schema
from gptpipe.errors import Absent, ConfigError, NoInput
from gptpipe.wire import chat

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}}},
    "required": ["name", "tags"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string", "enum": ["a", "b"]}},
}


def written(tmp_path: Path, value: object) -> str:
    path = tmp_path / "s.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return str(path)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(PERSON, id="internal reference"),
        pytest.param({}, id="anything"),
        pytest.param({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {}}, id="draft 7"),
        pytest.param({"$schema": "http://json-schema.org/draft-07/schema", "type": "array"}, id="without #"),
        pytest.param({"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://e/x"}, id="draft 4"),
        pytest.param({"$id": "http://e/x", "$defs": {"b": {"$id": "b"}}, "$ref": "b"}, id="by its id"),
        pytest.param({"$defs": {"b": {"$anchor": "b"}}, "properties": {"a": {"$ref": "#b"}}}, id="by its anchor"),
        pytest.param({"properties": {"$ref": {"type": "string"}}}, id="property of that name"),
        pytest.param({"items": {"$ref": "#"}}, id="recursive"),
        pytest.param({"enum": [{"$ref": "http://e/"}]}, id="reference in a value"),
        pytest.param({"properties": {"a": True}}, id="boolean inside"),
    ],
)
def test_good_schemas(tmp_path: Path, value: Any) -> None:
    assert schema.load(written(tmp_path, value)) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(b"{", "is not JSON: ", id="no JSON"),
        pytest.param(b"\xff{}", "is not JSON: ", id="no text"),
        pytest.param(b'{"const": NaN}', "is not JSON: it holds NaN", id="NaN"),
        pytest.param(b"[" * 100_000, "is not JSON: it is nested too deeply", id="deep"),
        pytest.param([], "is not an object", id="no object"),
        pytest.param({"type": "objekt"}, r"at \$\.type: 'objekt'", id="unknown type"),
        pytest.param({"pattern": "("}, r"at \$\.pattern: '\('", id="pattern"),
        pytest.param({"$schema": "http://e/"}, "dialect that is not known: 'http://e/'", id="dialect"),
        pytest.param({"$schema": ["x"]}, "dialect that is not known", id="dialect of another kind"),
        pytest.param({"$ref": "http://127.0.0.1:9/x"}, "'http://127.0.0.1:9/x' is not in the file", id="URL"),
        pytest.param({"$ref": "file:///etc/passwd"}, "'file:///etc/passwd' is not in", id="file URL"),
        pytest.param({"items": {"anyOf": [{"$ref": "b.json"}]}}, "'b.json' is not in the file", id="other file"),
        pytest.param({"properties": {"a": {"$ref": "#/$defs/b"}}}, r"'#/\$defs/b' is not in the file", id="nowhere"),
        pytest.param({"$dynamicRef": "http://e/"}, "'http://e/' is not in the file", id="dynamic"),
        pytest.param({"$ref": "#/x/y", "x": {"y": {"$ref": "z"}}}, "'z' is not in the file", id="at a second step"),
        pytest.param({"$ref": schema.DIALECT}, "is not in the file", id="the language's own schema"),
    ],
)
def test_faulty_schemas(tmp_path: Path, value: Any, message: str) -> None:
    path = written(tmp_path, value)
    with pytest.raises(ConfigError, match=message) as caught:
        schema.load(path)
    assert caught.value.message.startswith(path)


def test_missing_schema(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match="No such file"):
        schema.load(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param('{"name": "x", "tags": []}', {"name": "x", "tags": []}, id="plain"),
        pytest.param('\n```json\n{"name": "ü", "tags": ["a"]}\n```\n', {"name": "ü", "tags": ["a"]}, id="fenced"),
    ],
)
def test_valid(text: str, value: object) -> None:
    assert schema.validate(text, PERSON) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"name": "x"}', r"at \$: 'tags' is a required property", id="missing"),
        pytest.param('{"name": "x", "tags": ["a", "c"]}', r"at \$\.tags\[1\]: 'c' is not one of", id="path"),
        pytest.param('{"name": 1, "tags": []}', r"at \$\.name: 1 is not of type 'string'", id="type"),
        pytest.param('Here: {"name": "x"}', "is not JSON: expecting value: line 1 column 1", id="prose"),
        pytest.param('{"name": "x", "tags": [', "is not JSON: expecting value", id="cut"),
        pytest.param("NaN", "is not JSON: it holds NaN", id="NaN"),
        pytest.param("-Infinity", "is not JSON: it holds -Infinity", id="infinity"),
        pytest.param("1e999", "is not JSON: 1e999 is out of range", id="out of range"),
        pytest.param("9" * 5000, "is not JSON: exceeds the limit", id="too many digits"),
        pytest.param(r'"\ud800"', "half of a surrogate pair", id="surrogate"),
        pytest.param("[" * 100_000, "nested too deeply", id="deep"),
        pytest.param("", "is not JSON", id="empty"),
    ],
)
def test_invalid(text: str, message: str) -> None:
    with pytest.raises(Absent, match=message):
        schema.validate(text, PERSON)


def test_large_numbers_are_kept() -> None:
    assert schema.validate(f"[{10**40}, 1.5]", {}) == [10**40, 1.5]


def test_long_violation_is_shortened() -> None:
    with pytest.raises(Absent) as caught:
        schema.validate(json.dumps(["x" * 10_000]), {"items": {"type": "number"}})
    assert len(caught.value.message) < 400
    assert "$[0]" in caught.value.message


def test_schema_without_end() -> None:
    with pytest.raises(ConfigError, match="without end"):
        schema.validate("1", {"$ref": "#"})


def test_what_the_model_is_told() -> None:
    assert json.loads(chat.instruction(PERSON).split("\n\n")[1]) == PERSON
    message = schema.repair_message(schema.Invalid("it is wrong"))
    assert message["role"] == "user"
    assert "it is wrong" in message["content"]
