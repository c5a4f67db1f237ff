"""gptpipe-map: input in, one result for each record out, whatever fails on the way."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, Spawn
from tests.harness.server import DONE, Server, finish, say

LINES = b"".join(b"%d\n" % number for number in range(1, 101))


def rows(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


def answers(run: Run, *args: str, stdin: bytes) -> list[str | None]:
    return [row.get("answer") for row in rows(run("gptpipe-map", "-m", "echo", *args, stdin=stdin).out)]


def png() -> bytes:
    """Return the smallest picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)) + chunk(b"IEND", b"")


def test_a_result_says_whose_it_is_and_what_came(run: Run) -> None:
    result = run("gptpipe-map", "-m", "echo", "say {}", stdin=b"one\ntwo")
    first, second = rows(result.out)
    assert (result.status, result.err) == (0, "")
    assert list(first) == ["index", "key", "record", "answer", "model", "finish_reason", "usage"]
    assert (first["index"], first["record"], first["answer"], first["finish_reason"]) == (1, "one", "say one", "stop")
    assert first["usage"]["total_tokens"] == 4
    assert (second["index"], second["answer"]) == (2, "say two")
    assert first["key"] != second["key"]
    assert len(first["key"]) == 16


INPUTS: dict[str, tuple[list[str], bytes, list[str | None]]] = {
    "lines": (["[{}]"], b"a b\n\n  c", ["[a b]", "[]", "[  c]"]),
    "carriage returns end lines": (["[{}]"], b"a\r\nb\r\r\n", ["[a]", "[b\r]"]),
    "carriage returns before NUL are text": (["-0", "[{}]"], b"a\r\0", ["[a\r]"]),
    "a byte order mark is not text": (["[{}]"], b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["[a]", "[\ufeffb]"]),
    "tsv": (["--tsv", "{a} {b}"], b'a\tb\r\n1,1\t"2\n3"\r\n', ["1,1 2\n3"]),
    "a delimiter of one's own": (["--csv", "--delimiter", "|", "{b}"], b"a|b\n1,1|2\n", ["2"]),
    "the delimiter of the header": (["--csv", "{b}"], b'"a,a";b\n1;2,5\n', ["2,5"]),
    "both braces": (["{{{}}}"], b"a\n", ["{a}"]),
    "null": (["-0", "[{}]"], b"a\nb\0c", ["[a\nb]", "[c]"]),
    "no placeholder": (["do it"], b"a\n", ["do it\n\na"]),
    "brace": (["{{{}}"], b"a\n", ["{a}"]),
    "twice": (["{} {}"], b"a\n", ["a a"]),
    "jsonl": (["--jsonl", "{a} {b.c} {d.1}"], b'{"a":"x","b":{"c":[1]},"d":[0,true]}\n', ["x [1] true"]),
    "jsonl whole": (["--jsonl", "{}"], b'{"a": 1}\n\n"text"\n', ['{"a":1}', "text"]),
    "jsonl dotted name": (["--jsonl", "{a.b}"], b'{"a.b":1,"a":{"b":2}}\n', ["1"]),
    "jsonl null-ended": (["--jsonl", "-0", "{a}"], b'{"a":\n1}\0{"a":2}\0', ["1", "2"]),
    "csv": (["--csv", "{n}:{two words}"], b'n,two words\n1,"x\n""y"", z"\n\n2,\n', ['1:x\n"y", z', "2:"]),
    "csv from Excel": (["--csv", "{n}"], b"\xef\xbb\xbfn,m\r\n1,2\r\n", ["1"]),
    "encoding": (["--encoding", "utf-16", "{}"], "é\nö\n".encode("utf-16"), ["é", "ö"]),
    "nothing": (["{}"], b"", []),
}


@pytest.mark.parametrize(("args", "stdin", "expected"), INPUTS.values(), ids=INPUTS)
def test_input_and_template(run: Run, args: list[str], stdin: bytes, expected: list[str | None]) -> None:
    assert answers(run, *args, stdin=stdin) == expected


def test_files_are_what_the_paths_lead_to(run: Run, server: Server, tmp_path: Path) -> None:
    (tmp_path / "text file").write_text("words\n")
    (tmp_path / "picture").write_bytes(png())
    args = ("--files", "-0", "--base-url", server.url, "-m", "m", "what is {} here")
    result = run("gptpipe-map", *args, stdin=b"text file\0picture\0missing\0")
    text, picture, missing = rows(result.out)
    assert (text["record"], text["answer"]) == ("text file", "what is words\n here")
    assert picture["answer"] == "what is  here"
    assert (missing["error"]["status"], result.status) == (66, 65)
    contents = [request.body["messages"][0]["content"] for request in server.requests]
    parts = next(content for content in contents if isinstance(content, list))
    assert [part["type"] for part in parts] == ["text", "image_url", "text"]


