"""What calls enter of their usage, and the budgets that are kept by it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.asking.test_extract_schema_cache import USAGE, answers, asking, used
from tests.harness.server import DONE, Server, finish, say

ECHO = ("gptpipe", "-m", "echo")


def configure(home: Path, text: str) -> None:
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_is_entered(run: Any, server: Server, home: Path) -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 1}}
    server.reply(say("hi"), finish(usage=USAGE | details), DONE)
    run(*asking(server, "-s", "s", "hi"))
    (line,) = used(home)
    assert line.pop("at").endswith("Z")
    assert 0 < line.pop("seconds") < 20
    assert line == {
        "program": "gptpipe",
        "profile": None,
        "model": "m",
        "session": "s",
        "input": 10,
        "output": 2,
        "cached": 4,
        "reasoning": 1,
        "status": 0,
        "base_url": server.url,
    }


def test_the_built_in_model_spends_no_budget_and_leaves_no_line(run: Any, home: Path) -> None:
    configure(home, "[budget]\nday_tokens = 1\nday_usd = 0.1\n")
    for _ in range(2):
        assert run(*ECHO, "hi").status == 0
        assert run("gptpipe-map", "-m", "echo", "{}", stdin=b"a\nb\n").status == 0
    assert used(home) == []
    assert run("gptpipe-usage").text.splitlines()[-1].split() == ["total", "0", "0", "0", "0", "0", "0.0", "-"]


PRICED = {
    "another server under a known profile": ("", (), None),
    "a tier that the price list does not have": ("", ("-O", "service_tier=bogus"), None),
    "the user's own price": ("[prices]\n'gpt-4o' = { input = 1000, output = 1000 }\n", (), 0.012),
}


@pytest.mark.parametrize(("prices", "options", "usd"), PRICED.values(), ids=PRICED)
def test_notes_budgets_and_the_summary_price_a_request_the_same_way(
    run: Any, server: Server, home: Path, prices: str, options: tuple[str, ...], usd: float | None
) -> None:
    """At the profile openai, whose address is another server's."""
    answers(server, "one", "two")
    env = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "k"}
    configure(home, prices)
    call = ("gptpipe", "-n", "-v", "-p", "openai", "-m", "gpt-4o", *options)
    result = run(*call, "hi", env=env)
    assert ("cost: not known" if usd is None else f"cost: {usd:.6f} USD") in result.err
    summed = run("gptpipe-usage", "--by", "model", "--json").json()
    assert (summed["usd"], summed["unpriced"]) == (usd, usd is None)
    configure(home, f"{prices}[budget]\nday_usd = 9\n")
    assert run(*call, "two", env=env).status == (6 if usd is None else 0)


def test_a_tier_that_is_known_has_its_price(run: Any, home: Path) -> None:
    folder = home / ".local/state/gptpipe/usage"
    folder.mkdir(parents=True)
    values: dict[str, Any] = {
        "at": "2026-11-22T05:11:07Z",
        "program": "gptpipe",
        "profile": None,
        "model": "gpt-5.5",
        "session": None,
    }
    values |= {"input": 1_000_000, "output": 0, "cached": 0, "reasoning": 0, "seconds": 1.5, "status": 0}
    values |= {"base_url": "https://api.openai.com/v1"}
    lines = [json.dumps({**values, **more}) for more in ({}, {"service_tier": "flex"}, {"service_tier": "none"})]
    (folder / "2026-11-22.jsonl").write_text("\n".join(lines) + "\n")
    priced = run("gptpipe-usage", "--json").json()
    assert (priced["usd"], priced["unpriced"]) == (15.0, 1)


@pytest.mark.parametrize(
    ("packets", "entered"),
    [
        pytest.param([say("x" * 40), finish(), DONE], (True, 12, 14, 0), id="a server that does not count"),
        pytest.param([say("x" * 40)], (True, 12, 14, 75), id="cut"),
        pytest.param([finish(), DONE], (True, 12, 0, 5), id="empty"),
    ],
)
def test_what_the_server_does_not_count_is_estimated(
    run: Any, server: Server, home: Path, packets: list[bytes], entered: tuple[Any, ...]
) -> None:
    server.reply(*packets)
    run(*asking(server, "y" * 32))
    (line,) = used(home)
    assert (line["estimated"], line["input"], line["output"], line["status"]) == entered


def test_each_try_that_was_accepted_is_entered(run: Any, server: Server, home: Path) -> None:
    server.json(429, {"error": {"message": "slow"}}, headers={"retry-after": "0"})
    server.reply(say("Hel"), broken=True)
    answers(server, "Hello")
    assert run("gptpipe", "--base-url", server.url, "-m", "m", "--no-stream", "hi").status == 0
    assert [(line["status"], line["output"]) for line in used(home)] == [(75, 5), (0, 2)]


def test_a_request_that_was_refused_used_nothing(run: Any, server: Server, home: Path) -> None:
    server.json(401, {"error": {"message": "no"}})
    assert run(*asking(server, "hi")).status == 77
    assert [(line["status"], line["input"], line["output"]) for line in used(home)] == [(77, 0, 0)]


