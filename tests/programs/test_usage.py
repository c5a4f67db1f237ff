from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from gptpipe.text.table import width_of

DAY = 86400


def day(ago: int = 0) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(time.time() - ago * DAY))


def enter(home: Path, ago: int = 0, **values: Any) -> None:
    folder = home / ".local/state/gptpipe/usage"
    folder.mkdir(parents=True, exist_ok=True)
    usual = {
        "at": "2026-11-22T05:11:07Z",
        "program": "gptpipe",
        "profile": "openai",
        "model": "gpt-4o",
        "session": None,
    }
    numbers = {"input": 1000, "output": 100, "cached": 0, "reasoning": 0, "seconds": 1.5, "status": 0}
    with (folder / f"{day(ago)}.jsonl").open("a") as file:
        file.write(json.dumps(usual | numbers | values) + "\n")


@pytest.fixture
def month(home: Path) -> None:
    enter(home, 20, model="unknown", session="s")
    enter(home, 2)
    enter(home, 2, program="gptpipe-map")
    enter(home, 0, session="s", input=0, output=5000)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("day", [day(20), day(2), day(0)]),
        ("model", ["gpt-4o", "unknown"]),
        ("session", ["-", "s"]),
        ("program", ["gptpipe", "gptpipe-map"]),
    ],
    ids=["day", "model", "session", "program"],
)
@pytest.mark.usefixtures("month")
def test_by(run: Any, by: str, groups: list[str]) -> None:
    head, *rows, total = run("gptpipe-usage", "--by", by).text.splitlines()
    assert head.split() == [by, "requests", "input", "cached", "output", "reasoning", "seconds", "USD"]
    assert [row.split()[0] for row in rows] == groups
    assert total.split()[:4] == ["total", "4", "3000", "0"]


@pytest.mark.usefixtures("month")
def test_a_model_without_a_price_has_no_cost(run: Any, home: Path) -> None:
    rows = {row.split()[0]: row.split()[-1] for row in run("gptpipe-usage", "--by", "model").text.splitlines()}
    assert rows["unknown"] == "?"
    assert float(rows["gpt-4o"]) > 0
    assert rows["total"] == f"{rows['gpt-4o']}+"
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[prices]\nunknown = { input = 1000, output = 0 }\n")
    rows = {row.split()[0]: row.split()[-1] for row in run("gptpipe-usage", "--by", "model").text.splitlines()}
    assert rows["unknown"] == "1.0000"


@pytest.mark.parametrize("since", [day(2), "3d"], ids=["date", "age"])
@pytest.mark.usefixtures("month")
def test_since(run: Any, since: str) -> None:
    rows = run("gptpipe-usage", "--json", "--since", since).text.splitlines()
    assert [json.loads(row)["day"] for row in rows] == [day(2), day(0)]


@pytest.mark.usefixtures("month")
def test_json(run: Any) -> None:
    rows = [json.loads(row) for row in run("gptpipe-usage", "--by", "model", "--json").text.splitlines()]
    assert rows[1] == {
        "model": "unknown",
        "requests": 1,
        "input": 1000,
        "output": 100,
        "cached": 0,
        "reasoning": 0,
        "seconds": 1.5,
        "usd": None,
        "unpriced": 1,
    }


@pytest.mark.usefixtures("month")
def test_plot(run: Any) -> None:
    rows = run("gptpipe-usage", "--plot", env={"COLUMNS": "60"}).text.splitlines()
    assert [row.split()[0] for row in rows] == [day(ago) for ago in range(20, -1, -1)]
    assert max(map(len, rows)) <= 60
    assert rows[1] == day(19)
    bars = [row.count("█") for row in rows]
    assert bars[-1] == max(bars) > bars[-3] > bars[0] > 0
    assert "USD" in rows[-1]


def test_nothing_was_used(run: Any) -> None:
    assert run("gptpipe-usage").text.splitlines()[1].split()[:2] == ["total", "0"]
    assert run("gptpipe-usage", "--json") == (0, b"", "")
    assert run("gptpipe-usage", "--plot") == (0, b"no requests\n", "")


def test_a_damaged_line_is_named_and_not_counted(run: Any, home: Path) -> None:
    enter(home)
    (path,) = home.rglob("usage/*.jsonl")
    path.write_bytes(b"{torn\n" + path.read_bytes())
    result = run("gptpipe-usage", "--json")
    assert result.json()["requests"] == 1
    assert "byte 0" in result.err


@pytest.mark.parametrize("options", [["--by", "hour"], ["--since", "soon"], ["--json", "--plot"]], ids=str)
def test_what_makes_no_sense(run: Any, options: list[str]) -> None:
    assert run("gptpipe-usage", *options).status == 2


@pytest.mark.parametrize("since", ["tomorrow", "2026-02-30", "2026-13-01", "20261101", ""])
def test_since_is_a_date_or_an_age(run: Any, since: str) -> None:
    call = run("gptpipe-usage", "--since", since)
    assert call.status == 2
    assert call.err.splitlines()[1] == "--since takes YYYY-MM-DD, or an age such as 7d"


@pytest.mark.parametrize("columns", ["x", "-5", ""])
@pytest.mark.usefixtures("month")
def test_columns_that_are_no_number_are_eighty(run: Any, columns: str) -> None:
    assert max(map(len, run("gptpipe-usage", "--plot", env={"COLUMNS": columns}).text.splitlines())) == 80


def test_a_plot_over_the_change_of_the_clocks(run: Any, home: Path) -> None:
    enter(home)
    folder = home / ".local/state/gptpipe/usage"
    line = (folder / f"{day()}.jsonl").read_bytes()
    (folder / f"{day()}.jsonl").unlink()
    for name in ("2026-03-28", "2026-03-31"):
        (folder / f"{name}.jsonl").write_bytes(line)
    rows = run("gptpipe-usage", "--plot", env={"TZ": "Europe/Berlin"}).text.splitlines()
    days = [row.split()[0] for row in rows]
    assert days[:4] == ["2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]
    assert len(set(days)) == len(days)


def test_a_plot_shows_the_empty_days_up_to_today(run: Any, home: Path) -> None:
    enter(home, 3)
    for options, first in (((), 3), (("--since", day(5)), 5), (("--since", "1w"), 7)):
        rows = run("gptpipe-usage", "--plot", *options).text.splitlines()
        assert [row.split()[0] for row in rows] == [day(ago) for ago in range(first, -1, -1)]
        assert [len(row.split()) > 1 for row in rows].count(True) == 1
    assert run("gptpipe-usage", "--plot", "--since", day(2)).text == "no requests\n"


@pytest.mark.parametrize("by", ["day", "model", "session", "program"])
def test_a_table_fits_eighty_columns(run: Any, home: Path, by: str) -> None:
    enter(home, model="cognitivecomputations/dolphin-mistral-24b-venice-edition:free", session="漢" * 40)
    enter(home, input=12_345_678_901, output=98_765_432_109, cached=10**10, reasoning=10**9, seconds=123456.7)
    lines = run("gptpipe-usage", "--by", by).text.splitlines()
    assert all(width_of(line) <= 80 for line in lines)
    assert lines[0].split()[0] == by
    assert lines[-1].split()[:2] == ["total", "2"]
    wide = run("gptpipe-usage", "--by", by, env={"COLUMNS": "200"}).text
    assert "12345679901" in wide
    assert "…" not in wide