def test_input_and_template_from_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("a\nb\n")
    (tmp_path / "template").write_text("say {}")
    assert answers(run, "-f", "list", "@template", stdin=b"") == ["say a", "say b"]
    assert run("gptpipe-map", "-m", "echo", "-f", "nowhere", "{}").status == 66
    assert run("gptpipe-map", "-m", "echo", "-f", ".", "{}").status == 66
    assert run("gptpipe-map", "-m", "echo", "-f", ".", "{}", tty="err").status == 66


BAD = {
    "not JSON": (["--jsonl", "{a}"], b'{"a":1}\n{"a"\n{"a":3}\n', "not JSON"),
    "no such field": (["--jsonl", "{a}"], b'{"a":1}\n{"b":2}\n{"a":3}\n', "no field 'a'"),
    "no object": (["--jsonl", "{a}"], b'{"a":1}\n[2]\n{"a":3}\n', "no field 'a'"),
    "row of another length": (["--csv", "{a}"], b"a,b\n1,1\n2\n3,3\n", "line 3 has 1 cells, the header 2"),
    "not text": (["{}"], b"1\n\xff\n3\n", "not UTF-8 text"),
    "NUL": (["{}"], b"1\n\0\n3\n", "NUL"),
    "half a surrogate pair": (["--encoding", "utf-7", "{}"], b"1\n+2AA-\n3\n", "not UTF-7 text"),
}


@pytest.mark.parametrize(("args", "stdin", "words"), BAD.values(), ids=BAD)
def test_a_bad_record_fails_alone(run: Run, args: list[str], stdin: bytes, words: str) -> None:
    result = run("gptpipe-map", "-m", "echo", *args, stdin=stdin)
    first, second, third = rows(result.out)
    assert (first["answer"], third["answer"]) == ("1", "3")
    assert (second["error"]["status"], second["error"]["name"]) == (65, "DATAERR")
    assert words in second["error"]["message"]
    assert "answer" not in second
    assert result.status == 65
    assert result.err.startswith("gptpipe-map: 1 of 3 records failed, the first is record 2: ")


@pytest.mark.parametrize(
    ("encoding", "data"), [("utf-16", b"a\0\n\0"), ("unicode_escape", b"a\n\\x\n"), ("punycode", b"a\n")]
)
def test_input_that_its_encoding_ends(run: Run, encoding: str, data: bytes) -> None:
    result = run("gptpipe-map", "-m", "echo", "--encoding", encoding, "{}", stdin=data)
    assert (result.status, result.err[:42]) == (65, f"gptpipe-map: the input is not {encoding.upper()} text: "[:42])


def test_a_path_that_is_no_text_is_no_file(run: Run) -> None:
    args = ("--files", "--encoding", "utf-7", "{}")
    (row,) = rows(run("gptpipe-map", "-m", "echo", *args, stdin=b"+2AA-\n").out)
    assert (row["record"], row["error"]["status"]) == ("\ufffd", 66)


REFUSED = {
    "no template": ([], "template"),
    "unknown brace": (["a {b"], "brace"),
    "field of a line": (["{b}"], "lines have none"),
    "two forms": (["--csv", "--jsonl", "{}"], "exclude each other"),
    "csv and NUL": (["--csv", "-0", "{}"], "exclude each other"),
    "resume without a file": (["--resume", "{}"], "--output"),
    "resume and text": (["--resume", "-o", "f", "--text", "{}"], "--text"),
    "resume without a file of its own": (["--resume", "-o", "-", "{}"], "--output"),
    "too many jobs": (["-j", "257", "{}"], "257"),
    "a misspelt column": (["--csv", "{txt}"], "no column 'txt'"),
    "a delimiter of two characters": (["--csv", "--delimiter", ";;", "{}"], "one character"),
    "a delimiter of lines": (["--delimiter", ";", "{}"], "--delimiter needs --csv"),
    "a table of lines": (["--to", "csv", "{}"], "--to csv needs --csv"),
    "a table without its records": (["--csv", "--to", "csv", "--no-record", "{}"], "exclude each other"),
    "prune without resume": (["--prune", "-o", "x", "{}"], "--prune needs --resume"),
    "ask without a sample": (["--dry-run", "--ask", "-o", "x", "{}"], "--ask needs --dry-run and --sample"),
    "seed without a sample": (["--seed", "1", "{}"], "--seed needs --sample"),
    "progress without end": (["--progress", "inf", "{}"], "--progress must be"),
    "no rate": (["--rpm", "nan", "{}"], "--rpm must be"),
    "a rate without end": (["--tpm", "inf", "{}"], "--tpm must be"),
    "a rate of none": (["--rpm", "0", "{}"], "--rpm must be"),
    "unknown encoding": (["--encoding", "nonsense", "{}"], "unknown encoding"),
    "no encoding of text": (["--encoding", "rot13", "{}"], "unknown encoding"),
    "no encoding of text either": (["--encoding", "hex", "{}"], "unknown encoding"),
}


