from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gptpipe.message import Counts
from gptpipe.settings.built_in import BUILT_IN
from gptpipe.settings.file import Config
from gptpipe.settings.resolve import resolve
from gptpipe.settings.settings import Price
from gptpipe.usage.prices import price
from tests.harness.processes import ROOT, execute

OPENAI = BUILT_IN["openai"]["base_url"]
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("model", "used", "usd"),
    [
        pytest.param("gpt-4o", Counts(MILLION, 0), 2.5, id="input"),
        pytest.param("gpt-4o", Counts(0, MILLION), 10.0, id="output"),
        pytest.param("gpt-4o", Counts(MILLION, 0, cached=MILLION), 1.25, id="cached input"),
        pytest.param("gpt-4o", Counts(MILLION, MILLION, cached=MILLION // 2), 11.875, id="all of them"),
        pytest.param("gpt-4o", Counts(0, MILLION, reasoning=MILLION // 2), 10.0, id="reasoning is output"),
        pytest.param("gpt-4o-2024-08-06", Counts(MILLION), 2.5, id="a dated name"),
        pytest.param("gpt-4o", Counts(), 0.0, id="nothing"),
        pytest.param("gpt-4o", Counts(10, 0, cached=50), 0.0000125, id="more cached than there was"),
        pytest.param("no-such-model", Counts(MILLION), None, id="an unknown model"),
        pytest.param("echo", Counts(MILLION), None, id="a model of ours"),
    ],
)
def test_price(model: str, used: Counts, usd: float | None) -> None:
    assert price(model, used, OPENAI, {}) == (usd if usd is None else pytest.approx(usd))


@pytest.mark.parametrize(
    ("profile", "model"),
    [
        ("openai", "gpt-5.5"),
        ("openrouter", "openai/gpt-4o"),
        ("groq", "llama-3.3-70b-versatile"),
        ("mistral", "mistral-large-latest"),
        ("deepseek", "deepseek-chat"),
        ("gemini", "gemini-2.5-flash"),
    ],
)
def test_prices_of_the_built_in_endpoints_are_known(profile: str, model: str) -> None:
    found = price(model, Counts(1000, 100), BUILT_IN[profile]["base_url"], {})
    assert found is not None
    assert 0 < found < 1


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        pytest.param("gpt-4o", BUILT_IN["ollama"]["base_url"], id="this machine"),
        pytest.param("gpt-4o", "https://llm.example.org/v1", id="another's gateway"),
        pytest.param("gpt-4o", None, id="no endpoint"),
        pytest.param("text-embedding-3-small", OPENAI, id="a model without a price for output"),
        pytest.param(
            "cognitivecomputations/dolphin-mistral-24b-venice-edition:free",
            "https://openrouter.ai/api/v1",
            id="a model that the library lists without a price",
        ),
    ],
)
def test_what_is_not_known_is_not_zero(model: str, base_url: str | None) -> None:
    assert price(model, Counts(1000, 100), base_url, {}) is None


@pytest.mark.parametrize(
    ("own", "usd"),
    [
        pytest.param(Price(3, 5), 3 + 5, id="cached input costs what other input costs"),
        pytest.param(Price(3, 5, 1), 1.5 + 0.5 + 5, id="cached input costs less"),
        pytest.param(Price(0, 0), 0.0, id="free, says the user"),
    ],
)
def test_the_users_own_price_comes_first(own: Price, usd: float) -> None:
    used = Counts(MILLION, MILLION, cached=MILLION // 2)
    assert price("gpt-4o", used, OPENAI, {"gpt-4o": own}) == usd
    assert price("mine", used, None, {"mine": own}) == usd


def test_prices_of_the_settings_file_are_the_users_own() -> None:
    config = Config(prices={"mine": {"input": 3, "output": 5}})
    own = resolve({"model": "mine"}, {}, {}, {}, config).prices
    assert price("mine", Counts(MILLION, 0), None, own) == 3


def test_a_price_is_that_of_its_day() -> None:
    before, after = "2025-06-09T12:00:00Z", "2025-06-11T12:00:00Z"  # o3 became cheaper on the 10th
    found = [price("o3", Counts(MILLION), OPENAI, {}, at) for at in (before, after)]
    assert found == [10.0, 2.0]


PROGRAM = """
import sys, threading
from gptpipe.usage import prices
from gptpipe.message import Counts
from gptpipe.settings.settings import Price
print(prices.price("gpt-4o", Counts(1000), {base_url!r}, {own}))
print("genai_prices" in sys.modules, threading.active_count())
"""


@pytest.mark.parametrize(
    ("base_url", "own", "expected"),
    [
        pytest.param(OPENAI, "{}", ["0.0025", "True", "1"], id="known: no thread that would fetch newer prices"),
        pytest.param(OPENAI, "{'gpt-4o': Price(1, 2)}", ["0.001", "False", "1"], id="the user's own: no import"),
        pytest.param(None, "{}", ["None", "False", "1"], id="no endpoint: no import"),
    ],
)
def test_the_library_is_imported_only_to_look_up(
    tmp_path: Path, base_url: str | None, own: str, expected: list[str]
) -> None:
    program = PROGRAM.format(base_url=base_url, own=own)
    result = execute([sys.executable, "-c", program], cwd=ROOT, timeout=60)
    assert (result.text.split(), result.err) == (expected, "")
