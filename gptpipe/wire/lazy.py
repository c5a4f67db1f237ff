"""A cheap ``import openai``: what ``openai.lib`` and the packages of ``openai.types`` re-export is imported on demand.

More than half of the time of ``import openai`` goes into package ``__init__`` files that import several hundred
modules of generated models only to offer their names a second time. A filter is started thousands of times and
uses hardly any of them. The finder below gives such a package a module ``__getattr__`` (PEP 562) that runs the one
import statement behind a name when that name is asked for.

It changes nothing else that a caller can see, except that a submodule which nobody has imported is imported when it
is asked for, too. An ``__init__`` that holds anything but relative re-exports is left alone, and so is one whose
exports and submodules share a name, because then it matters which is imported first. Any other question (``dir()``,
``import *``, an unknown name) runs the ``__init__`` itself, after which the package is what it always was.
``GPTPIPE_EAGER_IMPORTS=1`` switches the finder off; ``bench/`` shows what it saves.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence, Set
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

_PACKAGES = re.compile(r"openai\.(?:lib|types(?:\..+)?)")

_NAME = r"[A-Za-z_]\w*"
_ITEM = rf"{_NAME}(?: as {_NAME})?"
_LINE = re.compile(
    rf"from (\.+{_NAME}(?:\.{_NAME})*) import (?:({_ITEM}(?:, {_ITEM})*)|\(((?:\s+{_ITEM},)*)\s*\))(?:\n|\Z)"
    r"|(from __future__ import annotations)\n|#.*\n|\n",
    re.ASCII,
)


def install() -> None:
    """Make the packages lazy that are imported from now on, unless ``GPTPIPE_EAGER_IMPORTS`` is 1."""
    if os.environ.get("GPTPIPE_EAGER_IMPORTS") == "1" or _Finder in sys.meta_path or PathFinder not in sys.meta_path:
        return
    # Just before the finder whose place it takes: import hooks that others installed come first, as ever.
    sys.meta_path.insert(sys.meta_path.index(PathFinder), _Finder)


def exports(source: str) -> dict[str, str] | None:
    """Return each name that the source of an ``__init__`` re-exports, with the import statement that binds it.

    None if the source holds anything but relative imports of names, ``annotations`` from ``__future__``, comments
    and blank lines. The grammar is a small part of Python's, so that what is not understood is not made lazy.
    """
    found: dict[str, str] = {}
    position = 0
    while position < len(source):
        line = _LINE.match(source, position)
        if line is None:
            return None
        position = line.end()
        module, on_one_line, in_parentheses, future = line.groups()
        if future:
            found["annotations"] = future
        for item in (on_one_line or in_parentheses or "").split(","):
            if item := item.strip():
                found[item.rpartition(" ")[2]] = f"from {module} import {item}"
    return found


class _Finder:
    """What ``PathFinder`` finds; packages that may be lazy get another loader."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not _PACKAGES.fullmatch(name):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.submodule_search_locations and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Runs an ``__init__``, or makes its package lazy; either way the module shows its usual loader afterwards."""

    def exec_module(self, module: ModuleType) -> None:
        usual = SourceFileLoader(self.name, self.path)
        module.__loader__ = usual
        if module.__spec__ is not None:
            module.__spec__.loader = usual
        names = exports(usual.get_data(usual.path).decode("utf-8", "replace"))
        submodules = {entry.partition(".")[0] for entry in os.listdir(os.path.dirname(usual.path))}
        if names is None or not submodules.isdisjoint(names):
            usual.exec_module(module)
        else:
            _make_lazy(module, usual, names, submodules)


def _make_lazy(module: ModuleType, loader: SourceFileLoader, names: dict[str, str], submodules: Set[str]) -> None:
    namespace = vars(module)
    pending = [loader]

    def complete() -> None:
        if pending:  # not while the __init__ runs: what it imports may ask for names, and so may another thread
            pending.pop().exec_module(module)
            del namespace["__getattr__"], namespace["__dir__"]

    def __getattr__(name: str) -> Any:
        if name in names:
            exec(names[name], namespace)
        elif name in submodules:
            return import_module(f"{module.__name__}.{name}")
        else:
            complete()
        try:
            return namespace[name]
        except KeyError:
            message = f"module {module.__name__!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=module) from None

    def __dir__() -> list[str]:
        complete()
        return sorted(namespace)

    namespace["__getattr__"] = __getattr__
    namespace["__dir__"] = __dir__