@pytest.mark.parametrize(("args", "words"), REFUSED.values(), ids=REFUSED)
def test_usage_errors_come_before_anything_is_sent(run: Run, server: Server, args: list[str], words: str) -> None:
    result = run("gptpipe-map", "--base-url", server.url, "-m", "m", *args, stdin=b"a\n")
    assert (result.status, result.out) == (2, b"")
    assert words in result.err
    assert server.requests == []


# Order, text, what each result holds


def test_results_come_in_the_order_of_the_input(run: Run, server: Server) -> None:
    late = threading.Event()
    server.reply(late.wait, say("first"), finish(), DONE)

    def wait() -> None:
        server.wait_for_requests(4)
        late.set()

    thread = threading.Thread(target=wait)
    thread.start()
    result = run("gptpipe-map", "--base-url", server.url, "-m", "m", "-j", "4", "{}", stdin=b"1\n2\n3\n4\n")
    thread.join()
    assert [row["index"] for row in rows(result.out)] == [1, 2, 3, 4]


def test_unordered_results_come_as_they_are_ready(spawn: Spawn, server: Server) -> None:
    late = threading.Event()
    server.reply(late.wait, say("first"), finish(), DONE)
    args = ("--base-url", server.url, "-m", "m", "-j", "2", "--unordered", "{}")
    process = spawn("gptpipe-map", *args, stdin=b"")
    process.write(b"1\n")
    server.wait_for_requests(1)
    process.write(b"2\n")
    assert json.loads(process.read(until=b"\n"))["index"] == 2
    late.set()
    assert json.loads(process.read(until=b"\n"))["index"] == 1


def test_a_result_is_written_while_the_input_is_still_open(spawn: Spawn) -> None:
    process = spawn("gptpipe-map", "-m", "echo", "{}", stdin=b"")
    process.write(b"one\n")
    assert json.loads(process.read(until=b"\n"))["answer"] == "one"
    process.write(b"two\n")
    assert json.loads(process.read(until=b"\n"))["answer"] == "two"
    process.close_stdin()
    assert process.wait() == 0


def test_no_more_is_read_than_the_window(spawn: Spawn, server: Server) -> None:
    late = threading.Event()
    server.reply(late.wait, say("first"), finish(), DONE)
    process = spawn("gptpipe-map", "--base-url", server.url, "-m", "m", "-j", "2", "{}", stdin=b"")
    process.write(b"first\n")
    server.wait_for_requests(1)  # so that it is the first record that holds up the others
    process.write(LINES)
    server.wait_for_requests(8)
    with pytest.raises(pytest.fail.Exception):
        server.wait_for_requests(9, timeout=0.3)
    late.set()
    process.close_stdin()
    assert len(rows(process.read())) == 101


TEXT = {
    "newlines": (["--text", "{}"], b"a\\\rb\n", "a\\\\\\rb\n"),
    "two lines": (["--text", "--jsonl", "{}"], b'"a\\nb"\n', "a\\nb\n"),
    "NUL": (["--text", "-0", "{}"], b"a\nb\0c\0", "a\nb\0c\0"),
    "a failed one is empty": (["--text", "--jsonl", "{a}"], b'{}\n{"a":1}\n', "\n1\n"),
}


@pytest.mark.parametrize(("args", "stdin", "out"), TEXT.values(), ids=TEXT)
def test_bare_answers(run: Run, args: list[str], stdin: bytes, out: str) -> None:
    assert run("gptpipe-map", "-m", "echo", *args, stdin=stdin).text == out


def test_bare_answers_into_a_new_file(run: Run, tmp_path: Path) -> None:
    args = ("gptpipe-map", "-m", "echo", "--text", "-o", "answers", "{}")
    assert run(*args, stdin=b"a\nb\n") == (0, b"", "")
    assert (tmp_path / "answers").read_text() == "a\nb\n"
    assert run(*args, stdin=b"c\n").status == 2


