from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptpipe.errors import UsageError
from gptpipe.text.template import as_template, escape, fields, fill, parse


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        pytest.param("say {}", "say <>", id="the whole"),
        pytest.param("{a} and {b.c}", "<a> and <b.c>", id="fields"),
        pytest.param("{First name}, {größe}, {x-1}, {_}, {1}", "<First name>, <größe>, <x-1>, <_>, <1>", id="names"),
        pytest.param('{{"k": {v}}', '{"k": <v>}', id="json"),
        pytest.param("{{{v}}}", "{<v>}", id="brace, field, brace"),
        pytest.param("{{v}}", "{v}", id="doubled"),
        pytest.param("a } b", "a } b", id="closing brace"),
        pytest.param("", "", id="empty"),
    ],
)
def test_fill(text: str, filled: str) -> None:
    assert fill(parse(text, "x"), lambda name: f"<{name}>") == filled


@pytest.mark.parametrize("text", ["{", "a { b", '{"k": 1}', "{ a}", "{a", "{a!r}", "{a\nb}", "{{{", "{.a}"])
def test_other_braces_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="the template has a brace in line 2"):
        parse("\n" + text, "the template")


def test_fields_in_order() -> None:
    assert fields(parse("{b}{a}{}{{{b}", "x")) == ["b", "a", "", "b"]


@given(st.text(alphabet="{}a \n"))
def test_escaped_text_stays_what_it_is(text: str) -> None:
    template = parse(escape(text), "x")
    assert fields(template) == []
    assert fill(template, str) == text


def test_values_are_not_filled_again() -> None:
    assert fill(parse("{a}", "x"), lambda _: "{b} {{") == "{b} {{"


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{a} {} {{a}} {", "<a> {} {<a>} {"),
        ('{"k": {a b}}', '{"k": <a b>}'),
        ("f() { return {x.y}; }", "f() { return <x.y>; }"),
    ],
)
def test_of_a_text_that_becomes_a_template_only_names_in_braces_are_fields(text: str, filled: str) -> None:
    assert fill(parse(as_template(text), "x"), lambda name: f"<{name}>") == filled
