"""The layers of the code, held against its imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parent.parent / "gptpipe"

# A module imports from the layers above its own, so there is no cycle. A new module is given a place here first.
LAYERS = (
    "__init__ errors extract lazy report",
    "address interrupt message names sse template toml",
    "config faults output storage",
    "docs files sessions settings tokens",
    "inputs link",
    "schema",
    "cache complete echo editor keys prices records roles upkeep usage",
    "transport",
    "client views",
    "place",
    "answer pace",
    "ask",
    "pool results turn",
    "each",
    "batches",
    "check oneshot talk terminal",
    "progress",
    "command",
    "options",
    "commands",
    "start",
    "__main__",
)

# Libraries that take long to import: where each may stand, inside functions only.
HEAVY = {
    "genai_prices": {"prices"},
    "httpx2": {"client", "echo", "transport"},
    "jsonschema": {"schema"},
    "openai": {"client"},
    "prompt_toolkit": {"terminal"},
    "referencing": {"schema"},
    "tiktoken": {"tokens"},
    "tqdm": {"progress"},
}

# What else is imported inside functions, because it is slow and most calls do not need it.
SLOW = {
    "datetime",
    "difflib",
    "email.utils",
    "hashlib",
    "importlib",
    "ipaddress",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "tomllib",
    "traceback",
}
OPTIONAL = {"complete", "echo", "oneshot"}

STORAGE = {"cache", "sessions", "storage", "upkeep", "usage"}


class Import(NamedTuple):
    """A module that is imported, and where: at the top, in a function, or for the type checker only."""

    name: str
    place: str

    @property
    def library(self) -> str:
        """The name that it is installed by."""
        return self.name.partition(".")[0]

    @property
    def own(self) -> str | None:
        """Its name within gptpipe, if it is a module of gptpipe."""
        return self.name.removeprefix("gptpipe.") if self.name.startswith("gptpipe.") else None


def imports(node: ast.AST, place: str = "top") -> Iterator[Import]:
    """Yield every import below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, place) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(name, place) for name in origins(child))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, "function")
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            yield from imports(child, "types")
        else:
            yield from imports(child, place)


def origins(node: ast.ImportFrom) -> Iterator[str]:
    """Yield the modules that ``from … import …`` takes from: of gptpipe those named after ``import``."""
    module = node.module or ""
    if module in ("gptpipe", "gptpipe.commands"):
        yield from (f"{module}.{alias.name}" if is_module(f"{module}.{alias.name}") else module for alias in node.names)
    else:
        yield module


def is_module(name: str) -> bool:
    return (SOURCE.parent / name.replace(".", "/")).with_suffix(".py").exists()


MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts): list(imports(ast.parse(path.read_text())))
    for path in sorted(SOURCE.rglob("*.py"))
}
PLACES = {module: rank for rank, layer in enumerate(LAYERS) for module in layer.split()}


def rank(module: str) -> int:
    """Return the layer of a module, counted from the top."""
    name = module.partition(".")[0]
    assert name in PLACES, f"give {name} a layer in tests/test_house.py"
    return PLACES[name]


by_module = pytest.mark.parametrize("module", MODULES)


@by_module
def test_a_module_imports_from_the_layers_above_it(module: str) -> None:
    own = {found.own for found in MODULES[module] if found.own}
    assert {name for name in own if rank(name) >= rank(module)} == set()


@by_module
def test_only_the_command_layer_knows_click(module: str) -> None:
    if not rank("command") <= rank(module) <= rank("commands"):
        assert "click" not in {found.library for found in MODULES[module]}


@by_module
def test_heavy_libraries_stand_in_their_module_and_in_functions(module: str) -> None:
    heavy = [found for found in MODULES[module] if found.library in HEAVY]
    assert [found.name for found in heavy if module not in HEAVY[found.library]] == []
    assert [found.name for found in heavy if found.place == "top"] == []


@pytest.mark.parametrize("library", HEAVY)
def test_each_heavy_library_is_used_where_the_table_says(library: str) -> None:
    users = {module for module, found in MODULES.items() if library in {each.library for each in found}}
    assert users == HEAVY[library] & MODULES.keys()


@by_module
def test_other_imports_stand_at_the_top(module: str) -> None:
    inner = {found for found in MODULES[module] if found.place == "function" and found.library not in HEAVY}
    assert {found.name for found in inner if found.own not in OPTIONAL} - SLOW == set()


@pytest.mark.parametrize("module", sorted(STORAGE & MODULES.keys()))
def test_storage_is_told_where_it_lives(module: str) -> None:
    known = {found.name for found in MODULES[module] if found.place != "types"}
    assert {"gptpipe.settings.resolve", "gptpipe.settings.file", "xdg_base_dirs"} & known == set()


def test_the_sdk_is_never_imported_by_its_resources() -> None:
    assert [found.name for found in MODULES["client"] if found.name.startswith("openai.resources")] == []