@pytest.mark.parametrize("path", ["-", "/dev/stdout"])
def test_standard_output_is_no_new_file(run: Run, tmp_path: Path, path: str) -> None:
    assert answers(run, "-o", path, "{}", stdin=b"a\n") == ["a"]
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize(("model", "status"), [("echo:finish=length", 3), ("echo:refuse", 4)])
def test_truncated_and_refused_answers_have_an_error_beside_them(run: Run, model: str, status: int) -> None:
    result = run("gptpipe-map", "-m", model, "--no-record", "{}", stdin=b"word\n")
    (row,) = rows(result.out)
    assert list(row) == ["index", "key", "answer", "model", "finish_reason", "usage", "error"]
    assert (row["error"]["status"], result.status) == (status, 65)


def test_with_a_schema_the_answer_is_the_value(run: Run, tmp_path: Path) -> None:
    (tmp_path / "schema").write_text('{"type":"object","properties":{"a":{"type":"integer"}}}')
    args = ("gptpipe-map", "-m", "echo", "--schema", "schema", "--repair", "0", "{}")
    right, wrong = rows(run(*args, stdin=b'{"a":1}\n{"a":"x"}\n').out)
    assert right["answer"] == {"a": 1}
    assert wrong["error"]["status"] == 5


def test_a_role_may_hold_the_template(run: Run, home: Path) -> None:
    (home / ".config/gptpipe/roles").mkdir(parents=True)
    (home / ".config/gptpipe/roles/shout.md").write_text('+++\nprompt = "shout"\nmodel = "echo"\n+++\nBe loud.\n')
    (row,) = rows(run("gptpipe-map", "-r", "shout", stdin=b"a\n").out)
    assert row["answer"] == "shout\n\na"


def test_a_stored_answer_is_not_asked_for_again(run: Run, server: Server) -> None:
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "--cache", "1d", "--text", "{}")
    assert run(*args, stdin=b"a\n").text == "a\n"
    assert run(*args, stdin=b"a\nb\n").text == "a\nb\n"
    assert len(server.requests) == 2


def test_usage_is_booked_for_each_request(run: Run, server: Server, home: Path) -> None:
    run("gptpipe-map", "--base-url", server.url, "-m", "m", "{}", stdin=LINES)
    (path,) = home.glob(".local/state/gptpipe/usage/*-*.jsonl")
    entered = rows(path.read_bytes())
    assert len(entered) == 100
    assert {entry["program"] for entry in entered} == {"gptpipe-map"}


# Failures


def test_retries_are_those_of_the_filter(run: Run) -> None:
    assert answers(run, "-m", "echo:fails=2", "-j", "1", "{}", stdin=b"a\n") == ["a"]
    result = run("gptpipe-map", "-m", "echo:status=500", "--retry", "0", "{}", stdin=b"a\nb\n")
    assert [row["error"]["status"] for row in rows(result.out)] == [75, 75]
    assert result.status == 75


STOPS = {"401": 77, "404": 69, "402": 69}


@pytest.mark.parametrize(("code", "status"), STOPS.items(), ids=STOPS)
def test_what_every_record_would_meet_stops_the_run(run: Run, server: Server, code: str, status: int) -> None:
    server.json(int(code), {"error": {"message": "no"}}, times=1000)
    args = ("--base-url", server.url, "-m", "m", "-j", "2", "{}")
    result = run("gptpipe-map", *args, stdin=LINES)
    assert result.status == status
    assert len(server.requests) <= 8
    assert len(result.err.splitlines()) <= 2


def test_a_request_that_is_refused_is_the_fault_of_its_record(run: Run, server: Server) -> None:
    server.reply(say("fine"), finish(), DONE)
    server.json(400, {"error": {"message": "bad"}})
    args = ("--base-url", server.url, "-m", "m", "-j", "1", "{}")
    result = run("gptpipe-map", *args, stdin=b"1\n2\n3\n")
    assert [row.get("error", {}).get("status") for row in rows(result.out)] == [None, 65, None]
    assert result.status == 65


@pytest.mark.parametrize("value", [b'"\\ud800"', b"[" * 900 + b'"\\ud800"' + b"]" * 900], ids=["text", "deep"])
def test_a_refusal_in_no_words_that_can_be_written(run: Run, server: Server, value: bytes) -> None:
    server.reply(say("fine"), finish(), DONE)
    server.reply(b'{"error":{"message":' + value + b"}}", status=400, headers={"content-type": "application/json"})
    args = ("--base-url", server.url, "-m", "m", "-j", "1", "{}")
    result = run("gptpipe-map", *args, stdin=b"1\n2\n3\n")
    assert [row.get("error", {}).get("status") for row in rows(result.out)] == [None, 65, None]


def test_when_the_first_requests_are_refused_the_run_stops(run: Run, server: Server) -> None:
    server.json(400, {"error": {"message": "bad parameter"}}, times=1000)
    result = run("gptpipe-map", "--base-url", server.url, "-m", "m", "-j", "2", "{}", stdin=LINES)
    assert result.status == 69
    assert len(server.requests) <= 16


