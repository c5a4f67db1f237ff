"""``gptpipe-sessions`` end to end: what it shows, what it changes, and beside whom."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from gptpipe.errors import WriteError
from gptpipe.message import Turn, to_line
from gptpipe.programs.sessions import list_sessions
from gptpipe.sessions.store import SessionStore
from tests.conftest import Run, Spawn, needs
from tests.harness.conversations import turn

PROGRAM = "gptpipe-sessions"
# A turn that answers with code, and which has all that a terminal could be driven with.
HOSTILE = "\x1b]52;c;eA==\x07\x9b31m\r"


@pytest.fixture
def folder(home: Path) -> Path:
    """Where the sessions are."""
    path = home / ".local/share/gptpipe/sessions"
    path.mkdir(parents=True)
    return path


def make(folder: Path, name: str, *turns: Turn, junk: bytes = b"") -> Path:
    """Make a session; its turns are numbered, each a day after the other."""
    path = folder / f"{name}.jsonl"
    numbered = [
        each._replace(n=n, total_tokens=10 * n, at=each.at or f"2026-11-{n:02}T12:00:00.500Z")
        for n, each in enumerate(turns, 1)
    ]
    path.write_bytes(b"".join(map(to_line, numbered)) + junk)
    return path


def code(text: str = "text\n```sh\nls\n```\nmore", **more: Any) -> Turn:
    return turn("how?", text)._replace(**more)


def system(text: str) -> Turn:
    plain = turn("x", "y")
    return plain._replace(messages=[{"role": "system", "content": text}, *plain.messages])


# list


def test_list_has_the_last_used_first_in_columns(run: Run, folder: Path) -> None:
    make(folder, "old", turn("x"))
    make(folder, "旅行", turn("x"), turn("y", "z"), turn("z")._replace(model="a b\x1b"))
    sizes = [path.stat().st_size for path in (folder / "旅行.jsonl", folder / "old.jsonl")]
    env = {"TZ": "UTC"}
    lines = [
        f"旅行  3  2026-11-03T12:00  a_b\x1b  30  {sizes[0]}",
        f"old   1  2026-11-01T12:00  m     10  {sizes[1]}",
    ]
    assert run(PROGRAM, "list", env=env) == (0, "".join(f"{line}\n" for line in lines).encode(), "")
    header = run(PROGRAM, "list", "--header", env=env).text.splitlines()
    assert header[0].split() == ["name", "turns", "last-use", "model", "tokens", "size"]
    assert [line.split() for line in header[1:]] == [line.split() for line in lines]


def test_list_as_json(run: Run, folder: Path) -> None:
    path = make(folder, "s", turn("x"))
    assert run(PROGRAM, "list", "--json", env={"TZ": "Asia/Tokyo"}).json() == {
        "name": "s",
        "turns": 1,
        "last_use": "2026-11-01T12:00:00.500Z",
        "model": "m",
        "tokens": 10,
        "size": path.stat().st_size,
    }


def test_list_of_nothing(run: Run, home: Path) -> None:
    assert run(PROGRAM, "list") == (0, b"", "")
    assert list(home.iterdir()) == []


def test_list_knows_no_session_that_gptpipe_would_not_make(run: Run, folder: Path) -> None:
    make(folder, "s\x1b[2J", turn("x"))
    make(folder, "-s", turn("x"))
    make(folder, "empty")
    (folder / "link.jsonl").symlink_to("/etc/passwd")
    os.mkfifo(folder / "fifo.jsonl")
    assert run(PROGRAM, "list") == (0, b"", "")


def test_a_session_that_cannot_be_read_is_told_and_the_others_are_listed(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(home))
    make(folder, "t", turn("x"))
    os.mkfifo(folder / "odd.jsonl")
    monkeypatch.setattr(SessionStore, "names", lambda _: ["gone", "odd", "t"])  # as they were a moment ago
    assert list_sessions.callback is not None
    assert list_sessions.callback(as_json=False, header=False) == WriteError.status
    out, err = capfd.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["t"]
    assert err == f"gptpipe: {folder / 'odd.jsonl'} is not a regular file\n"


# show

TEXT = """\
== 1, 2026-11-01T12:00, m ==

