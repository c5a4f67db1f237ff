from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gptpipe.errors import OverLimit, WriteError
from gptpipe.settings.settings import Budget, Settings
from gptpipe.usage import budget as budgets
from gptpipe.usage import ledger, summary
from gptpipe.usage.budget import require_left, require_price
from gptpipe.usage.ledger import Entry
from gptpipe.usage.summary import Row

OPENAI = "https://api.openai.com/v1"


def limits(*values: Any, **named: Any) -> Budget:
    return Budget(*values, **named)


def entry(**fields: Any) -> Entry:
    usual: dict[str, Any] = {"at": "2026-11-22T05:11:07Z", "program": "gptpipe", "profile": "openai", "model": "m"}
    usual |= {"session": None, "input": 10, "output": 5, "cached": 0, "reasoning": 0, "seconds": 0.5, "status": 0}
    return Entry(**(usual | fields))


def add(folder: Path, *entries: Entry) -> None:
    with closing(ledger.Log(folder)) as log:
        for each in entries:
            log.append(each)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    on(monkeypatch, 2026, 11, 22)
    return tmp_path / "state" / "usage"


def on(monkeypatch: pytest.MonkeyPatch, *date: int) -> None:
    for module in (ledger, budgets):
        monkeypatch.setattr(module, "today_as_numbers", lambda: date)