def test_max_failures_stops(run: Run, server: Server) -> None:
    server.json(500, {"error": {"message": "no"}}, times=1000)
    args = ("--base-url", server.url, "-m", "m", "-j", "1", "--retry", "0", "--max-failures", "3", "{}")
    result = run("gptpipe-map", *args, stdin=LINES)
    assert result.status == 75
    assert 3 <= len(rows(result.out)) <= 7


def test_failures_of_an_earlier_run_do_not_stop_this_one(run: Run, server: Server) -> None:
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-j", "1", "-o", "out", "--resume", "{}")
    server.reply(say("cut"), finish("length"), DONE, times=3)
    run(*args, stdin=b"1\n2\n3\n")
    server.json(500, {"error": {"message": "no"}}, times=2)
    result = run(*args[:-1], "--retry", "0", "--max-failures", "2", "{}", stdin=LINES)
    assert (result.status, len(server.requests) >= 3 + 2) == (65, True)
    assert "records failed, the first is record 1: " in result.err


def test_an_input_limit_stops_before_the_request(run: Run, server: Server) -> None:
    args = ("--base-url", server.url, "-m", "m", "-j", "1", "--max-input-tokens", "9", "{}")
    result = run("gptpipe-map", *args, stdin=b"a\n" + b"long " * 50 + b"\n")
    assert result.status == 6
    assert len(server.requests) == 1


def test_a_budget_ends_a_run_in_its_middle(run: Run, server: Server, home: Path) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text("[budget]\nday_tokens = 20\n")
    result = run("gptpipe-map", "--base-url", server.url, "-m", "m", "-j", "1", "{}", stdin=LINES)
    assert result.status == 6
    assert 10 <= sum("answer" in row for row in rows(result.out)) <= 12


def test_max_time_writes_what_is_there(run: Run, server: Server) -> None:
    server.reply(say("fine"), finish(), DONE)
    server.reply(hang=True)
    args = ("--base-url", server.url, "-m", "m", "-j", "1", "--max-time", "2", "{}")
    result = run("gptpipe-map", *args, stdin=b"1\n2\n3\n")
    assert [row["answer"] for row in rows(result.out)] == ["fine"]
    assert result.status == 75
    assert "--max-time" in result.err


def test_max_time_is_told_also_where_the_results_are_not_read(spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"long " * 40_000 + b"\n")  # more than a pipe holds
    process = spawn("gptpipe-map", "-m", "echo", "--max-time", "1", "{}", stdin=tmp_path / "in")
    assert process.wait() == 75
    assert process.read(stream="stderr") == b"gptpipe-map: the run took longer than 1 s (--max-time)\n"


def test_a_connection_is_used_again_by_the_next_record(run: Run, server: Server) -> None:
    """Also while the server is still at the last piece of the body, which nobody needs."""
    server.reply(say("fine"), finish(), DONE, 0.05, b": and a comment\n\n", times=10)
    args = ("--base-url", server.url, "-m", "m", "-j", "1", "--text", "{}")
    assert run("gptpipe-map", *args, stdin=LINES[: LINES.index(b"11\n")]).text == "fine\n" * 10
    assert len(server.requests) == 10
    assert server.connections <= 2  # the first exchange may leave its own behind


@pytest.mark.parametrize("last", [[finish()], [finish(), DONE]], ids=["nothing", "the end"])
def test_a_body_that_does_not_end_after_the_answer_holds_up_no_record(
    run: Run, server: Server, last: list[bytes]
) -> None:
    server.reply(say("one"), finish(), DONE)
    server.reply(say("fine"), *last, hang=True, times=2)
    args = ("--base-url", server.url, "-m", "m", "-j", "1", "--max-time", "20", "--text", "{}")
    result = run("gptpipe-map", *args, stdin=b"1\n2\n3\n")
    assert (result.status, result.text) == (0, "one\nfine\nfine\n")


def test_a_later_record_fails_and_is_repeated_as_the_first(run: Run, server: Server) -> None:
    server.reply(say("one"), finish(), DONE)
    server.reply(b"no HTTP\r\n\r\n", raw=True)
    server.reply(say("cut"), broken=True)
    server.json(503, {"error": {"message": "slow"}}, headers={"retry-after": "0"})
    server.reply(say("three"), finish(), DONE)
    server.reply(say("four"), hang=True)
    args = ("--base-url", server.url, "-m", "m", "-j", "1", "--idle-timeout", "1", "--retry", "4", "{}")
    result = run("gptpipe-map", *args, stdin=b"1\n2\n3\n4\n")
    first, second, third, fourth = rows(result.out)
    assert (first["answer"], second["error"]["name"], third["answer"]) == ("one", "PROTOCOL", "three")
    assert (fourth["error"]["status"], len(server.requests)) == (75, 6)
    assert "silent for 1 s" in fourth["error"]["message"]