system: be brief

user: x

assistant: y

== 2, 2026-11-02T12:00, m ==

user: x

assistant: y

== 3, 2026-11-03T12:00, other model, unfinished ==

user: a
[attachment:image/png;sha256,{0}]
[file]

assistant: what came
"""


def test_show_is_text_to_be_read(run: Run, folder: Path) -> None:
    digest = 64 * "0"
    parts: list[Any] = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": f"attachment:image/png;sha256,{digest}"}},
        {"type": "file", "file": {"file_id": "f"}},
    ]
    last = turn("", "what came\n")._replace(model="other\nmodel", finish_reason=None)
    last.messages[0]["content"] = parts
    make(folder, "s", system("be brief"), system("be brief"), last)
    result = run(PROGRAM, "show", "s", env={"TZ": "UTC"})
    assert result == (0, TEXT.format(digest).encode(), "")
    last_turn = TEXT.format(digest).partition("== 3")
    assert run(PROGRAM, "show", "s", "-n", "1", env={"TZ": "UTC"}).text == "".join(last_turn[1:])


def test_show_has_calls_and_results(run: Run, folder: Path) -> None:
    called = turn("where?", "in Ulm")
    function = {"name": "lookup", "arguments": '{"order":4711}'}
    called.messages[1:1] = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c", "content": "Ulm\n"},
    ]
    make(folder, "s", called)
    text = 'user: where?\n\nassistant: [calls lookup {"order":4711}]\n\ntool: Ulm\n\nassistant: in Ulm\n'
    assert run(PROGRAM, "show", "s").text.partition("==\n\n")[2] == text
    assert run(PROGRAM, "search", "lookup|Ulm$").text.count("\n") == 3
    assert run(PROGRAM, "show", "s", "--answer").text == "in Ulm\n"


def test_show_json_is_the_file_as_it_is(run: Run, folder: Path) -> None:
    data = make(folder, "s", turn("x"), turn("y"), code()).read_bytes()
    (folder / "s.jsonl").write_bytes(data.replace(b'"n"', b' "own": [1], "n"'))
    lines = (folder / "s.jsonl").read_bytes().splitlines(keepends=True)
    for args, wanted in (
        ((), lines),
        (("-n", str(10**30)), lines),
        (("-n", "2"), lines[1:]),
        (("--last", "1"), lines[2:]),
        (("-n", "0"), []),
    ):
        assert run(PROGRAM, "show", "s", "--json", *args) == (0, b"".join(wanted), "")


def test_show_tells_what_was_taken_back(run: Run, folder: Path) -> None:
    undo = Turn([], model="m", at="2026-11-03T12:00:00.000Z", n=2, undo=1)
    data = make(folder, "s", system("be brief"), system("be brief")).read_bytes() + to_line(undo)
    (folder / "s.jsonl").write_bytes(data + to_line(system("be brief")._replace(n=3)))
    shown = run(PROGRAM, "show", "s", env={"TZ": "UTC"}).text
    assert re.findall(r"^== .*|^system", shown, re.MULTILINE) == [
        *("== 1, 2026-11-01T12:00, m ==", "system", "== 2, 2026-11-02T12:00, m =="),
        *("== 2026-11-03T12:00, the last turn was taken back ==", "== 3, m =="),
    ]
    last_two = run(PROGRAM, "show", "s", "-n", "2").text
    assert re.findall(r"^== (\d)", last_two, re.MULTILINE) == ["1", "3"]
    assert run(PROGRAM, "list", "--json").json()["turns"] == 3


@pytest.mark.parametrize("args", [["--answer"], ["--last", "1", "--json"], ["-n", "1"]], ids=" ".join)
def test_the_last_answer_is_one_that_was_not_taken_back(run: Run, folder: Path, args: list[str]) -> None:
    path = make(folder, "s", turn("x", "first"), turn("y", "second"))
    path.write_bytes(path.read_bytes() + to_line(Turn([], n=2, undo=1)))
    shown = run(PROGRAM, "show", "s", *args).text
    assert ("first" in shown, "second" in shown) == (True, False)


def test_turns_of_another_program_are_counted(run: Run, folder: Path) -> None:
    line = json.dumps({"messages": [{"role": "user", "content": "x"}]}) + "\n"
    (folder / "s.jsonl").write_text(5 * line)
    assert re.findall(r"^== (\d)", run(PROGRAM, "show", "s", "-n", "2").text, re.MULTILINE) == ["4", "5"]


ANSWERS = {
    "the answer": (["--answer"], {}, 0, "text\n```sh\nls\n```\nmore\n", ""),
    "its code": (["-x"], {}, 0, "ls\n", ""),
    "no code": (["-x"], {"text": "none"}, 5, "", "no code block"),
    "unfinished": (["--answer"], {"finish_reason": None, "text": "te"}, 5, "te\n", "did not finish"),
    "unfinished code": (["-x"], {"finish_reason": None, "text": "```\nrm -r /t"}, 5, "rm -r /t\n", "did not finish"),
    "truncated": (["--answer"], {"finish_reason": "length", "text": "te"}, 3, "te\n", "length limit"),
    "empty": (["--answer"], {"text": ""}, 5, "", "empty"),
}


@pytest.mark.parametrize(("args", "last", "status", "out", "words"), ANSWERS.values(), ids=ANSWERS)
def test_the_last_answer(
    run: Run, folder: Path, args: list[str], last: dict[str, Any], status: int, out: str, words: str
) -> None:
    make(folder, "s", turn("x", "```\nnot this\n```"), code(**last))
    result = run(PROGRAM, "show", *args, "s")
    assert (result.status, result.text) == (status, out)
    assert words in result.err
    assert bool(result.err) == bool(status)


def test_the_bytes_are_the_same_on_a_terminal_but_for_control_characters(run: Run, folder: Path) -> None:
    make(folder, "s", turn(f"a{HOSTILE}", f"b{HOSTILE}")._replace(model=f"m{HOSTILE}"))
    for args in (["show", "s"], ["show", "--answer", "s"], ["list"], ["search", "."]):
        piped = run(PROGRAM, *args)
        shown = run(PROGRAM, *args, tty="out")
        seen = piped.text.translate({0x1B: "^[", 7: "^G", 0x9B: "\\x9b", 13: "^M"})
        assert shown.text == seen
        assert "\x9b" in piped.text
        assert (piped.status, piped.err) == (shown.status, shown.err) == (0, "")


def test_half_a_surrogate_pair_is_shown(run: Run, folder: Path) -> None:
    line = b'{"model": "\\ud800", "at": "\\udfff", "messages": [{"role": "user", "content": "x"}]}\n'
    (folder / "s.jsonl").write_bytes(line)
    for args in (["list"], ["list", "--json"], ["show", "s"]):
        result = run(PROGRAM, *args)
        assert (result.status, result.err) == (0, "")
        assert "?" in result.text


def test_the_end_of_a_huge_session_is_quick(run: Run, folder: Path) -> None:
    path = make(folder, "s")
    os.truncate(path, 1 << 36)  # reading it would take minutes
    with path.open("ab") as file:
        file.write(b"\n" + to_line(code()._replace(n=1000)))
    for args in (["show", "--answer"], ["show", "-n", "1"], ["show", "-x"], ["show", "--json", "--last", "1"]):
        assert "ls" in run(PROGRAM, *args, "s").text
    assert run(PROGRAM, "list").text.split()[1] == "1000"


# search


def test_search_is_like_grep(run: Run, folder: Path) -> None:
    make(folder, "a", system("RAID again"), system("RAID again"), turn("which\nraid 5?", f"raid{HOSTILE}"))
    make(folder, "b", turn("nothing"))
    make(folder, "c", turn("raid", "raid 6"))
    assert run(PROGRAM, "search", "^raid [56]").text == "a:3:raid 5?\nc:1:raid 6\n"
    assert run(PROGRAM, "search", "-i", "RAID a").text == "a:1:RAID again\n"
    assert run(PROGRAM, "search", "-l", "raid").text == "a\nc\n"
    assert run(PROGRAM, "search", "raid 7") == (5, b"", "")
    assert run(PROGRAM, "search", "--", "-i") == (5, b"", "")


# path


def test_path_is_that_of_the_file(shell: Run, run: Run, folder: Path) -> None:
    make(folder, "été", turn("x"))
    assert run(PROGRAM, "path", "e\u0301te\u0301").text == f"{folder}/été.jsonl\n"
    result = shell(f"XDG_DATA_HOME=$(printf '/nowhere/\\377') {PROGRAM} path new")
    assert result == (0, b"/nowhere/\xff/gptpipe/sessions/new.jsonl\n", "")


# copy, rename, remove


def questions(path: Path) -> list[str]:
    return [json.loads(line)["messages"][0]["content"] for line in path.read_text().splitlines()]


def test_a_copy_is_a_fork(run: Run, folder: Path) -> None:
    make(folder, "a", turn("one"))
    assert run(PROGRAM, "copy", "a", "b") == (0, b"", "")
    for name, text in (("a", "two"), ("b", "three")):
        run("gptpipe", "-m", "echo", "-s", name, text)
    assert [questions(folder / f"{name}.jsonl") for name in "ab"] == [["one", "two"], ["one", "three"]]


def test_rename(run: Run, folder: Path) -> None:
    make(folder, "a", turn("one"))
    assert run(PROGRAM, "rename", "a", "b") == (0, b"", "")
    assert os.listdir(folder) == ["b.jsonl"]


@pytest.mark.parametrize("word", ["copy", "rename"])
def test_what_exists_is_replaced_by_force_only(run: Run, folder: Path, word: str) -> None:
    make(folder, "a", turn("one"))
    make(folder, "b", turn("two"))
    result = run(PROGRAM, word, "a", "b")
    assert (result.status, result.err.splitlines()[0]) == (2, "gptpipe-sessions: session b exists")
    assert questions(folder / "b.jsonl") == ["two"]
    assert run(PROGRAM, word, "--force", "a", "b") == (0, b"", "")
    assert questions(folder / "b.jsonl") == ["one"]


def test_remove_goes_on_after_one_that_is_not_there(run: Run, folder: Path) -> None:
    make(folder, "a", turn("one"))
    make(folder, "b", turn("two"))
    assert run(PROGRAM, "remove", "--yes", "a", "none", "b") == (66, b"", "gptpipe-sessions: no session none\n")
    assert os.listdir(folder) == []


@pytest.mark.parametrize(("typed", "left"), [(b"y\n", []), (b"Yes\n", []), (b"n\n", ["a.jsonl"]), (b"\n", ["a.jsonl"])])
def test_remove_asks_on_a_terminal(run: Run, folder: Path, typed: bytes, left: list[str]) -> None:
    make(folder, "a", turn("one"))
    assert run(PROGRAM, "remove", "a", stdin=typed, tty="in err") == (0, b"", "remove a? [y/N] ")
    assert os.listdir(folder) == left


def test_remove_does_not_ask_where_there_is_no_terminal(run: Run, folder: Path) -> None:
    make(folder, "a", turn("one"))
    for more in ({"stdin": b"y\n"}, {"tty": "err"}, {"stdin": b"y\n", "tty": "in"}):
        result = run(PROGRAM, "remove", "a", **more)
        assert result.status == 2
        assert "--yes" in result.err
    assert os.listdir(folder) == ["a.jsonl"]


def test_remove_names_what_it_asks_for(run: Run, folder: Path) -> None:
    for number in range(12):
        make(folder, f"s{number:02}", turn("x", "y"))
    result = run(PROGRAM, "remove", "--older-than", "1s", stdin=b"n\n", tty="in err")
    assert result.err == f"remove {', '.join(f's{number:02}' for number in range(10))} and 2 more? [y/N] "


@pytest.mark.parametrize(
    ("names", "left"),
    [([], ["new.jsonl"]), (["old", "new"], ["new.jsonl", "older.jsonl"])],
    ids=["all", "named"],
)
def test_remove_what_was_not_used_for_long(run: Run, folder: Path, names: list[str], left: list[str]) -> None:
    for name in ("old", "older"):
        make(folder, name, turn("x")._replace(at="2020-01-01T00:00:00Z"))
    run("gptpipe", "-m", "echo", "-s", "new", "x")
    assert run(PROGRAM, "remove", "--yes", "--older-than", "90d", *names) == (0, b"", "")
    assert sorted(os.listdir(folder)) == left


def test_remove_takes_the_files_along_that_no_other_session_names(run: Run, folder: Path, tmp_path: Path) -> None:
    attachments = folder.parent / "attachments"
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode())
        run("gptpipe", "-m", "echo", "-s", name, "-f", name, "look")
    run(PROGRAM, "copy", "two", "three")
    stored = {path.name for path in attachments.iterdir()} - {".lock"}
    assert len(stored) == 2
    run(PROGRAM, "remove", "--yes", "one", "two")
    [kept] = {path.name for path in attachments.iterdir()} - {".lock"}
    assert kept.encode() in (folder / "three.jsonl").read_bytes()


# check


def test_check_lists_damage_and_moves_it_aside(run: Run, folder: Path) -> None:
    good = make(folder, "good", turn("x")).read_bytes()
    (folder / "hurt.jsonl").write_bytes(good + b"junk\n" + good + b'{"torn')
    found = f"hurt:2: damaged, 4 bytes at byte {len(good)}\nhurt:4: damaged, 6 bytes at byte {2 * len(good) + 5}\n"
    for names in ([], ["good", "hurt"]):
        result = run(PROGRAM, "check", *names)
        assert (result.status, result.text) == (65, found)
        assert "--repair" in result.err
    assert run(PROGRAM, "check", "good") == (0, b"", "")
    assert run(PROGRAM, "check", "--repair") == (0, found.encode(), "")
    assert (folder / "hurt.jsonl").read_bytes() == 2 * good
    assert (folder / "hurt.jsonl.damaged").read_bytes() == b'junk\n{"torn\n'
    assert run(PROGRAM, "check") == (0, b"", "")


def test_a_damaged_line_is_skipped_and_told(run: Run, folder: Path) -> None:
    end = make(folder, "s", turn("x", "z")).stat().st_size
    path = make(folder, "s", turn("x", "z"), junk=b"\x1b[2Jjunk\n")
    warning = f"gptpipe-sessions: {path}: damaged line at byte {end} skipped\n"
    assert run(PROGRAM, "show", "--answer", "s") == (0, b"z\n", warning)
    assert run(PROGRAM, "search", "z") == (0, b"s:1:z\n", warning)
    assert run(PROGRAM, "list").err == ""


# Bad input, and others at work

BAD = {
    "show an unknown session": (["show", "none"], 66, "no session none"),
    "show the last answer of an unknown session": (["show", "-x", "none"], 66, "no session none"),
    "copy an unknown session": (["copy", "none", "b"], 66, "no session none"),
    "rename an unknown session": (["rename", "none", "b"], 66, "no session none"),
    "remove an unknown session": (["remove", "none"], 66, "no session none"),
    "check an unknown session": (["check", "none"], 66, "no session none"),
    "copy onto itself": (["copy", "a", "a"], 2, "same session"),
    "a name that cannot be": (["show", "../a"], 2, "../a"),
    "a name among others": (["remove", "--yes", "a", "a/b"], 2, "a/b"),
    "a new name that cannot be": (["rename", "a", "\x1b[2J"], 2, "cannot be a session name"),
    "nothing to remove": (["remove", "--yes"], 2, "--older-than"),
    "no age": (["remove", "--yes", "--older-than", "soon"], 2, "soon"),
    "no pattern": (["search", "("], 2, "regular expression"),
    "no session, and no turn of it": (["show", "NOSUCH", "-n", "0"], 66, "no session NOSUCH\n"),
    "a session that is empty": (["show", "NOSUCH", "--last", "0", "--json"], 66, "no session NOSUCH\n"),
    "two ways to show": (["show", "a", "-x", "-n", "1"], 2, "exclude"),
    "code as JSON": (["show", "a", "-x", "--json"], 2, "exclude"),
    "JSON with a header": (["list", "--json", "--header"], 2, "exclude"),
    "fewer than no turns": (["show", "a", "-n", "-1"], 2, "-1"),
    "a lock timeout below 0": (["copy", "a", "b", "--lock-timeout", "-1"], 2, "lock-timeout"),
    "no such word": (["lists"], 2, "no such command 'lists'\ndid you mean list?\n"),
    "no such option": (["show", "--lats", "s"], 2, "no such option '--lats'\ndid you mean --last?\n"),
    "no word": ([], 2, "-h"),
    "no name": (["show"], 2, "missing argument 'NAME'\ntry 'gptpipe-sessions show -h'\n"),
}


@pytest.mark.parametrize(("args", "status", "words"), BAD.values(), ids=BAD)
def test_bad_input(run: Run, folder: Path, args: list[str], status: int, words: str) -> None:
    data = make(folder, "a", turn("x")).read_bytes()
    result = run(PROGRAM, *args)
    assert (result.status, result.out) == (status, b"")
    assert words in result.err
    assert "\x1b" not in result.err
    assert 1 <= len(result.err.splitlines()) <= 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.jsonl": data}


def test_a_pattern_that_is_not_utf_8(run: Run) -> None:
    message = "gptpipe-sessions: the pattern is not UTF-8 text: byte 0 is 0xff\n"
    assert run(PROGRAM, "search", "\udcff") == (65, b"", message)


CHANGES = [["copy", "a", "c"], ["rename", "a", "c"], ["remove", "--yes", "a"], ["check", "--repair"]]


@pytest.mark.parametrize("args", CHANGES, ids=lambda args: args[0])
def test_a_folder_that_is_read_only(shell: Run, folder: Path, args: list[str]) -> None:
    needs("setpriv")
    make(folder, "a", turn("x"), junk=b"junk\n")
    before = os.listdir(folder)
    folder.chmod(0o555)
    # Permissions do not hold for root, unless it gives this capability away.
    held = "setpriv --bounding-set=-dac_override" if os.geteuid() == 0 else ""
    result = shell(f"{held} {PROGRAM} {' '.join(args)}")
    assert result.status == (65 if "--repair" in args else 74)
    assert "Permission denied" in result.err
    assert shell(f"{held} {PROGRAM} show -n 1 a").status == 0
    assert shell(f"{held} gptpipe -n -m echo -s new x") == (
        74,
        b"",
        f"gptpipe: cannot open session new: {folder}/new.jsonl: Permission denied\n",
    )
    folder.chmod(0o755)
    assert os.listdir(folder) == before


LOOKS = [["list"], ["show", "a"], ["show", "--answer", "a"], ["search", "x"], ["path", "a"], ["check"]]


def test_looking_waits_for_no_answer_in_flight_and_changing_does(run: Run, spawn: Spawn, folder: Path) -> None:
    make(folder, "a", turn("x"))
    running = spawn("gptpipe", "-m", "echo:stall=2", "-s", "a", "hello")
    running.read(until=b"he")
    for args in LOOKS:
        assert run(PROGRAM, *args).status == 0
    for args in CHANGES[:3]:
        for more in ([*args, "--lock-timeout", "0"], args):
            result = run(PROGRAM, *more, env={"GPTPIPE_LOCK_TIMEOUT": "0"})
            assert result.status == 75
            assert "in use" in result.err
    assert run(PROGRAM, "check", "--repair", "--lock-timeout", "0") == (0, b"", "")  # there is nothing to change
    with (folder / "a.jsonl").open("ab") as file:
        file.write(b"junk\n")
    assert run(PROGRAM, "check", "--repair", "--lock-timeout", "0").status == 65
    running.kill()
    running.wait()
    assert run(PROGRAM, "check", "--repair").status == 0
    assert questions(folder / "a.jsonl") == ["x", "hello"]


def test_a_reader_that_is_gone_ends_it_in_silence(shell: Run, folder: Path) -> None:
    make(folder, "a", *[turn("x", 1000 * "y\n") for _ in range(200)])
    for args in ("show a", "show --json a", "search y"):
        assert shell(f"{PROGRAM} {args} | head -n 1 >/dev/null; echo ${{PIPESTATUS[0]}}") == (0, b"141\n", "")
