"""What people with data need: tables out, equal records once, checks, ceilings, results found by their request."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.harness.server import DONE, Server, finish, say

TABLE = b'\xef\xbb\xbfid;text\r\n1;"a\nb"\r\n2;"q ""x"" ;"\r\n3;plain\r\n'


def rows(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


def numbers(last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(1, last + 1))


def asked(server: Server) -> list[str]:
    return sorted(request.body["messages"][-1]["content"] for request in server.requests)


def test_a_table_comes_out_with_its_columns_as_they_were(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(TABLE)
    args = ("gptpipe-map", "-m", "echo", "--csv", "-f", "in.csv", "-o", "out.csv", "say {text}")
    assert run(*args).status == 0
    data = (tmp_path / "out.csv").read_bytes()
    assert data.startswith(TABLE[: TABLE.index(b"\r")] + b";answer;status;error;key\r\n")
    found = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), delimiter=";"))
    assert [row[:4] for row in found[1:]] == [
        ["1", "a\nb", "say a\nb", "0"],
        ["2", 'q "x" ;', 'say q "x" ;', "0"],
        ["3", "plain", "say plain", "0"],
    ]
    for row in (b'1;"a\nb"', b'2;"q ""x"" ;"', b"3;plain"):
        assert b"\r\n" + row + b";" in data


@pytest.mark.parametrize(
    ("row", "cells"),
    {"1": ["1", "", ""], "1,2,3": ["1", "2", "3"], '1,"2",3,4': ['1,"2",3,4', "", ""]}.items(),
)
def test_a_row_of_another_length_has_its_status_under_that_name(run: Run, row: str, cells: list[str]) -> None:
    stdin = f"a,b\n{row}\nx,y\n".encode()
    result = run("gptpipe-map", "-m", "echo", "--csv", "--to", "csv", "{a}", stdin=stdin)
    assert result.status == 65
    header, bad, good = csv.reader(io.StringIO(result.out.decode()))
    assert header == ["a", "b", "answer", "status", "error"]
    assert bad[:4] == [*cells, "65"]
    assert bad[4:] == [f"line 2 has {row.count(',') + 1} cells, the header 2"]
    assert good == ["x", "y", "x", "0", ""]


@pytest.mark.parametrize("kept", [0, 10, 60, 75, 90])
def test_a_table_that_a_kill_has_torn_is_resumed(run: Run, server: Server, tmp_path: Path, kept: int) -> None:
    (tmp_path / "in.csv").write_bytes(TABLE)
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "--csv", "-f", "in.csv", "-o", "out.csv", "--resume")
    assert run(*args, "say {text}").status == 0
    whole = (tmp_path / "out.csv").read_bytes()
    (tmp_path / "out.csv").write_bytes(whole[:kept])
    assert run(*args, "say {text}").status == 0
    assert (tmp_path / "out.csv").read_bytes() == whole
    assert len(server.requests) <= 6


def test_an_empty_line_in_a_table_of_results_moves_none_of_them(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"a\n1\n2\n3\n")
    args = ("gptpipe-map", "-m", "echo", "--csv", "-f", "in.csv", "-o", "out.csv", "--resume", "{a}")
    assert run(*args).status == 0
    whole = (tmp_path / "out.csv").read_bytes()
    head, first, second, third = whole.splitlines(keepends=True)
    (tmp_path / "out.csv").write_bytes(head + third + b"\n" + second + first)
    assert run(*args).status == 0
    assert (tmp_path / "out.csv").read_bytes() == whole


def test_an_empty_input_does_not_empty_a_table_of_results(run: Run, tmp_path: Path) -> None:
    args = ("gptpipe-map", "-m", "echo", "--csv", "-o", "out.csv", "{a}")
    assert run(*args, stdin=b"") == (0, b"", "")
    assert (tmp_path / "out.csv").read_bytes() == b""
    assert run(*args, "--resume", stdin=b"a\n1\n2\n").status == 0
    whole = (tmp_path / "out.csv").read_bytes()
    result = run(*args, "--resume", stdin=b"")
    assert (result.status, "the input is empty" in result.err) == (66, True)
    assert (tmp_path / "out.csv").read_bytes() == whole
    assert run(*args, "--resume", "--prune", stdin=b"").status == 0
    assert (tmp_path / "out.csv").read_bytes() == b""


def test_the_properties_of_a_schema_are_columns(run: Run, tmp_path: Path) -> None:
    (tmp_path / "schema").write_text('{"type":"object","properties":{"a":{"type":"integer"},"b":{}}}')
    data = b'x\n"{""a"":1,""b"":[2]}"\n"{""a"":""no""}"\n'
    args = ("gptpipe-map", "-m", "echo", "--csv", "--to", "csv", "--schema", "schema", "--repair", "0", "{x}")
    result = run(*args, stdin=data)
    found = list(csv.DictReader(io.StringIO(result.text)))
    assert (found[0]["a"], found[0]["b"], found[0]["status"]) == ("1", "[2]", "0")
    assert (found[1]["a"], found[1]["status"], result.status) == ("", "5", 65)


def test_a_column_that_is_there_already_is_refused(run: Run, server: Server) -> None:
    args = ("--base-url", server.url, "-m", "m", "--csv", "--to", "csv", "{answer}")
    result = run("gptpipe-map", *args, stdin=b"answer\n1\n")
    assert (result.status, server.requests) == (2, [])
    assert "column 'answer' already" in result.err


def test_equal_records_are_asked_once(run: Run, server: Server) -> None:
    data = numbers(60) * 2
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-v", "{}")
    result = run(*args, stdin=data)
    found = rows(result.out)
    assert len(server.requests) == 60
    assert [row["answer"] for row in found] == [str(n) for n in range(1, 61)] * 2
    assert [row.get("same_as") for row in found] == [None] * 60 + list(range(1, 61))
    assert "60 equal to others" in result.err
    assert run(*args[:-1], "--no-dedupe", "{}", stdin=b"1\n1\n").status == 0
    assert len(server.requests) == 62


def test_a_failure_is_that_of_all_equal_records(run: Run, server: Server) -> None:
    server.json(500, {"error": {"message": "no"}})
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "--retry", "0", "-j", "1", "{}")
    result = run(*args, stdin=b"1\n1\n")
    assert [row["error"]["status"] for row in rows(result.out)] == [75, 75]
    assert (len(server.requests), result.status) == (1, 75)


CASES = {
    "a row at the top": (numbers(20), b"new\n" + numbers(20), ["new"]),
    "the order turned round": (numbers(20), b"".join(reversed(numbers(20).splitlines(keepends=True))), []),
}


@pytest.mark.parametrize(("before", "after", "new"), CASES.values(), ids=CASES)
def test_a_result_is_found_wherever_its_record_stands(
    run: Run, server: Server, tmp_path: Path, before: bytes, after: bytes, new: list[str]
) -> None:
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-o", "out", "--resume", "{}")
    assert run(*args, stdin=before).status == 0
    server.requests.clear()
    assert run(*args, stdin=after).status == 0
    assert asked(server) == new
    found = rows((tmp_path / "out").read_bytes())
    assert [row["answer"] for row in found] == after.decode().split()
    assert [row["index"] for row in found] == list(range(1, len(found) + 1))


def test_another_prompt_in_between_does_not_pay_twice(run: Run, server: Server, tmp_path: Path) -> None:
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-o", "out", "--resume", "-j", "1")
    assert run(*args, "A {}", stdin=numbers(10)).status == 0
    server.reply(say("x"), finish(), DONE, times=3)
    server.json(401, {"error": {"message": "no"}})
    assert run(*args, "B {}", stdin=numbers(10)).status == 77  # broken off
    server.requests.clear()
    assert run(*args, "A {}", stdin=numbers(10)).status == 0
    assert server.requests == []
    assert [row["answer"] for row in rows((tmp_path / "out").read_bytes())] == [f"A {n}" for n in range(1, 11)]


def test_another_model_gets_only_what_failed(run: Run, server: Server, tmp_path: Path) -> None:
    args = ("gptpipe-map", "--base-url", server.url, "-o", "out", "--resume", "-j", "1", "--retry", "0", "{}")
    server.reply(say("one"), finish(), DONE)
    server.json(500, {"error": {"message": "no"}})
    assert run(*args, "-m", "small", stdin=numbers(3)).status == 75
    assert run(*args, "-m", "large", stdin=numbers(3)).status == 0
    assert [row["model"] for row in rows((tmp_path / "out").read_bytes())] == ["small", "large", "small"]


def test_an_input_that_ended_early_drops_nothing(run: Run, tmp_path: Path) -> None:
    args = ("gptpipe-map", "-m", "echo", "-o", "out", "--resume")
    assert run(*args, "{}", stdin=numbers(5)).status == 0
    result = run(*args, "{}", stdin=numbers(2))
    assert "3 results of records that the input no longer has are kept" in result.err
    assert len(rows((tmp_path / "out").read_bytes())) == 5
    assert run(*args, "--prune", "{}", stdin=numbers(2)).status == 0
    assert len(rows((tmp_path / "out").read_bytes())) == 2


def test_a_part_of_the_input(run: Run, tmp_path: Path) -> None:
    args = ("gptpipe-map", "-m", "echo", "--text", "{}")
    assert run(*args[:-1], "--limit", "3", "{}", stdin=numbers(9)).text == "1\n2\n3\n"
    one, two = (run(*args[:-1], "--sample", "4", "--seed", "7", "{}", stdin=numbers(99)).text for _ in range(2))
    assert one == two
    assert len(one.split()) == 4
    assert one.split() == sorted(one.split(), key=int)


def test_a_sample_that_was_asked_is_an_estimate_and_counts_as_done(
    run: Run, server: Server, home: Path, tmp_path: Path
) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text("[prices.m]\ninput = 1\noutput = 1\n")
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-o", "out")
    found = run(*args, "--dry-run", "--sample", "10", "--ask", "{}", stdin=numbers(100)).json()
    assert (found["records"], found["asked"]["records"], len(server.requests)) == (100, 10, 10)
    assert found["estimate"]["from"] <= found["estimate"]["price"] <= found["estimate"]["to"]
    assert run(*args, "--dry-run", "--resume", "{}", stdin=numbers(100)).json()["open"] == 90
    assert run(*args, "--resume", "{}", stdin=numbers(100)).status == 0
    assert len(server.requests) == 100


def test_the_ceiling_is_not_passed(run: Run, server: Server, home: Path, tmp_path: Path) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text("[prices.m]\ninput = 10000\noutput = 0\n")  # 0.01 USD a token
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-o", "out", "--resume", "{}")
    assert run(*args, "--max-cost", "0.2", stdin=numbers(50)).status == 6
    assert 15 <= len(server.requests) <= 20
    assert run(*args, "--max-cost", "1", stdin=numbers(50)).status == 0
    assert len(server.requests) == 50


def test_a_price_that_is_not_known_ends_a_run_with_a_ceiling(run: Run, server: Server) -> None:
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "--max-cost", "1")
    assert run(*args, "{}", stdin=b"1\n").status == 6
    assert server.requests == []
    assert run(*args, "--over-budget", "{}", stdin=b"1\n").status == 0


def test_a_check_asks_again_with_its_own_words(run: Run, server: Server) -> None:
    server.reply(say("wrong"), finish(), DONE)
    server.reply(say("right"), finish(), DONE)
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "--text")
    check = "sh -c 'grep -q right || { echo say it right >&2; exit 1; }'"
    assert run(*args, "--check", check, "{}", stdin=b"1\n") == (0, b"right\n", "")
    assert "say it right" in server.requests[1].body["messages"][-1]["content"]


def test_what_a_check_refuses_keeps_the_answer_and_its_usage(run: Run) -> None:
    result = run("gptpipe-map", "-m", "echo", "--check", "false", "--repair", "0", "{}", stdin=b"word\n")
    (row,) = rows(result.out)
    assert (row["answer"], row["error"]["status"], row["usage"]["total_tokens"]) == ("word", 5, 2)


def test_a_check_that_cannot_be_run_ends_it_before_anything_is_asked(run: Run, server: Server) -> None:
    args = ("--base-url", server.url, "-m", "m", "--check", "no-such-program", "{}")
    assert (run("gptpipe-map", *args, stdin=b"1\n").status, server.requests) == (66, [])


def test_fewer_descriptors_than_jobs(shell: Run, server: Server) -> None:
    result = shell(f"ulimit -n 64; seq 300 | gptpipe-map --base-url {server.url} -m m -j 200 --text '{{}}'")
    assert (result.status, result.out) == (0, numbers(300))
    assert result.err == "gptpipe-map: 20 requests at once, not 200: only 64 files may be open (ulimit -n)\n"


def test_a_file_that_was_replaced_meanwhile_is_left_alone(run: Run, spawn: Any, tmp_path: Path) -> None:
    process = spawn("gptpipe-map", "-m", "echo", "-o", "out", "{}", stdin=b"")
    process.write(b"1\n")
    while not (tmp_path / "out").exists() or not (tmp_path / "out").read_bytes():
        pass
    (tmp_path / "out").unlink()
    (tmp_path / "out").write_text("new")
    process.close_stdin()
    assert b"out was replaced meanwhile; its results are in out.1" in process.read(stream="stderr")
    assert process.wait() == 0
    assert (tmp_path / "out").read_text() == "new"
    assert rows((tmp_path / "out.1").read_bytes())[0]["answer"] == "1"


def test_a_quote_that_is_not_closed_names_its_line(run: Run) -> None:
    result = run("gptpipe-map", "-m", "echo", "--csv", "{a}", stdin=b'a\n1\n"2\n3\n')
    assert [("answer" in row) for row in rows(result.out)] == [True, False]
    assert "begins in line 3" in result.err


@pytest.mark.parametrize("row", [b"1", b'1,"2'])
def test_the_result_of_a_row_that_is_too_short_stands_under_its_names(run: Run, row: bytes) -> None:
    result = run("gptpipe-map", "-m", "echo", "--csv", "--to", "csv", "{a}", stdin=b"a,b\n" + row + b"\n")
    (found,) = csv.DictReader(io.StringIO(result.text))
    assert (result.status, found["b"], found["answer"], found["status"]) == (65, "", "", "65")


def test_the_output_is_not_the_input(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("1\n")
    assert run("gptpipe-map", "-m", "echo", "-f", "in", "-o", "in", "--resume", "{}").status == 2
    assert (tmp_path / "in").read_text() == "1\n"


def test_progress_in_lines(run: Run, server: Server) -> None:
    server.reply(0.7, say("x"), finish(), DONE)
    args = ("--base-url", server.url, "-m", "m", "--progress", "0.2", "--text", "{}")
    result = run("gptpipe-map", *args, stdin=b"1\n")
    assert result.err.startswith("gptpipe-map: 0 records, 0 failed; 0 tokens in, 0 out")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_resumed_run_gives_each_record_its_own_row(run: Run, server: Server, tmp_path: Path, form: str) -> None:
    """Records that make the same request differ in what the template does not use."""
    if form == "csv":
        lines = [f'{n},"kind {n % 3}, quoted"' for n in range(1, 13)]
        (tmp_path / "in").write_text("\n".join(["id,text", *lines, ""]))
    else:
        lines = [f'{{"id":{n},"text":"kind {n % 3}"}}' for n in range(1, 13)]
        (tmp_path / "in").write_text("\n".join([*lines, ""]))
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", f"--{form}", "-f", "in", "say {text}")
    assert run(*args, "-o", f"whole.{form}").status == 0
    whole = (tmp_path / f"whole.{form}").read_text().splitlines(keepends=True)
    head = whole[:1] if form == "csv" else []
    (tmp_path / f"out.{form}").write_text(
        "".join(head + [whole[len(head) + n] for n in (4, 8, 2)])
    )  # as a kill leaves it
    server.requests.clear()
    assert run(*args, "-o", f"out.{form}", "--resume", "--dry-run").json()["open"] == 4
    assert run(*args, "-o", f"out.{form}", "--resume").status == 0
    assert len(server.requests) == 1  # of the three requests two had been answered, for some of their records
    if form == "csv":
        assert (tmp_path / f"out.{form}").read_text() == (tmp_path / f"whole.{form}").read_text()
    else:
        found = rows((tmp_path / f"out.{form}").read_bytes())
        assert [(row["index"], row["record"]["id"]) for row in found] == [(n, n) for n in range(1, 13)]
        assert [row["answer"] for row in found] == [f"say kind {n % 3}" for n in range(1, 13)]


def test_without_sharing_each_equal_record_is_asked_in_the_resumed_run_too(
    run: Run, server: Server, tmp_path: Path
) -> None:
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-o", "out", "--resume", "--no-dedupe", "{}")
    assert run(*args, stdin=b"a\n").status == 0
    assert run(*args, stdin=b"a\na\na\n").status == 0
    assert len(server.requests) == 3
