"""Answers that are JSON of a given form: the schema, how it is read and checked, and whether an answer is valid.

A schema is a JSON Schema of any draft from 3 to 2020-12; without ``$schema`` it is 2020-12. It may refer only to
itself: nothing is fetched. ``format`` is a note to the model and not checked. One that refers to itself without end is
a ConfigError when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptpipe.asking.inputs import read_file
from gptpipe.errors import Absent, ConfigError, clause
from gptpipe.message import Message, Schema
from gptpipe.text.fences import whole_fence
from gptpipe.text.strict_json import parse

DIALECT = "https://json-schema.org/draft/2020-12/schema"  # of a schema that names none

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_LONGEST = 300  # characters of a violation that are shown: it quotes the value


class Invalid(Absent):
    """The answer is not JSON, not valid for the schema, or not what the user's check wants."""


def load(path: str) -> Schema:
    """Return the schema that a file holds, checked.

    :raises NoInput: if the file cannot be read.
    :raises ConfigError: if it is not a JSON Schema, or refers to anything outside itself.
    """
    try:
        schema = parse(read_file(path).decode("utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {clause(error)}") from None
    if not isinstance(schema, dict):
        raise ConfigError(f"{path} is not a JSON Schema: it is not an object")
    if problem := fault(schema):
        raise ConfigError(f"{path} is not a schema that can be used: {problem}")
    return schema


def fault(schema: Schema) -> str | None:
    """Return what is wrong with a schema, or None."""
    try:
        problem = _problem(schema)
    except RecursionError:
        problem = "it is nested too deeply"
    return problem and _short(problem)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def _problem(schema: Schema) -> str | None:
    """Return what is wrong with a schema, or None."""
    from jsonschema import SchemaError

    said = schema.get("$schema", DIALECT)
    if not isinstance(said, str) or said.rstrip("#") != _dialect(schema).META_SCHEMA["$schema"].rstrip("#"):
        return f"$schema names a dialect that is not known: {said!r}"
    try:
        _dialect(schema).check_schema(schema)
    except SchemaError as error:
        return f"at {error.json_path}: {error.message}"
    outside = next(_unresolved(schema), None)
    return None if outside is None else f"{outside!r} is not in the file, and nothing is fetched"


def _dialect(schema: Schema) -> Any:
    """Return the class that validates by the draft that the schema names."""
    from jsonschema import validators

    return validators.validator_for(schema, default=validators.Draft202012Validator)


def _specification(schema: Schema) -> Any:
    from referencing.jsonschema import specification_with

    return specification_with(_dialect(schema).META_SCHEMA["$schema"])


def _registry(schema: Schema) -> Any:
    """Return a registry that holds this schema only, so that no reference is fetched."""
    from referencing import Registry

    root = _specification(schema).create_resource(schema)
    return Registry().with_resource(root.id() or "", root)


def _unresolved(schema: Schema) -> Iterator[str]:
    """Yield the references that do not lead to a place in the schema's own file."""
    from referencing.exceptions import Unresolvable

    specification = _specification(schema)
    left = [(schema, _registry(schema).resolver(specification.create_resource(schema).id() or ""))]
    seen: set[int] = set()
    while left:
        part, resolver = left.pop()
        if id(part) in seen or not isinstance(part, dict):
            continue
        seen.add(id(part))
        inner = specification.create_resource(part).subresources()
        left.extend((resource.contents, resolver.in_subresource(resource)) for resource in inner)
        for reference in [part[key] for key in _REFERENCES if isinstance(part.get(key), str)]:
            try:
                found = resolver.lookup(reference)
            except Unresolvable:
                yield reference
            else:
                left.append((found.contents, found.resolver))


def validate(text: str, schema: Schema) -> Any:
    """Return the value in an answer's JSON, one surrounding fence taken off.

    :raises Invalid: if it is not JSON, or not valid for the schema: with the path of the violation.
    """
    try:
        value = parse(whole_fence(text))
    except ValueError as error:
        raise Invalid(f"the answer is not JSON: {clause(error)}") from None
    if found := violation(value, schema):
        raise Invalid(f"the answer is not valid for the schema {found}")
    return value


def violation(value: Any, schema: Schema) -> str | None:
    """Return where and why a value is not valid for the schema, or None if it is."""
    from jsonschema.exceptions import best_match

    validator = _dialect(schema)(schema, registry=_registry(schema))
    try:
        found = best_match(validator.iter_errors(value))
    except RecursionError:
        raise ConfigError("the schema refers to itself without end, or the answer is nested too deeply") from None
    return None if found is None else f"at {found.json_path}: {_short(found.message)}"


def repair_message(problem: Invalid, *, json: bool = True) -> Message:
    """Return the message that shows the model what is wrong; ``json`` says whether the answer must be JSON."""
    what = "the JSON" if json else "the answer"
    return {"role": "user", "content": f"That cannot be used: {problem.message}. Answer again, with {what} only."}
