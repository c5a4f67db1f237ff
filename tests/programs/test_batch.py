"""gptpipe-batch: records out in files, results back in files, put together again."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.conftest import Run, Spawn
from tests.harness.batch_api import TOO_LARGE, Objection
from tests.harness.server import Server
from tests.harness.toolbox import write_tool

RECORDS = b"".join(b"%d\n" % number for number in range(1, 7)) + b"fail\n"


def rows(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


def brief(data: bytes) -> list[Any]:
    """Return of each result its place, and its answer or the status of its error."""
    return [(row["index"], row["error"]["status"] if "error" in row else row["answer"]) for row in rows(data)]


@pytest.fixture
def batch(run: Run, server: Server) -> Run:
    """Run a word of gptpipe-batch against the server."""

    def call(word: str, *args: str, **more: Any) -> Any:
        network = () if word == "list" else ("--base-url", server.url)
        model = ("-m", "m") if word == "submit" else ()
        return run("gptpipe-batch", word, *network, *model, *args, **more)

    return call


def test_submit_status_fetch(batch: Run, server: Server) -> None:
    submitted = batch("submit", "say {}", stdin=RECORDS)
    assert submitted == (0, b"batch_1\n", "")
    assert batch("status").text.split() == ["batch_1", "batch_1", "in_progress", "0", "0", "7"]
    assert batch("status", "batch_1").text.split() == ["batch_1", "batch_1", "completed", "6", "1", "7"]
    result = batch("fetch", "batch_1")
    assert brief(result.out) == [*((n, f"say {n}") for n in range(1, 7)), (7, 65)]
    assert result.status == 65
    assert list(rows(result.out)[0]) == ["index", "key", "record", "answer", "model", "finish_reason", "usage"]
    assert "record" not in rows(batch("fetch", "--no-record", "batch_1").out)[0]


def test_results_are_those_of_map(batch: Run, run: Run, server: Server) -> None:
    batch("submit", "say {}", stdin=b"1\n2\n")
    mapped = run("gptpipe-map", "--base-url", server.url, "-m", "m", "say {}", stdin=b"1\n2\n")
    assert batch("fetch", "--wait", "batch_1") == (0, mapped.out, "")


def test_three_batches_with_failures_and_an_expired_one(batch: Run, server: Server) -> None:
    server.batches.expire = {1}
    server.batches.polls = 0
    assert batch("submit", "--batch-size", "3", "say {}", stdin=RECORDS) == (0, b"batch_1\n", "")
    states = [line.split("\t")[1:] for line in batch("status", "batch_1").text.splitlines()]
    assert states == [
        ["batch_1", "completed", "3", "0", "3"],
        ["batch_2", "expired", "2", "1", "3"],
        ["batch_3", "completed", "0", "1", "1"],
    ]
    result = batch("fetch", "batch_2")  # each of the three names means all of them
    assert brief(result.out) == [(1, "say 1"), (2, "say 2"), (3, "say 3"), (4, 75), (5, "say 5"), (6, "say 6"), (7, 65)]
    assert result.status == 65
    assert batch("fetch", "--failed-records", "batch_1") == (0, b'"4"\n"fail"\n', "")
    assert batch("list").text.split("\t")[2:] == ["m", "7", "3\n"]


def test_failed_records_are_input_for_map(batch: Run, shell: Run, server: Server) -> None:
    batch("submit", "--jsonl", "{a}", stdin=b'{"a":"fail"}\n{"a":"2"}\n')
    batch("fetch", "--wait", "batch_1")
    again = f"gptpipe-batch fetch --base-url {server.url} --failed-records batch_1"
    again += " | gptpipe-map -m echo --jsonl --text '{a}'"
    assert shell(again).text == "fail\n"


def test_what_cannot_be_asked_is_told_and_fetched_as_an_error(batch: Run, server: Server) -> None:
    server.batches.polls = 0
    result = batch("submit", "--jsonl", "{a}", stdin=b'{"a":"1"}\nno\n{"b":1}\n')
    assert (result.status, result.text) == (0, "batch_1\n")
    assert "2 of 3 records cannot be asked" in result.err
    assert brief(batch("fetch", "batch_1").out) == [(1, "1"), (2, 65), (3, 65)]


def test_before_the_end_it_is_75_and_wait_waits(batch: Run, server: Server) -> None:
    server.batches.polls = 2
    batch("submit", "{}", stdin=b"1\n")
    early = batch("fetch", "batch_1")
    assert (early.status, early.out) == (75, b"")
    assert "0 of 1 requests are done" in early.err
    assert brief(batch("fetch", "--wait", "batch_1").out) == [(1, "1")]


def test_a_wait_outlasts_failures_that_may_pass(batch: Run, server: Server) -> None:
    batch("submit", "{}", stdin=b"1\n")
    server.json(503, {"error": {"message": "down"}})
    args = ("fetch", "--wait", "--retry", "0", "batch_1")
    assert batch(*args).status == 75
    server.json(200, {"id": "batch_1", "object": "batch", "status": "in_progress"})
    server.json(503, {"error": {"message": "down"}}, times=2)
    result = batch(*args)
    assert brief(result.out) == [(1, "1")]
    assert [line.partition(";")[0] for line in result.err.splitlines()] == [
        "gptpipe-batch: the server failed (503): down"
    ]


def test_a_batch_that_fails_as_a_whole(batch: Run, server: Server) -> None:
    server.batches.polls = 0
    server.batches.invalid = {0}
    batch("submit", "{}", stdin=b"1\n")
    result = batch("fetch", "batch_1")
    assert brief(result.out) == [(1, 65)]
    assert "bad line" in result.err


def test_cancel(batch: Run) -> None:
    batch("submit", "{}", stdin=b"1\n")
    assert batch("cancel", "batch_1") == (0, b"", "")
    assert batch("status", "batch_1").text.split()[2] == "cancelled"


def test_the_status_of_all_is_that_of_those_that_were_sent(batch: Run) -> None:
    batch("submit", "--requests-only", "{}", stdin=b"1\n")
    batch("submit", "{}", stdin=b"1\n")
    result = batch("status")
    assert (result.status, [line.split()[0] for line in result.text.splitlines()]) == (0, ["batch_1"])


def test_the_round_trip_through_another_engine(batch: Run, server: Server, tmp_path: Path) -> None:
    server.batches.polls = 0
    batch("submit", "say {}", stdin=RECORDS)
    expected = batch("fetch", "batch_1")
    requests = batch("submit", "--requests-only", "say {}", stdin=RECORDS)
    assert [row["custom_id"].partition("-")[0] for row in rows(requests.out)] == list("1234567")
    assert not any("stream" in row["body"] for row in rows(requests.out))
    results = b"".join(data for name, data in sorted(server.batches.files.items()) if name != "file-1")
    (tmp_path / "results.jsonl").write_bytes(results)
    assert batch("fetch", "--results", "results.jsonl") == expected
    assert batch("fetch", "--results", "nowhere").status == 66


def test_a_schema_is_kept_until_the_answers_come(batch: Run, server: Server, tmp_path: Path) -> None:
    server.batches.polls = 0
    (tmp_path / "schema").write_text('{"type":"object","properties":{"a":{"type":"integer"}}}')
    batch("submit", "--schema", "schema", "{}", stdin=b'{"a":1}\n{"a":"x"}\n')
    (tmp_path / "schema").unlink()
    assert brief(batch("fetch", "batch_1").out) == [(1, {"a": 1}), (2, 5)]


def test_the_results_are_fetched_once(batch: Run, server: Server) -> None:
    server.batches.polls = 0
    batch("submit", "{}", stdin=b"1\n")
    first = batch("fetch", "batch_1")
    server.batches.files.clear()
    assert batch("fetch", "batch_1") == first


def test_what_it_used_is_entered_once(batch: Run, server: Server, home: Path) -> None:
    server.batches.polls = 0
    batch("submit", "{}", stdin=RECORDS)
    for _ in range(2):
        batch("fetch", "batch_1")
    (path,) = home.glob(".local/state/gptpipe/usage/*-*.jsonl")
    assert [entry["program"] for entry in rows(path.read_bytes())] == ["gptpipe-batch"] * 6


def test_a_submission_that_breaks_off_is_remembered_so_far(batch: Run, server: Server) -> None:
    server.batches.refuse = {1}
    result = batch("submit", "--batch-size", "3", "say {}", stdin=RECORDS)
    assert (result.status, result.out) == (75, b"batch_1\n")
    assert "gptpipe-batch cancel batch_1" in result.err
    server.batches.polls = 0
    fetched = batch("fetch", "batch_1")
    assert brief(fetched.out)[:4] == [(1, "say 1"), (2, "say 2"), (3, "say 3"), (4, 75)]
    assert "record 4: it was not sent" in fetched.err
    assert batch("cancel", "batch_1").status == 0


def patched(patch: str, *args: str) -> str:
    """Return the script of a run in which something of Python is another."""
    arguments = ", ".join(map(repr, args))
    return (
        f'exec {sys.executable} -c "import os, sys, time; from pathlib import Path; {patch};'
        f'from gptpipe.programs.batch import command; sys.argv[1:] = [{arguments}]; command.main()"'
    )


def test_a_kill_before_the_name_is_there_loses_nothing(shell: Run, batch: Run, server: Server) -> None:
    server.batches.polls = 0
    args = ("submit", "--base-url", server.url, "-m", "m", "{}")
    killed = shell(patched("Path.rename = lambda *_: os._exit(9)", *args), stdin=b"1\n")
    assert (killed.status, killed.out) == (9, b"")
    (name,) = [line.split("\t")[0] for line in batch("list").text.splitlines()]
    assert batch("status").text == f"{name}\tbatch_1\tcompleted\t1\t0\t1\n"
    assert brief(batch("fetch", "batch_1").out) == brief(batch("fetch", name).out) == [(1, "1")]


def test_two_at_once_keep_their_records_apart(shell: Run, batch: Run) -> None:
    """Also of processes with one number, as in two containers."""
    script = patched(
        "time.strftime = lambda *_: 'now'; os.getpid = lambda: 1", "submit", "-m", "echo", "--requests-only", "{}"
    )
    assert shell(script, stdin=b"1\n").status == shell(script, stdin=b"2\n").status == 0
    assert len(batch("list").text.splitlines()) == 2


BROKEN = {
    "a header that is no CSV": (("--csv", "{a}"), b'"a"x,b\n1,2\n', 65),
    "an unknown encoding": (("--encoding", "nonsense", "{}"), b"1\n", 2),
    "a record over the limit": (("--max-input-tokens", "9", "{}"), b"1\n" + b"long " * 50, 6),
    "no record": (("{}",), b"", 66),
}


@pytest.mark.parametrize(("args", "stdin", "status"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_off_before_the_first_request_leaves_nothing(
    batch: Run, server: Server, home: Path, args: tuple[str, ...], stdin: bytes, status: int
) -> None:
    result = batch("submit", *args, stdin=stdin)
    assert (result.status, result.out, server.requests) == (status, b"", [])
    assert list(home.glob(".local/state/gptpipe/batches/*")) == []


def test_status_of_all_passes_over_what_was_not_sent_or_is_not_there(batch: Run, server: Server) -> None:
    assert batch("submit", "--requests-only", "{}", stdin=b"1\n").status == 0
    assert batch("status") == (0, b"", "")
    for _ in range(2):
        batch("submit", "{}", stdin=b"1\n")
    del server.batches.batches["batch_1"]
    result = batch("status")
    assert result.text.split() == ["batch_2", "batch_2", "in_progress", "0", "0", "1"]
    assert (result.status, result.err.count("batch_1: not found")) == (69, 1)


def test_a_dry_run_counts_and_sends_nothing(batch: Run, run: Run, server: Server, home: Path) -> None:
    found = batch("submit", "--jsonl", "--dry-run", "say {a}", stdin=b'{"a":1}\n{}\n').json()
    assert (found["records"], found["failed"]) == (2, 1)
    assert found["request"]["body"] == {"model": "m", "messages": [{"role": "user", "content": "say 1"}]}
    assert run("gptpipe-batch", "submit", "-m", "echo", "--dry-run", "{}", stdin=b"1\n").status == 0
    assert server.requests == []
    assert list(home.glob(".local/state/gptpipe/batches/*")) == []


def test_records_may_be_typed(batch: Run) -> None:
    result = batch("submit", "--requests-only", "say {}", stdin=b"one\n", tty="in err")
    assert result.err == "gptpipe-batch: reading the records from the terminal; ^D ends them\n"
    assert [row["body"]["messages"][0]["content"] for row in rows(result.out)] == ["say one"]


def test_a_budget_that_is_used_up_refuses_it(batch: Run, run: Run, server: Server, home: Path) -> None:
    run("gptpipe", "--base-url", server.url, "-m", "m", "some words")
    server.requests.clear()
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text("[budget]\nday_tokens = 1\n")
    assert batch("submit", "{}", stdin=b"1\n").status == 6
    assert server.requests == []
    assert batch("submit", "--requests-only", "{}", stdin=b"1\n").status == 0
    assert batch("submit", "--over-budget", "--batch-size", "1", "--queued", "1", "{}", stdin=b"1\n2\n").status == 75
    server.requests.clear()
    assert batch("submit", "--continue", "batch_1").status == 6
    assert server.requests == []
    server.batches.polls = 0
    assert batch("submit", "--continue", "batch_1", "--over-budget").status == 0


@pytest.mark.parametrize("reply", [{}, [], 7, {"id": None}, {"id": 5}, {"id": []}], ids=str)
def test_a_server_without_the_api_is_told(batch: Run, server: Server, reply: object) -> None:
    server.json(200, reply)
    assert batch("submit", "{}", stdin=b"1\n").status == 76
    server.json(200, {"id": "file-1", "object": "file"})
    server.json(200, reply)
    result = batch("submit", "{}", stdin=b"1\n")
    assert (result.status, result.out) == (76, b"")
    assert "does not speak the Batch API" in result.err
    assert "submit --continue requests-" in result.err  # the batch may be there


def test_names_from_the_server_lead_nowhere_else(batch: Run, server: Server, home: Path) -> None:
    server.json(200, {"id": "file-1", "object": "file"})
    server.json(200, {"id": "../../x", "object": "batch", "status": "validating"})
    name = batch("submit", "{}", stdin=b"1\n").text.strip()
    assert name.startswith("requests-")
    ended = {"id": "../../x", "object": "batch", "status": "completed", "output_file_id": "../../y"}
    server.json(200, ended)
    assert batch("fetch", name).status == 76
    assert [path.name for path in home.glob(".local/state/gptpipe/*")] == ["batches"]


RESULTS = {
    "a status that is no number": ({"response": {"status_code": "x", "body": {}}}, 75),
    "no body": ({"response": {"status_code": 200}}, 76),
    "no choices": ({"response": {"status_code": 200, "body": {"choices": 7}}}, 5),
    "an error of vLLM": (
        {"response": {"status_code": 400, "body": None}, "error": {"error": {"message": "too bad", "code": 400}}},
        65,
    ),
    "an error of vLLM in words": ({"response": {"status_code": 400, "body": None}, "error": "too bad"}, 65),
    "an error of words": ({"error": "late"}, 75),
    "an error that cannot be written": ({"error": {"code": "batch_expired", "message": "\ud800"}}, 75),
    "an error of an odd form": ({"response": None, "error": {"code": [1], "message": {}}}, 75),
}


@pytest.mark.parametrize(("reply", "status"), RESULTS.values(), ids=RESULTS)
def test_results_of_any_form(batch: Run, tmp_path: Path, reply: dict[str, Any], status: int) -> None:
    (request,) = rows(batch("submit", "--requests-only", "{}", stdin=b"1\n").out)
    lines = ["[" * 100_000, "7", '{"custom_id":[1],"error":1}', json.dumps({"custom_id": request["custom_id"]} | reply)]
    (tmp_path / "results").write_text("\n".join(lines) + '\n{"custom')
    result = batch("fetch", "--results", "results")
    assert brief(result.out) == [(1, status)]
    assert (": too bad\n" in result.err) == ("too bad" in str(reply))


def test_what_is_no_file_of_results(batch: Run, shell: Run, tmp_path: Path) -> None:
    (tmp_path / "requests").write_bytes(batch("submit", "--requests-only", "{}", stdin=b"1\n").out)
    for path in ("requests", "."):
        assert batch("fetch", "--results", path).status == 66
    assert shell("gptpipe-batch fetch --results <(cat requests)").status == 66


def test_a_reader_that_is_gone_does_not_double_the_usage(batch: Run, shell: Run, server: Server, home: Path) -> None:
    server.batches.polls = 0
    batch("submit", "{}", stdin=RECORDS)
    assert shell(f"gptpipe-batch fetch --base-url {server.url} batch_1 > /dev/full").status == 74
    batch("fetch", "batch_1")
    (path,) = home.glob(".local/state/gptpipe/usage/*-*.jsonl")
    assert len(rows(path.read_bytes())) == 6


REFUSED = {
    "echo": (("submit", "-m", "echo", "{}"), 2, "--requests-only"),
    "no template": (("submit",), 2, "template"),
    "nothing to submit": (("submit", "--jsonl", "{a}"), 66, "no record"),
    "unknown name": (("fetch", "nope"), 66, "nope"),
    "unknown name to cancel": (("cancel", "nope"), 66, "nope"),
    "no name": (("fetch",), 2, "ID"),
    "unknown name to continue": (("submit", "--continue", "nope"), 66, "nope"),
    "a template to continue with": (("submit", "--continue", "nope", "{}"), 2, "no template"),
    "input to continue with": (("submit", "--continue", "nope", "-f", "x"), 2, "no input"),
    "no batch at once": (("submit", "--queued", "0", "{}"), 2, "--queued"),
}


@pytest.mark.parametrize(("args", "status", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals(run: Run, args: tuple[str, ...], status: int, words: str) -> None:
    word, *rest = args
    env = {"OPENAI_API_KEY": "sk-x"}
    result = run("gptpipe-batch", word, *rest, stdin=b"{}\n", env=env)
    assert (result.status, result.out) == (status, b"")
    assert words in result.err


def test_files_are_private(batch: Run, home: Path) -> None:
    batch("submit", "{}", stdin=b"1\n")
    batch("fetch", "--wait", "batch_1")
    folder = home / ".local/state/gptpipe/batches"
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in [folder, *folder.iterdir()]} == {0o700}


def test_requests_of_the_responses_api(batch: Run, run: Run, server: Server) -> None:
    call = ("--api", "responses", "-S", "Be brief.", "say {}")
    lines = rows(batch("submit", "--requests-only", *call, stdin=b"1\n").out)
    assert {key: lines[0][key] for key in ("method", "url")} == {"method": "POST", "url": "/v1/responses"}
    assert lines[0]["body"] == {
        "model": "m",
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": "say 1"}],
        "store": False,
    }
    assert batch("submit", *call, stdin=b"1\n2\n").status == 0
    assert server.batches.batches["batch_1"]["endpoint"] == "/v1/responses"
    mapped = run("gptpipe-map", "--base-url", server.url, "-m", "m", *call, stdin=b"1\n2\n")
    assert batch("fetch", "--wait", "batch_1") == (0, mapped.out, "")


def test_a_role_that_names_tools_is_refused(batch: Run, server: Server, home: Path, tmp_path: Path) -> None:
    tool = write_tool(tmp_path, "cat", f"touch {tmp_path}/described")
    role = home / ".config/gptpipe/roles/where.md"
    role.parent.mkdir(parents=True)
    role.write_text(f'+++\ntools = ["{tool}"]\n+++\n')
    for more in ([], ["--dry-run"], ["--requests-only"]):
        found = batch("submit", "-r", "where", *more, "{}", stdin=b"1\n")
        assert (found.status, found.out) == (2, b"")
        assert found.err.startswith("gptpipe-batch: gptpipe-batch runs no tools, and the role names some\n")
    assert server.requests == []
    assert not (tmp_path / "described").exists()


# More records than a batch may have, or than are to be queued


def asked(server: Server) -> list[str]:
    """Return the ids of all requests that are in batches, as often as they are, in the order of the input."""
    files = [batch["input_file_id"] for batch in server.batches.batches.values() if batch["status"] != "failed"]
    names = [row["custom_id"] for file in files for row in rows(server.batches.files[file])]
    return sorted(name.partition("-")[0] for name in names)


EVERYTHING = [*((n, f"say {n}") for n in range(1, 7)), (7, 65)]


def test_queued_batches_are_continued_as_earlier_ones_end(batch: Run, server: Server) -> None:
    server.batches.polls = 1
    first = batch("submit", "--batch-size", "2", "--queued", "2", "say {}", stdin=RECORDS)
    assert (first.status, first.out) == (75, b"batch_1\n")
    assert "3 of 7 requests of batch_1 are not submitted yet" in first.err
    assert batch("status").text.splitlines()[-1].split("\t") == ["batch_1", "-", "unsubmitted", "0", "0", "3"]
    assert brief(batch("fetch", "--wait", "batch_1").out) == [*EVERYTHING[:4], *((n, 75) for n in (5, 6, 7))]
    assert batch("submit", "--continue", "batch_1") == (0, b"", "")
    assert batch("submit", "--continue", "batch_1") == (0, b"", "")
    assert asked(server) == list("1234567")
    assert brief(batch("fetch", "--wait", "batch_1").out) == EVERYTHING
    assert batch("submit", "--continue", "batch_1") == (0, b"", "")
    assert (len(server.batches.batches), server.batches.busiest) == (4, 2)


def test_submit_waits_until_all_is_submitted(batch: Run, server: Server) -> None:
    server.batches.polls = 1
    args = ("submit", "--batch-size", "2", "--queued", "1", "--wait", "say {}")
    assert batch(*args, stdin=RECORDS) == (0, b"batch_1\n", "")
    assert (len(server.batches.batches), server.batches.busiest) == (4, 1)
    assert brief(batch("fetch", "--wait", "batch_1").out) == EVERYTHING


def test_max_time_ends_the_wait_and_the_rest_can_be_submitted(batch: Run, server: Server) -> None:
    server.batches.polls = 1 << 30
    args = ("submit", "--batch-size", "3", "--queued", "1", "--wait", "--max-time", "4", "say {}")
    result = batch(*args, stdin=RECORDS, tty="err")
    assert (result.status, result.out) == (75, b"batch_1\n")
    assert "waiting for batches of batch_1 to end: --max-time bounds it" in result.err
    assert "longer than 4 s (--max-time)" in result.err
    server.batches.polls = 0
    assert batch("submit", "--continue", "batch_1", "--wait", "--queued", "5").status == 0
    assert asked(server) == list("1234567")


def test_two_processes_do_not_submit_the_same(batch: Run, spawn: Spawn, server: Server, tmp_path: Path) -> None:
    server.batches.polls = 1 << 30
    args = ("--base-url", server.url, "-m", "m", "--batch-size", "6", "--queued", "1", "--wait", "say {}")
    (tmp_path / "records").write_bytes(RECORDS)
    process = spawn("gptpipe-batch", "submit", "-f", "records", *args)
    assert process.read(b"\n") == b"batch_1\n"
    result = batch("submit", "--continue", "batch_1")
    assert (result.status, "another process" in result.err) == (75, True)
    process.kill(signal.SIGKILL)
    process.wait()
    server.batches.polls = 0
    assert batch("submit", "--continue", "batch_1").status == 0
    assert asked(server) == list("1234567")


KILLED = {
    "before the first batch is made": (1, "making"),
    "after the first batch is made": (1, "made"),
    "before the second batch is made": (2, "making"),
    "after the second batch is made": (2, "made"),
}


@pytest.mark.parametrize(("number", "moment"), KILLED.values(), ids=KILLED)
def test_a_kill_loses_no_batch_and_submits_nothing_twice(
    batch: Run, spawn: Spawn, server: Server, tmp_path: Path, number: int, moment: str
) -> None:
    server.batches.polls = 0
    (tmp_path / "records").write_bytes(RECORDS)
    reached, killed = Event(), Event()

    def stop() -> None:
        if len(server.batches.batches) == (number if moment == "made" else number - 1):
            reached.set()
            killed.wait(20)
            raise ConnectionError

    setattr(server.batches, moment, stop)
    process = spawn(
        "gptpipe-batch", "submit", "--base-url", server.url, "-m", "m", "--batch-size", "3", "-f", "records", "say {}"
    )
    assert reached.wait(20)
    process.kill(signal.SIGKILL)
    process.wait()
    killed.set()
    setattr(server.batches, moment, lambda: None)
    (name,) = [line.split("\t")[0] for line in batch("list").text.splitlines()]
    assert name == "batch_1" if number == 2 else name.startswith("requests-")
    assert batch("submit", "--continue", name) == (0, b"", "")
    assert asked(server) == list("1234567")
    assert len([request for request in server.requests if request.path == "/v1/files"]) == 3
    assert brief(batch("fetch", name).out) == EVERYTHING


def test_a_batch_of_which_nothing_is_known_is_looked_for_in_every_page(batch: Run, server: Server) -> None:
    server.batches.polls = 0
    server.json(200, {"id": "file-1", "object": "file"})
    server.json(503, {"error": {"message": "down"}})
    result = batch("submit", "say {}", stdin=RECORDS)
    assert (result.status, result.out) == (75, b"")
    (name,) = re.findall(r"submit --continue (requests-\S+)'", result.err)
    batches = [{"id": f"b{n}", "object": "batch", "status": "completed", "input_file_id": f"f{n}"} for n in range(2)]
    server.json(200, {"object": "list", "data": batches[:1]})
    server.json(200, {"object": "list", "data": [batches[1], {**batches[0], "id": "b3", "input_file_id": "file-1"}]})
    server.requests.clear()
    assert batch("submit", "--continue", name) == (0, b"", "")
    asked = [parse_qs(request.path.partition("?")[2]) for request in server.requests]
    assert asked == [{"limit": ["100"]}, {"limit": ["100"], "after": ["b0"]}]


def test_where_batches_are_not_listed_none_is_made_twice(batch: Run, server: Server) -> None:
    server.json(200, {"id": "file-1", "object": "file"})
    server.json(503, {"error": {"message": "down"}})
    name = re.findall(r"submit --continue (requests-\S+)'", batch("submit", "say {}", stdin=RECORDS).err)[0]
    server.json(404, {"error": {"message": "no such path"}}, times=2)
    for _ in range(2):
        assert batch("submit", "--continue", name).status == 69
    assert server.batches.batches == {}


@pytest.mark.parametrize("objection", TOO_LARGE, ids=lambda each: f"{each.place} {each.status}")
def test_files_become_smaller_once_the_provider_wants_that(batch: Run, server: Server, objection: Objection) -> None:
    server.batches.polls = 0
    server.batches.most = 2
    server.batches.objection = objection
    result = batch("submit", "--wait", "say {}", stdin=RECORDS)
    assert result.status == 0
    sizes = re.findall(r"a batch of (\d) requests is too large, going on with (\d)", result.err)
    assert sizes == [("7", "3"), ("3", "1")]
    assert asked(server) == list("1234567")
    assert brief(batch("fetch", "batch_1" if objection.place != "later" else result.text.strip()).out) == EVERYTHING


def test_a_request_that_is_too_large_by_itself_ends_it(batch: Run, server: Server) -> None:
    server.batches.most = 0
    result = batch("submit", "say {}", stdin=RECORDS)
    assert (result.status, result.out, server.batches.batches) == (65, b"", {})
    assert "Request Entity Too Large" in result.err


def test_a_refusal_that_is_not_of_the_size_is_not_met_by_smaller_files(batch: Run, server: Server) -> None:
    server.json(400, {"error": {"message": "Billing hard limit has been reached for your requests"}})
    assert batch("submit", "say {}", stdin=RECORDS).status == 69
    assert len(server.requests) == 1


def test_a_batch_for_which_the_account_has_no_room_waits_for_others(batch: Run, server: Server) -> None:
    server.batches.polls = 1
    server.batches.room = 4
    result = batch("submit", "--batch-size", "2", "--wait", "say {}", stdin=RECORDS)
    assert (result.status, "was not accepted and waits" in result.err) == (0, True)
    assert asked(server) == list("1234567")
    assert brief(batch("fetch", "--wait", "batch_1").out) == EVERYTHING


def test_a_batch_without_room_is_told_by_fetch_and_continued(batch: Run, server: Server) -> None:
    server.batches.polls = 1
    server.batches.room = 6
    assert batch("submit", "--batch-size", "6", "say {}", stdin=RECORDS).status == 0
    result = batch("fetch", "--wait", "batch_1")
    assert (result.status, brief(result.out)) == (75, [*EVERYTHING[:6], (7, 75)])
    assert batch("submit", "--continue", "batch_1").status == 0
    assert brief(batch("fetch", "--wait", "batch_1").out) == EVERYTHING


def test_cancel_takes_back_what_is_not_submitted_too(batch: Run, server: Server) -> None:
    server.batches.polls = 1
    assert batch("submit", "--batch-size", "2", "--queued", "1", "say {}", stdin=RECORDS).status == 75
    assert batch("cancel", "batch_1") == (0, b"", "")
    assert batch("submit", "--continue", "batch_1") == (0, b"", "")
    assert len(server.batches.batches) == 1
    assert [row[1] for row in brief(batch("fetch", "batch_1").out)] == ["say 1", "say 2", *[75] * 5]


# Equal records, and those that have an answer


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_equal_records_are_asked_once(batch: Run, run: Run, server: Server, api: str) -> None:
    server.batches.polls = 0
    records = b"".join(b"%d\n" % max(n, 400) for n in range(1, 1001))
    result = batch("submit", "-v", "--api", api, "say {}", stdin=records)
    assert "601 requests, 399 equal records" in result.err
    assert len(asked(server)) == 601
    fetched = rows(batch("fetch", "batch_1").out)
    assert [row["answer"] for row in fetched] == [f"say {record}" for record in records.decode().split()]
    assert [row.get("same_as") for row in fetched] == [None, *[1] * 399, *[None] * 600]
    assert [row["usage"] is None for row in fetched] == [False, *[True] * 399, *[False] * 600]
    mapped = run("gptpipe-map", "--base-url", server.url, "-m", "m", "--api", api, "say {}", stdin=records[:80])
    assert rows(mapped.out) == fetched[:20]


def test_equal_records_share_their_failure_and_no_dedupe_asks_each(batch: Run, server: Server) -> None:
    server.batches.polls = 0
    batch("submit", "{}", stdin=b"a\nfail\nfail\na\n")
    assert brief(batch("fetch", "batch_1").out) == [(1, "a"), (2, 65), (3, 65), (4, "a")]
    batch("submit", "--no-dedupe", "{}", stdin=b"a\nfail\nfail\na\n")
    assert len(rows(server.batches.files[server.batches.batches["batch_2"]["input_file_id"]])) == 4
    assert not any("same_as" in row for row in rows(batch("fetch", "batch_2").out))


def test_resume_submits_only_what_has_no_answer(batch: Run, run: Run, server: Server, tmp_path: Path) -> None:
    server.batches.polls = 0
    network = ("--base-url", server.url, "-m", "m")
    args = ("--retry", "0", "--max-failures", "9", "-o", "results.jsonl", "say {}")
    server.reply(b"", status=503)
    assert run("gptpipe-map", "-j", "1", *network, *args, stdin=b"1\n2\n3\n").status == 75
    everything = b"0\n1\n2\n3\n4\n"
    found = batch("submit", "--dry-run", "--resume", "results.jsonl", "say {}", stdin=everything).json()
    assert (found["records"], found["open"]) == (5, 3)
    assert batch("submit", "--resume", "results.jsonl", "say {}", stdin=everything) == (0, b"batch_1\n", "")
    assert asked(server) == ["1", "2", "5"]
    fetched = batch("fetch", "batch_1")
    assert brief(fetched.out) == [(1, "say 0"), (2, "say 1"), (5, "say 4")]
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(fetched.out)
    server.requests.clear()
    assert run("gptpipe-map", *network, "--resume", *args, stdin=everything) == (0, b"", "")
    assert server.requests == []
    assert brief((tmp_path / "results.jsonl").read_bytes()) == [(n + 1, f"say {n}") for n in range(5)]
    assert batch("submit", "--resume", "results.jsonl", "say {}", stdin=everything) == (0, b"", "")
    assert list(server.batches.batches) == ["batch_1"]


def test_resume_refuses_what_is_no_file_of_results(batch: Run, server: Server, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("no\n")
    for path, status in (("other", 65), ("nowhere", 66)):
        assert batch("submit", "--resume", path, "{}", stdin=b"1\n").status == status
    assert not (tmp_path / "nowhere").exists()
    assert server.requests == []


# What it costs, and when it is done


def test_the_completion_window_is_passed_on(batch: Run, server: Server) -> None:
    batch("submit", "--completion-window", "1h", "{}", stdin=b"1\n")
    batch("submit", "{}", stdin=b"1\n")
    assert [each["completion_window"] for each in server.batches.batches.values()] == ["1h", "24h"]


def test_usage_is_priced_as_that_of_a_batch(batch: Run, run: Run, server: Server, home: Path) -> None:
    server.batches.polls = 0
    batch("submit", "{}", stdin=b"1\n")
    batch("fetch", "batch_1")
    (path,) = home.glob(".local/state/gptpipe/usage/*-*.jsonl")
    (entry,) = rows(path.read_bytes())
    assert entry["service_tier"] == "batch"
    usd = {}
    for tier in (None, "batch", "batch 1h"):
        more = {"model": "gpt-5", "base_url": "https://api.openai.com/v1", "input": 10**6, "output": 10**6}
        path.write_text(json.dumps(entry | more | {"service_tier": tier}) + "\n")
        usd[tier] = run("gptpipe-usage", "--json").json()["usd"]
    assert usd == {None: 11.25, "batch": 5.625, "batch 1h": None}


def test_a_budget_in_dollars_counts_a_batch_at_its_price(batch: Run, server: Server, home: Path) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text("[budget]\nday_usd = 1\n[prices.m]\ninput = 2\noutput = 3\n")
    server.batches.polls = 0
    batch("submit", "{}", stdin=b"1\n")
    batch("fetch", "batch_1")
    (path,) = home.glob(".local/state/gptpipe/usage/2*.jsonl")
    (entry,) = rows(path.read_bytes())
    assert entry["usd"] == (2 * entry["input"] + 3 * entry["output"]) / 1e6 > 0
