"""The house: which folder stands above which, and what of each folder the others may see. CONTRIBUTING.md draws it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parent.parent / "gptpipe"

# A folder (or a module beside the folders) imports only what stands on a lower floor.
FLOORS = (
    "programs",
    "records",
    "asking",
    "wire sessions usage",
    "settings console message",
    "text storage",
    "errors",
)

# The modules of a folder that others may import; a folder that is not named shows all it has.
FACES = {
    "asking": "answer asker context inputs judge link meta report schema tokens tools turn want",
    "programs": "start",
    "records": "bar form input pace pool queue replies request requests_file "
    "result_file results sample submission tally worker",
    "sessions": "attachments store transcript undo upkeep",
    "usage": "budget ceiling ledger prices summary",
    "wire": "batch_api chat client download early echo events protocol request responses thinking",
}

# Libraries that take long to import: where each may stand, inside functions only.
HEAVY = {
    "genai_prices": {"usage.prices"},
    "httpx2": {"wire.early", "wire.http"},
    "jsonschema": {"asking.schema"},
    "markdown_it": {"text.fences"},
    "openai": {"wire.batch_api"},
    "prompt_toolkit": {"programs.line_editor"},
    "referencing": {"asking.schema"},
    "socksio": {"wire.proxies"},
    "tiktoken": {"asking.tokens"},
    "tqdm": {"console.progress"},
}

# What else is imported inside functions, because it is slow and most calls do not need it.
SLOW = {
    "datetime",
    "difflib",
    "email.utils",
    "hashlib",
    "importlib",
    "ipaddress",
    "json",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "tomllib",
    "traceback",
}
LATE = {
    "asking.inputs",
    "asking.report",
    "console.children",
    "console.target",
    "programs.answering",
    "programs.complete",
    "programs.ending",
    "programs.oneshot",
    "sessions.store",
    "settings.keys",
    "settings.roles",
    "text.strict_json",
    "wire.client",
    "wire.connection",
    "wire.echo",
    "wire.proxies",
}  # of gptpipe's own, for the same reason


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
    for alias in node.names:
        inner = f"{module}.{alias.name}"
        path = SOURCE.parent / inner.replace(".", "/")
        yield inner if module.startswith("gptpipe") and path.with_suffix(".py").exists() else module


def room(module: str) -> str:
    """Return the folder of a module, or the module itself if it stands beside the folders."""
    return module.partition(".")[0]


MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts): list(imports(ast.parse(path.read_text())))
    for path in sorted(SOURCE.rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py")
}
FLOOR = {name: number for number, names in enumerate(reversed(FLOORS)) for name in names.split()}

by_module = pytest.mark.parametrize("module", MODULES)


def foreign(module: str) -> list[str]:
    """Return the modules of other folders that a module imports."""
    return [found.own for found in MODULES[module] if found.own and room(found.own) != room(module)]


def test_each_folder_has_its_floor() -> None:
    assert {room(module) for module in MODULES} == set(FLOOR)


@by_module
def test_a_folder_imports_only_what_stands_below_it(module: str) -> None:
    assert [name for name in foreign(module) if FLOOR[room(name)] >= FLOOR[room(module)]] == []


@by_module
def test_a_folder_shows_only_its_face(module: str) -> None:
    faces = {folder: names.split() for folder, names in FACES.items()}
    assert [
        name
        for name in foreign(module)
        if name.partition(".")[2] not in faces.get(room(name), [name.partition(".")[2]])
    ] == []


@pytest.mark.parametrize("folder", FACES)
def test_a_face_names_modules_that_are_there(folder: str) -> None:
    assert [name for name in FACES[folder].split() if f"{folder}.{name}" not in MODULES] == []


@pytest.mark.parametrize("folder", [path for path in SOURCE.iterdir() if (path / "__init__.py").exists()])
def test_the_init_of_a_folder_is_a_docstring(folder: Path) -> None:
    (only,) = ast.parse((folder / "__init__.py").read_text()).body
    assert isinstance(only, ast.Expr)


@by_module
def test_there_is_no_circle_within_a_folder(module: str) -> None:
    seen: set[str] = set()
    open_ = [module]
    while open_:
        for found in MODULES[open_.pop()]:
            if found.own in MODULES and found.own not in seen and found.place == "top":
                seen.add(found.own)
                open_.append(found.own)
    assert module not in seen


@by_module
def test_only_the_programs_know_click(module: str) -> None:
    if room(module) != "programs":
        assert "click" not in {found.library for found in MODULES[module]}


def test_a_program_knows_no_other_program() -> None:
    programs = {
        f"programs.{name}" for name in ["filter", "chat", "map", "batch", "sessions", "usage", "models", "config"]
    }
    assert programs <= MODULES.keys()
    known = {found.own for found_in in MODULES.values() for found in found_in}
    assert programs & known == set()


@by_module
def test_heavy_libraries_stand_in_their_module_and_in_functions(module: str) -> None:
    heavy = [found for found in MODULES[module] if found.library in HEAVY and found.place != "types"]
    assert [found.name for found in heavy if module not in HEAVY[found.library]] == []
    assert [found.name for found in heavy if found.place == "top"] == []


@pytest.mark.parametrize("library", HEAVY)
def test_each_heavy_library_is_used_where_the_table_says(library: str) -> None:
    users = {
        module
        for module, found in MODULES.items()
        if library in {each.library for each in found if each.place != "types"}
    }
    assert users == HEAVY[library]


@by_module
def test_other_imports_stand_at_the_top(module: str) -> None:
    inner = {found for found in MODULES[module] if found.place == "function" and found.library not in HEAVY}
    assert {found.name for found in inner if found.own not in LATE} - SLOW == set()


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) in ("sessions", "usage", "storage")])
def test_storage_is_told_where_it_lives(module: str) -> None:
    assert "xdg_base_dirs" not in {found.name for found in MODULES[module]}


def test_contributing_draws_the_house() -> None:
    """The picture shows the floors of the table, and no path that CONTRIBUTING.md names is gone."""
    text = (SOURCE.parent / "CONTRIBUTING.md").read_text()
    picture = text.split("```\n")[1]
    assert tuple(" ".join(line[:32].split()) for line in picture.splitlines()) == FLOORS
    named = re.findall(r"`((?:[a-z]+/)?[a-z_]+\.py)`", text) + re.findall(r"`([a-z]+\.[a-z_]+)`", text)
    paths = [name if name.endswith(".py") else name.replace(".", "/") + ".py" for name in named]
    roots = (SOURCE, SOURCE / "console", SOURCE.parent)
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == []
