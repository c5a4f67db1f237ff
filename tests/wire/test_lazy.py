from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gptpipe.wire.lazy import exports
from tests.harness.processes import ROOT

# What follows runs in an interpreter of its own, "lazy" or "eager", and prints its findings as JSON.
START = """
import importlib, json, os, re, sys
if sys.argv[1] == "lazy":
    from gptpipe.wire import lazy
    lazy.install()
import openai
def told(value):
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
"""

PACKAGES = """
import pkgutil
def below(name):
    package = importlib.import_module(name)
    yield name
    for found in pkgutil.iter_modules(package.__path__, name + "."):
        if found.ispkg:
            yield from below(found.name)
packages = ["openai.lib", *below("openai.types")]
"""

# Names are asked for one by one before anything asks for all of them, and in another order than the __init__'s.
ALL_NAMES = (
    PACKAGES
    + """
names = json.load(sys.stdin) or [[package, name] for package in packages for name in dir(sys.modules[package])]
found = {f"{package}.{name}": told(getattr(importlib.import_module(package), name)) for package, name in names}
print(json.dumps({"names": names, "found": found, "dir": {package: dir(sys.modules[package]) for package in packages}}))
"""
)


def interpreter(kind: str, script: str, given: object = None, env: dict[str, str] | None = None) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", START + script, kind],
        input=json.dumps(given).encode(),
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT), **(env or {})},
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def test_every_name_is_the_same_object() -> None:
    eager = interpreter("eager", ALL_NAMES)
    lazy = interpreter("lazy", ALL_NAMES, eager["names"][::-1])
    assert len(eager["found"]) > 3000
    assert lazy["found"] == eager["found"]
    assert lazy["dir"] == eager["dir"]


VIEWS = {
    "import *": "from openai.types.chat import *; result = sorted(name for name in globals() if 'Chat' in name)",
    "submodule": "result = [told(openai.types.batch), told(openai.types.chat.chat_completion)]",
    "from import of a submodule": "from openai.types import batch; result = told(batch)",
    "unknown name": """
try:
    openai.types.Nothing
except AttributeError as error:
    result = [str(error), error.name]
""",
    "unknown import": """
try:
    from openai.types import Nothing
except ImportError as error:
    result = str(error)
""",
    "hasattr": "result = [hasattr(openai.types, name) for name in ('__all__', '__doc__', '__wrapped__', 'Batch')]",
    "origin": """
import inspect
types = openai.types
result = [told(types.__loader__), told(types.__spec__), types.__file__, types.__package__, types.__doc__,
          len(inspect.getsource(types)), types.__name__, str(types)]
""",
    "pickle": """
import pickle
from openai.types import Model
model = Model(id="m", created=1, object="model", owned_by="me")
result = [told(pickle.loads(pickle.dumps(model))), told(pickle.loads(pickle.dumps(Model)))]
""",
    "type hints": """
import typing
from openai.types.chat import ChatCompletionUserMessageParam, completion_create_params as params
kinds = ChatCompletionUserMessageParam, params.CompletionCreateParamsStreaming
result = [told(typing.get_type_hints(kind, include_extras=True)) for kind in kinds]
""",
    "schema": "result = openai.types.chat.ChatCompletion.model_json_schema()",
    "members": """
import inspect
result = [[name, told(value)] for name, value in inspect.getmembers(openai.types.shared)]
""",
    "reload": "importlib.reload(openai.types); result = told(openai.types.Batch)",
}


@pytest.mark.parametrize("script", VIEWS.values(), ids=VIEWS.keys())
def test_nothing_else_is_to_be_seen(script: str) -> None:
    lazy, eager = (interpreter(kind, script + "\nprint(json.dumps(result))") for kind in ("lazy", "eager"))
    assert lazy == eager


def test_the_names_are_imported_when_they_are_asked_for() -> None:
    script = """
before = "openai.types.batch" in sys.modules
openai.types.Batch
print(json.dumps([before, "openai.types.batch" in sys.modules, "openai.types.beta" in sys.modules]))
"""
    assert interpreter("lazy", script) == [False, True, False]