# The pace


def test_a_429_holds_all_jobs(run: Run, server: Server) -> None:
    """The other three jobs have a request on its way for a second, and three seconds pass before the next."""
    seen: list[float] = []
    first = threading.Lock()

    def note() -> None:
        with first:
            seen.append(time.monotonic())

    server.reply(note, b'{"error": {"message": "slow"}}', status=429, headers={"retry-after": "3"})
    server.reply(1.0, say("fine"), finish(), DONE, times=3)
    server.reply(note, say("fine"), finish(), DONE, times=9)
    args = ("--base-url", server.url, "-m", "m", "-j", "4", "--text", "{}")
    result = run("gptpipe-map", *args, stdin=LINES[: LINES.index(b"13\n")])
    assert result.text == "fine\n" * 12
    refused, *others = seen
    assert len(others) == 9
    assert min(others) - refused > 2.9


def test_rpm_caps_from_the_start(run: Run, server: Server) -> None:
    begun = time.monotonic()
    args = ("--base-url", server.url, "-m", "m", "--rpm", "600", "--text", "{}")
    assert run("gptpipe-map", *args, stdin=b"1\n2\n3\n4\n5\n6\n").status == 0
    assert time.monotonic() - begun >= 0.5


@pytest.mark.parametrize("limit", ['"none"', "[1]", "-5", "1e3"])
def test_tpm_bears_any_limit_of_the_answer(run: Run, limit: str) -> None:
    args = ("--tpm", "60000", "-O", f"max_completion_tokens={limit}", "{}")
    assert answers(run, *args, stdin=b"a\n") == ["a"]


def test_tpm_caps_from_the_start(run: Run, server: Server) -> None:
    begun = time.monotonic()
    args = ("--base-url", server.url, "-m", "m", "--tpm", "6000", "-j", "1", "--text", "{}")
    assert run("gptpipe-map", *args, stdin=b"x" * 200 + b"\ny\n").status == 0
    assert time.monotonic() - begun >= 0.5


# A file of results


def test_a_file_is_resumed(run: Run, server: Server, tmp_path: Path) -> None:
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-o", "out", "{}")
    server.reply(say("one"), finish(), DONE)
    server.json(500, {"error": {"message": "no"}})
    assert run(*args, "-j", "1", "--retry", "0", stdin=b"1\n2\n3\n").status == 75
    path = tmp_path / "out"
    path.write_bytes(path.read_bytes() + b'{"index":4,"key":"')  # torn by a kill
    assert run(*args, stdin=b"1\n").status == 2
    result = run(*args, "--resume", stdin=b"1\n2\n3\n4\n")
    assert (result.status, result.out) == (0, b"")
    found = rows(path.read_bytes())
    assert [row["index"] for row in found] == [1, 2, 3, 4]
    assert [row["answer"] for row in found] == ["one", "2", "3", "4"]
    assert [request.body["messages"][0]["content"] for request in server.requests][3:] in (["2", "4"], ["4", "2"])


def test_a_record_that_has_changed_is_asked_again(run: Run, tmp_path: Path) -> None:
    args = ("gptpipe-map", "-m", "echo", "-o", "out", "--resume", "{}")
    assert run(*args, stdin=b"1\n2\n").status == 0
    assert run(*args, stdin=b"1\nzwei\n").status == 0
    assert [row["answer"] for row in rows((tmp_path / "out").read_bytes())] == ["1", "zwei"]


def test_truncated_records_are_asked_again_only_on_demand(run: Run, server: Server, tmp_path: Path) -> None:
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-o", "out", "--resume", "{}")
    server.reply(say("cut"), finish("length"), DONE)
    assert run(*args, stdin=b"1\n").status == 65
    assert run(*args, stdin=b"1\n").status == 65
    assert len(server.requests) == 1
    assert run(*args, "--retry-failed", stdin=b"1\n").status == 0
    assert [row["answer"] for row in rows((tmp_path / "out").read_bytes())] == ["1"]


def test_a_file_of_something_else_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("my notes\nand more")
    result = run("gptpipe-map", "-m", "echo", "-o", "notes", "--resume", "{}", stdin=b"1\n")
    assert (result.status, (tmp_path / "notes").read_text()) == (65, "my notes\nand more")