@pytest.mark.parametrize(
    ("found", "input_output_cached_reasoning", "estimated"),
    [
        pytest.param({"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}, (7, 3, 0, 0), False, id="plain"),
        pytest.param(
            {
                "prompt_tokens": 7,
                "completion_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 2},
            },
            (7, 3, 5, 2),
            False,
            id="details",
        ),
        pytest.param({"prompt_tokens": 7, "prompt_tokens_details": None}, (7, 0, 0, 0), False, id="a part"),
        pytest.param({"prompt_tokens": 7, "completion_tokens": "x"}, (7, 0, 0, 0), False, id="odd"),
        pytest.param({}, (100, 50, 0, 0), True, id="empty"),
        pytest.param(None, (100, 50, 0, 0), True, id="none"),
    ],
)
def test_counted(found: dict[str, Any] | None, input_output_cached_reasoning: tuple[int, ...], estimated: bool) -> None:
    made = ledger.counted(found, (100, 50), ledger.Account("gptpipe", None, "m", "s"), 1.23456, 0)
    assert (made.input, made.output, made.cached, made.reasoning) == input_output_cached_reasoning
    assert made.estimated is estimated
    assert made.seconds == 1.235


def test_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        entry(),
        entry(session="größe", estimated=True),
        entry(profile=None, usd=0.0),
        entry(usd=0.25, status=75),
    ]
    for one in entries[:3]:
        add(folder, one)
    on(monkeypatch, 2026, 11, 23)
    add(folder, entries[3])
    lines = (folder / "2026-11-22.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "at": "2026-11-22T05:11:07Z",
        "program": "gptpipe",
        "profile": "openai",
        "model": "m",
        "session": None,
        "input": 10,
        "output": 5,
        "cached": 0,
        "reasoning": 0,
        "seconds": 0.5,
        "status": 0,
    }
    days = ["2026-11-22"] * 3 + ["2026-11-23"]
    assert list(ledger.read(folder)) == list(zip(days, entries, strict=True))
    assert list(ledger.read(folder, since="2026-11-23")) == [("2026-11-23", entries[3])]
    assert list(ledger.read(folder / "none")) == []


def test_damaged_lines_are_skipped(folder: Path) -> None:
    add(folder, entry())
    path = folder / "2026-11-22.jsonl"
    good = path.read_bytes()
    bad = [b"x", b"[1]", b'{"at": "x"}', good.replace(b"10", b'"ten"').strip(), good.replace(b'"m"', b"{}").strip()]
    path.write_bytes(b"\n".join([*bad, b"", good]))
    warnings: list[str] = []
    assert list(ledger.read(folder, warn=warnings.append)) == [("2026-11-22", entry())]
    assert [warning.split(": ", 1)[1] for warning in warnings[:2]] == [
        "the line at byte 0 is damaged and not counted",
        "the line at byte 2 is damaged and not counted",
    ]
    assert len(warnings) == len(bad)


@pytest.mark.parametrize(
    "fields",
    [
        {"input": float("inf")},
        {"input": -1},
        {"output": True},
        {"seconds": float("nan")},
        {"usd": 10**400},
        {"at": "yesterday"},
        {"at": None},
        {"model": "\ud800"},
        {"session": ["s"]},
    ],
    ids=repr,
)
def test_values_that_cannot_be_added_or_shown_are_damage(folder: Path, fields: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    line = json.dumps(entry()._asdict() | fields)
    (folder / "2026-11-22.jsonl").write_text(line + "\n" + json.dumps(entry()._asdict()) + "\n")
    warnings: list[str] = []
    assert list(ledger.read(folder, warn=warnings.append)) == [("2026-11-22", entry())]
    assert len(warnings) == 1


@pytest.mark.parametrize("name", ["2026-02-30", "2026-13-01", "0000-01-01"])
def test_a_file_whose_name_is_no_date_is_none_of_ours(folder: Path, name: str) -> None:
    add(folder, entry())
    (folder / "2026-11-22.jsonl").rename(folder / f"{name}.jsonl")
    assert list(ledger.read(folder)) == []


def test_cut_line_spoils_no_other(folder: Path) -> None:
    add(folder, entry())
    path = folder / "2026-11-22.jsonl"
    with path.open("ab") as file:
        file.write(b'{"at": "2026-1')
    add(folder, entry())
    assert len(list(ledger.read(folder))) == 2
    with pytest.raises(OverLimit, match=r"\(30\)"):
        require_left(folder, limits(day_tokens=1))


def test_a_log_finds_the_file_of_the_day_and_the_end_of_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = ledger.Log(folder)
    path = folder / "2026-11-22.jsonl"
    log.append(entry(input=1))
    with path.open("ab") as file:
        file.write(b'{"at": "2026-1')  # another process, on a full disk
    log.append(entry(input=2))
    os.truncate(path, path.stat().st_size // 2)  # cuts that line
    log.append(entry(input=3))
    assert [one.input for _, one in ledger.read(folder)] == [1, 3]
    path.unlink()
    log.append(entry(input=4))
    on(monkeypatch, 2026, 11, 23)
    log.append(entry(input=5))
    assert [(day[-2:], one.input) for day, one in ledger.read(folder, warn=pytest.fail)] == [("22", 4), ("23", 5)]


def test_threads_share_a_log(folder: Path) -> None:
    log = ledger.Log(folder)

    def fill(number: int) -> None:
        for output in range(50):
            log.append(entry(input=number, output=output))

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(one.input, one.output) for _, one in ledger.read(folder, warn=pytest.fail)]
    assert sorted(found) == [(n, m) for n in range(1, 9) for m in range(50)]
    path = folder / "2026-11-22.jsonl"
    assert sum(fd.resolve() == path for fd in Path("/proc/self/fd").iterdir()) == 1
    log.close()
    assert sum(fd.resolve() == path for fd in Path("/proc/self/fd").iterdir()) == 0


APPENDING = """
import os
import sys
from contextlib import closing
from pathlib import Path
from gptpipe.usage import ledger as usage

def run(process):
    os.read(gate, 1)
    for n in range(20):
        used = {"prompt_tokens": process, "completion_tokens": n}
        with closing(usage.Log(Path(sys.argv[1]))) as log:
            log.append(usage.counted(used, (0, 0), usage.Account("gptpipe", None, "m" * 300), 0, 0))

gate, opener = os.pipe()
for process in range(80):
    if os.fork() == 0:
        os.close(opener)
        run(process)
        os._exit(0)
os.close(opener)
sys.exit(sum(os.wait()[1] for _ in range(80)))
"""


def test_eighty_processes_lose_no_line(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", APPENDING, str(folder)], check=True, timeout=60)
    found = [(one.input, one.output) for _, one in ledger.read(folder, warn=pytest.fail)]
    assert sorted(found) == [(process, n) for process in range(80) for n in range(20)]


@pytest.mark.parametrize("umask", [0, 0o777])
def test_files_are_private(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        add(folder, entry())
        require_price(folder, Settings("m", None, OPENAI, budget=limits(day_usd=1.0)), lambda: True)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/null", path)])
def test_other_kinds_of_file_are_refused(folder: Path, make: Any) -> None:
    folder.mkdir(parents=True)
    make(folder / "2026-11-22.jsonl")
    with pytest.raises(WriteError):
        add(folder, entry())
    require_left(folder, limits())
    with pytest.raises(WriteError):
        require_left(folder, limits(day_tokens=5))


def test_unwritable_folder() -> None:
    with pytest.raises(WriteError, match=r"cannot write .*: "):
        add(Path("/proc/none"), entry())


ENTRIES = [
    ("2026-11-21", entry(model="a", session="s", input=1, output=2, cached=1, usd=0.5)),
    ("2026-11-21", entry(model="b", output=4, reasoning=3, program="gptpipe-map")),
    ("2026-11-22", entry(model="a", input=0, output=0, status=77, seconds=1.0)),
    ("2026-11-22", entry(model="c", seconds=2.0)),
]


@pytest.mark.parametrize(
    ("by", "rows"),
    [
        pytest.param(
            "day",
            [
                Row("2026-11-21", 2, 11, 6, 1, 3, 1.0, 0.5, 1),
                Row("2026-11-22", 2, 10, 5, 0, 0, 3.0, 2.0, 0),
            ],
            id="day",
        ),
        pytest.param(
            "model",
            [
                Row("a", 2, 1, 2, 1, 0, 1.5, 0.5, 0),
                Row("b", 1, 10, 4, 0, 3, 0.5, None, 1),
                Row("c", 1, 10, 5, 0, 0, 2.0, 2.0),
            ],
            id="model",
        ),
        pytest.param(
            "session", [Row("", 3, 20, 9, 0, 3, 3.5, 2.0, 1), Row("s", 1, 1, 2, 1, 0, 0.5, 0.5, 0)], id="session"
        ),
        pytest.param(
            "program",
            [Row("gptpipe", 3, 11, 7, 1, 0, 3.5, 2.5, 0), Row("gptpipe-map", 1, 10, 4, 0, 3, 0.5, None, 1)],
            id="program",
        ),
    ],
)
def test_table(by: str, rows: list[Row]) -> None:
    assert by in summary.GROUPS
    assert summary.table(ENTRIES, by, price) == rows


def price(one: Entry) -> float | None:
    return {"a": 99.0, "c": 2.0}.get(one.model)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        pytest.param(
            limits(day_tokens=15), r"day_tokens = 15 is used up \(15\); it ends on 2026-11-23 at 00:00", id="day"
        ),
        pytest.param(
            limits(month_tokens=30), r"month_tokens = 30 is used up \(30\); it ends on 2026-12-01 at 00:00", id="month"
        ),
        pytest.param(
            limits(day_usd=0.25), r"day_usd = 0.25 is used up \(0.25\); it ends on 2026-11-23", id="day in usd"
        ),
        pytest.param(
            limits(month_usd=0.5), r"month_usd = 0.5 is used up \(0.5\); it ends on 2026-12-01", id="month in usd"
        ),
        pytest.param(limits(16, 31, 0.26, 0.51), None, id="all within"),
        pytest.param(limits(), None, id="none"),
    ],
)
def test_budget(folder: Path, monkeypatch: pytest.MonkeyPatch, budget: Budget, message: str | None) -> None:
    for date in [(2026, 10, 31), (2026, 11, 2), (2026, 11, 22)]:
        on(monkeypatch, *date)
        add(folder, entry(usd=0.25))
    for _ in range(2):
        if message is None:
            require_left(folder, budget)
        else:
            with pytest.raises(OverLimit, match=message) as caught:
                require_left(folder, budget)
            assert "--over-budget" in str(caught.value.hint)


def test_end_of_the_year(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, 2026, 12, 31)
    add(folder, entry())
    for budget in (limits(day_tokens=1), limits(month_tokens=1)):
        with pytest.raises(OverLimit, match="it ends on 2027-01-01 at 00:00"):
            require_left(folder, budget)


def spent(folder: Path) -> int:
    with pytest.raises(OverLimit) as caught:
        require_left(folder, limits(month_tokens=1))
    return int(caught.value.message.split("(")[1].split(")")[0])


def test_past_days_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, 2026, 11, 1)
    add(folder, entry())
    on(monkeypatch, 2026, 11, 22)
    assert spent(folder) == 15
    past = folder / "2026-11-01.jsonl"
    past.write_bytes(b"\n" * past.stat().st_size)  # would be another sum, were it read
    assert spent(folder) == 15
    with past.open("a") as file:
        file.write(compacted(entry()))
    assert spent(folder) == 30


def compacted(one: Entry) -> str:
    return json.dumps(one._asdict()) + "\n"


def test_sum_of_a_long_day_is_kept(folder: Path) -> None:
    add(folder, entry())
    path = folder / "2026-11-22.jsonl"
    assert spent(folder) == 15
    assert not (folder / "sums.json").exists()
    with path.open("a") as file:
        file.write(compacted(entry()) * 500)
    assert spent(folder) == 15 * 501
    path.write_bytes(b"\n" * path.stat().st_size)
    add(folder, entry())
    assert spent(folder) == 15 * 502


@pytest.mark.parametrize(
    "fields",
    [{"input": float("inf")}, {"input": -1000}, {"output": True}, {"usd": float("nan")}, {"usd": float("inf")}],
    ids=repr,
)
def test_a_damaged_line_makes_no_difference_to_a_budget(folder: Path, fields: dict[str, Any]) -> None:
    add(folder, entry(usd=1.0))
    with (folder / "2026-11-22.jsonl").open("a") as file:
        file.write(json.dumps(entry(usd=1.0)._asdict() | fields) + "\n")
    assert spent(folder) == 15
    with pytest.raises(OverLimit, match=r"month_usd = 1 is used up \(1\)"):
        require_left(folder, limits(month_usd=1.0))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b"[1]",
        b'{"2026-11-01": [1]}',
        b'{"2026-11-01": [99999, 5, 0]}',
        b'{"2026-11-01": [1e999, 5, 0]}',
        b'{"2026-11-01": [-5, 5, 0]}',
        b'{"2026-11-01": [0, 5, NaN]}',
    ],
)
def test_sums_are_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    on(monkeypatch, 2026, 11, 1)
    add(folder, entry())
    on(monkeypatch, 2026, 11, 22)
    (folder / "sums.json").write_bytes(content)
    assert spent(folder) == 15


def test_model_without_a_price(folder: Path) -> None:
    chosen = Settings("m", None, OPENAI, budget=limits(day_tokens=5))
    require_price(folder, chosen, lambda: pytest.fail("asked"))
    for budget in (limits(day_usd=5.0), limits(month_usd=5.0)):
        with pytest.raises(OverLimit, match="the price of m is not known"):
            require_price(folder, chosen._replace(budget=budget), lambda: False)


OTHERS: list[dict[str, Any]] = [{"base_url": "https://other.example.com/v1"}, {"params": {"service_tier": "flex"}}]


def test_known_price_is_asked_once(folder: Path) -> None:
    chosen = Settings("m", "openai", OPENAI, budget=limits(day_usd=5.0))
    require_price(folder, chosen, lambda: True)
    require_price(folder, chosen._replace(model="n"), lambda: True)
    require_price(folder, chosen, lambda: pytest.fail("asked again"))
    for other in OTHERS:
        with pytest.raises(OverLimit):
            require_price(folder, chosen._replace(**other), lambda: False)
    (folder / "priced.json").write_bytes(b"{")
    require_price(folder, chosen, lambda: True)
