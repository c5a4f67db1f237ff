"""Code blocks against CommonMark's own examples and against another implementation of it."""

from __future__ import annotations

import commonmark  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptpipe.text.fences import block, whole_fence

# The examples of https://spec.commonmark.org/0.31.2/#fenced-code-blocks by their number.
SPECIFICATION = {
    119: ("```\n<\n >\n```\n", "<\n >\n"),
    120: ("~~~\n<\n >\n~~~\n", "<\n >\n"),
    121: ("``\nfoo\n``\n", None),
    122: ("```\naaa\n~~~\n```\n", "aaa\n~~~\n"),
    123: ("~~~\naaa\n```\n~~~\n", "aaa\n```\n"),
    124: ("````\naaa\n```\n``````\n", "aaa\n```\n"),
    125: ("~~~~\naaa\n~~~\n~~~~\n", "aaa\n~~~\n"),
    126: ("```\n", ""),
    127: ("`````\n\n```\naaa\n", "\n```\naaa\n"),
    128: ("> ```\n> aaa\n\nbbb\n", "aaa\n"),
    129: ("```\n\n  \n```\n", "\n  \n"),
    130: ("```\n```\n", ""),
    131: (" ```\n aaa\naaa\n```\n", "aaa\naaa\n"),
    132: ("  ```\naaa\n  aaa\naaa\n  ```\n", "aaa\naaa\naaa\n"),
    133: ("   ```\n   aaa\n    aaa\n  aaa\n   ```\n", "aaa\n aaa\naaa\n"),
    134: ("    ```\n    aaa\n    ```\n", None),
    135: ("```\naaa\n  ```\n", "aaa\n"),
    136: ("   ```\naaa\n  ```\n", "aaa\n"),
    137: ("```\naaa\n    ```\n", "aaa\n    ```\n"),
    138: ("``` ```\naaa\n", None),
    139: ("~~~~~~\naaa\n~~~ ~~\n", "aaa\n~~~ ~~\n"),
    140: ("foo\n```\nbar\n```\nbaz\n", "bar\n"),
    141: ("foo\n---\n~~~\nbar\n~~~\n# baz\n", "bar\n"),
    142: ("```ruby\ndef foo(x)\n  return 3\nend\n```\n", "def foo(x)\n  return 3\nend\n"),
    143: ("~~~~    ruby startline=3 $%@#$\ndef foo(x)\n  return 3\nend\n~~~~~~~\n", "def foo(x)\n  return 3\nend\n"),
    144: ("````;\n````\n", ""),
    145: ("``` aa ```\nfoo\n", None),
    146: ("~~~ aa ``` ~~~\nfoo\n~~~\n", "foo\n"),
    147: ("```\n``` aaa\n```\n", "``` aaa\n"),
}

ANSWERS = {
    "prose around": ("Run this:\n\n```sh\nls -l\n```\n\nDone.", "ls -l\n"),
    "c++": ("```c++\nint i;\n```", "int i;\n"),
    "title": ('```python title="x"\npass\n```', "pass\n"),
    "crlf": ("Hi\r\n```sh\r\nls\r\n\r\npwd\r\n```\r\nbye\r\n", "ls\r\n\r\npwd\r\n"),
    "a carriage return in a line": ("```\n10%\r20%\n```\r\n", "10%\r20%\n"),
    "cut off in the text": ("```sh\nls\nech", "ls\nech"),
    "cut off in the closing fence": ("```sh\nls\n``", "ls\n``"),
    "closing fence without newline": ("```sh\nls\n```", "ls\n"),
    "nothing": ("", None),
    "inline code": ("use `ls` and ```pwd``` here", None),
    "tab in the text": ("```make\nall:\n\ttrue\n```", "all:\n\ttrue\n"),
    "indented fence over a tab": ("  ```\n\ta\n  ```", "  a\n"),
    "list item": ("1. Run:\n\n   ```sh\n   ls\n\n     pwd\n   ```\n2. x", "ls\n\n  pwd\n"),
    "tenth list item": ("10. Run:\n\n    ```sh\n    ls\n    ```\n", "ls\n"),
    "list item left": ("- ```\n  ls\nrest", "ls\n"),
    "on the line of the item": ("- ```sh\n  ls\n  ```", "ls\n"),
    "nested items": ("- a\n  - b\n\n    ```\n    ls\n    ```", "ls\n"),
    "item marked by a tab": ("-\ta\n\n\t```\n\tls\n\t```", "ls\n"),
    "quote in an item": ("1. > ```\n   > > a\n   >b\n   > ```", "> a\nb\n"),
    "lazy line keeps the item open": ("- a\nb\n    ```\n    code\n", "code\n"),
    "number in a paragraph is no item": ("In\n1984.\n    ```\n    x\n", None),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [pytest.param(*case, id=str(name)) for name, case in (SPECIFICATION | ANSWERS).items()],
)
def test_first_block(text: str, expected: str | None) -> None:
    assert block(text, "first") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("```\na\n```\nb\n~~~\nc\n~~~\nd", "c\n", id="of two"),
        pytest.param("```\na\n```\n", "a\n", id="of one"),
        pytest.param("```\na\n```\n```\nb", "b", id="unclosed"),
        pytest.param("```\na\n```\n```\n```", "", id="empty"),
        pytest.param("- ```\n  a\n```\nb\n", "b\n", id="begun by the line that ends the one before"),
        pytest.param("a", None, id="none"),
    ],
)
def test_last_block(text: str, expected: str | None) -> None:
    assert block(text, "last") == expected


def blocks(text: str) -> list[str]:
    nodes = commonmark.Parser().parse(text).walker()
    return [node.literal or "" for node, entering in nodes if entering and node.t == "code_block" and node.is_fenced]


LINES = st.lists(
    st.sampled_from(
        ["```", "~~~", "````", "`", " ", "  ", "    ", "\t", "a", "> ", ">", "- ", "1. ", "-", "2.", "10. ", "# ", "sh"]
    ),
    max_size=6,
).map(lambda words: "".join(words).rstrip(" \t"))  # CommonMark 0.31 ignores them behind a fence, the oracle knows 0.28


@given(st.lists(LINES, max_size=7).map("\n".join))
def test_agrees_with_commonmark(text: str) -> None:
    known = blocks(text)
    for which in ("first", "last"):
        found = block(text, which)
        assert (found is not None) == bool(known)
        if found is not None:
            assert found.rstrip() == known[-1 if which == "last" else 0].rstrip()


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        pytest.param('{"a": 1}', '{"a": 1}', id="none"),
        pytest.param('```json\n{"a": 1}\n```', '{"a": 1}\n', id="json"),
        pytest.param('\n ~~~~\n{"a": 1}\n~~~~~\n\n', '{"a": 1}\n', id="tildes and blank lines"),
        pytest.param('```json\r\n{"a": 1}\r\n```\r\n', '{"a": 1}\r\n', id="crlf"),
        pytest.param('```json\n{"a": 1}', '{"a": 1}', id="unclosed"),
        pytest.param("```\n```", "", id="empty"),
        pytest.param("```\n1\n```\nmore", "```\n1\n```\nmore", id="text behind"),
        pytest.param("so:\n```\n1\n```", "so:\n```\n1\n```", id="text before"),
        pytest.param("```\n1\n```\n```\n2\n```", "```\n1\n```\n```\n2\n```", id="two"),
    ],
)
def test_whole_fence(text: str, inner: str) -> None:
    assert whole_fence(text) == inner