FOREIGN = {
    "text without a newline": b"precious",
    "JSON without a newline": b'{"answer":1,"index":1}',
    "a number": b"7\n",
    "a key that is too long": b'{"index":1,"key":"ffffffffffffffffffff","answer":"x"}\n',
    "a key below none": b'{"index":1,"key":"-1","answer":"x"}\n',
    "a deep line": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_result_is_left_alone(run: Run, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    result = run("gptpipe-map", "-m", "echo", "-o", "file", "--resume", "{}", stdin=b"1\n")
    assert (result.status, (tmp_path / "file").read_bytes()) == (65, data)
    assert result.err.startswith("gptpipe-map: file line 1 is not a result")


@pytest.mark.parametrize("torn", [b"{", b'{"index":', b'{"index":1,"key":"3428baf579ba30b0","answer":"x"}'])
def test_a_line_that_is_torn_anywhere_is_asked_again(run: Run, tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "file").write_bytes(torn)
    assert run("gptpipe-map", "-m", "echo", "-o", "file", "--resume", "{}", stdin=b"a\n").status == 0
    assert [row["answer"] for row in rows((tmp_path / "file").read_bytes())] == ["a"]


def test_an_empty_input_does_not_empty_the_file(run: Run, tmp_path: Path) -> None:
    args = ("gptpipe-map", "-m", "echo", "-o", "out", "--resume", "{}")
    run(*args, stdin=b"1\n2\n")
    before = (tmp_path / "out").read_bytes()
    result = run(*args, stdin=b"")
    assert (result.status, (tmp_path / "out").read_bytes()) == (66, before)
    assert "the input is empty" in result.err


def test_what_is_no_file_is_not_resumed(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for path in ("fifo", "folder"):  # a device too: it would be replaced by a file at the end
        assert run("gptpipe-map", "-m", "echo", "-o", path, "--resume", "{}", stdin=b"1\n").status == 74


def test_two_runs_do_not_write_one_file(run: Run, spawn: Spawn, tmp_path: Path) -> None:
    args = ("gptpipe-map", "-m", "echo", "-o", "out", "--resume", "{}")
    first = spawn(*args, stdin=b"")
    first.write(b"1\n")
    while not (tmp_path / "out").exists() or not (tmp_path / "out").read_bytes():
        time.sleep(0.01)
    assert run(*args, stdin=b"1\n").status == 75
    first.close_stdin()
    assert first.wait() == 0


def test_killed_at_random_nothing_is_lost_or_doubled(spawn: Spawn, run: Run, server: Server, tmp_path: Path) -> None:
    server.knobs = server.knobs._replace(delay=0.005)
    data = b"".join(b"%d\n" % number for number in range(1, 301))
    args = ("gptpipe-map", "--base-url", server.url, "-m", "m", "-j", "4", "-o", "out", "--resume", "say {}")
    (tmp_path / "in").write_bytes(data)
    chance = random.Random(5)
    kills = 0
    while kills < 8:
        process = spawn(*args, stdin=tmp_path / "in")
        server.wait_for_requests(len(server.requests) + chance.randrange(1, 30))
        process.kill(signal.SIGKILL)
        process.wait()
        kills += 1
    assert run(*args, stdin=tmp_path / "in").status == 0
    found = rows((tmp_path / "out").read_bytes())
    assert [(row["index"], row["answer"]) for row in found] == [(n, f"say {n}") for n in range(1, 301)]
    assert len(server.requests) <= 300 + kills * 4 * 4


# Ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_finishes_what_is_in_flight(spawn: Spawn, server: Server, number: signal.Signals) -> None:
    late = threading.Event()
    server.reply(late.wait, say("fine"), finish(), DONE, times=2)
    process = spawn("gptpipe-map", "--base-url", server.url, "-m", "m", "-j", "2", "--text", "{}", stdin=b"")
    process.write(LINES)
    server.wait_for_requests(2)
    process.kill(number)
    time.sleep(0.2)  # a signal leaves no trace that could be waited for
    late.set()
    assert process.read() == b"fine\nfine\n"
    assert process.wait() == 128 + number
    assert len(server.requests) == 2


def test_a_signal_is_heard_while_the_results_are_not_read(spawn: Spawn, server: Server) -> None:
    late = threading.Event()
    server.reply(say("x" * 200_000), finish(), DONE)  # more than a pipe holds
    server.reply(late.wait, say("fine"), finish(), DONE)
    process = spawn("gptpipe-map", "--base-url", server.url, "-m", "m", "-j", "1", "--text", "{}", stdin=b"")
    process.write(LINES)
    server.wait_for_requests(2)
    time.sleep(0.2)  # until the pipe is full
    process.kill(signal.SIGINT)
    time.sleep(0.2)
    late.set()
    with pytest.raises(pytest.fail.Exception):
        server.wait_for_requests(3, timeout=0.5)
    assert process.read().endswith(b"x\nfine\n")
    assert process.wait() == 130


def test_a_fifo_among_the_files_does_not_outlive_a_signal(spawn: Spawn, server: Server, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("content")
    process = spawn("gptpipe-map", "--base-url", server.url, "-m", "m", "--files", "--text", "{}", stdin=b"")
    process.write(b"file\nfifo\n")
    server.wait_for_requests(1)
    process.kill(signal.SIGTERM)
    assert process.read() == b"content\n"
    assert process.wait() == 143


def test_a_second_signal_ends_it_at_once(spawn: Spawn, server: Server) -> None:
    server.reply(hang=True, times=2)
    process = spawn("gptpipe-map", "--base-url", server.url, "-m", "m", "-j", "2", "{}", stdin=b"")
    process.write(LINES)
    server.wait_for_requests(2)
    process.kill(signal.SIGINT)
    time.sleep(0.2)
    process.kill(signal.SIGINT)
    assert process.wait() == 130


def test_a_reader_that_is_gone_stops_it(shell: Run) -> None:
    result = shell("yes | gptpipe-map -m echo --text '{}' | head -n 2; echo ${PIPESTATUS[@]}")
    assert result.text == "y\ny\n141 141 0\n"
    assert result.err == ""


def test_a_full_disk_is_an_error(shell: Run) -> None:
    assert shell("seq 3 | gptpipe-map -m echo '{}' > /dev/full; echo $?").text == "74\n"
    assert shell("seq 3 | gptpipe-map -m echo '{}' >&-; echo $?").text == "74\n"


# What is said


def test_a_dry_run_counts_and_sends_nothing(run: Run, server: Server) -> None:
    args = ("--base-url", server.url, "-m", "m", "--jsonl", "--dry-run", "say {a}")
    found = run("gptpipe-map", *args, stdin=b'{"a":1}\n{}\n{"a":2}\n').json()
    assert list(found) == ["records", "failed", "tokens", "tokens_estimated", "price", "request"]
    assert (found["records"], found["failed"], found["tokens_estimated"]) == (3, 1, True)
    assert found["request"]["body"]["messages"] == [{"role": "user", "content": "say 1"}]
    assert server.requests == []


def test_a_terminal_gets_a_bar_and_nothing_else_does(run: Run) -> None:
    quiet = run("gptpipe-map", "-m", "echo", "{}", stdin=LINES)
    assert quiet.err == ""
    shown = run("gptpipe-map", "-m", "echo", "{}", stdin=LINES, tty="err")
    assert "100 records" in shown.err
    assert "0 failed, 100 tokens in" in shown.err
    assert shown.out == quiet.out


def test_the_bar_is_taken_away_while_a_record_is_written(run: Run) -> None:
    shown = run("gptpipe-map", "-m", "echo", "--text", "{}", stdin=b"one\n", tty="out err")
    assert shown.out == b"one\n"
    assert re.search(r"\r +\r", shown.err)
    assert not re.search(r"\r +\r", run("gptpipe-map", "-m", "echo", "{}", stdin=b"one\n", tty="err").err)


def test_a_message_stands_below_the_bar(run: Run) -> None:
    args = ("gptpipe-map", "-m", "echo", "-o", "out", "--resume", "{}")
    run(*args, stdin=b"1\n")
    assert "\ngptpipe-map: the input is empty" in run(*args, stdin=b"", tty="err").err


def test_a_notice_begins_a_line_above_the_bar(run: Run, server: Server) -> None:
    server.json(503, {"error": {"message": "full"}}, headers={"retry-after": "2.5"})
    args = ("--base-url", server.url, "-m", "m", "{}")
    err = run("gptpipe-map", *args, stdin=b"one\n", tty="err").err
    assert re.search(r"\r +\rgptpipe-map: the server failed \(503\): full; trying again in [^\r]*\n\r0 records", err)


def test_what_is_typed_has_no_bar_beside_it(run: Run) -> None:
    result = run("gptpipe-map", "-m", "echo", "--text", "{}", stdin=b"one\n", tty=True)
    assert (result.status, result.out) == (0, b"one\n")
    assert result.err == "gptpipe-map: reading the records from the terminal; ^D ends them\n"


def test_the_summary_of_verbose(run: Run) -> None:
    err = run("gptpipe-map", "-m", "echo", "-v", "--jsonl", "{a}", stdin=b'{"a":1}\n{}\n').err.splitlines()
    assert err[0] == "gptpipe-map: model echo, built in, key: none needed"
    assert err[1].startswith("gptpipe-map: records: 1 answered, 1 failed, 0 known before; 1 tokens in, 1 out; ")
