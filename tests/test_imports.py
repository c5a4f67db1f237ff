"""What a call imports is most of the time that it takes, so that is held here; the time itself is shown by bench/."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from tests.conftest import Fresh
from tests.harness.server import Server

# Who must write a larger number here knows which import it is for, and what it costs: python -X importtime.
ONE_SHOT = 240
HELP = 114

# Each is 5 ms and more, or brings one that is.
NOT_FOR_HELP = (
    "asyncio",
    "concurrent.futures",
    "email",
    "genai_prices",
    "gptpipe.wire.client",
    "gptpipe.programs.oneshot",
    "gptpipe.settings.resolve",
    "gptpipe.asking.turn",
    "hashlib",
    "http",
    "h11",
    "httpx2",
    "importlib.metadata",
    "jsonschema",
    "logging",
    "openai",
    "prompt_toolkit",
    "pydantic",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "tiktoken",
    "tqdm",
    "urllib.request",
)

# What the HTTP library is for beside an answer, and what only its other users need.
BEYOND_AN_ANSWER = (
    "httpcore2",
    "httpx2",
    "http",
    "urllib.request",
    "idna",
    "logging",
    "mimetypes",
    "hashlib",
    "importlib.metadata",
    "socksio",
)


def of(packages: Iterable[str], modules: frozenset[str]) -> list[str]:
    return sorted(name for name in modules if any(f"{name}.".startswith(f"{package}.") for package in packages))


def test_a_call_imports_few_modules(fresh: Callable[..., Fresh], server: Server) -> None:
    call = fresh("gptpipe", "--base-url", server.url, "-m", "m", "-n", "hi")
    assert call.out == b"hi\n"
    assert len(call.modules) <= ONE_SHOT


@pytest.mark.parametrize("endpoint", ["echo", "server"])
def test_a_call_imports_nothing_of_the_sdk(fresh: Callable[..., Fresh], server: Server, endpoint: str) -> None:
    where = ("-m", "echo") if endpoint == "echo" else ("--base-url", server.url, "-m", "m")
    call = fresh("gptpipe", *where, "-n", "hi")
    assert call.out == b"hi\n"
    assert of(["openai", "pydantic", "asyncio", *BEYOND_AN_ANSWER], call.modules) == []


def test_without_a_network_nothing_of_it_is_imported(fresh: Callable[..., Fresh]) -> None:
    assert (
        of(
            ["httpx2", "h11", "socksio", "truststore", "ssl", "socket"],
            fresh("gptpipe", "-m", "echo", "-n", "hi").modules,
        )
        == []
    )


@pytest.mark.parametrize("argument", ["-h", "--version"])
def test_help_and_version_import_nothing_slow(fresh: Callable[..., Fresh], argument: str) -> None:
    modules = fresh("gptpipe", argument).modules
    assert of(NOT_FOR_HELP, modules) == []
    assert len(modules) <= HELP


@pytest.mark.parametrize("kind", ["models", "profiles"])
def test_a_tab_does_not_even_import_click(fresh: Callable[..., Fresh], kind: str) -> None:
    modules = fresh("gptpipe", env={"_GPTPIPE_COMPLETE": kind}).modules
    assert "gptpipe.programs.complete" in modules
    assert of({*NOT_FOR_HELP, "click"} - {"gptpipe.settings.resolve"}, modules) == []