def test_the_variable_switches_it_off() -> None:
    script = (
        'print(json.dumps([finder.__module__ for finder in sys.meta_path if finder.__module__ == "gptpipe.wire.lazy"]))'
    )
    assert interpreter("lazy", script) == ["gptpipe.wire.lazy"]
    assert interpreter("lazy", script, env={"GPTPIPE_EAGER_IMPORTS": "1"}) == []


def test_import_hooks_of_others_come_first() -> None:
    script = """
from importlib.machinery import PathFinder
asked = []
class Hook:
    def find_spec(name, path, target=None):
        asked.append(name)
sys.meta_path.insert(0, Hook)
import openai.types.beta
print(json.dumps("openai.types.beta" in asked))
"""
    assert interpreter("lazy", script) is True


def test_threads_may_ask_at_once() -> None:
    script = """
from threading import Barrier, Thread
names = ["Batch", "Model", "FileObject", "__all__", "Image", "nothing"] * 2
found, start = [], Barrier(len(names))
def ask(name):
    start.wait()
    found.append([name, told(getattr(openai.types, name, None))])
threads = [Thread(target=ask, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(sorted(found)))
"""
    assert interpreter("lazy", script) == interpreter("eager", script)


FAKES = {
    "code": "from .part import Part\nprint('ran')\n",
    "a docstring": '"""A package."""\nfrom .part import Part\nprint("ran")\n',
    "an absolute import": "import os\nfrom .part import Part\nprint('ran')\n",
    "a name that is a submodule's": "from .part import other\n",
    "a submodule": "from . import part\n",
    "everything": "from .part import *\n",
}


@pytest.mark.parametrize("source", FAKES.values(), ids=FAKES.keys())
def test_a_package_with_anything_else_is_left_alone(source: str, tmp_path: Path) -> None:
    types = tmp_path / "openai/types"
    types.mkdir(parents=True)
    (tmp_path / "openai/__init__.py").touch()
    (types / "__init__.py").write_text(source)
    (types / "part.py").write_text("class Part: ...\nother = 1\nprint('part')\n")
    (types / "other.py").write_text("")
    script = START + "import openai.types.other; print(told(getattr(openai.types, 'other')))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script, kind],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
            timeout=60,
            check=True,
        ).stdout
        for kind in ("lazy", "eager")
    ]
    assert b"part\n" in outputs[0]
    assert outputs[0] == outputs[1]


SOURCES: dict[str, tuple[str, dict[str, str] | None]] = {
    "empty": ("", {}),
    "comments": ("# File generated\n\n", {}),
    "future": (
        "from __future__ import annotations\n",
        {"annotations": "from __future__ import annotations"},
    ),
    "one": ("from .a import A as A\n", {"A": "from .a import A as A"}),
    "no newline at the end": ("from .a import A", {"A": "from .a import A"}),
    "several": ("from .a import A, B as C\n", {"A": "from .a import A", "C": "from .a import B as C"}),
    "in parentheses": (
        "from ..a.b import (\n    A as A,\n    B,\n)\n",
        {"A": "from ..a.b import A as A", "B": "from ..a.b import B"},
    ),
    "the last one counts": ("from .a import A\nfrom .b import B as A\n", {"A": "from .b import B as A"}),
    "everything": ("from .a import *\n", None),
    "absolute": ("from a import A\n", None),
    "a submodule": ("from . import a\n", None),
    "another future": ("from __future__ import division\n", None),
    "an assignment": ("from .a import A\n__all__ = ['A']\n", None),
    "two statements on a line": ("from .a import A; print()\n", None),
    "indented": ("if True:\n    from .a import A\n", None),
    "a comment behind": ("from .a import A  # noqa\n", None),
    "a comment inside": ("from .a import (\n    A,  # B,\n)\n", None),
    "a continued line": ("from .a import A, \\\n    B\n", None),
    "a string": ('"""from .a import A\n"""\n', None),
    "a name that Python would normalise": ("from .a import \ufb01\n", None),
    "carriage returns": ("from .a import A\r\n", None),
}


@pytest.mark.parametrize(("source", "names"), SOURCES.values(), ids=SOURCES.keys())
def test_exports(source: str, names: dict[str, str] | None) -> None:
    assert exports(source) == names
