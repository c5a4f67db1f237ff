"""The documents as the tests read them: the source of the manual pages, and the code blocks of the README."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.harness.processes import ROOT

MAN = ROOT / "man"
PAGES = sorted(MAN.iterdir())
README = (ROOT / "README.md").read_text()

# What mandoc and groff would set as typographic characters stands in literal displays as the left one of these.
_ESCAPES = {"\\&": "", "\\e": "\\", "\\-": "-", "\\(aq": "'", "\\(ga": "`", "\\(ha": "^", "\\(ti": "~"}
_ESCAPE = re.compile("|".join(map(re.escape, _ESCAPES)))
_DISPLAY = re.compile(r'(?:^\.\\" (\w+): (\S+)\n)?^\.Bd -literal.*\n((?s:.*?))^\.Ed$', re.MULTILINE)


class Display(NamedTuple):
    """A literal display of a page. The comment above it says what kind it is, and its name."""

    kind: str
    name: str
    source: str

    @property
    def text(self) -> str:
        """What a reader sees, and copies."""
        return plain(self.source)


def plain(source: str) -> str:
    """Return mdoc text with its escapes resolved."""
    return _ESCAPE.sub(lambda match: _ESCAPES[match[0]], source)


def source(page: str) -> str:
    """Return a page of ``man/``, or "" while it is not written."""
    path: Path = MAN / page
    return path.read_text() if path.exists() else ""


def section(page: str, title: str, macro: str = "Sh") -> str:
    """Return what stands under a heading (``Ss`` for a smaller one), up to the next."""
    end = r"^\.Sh " if macro == "Sh" else r"^\.S[hs] "
    match = re.search(rf"^\.{macro} {re.escape(title)}\n(.*?)(?={end}|\Z)", source(page), re.MULTILINE | re.DOTALL)
    assert match, f"{page} has no {title}"
    return match[1]


def displays(page: str) -> list[Display]:
    """Return the literal displays of a page, in order."""
    return [Display(kind, name, body) for kind, name, body in _DISPLAY.findall(source(page))]


def display(page: str, name: str) -> str:
    """Return the text of the display of this name."""
    return next(each.text for each in displays(page) if each.name == name)


def items(text: str) -> list[str]:
    """Return the heads of the list items in a piece of mdoc."""
    return [plain(head) for head in re.findall(r"^\.It (.*)$", text, re.MULTILINE)]


def pipelines() -> list[str]:
    """Return the scripts under "Five pipelines" in the README."""
    part = README.split("## Five pipelines\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