def test_an_interrupted_answer_is_entered(spawn: Any, server: Server, home: Path) -> None:
    server.reply(say("Hel"), hang=True)
    process = spawn(*asking(server, "hi"))
    process.read(until=b"Hel")
    process.kill(signal.SIGTERM)
    assert process.wait() == 143
    assert [(line["status"], line["estimated"]) for line in used(home)] == [(143, True)]


def test_an_answer_that_took_too_long_is_entered(run: Any, server: Server, home: Path) -> None:
    server.reply(say("Hel"), hang=True)
    assert run(*asking(server, "--max-time", "1", "hi")).status == 75
    assert [(line["status"], line["estimated"]) for line in used(home)] == [(75, True)]


def test_nothing_is_entered_if_the_settings_say_so(run: Any, server: Server, home: Path) -> None:
    configure(home, "usage = false\n")
    answers(server, "ok")
    assert run(*asking(server, "hi")).status == 0
    assert used(home) == []
    configure(home, "usage = false\n[budget]\nday_tokens = 9\n")
    assert run(*ECHO, "hi").status == 78


def test_many_calls_at_once_lose_no_line(spawn: Any, server: Server, home: Path) -> None:
    processes = [spawn(*asking(server, "-n", str(number))) for number in range(80)]
    assert [process.communicate().text for process in processes] == [f"{number}\n" for number in range(80)]
    assert len(used(home)) == 80


def test_a_line_that_cannot_be_written_is_a_note(run: Any, server: Server, home: Path) -> None:
    (home / ".local").write_text("")
    assert run(*asking(server, "hi")) == (0, b"hi\n", "")
    assert "cannot write" in run(*asking(server, "-v", "hi")).err
    configure(home, "[budget]\nday_tokens = 9\n")
    assert run(*asking(server, "hi")).status == 74


# Budgets


def test_a_budget_that_is_used_up(run: Any, server: Server, fresh: Any, home: Path) -> None:
    configure(home, "[budget]\nday_tokens = 1000\n")
    server.reply(say("x"), finish(usage={"prompt_tokens": 900, "completion_tokens": 100, "total_tokens": 1000}), DONE)
    assert run(*asking(server, "one")).status == 0
    refused = fresh(*asking(server, "two"), stdin=b"and three")
    assert (refused.status, refused.out, len(server.requests)) == (6, b"", 1)
    assert "day_tokens = 1000" in refused.err
    assert "00:00" in refused.err
    assert not refused.modules & {"openai", "h11", "httpx2", "genai_prices"}
    answers(server, "ok")
    assert run(*asking(server, "--over-budget", "two")).text == "ok\n"


def test_a_stored_answer_needs_no_budget(run: Any, server: Server, home: Path) -> None:
    configure(home, "[budget]\nmonth_tokens = 2\n")
    assert run(*asking(server, "--cache", "1d", "hi")).status == 0
    assert run(*asking(server, "--cache", "1d", "hi")).status == 0
    assert run(*asking(server, "--cache", "1d", "other")).status == 6


def test_a_budget_in_dollars(run: Any, server: Server, fresh: Any, home: Path) -> None:
    configure(home, "[budget]\nday_usd = 0.01\n[prices]\nm = { input = 1000, output = 1000 }\n[profiles.x]\n")
    answers(server, "one")
    assert run(*asking(server, "hi")).status == 0
    assert [line["usd"] for line in used(home)] == [0.012]
    refused = fresh(*asking(server, "-n", "hi"))
    assert refused.status == 6
    assert not refused.modules & {"openai", "genai_prices"}


def test_a_budget_in_dollars_refuses_a_model_without_a_price(run: Any, server: Server, home: Path) -> None:
    configure(home, "[budget]\nday_usd = 1\n")
    result = run(*asking(server, "hi"))
    assert (result.status, server.requests) == (6, [])
    assert "[prices]" in result.err
    answers(server, "ok")
    assert run(*asking(server, "--over-budget", "hi")).status == 0
    assert run(*ECHO, "hi").status == 0


def test_the_cost_is_a_note(run: Any, server: Server, home: Path) -> None:
    configure(home, "[prices]\nm = { input = 1000, output = 1000 }\n")
    answers(server, "one")
    assert "cost: 0.012000 USD" in run(*asking(server, "-v", "hi")).err
    priced = run(*asking(server, "--dry-run", "hi")).json()
    assert priced["price"] == pytest.approx(priced["tokens"]["total"] / 1000)
    assert run("gptpipe", "-p", "openai", "-m", "gpt-4o", "--dry-run", "hi").json()["price"] > 0
    assert run(*ECHO, "--dry-run", "hi").json()["price"] is None


def test_usage_files_are_private(run: Any, server: Server, home: Path) -> None:
    run(*asking(server, "hi"), env={"HOME": str(home)})
    (path,) = home.rglob("usage/*.jsonl")
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["program"] == "gptpipe"
