"""``gptpipe`` end to end: what the message is made of, what is written where, what a session continues with."""

from __future__ import annotations

import json
import os
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest

from gptpipe.asking import turn
from gptpipe.asking.context import here
from tests.conftest import needs
from tests.harness.server import DONE, Server, chunk, finish, say

ECHO = ("gptpipe", "-m", "echo")


def said(server: Server) -> str:
    """Return the message that the server was last sent."""
    return str(server.requests[-1].body["messages"][-1]["content"])


# What the message is


def test_arguments_are_joined_by_one_space(run: Any) -> None:
    assert run(*ECHO, "a", "b  c", "", "d").out == b"a b  c  d\n"


def test_words_after_two_dashes_are_a_prompt(run: Any) -> None:
    assert run(*ECHO, "--", "-h", "--version", "chat").out == b"-h --version chat\n"


@pytest.mark.parametrize("word", ["list", "chat", "sessions", "@x", "+1", "echo"])
def test_any_word_is_a_prompt(run: Any, word: str) -> None:
    assert run(*ECHO, word).text == f"{word}\n"


def test_options_may_follow_the_prompt(run: Any) -> None:
    assert run("gptpipe", "hi", "-m", "echo").out == b"hi\n"


def test_order_prompt_files_input(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A\n")
    (tmp_path / "b").write_text("B")
    result = run(*ECHO, "-f", "a", "ask", "-f", "b", stdin=b"piped\n")
    assert result.text == "ask\n\n==> a <==\nA\n\n==> b <==\nB\n\npiped\n"


def test_a_file_that_is_named_twice_is_there_twice(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A")
    assert run(*ECHO, "-f", "a", "-f", "a").text == "==> a <==\nA\n\n==> a <==\nA\n"


def test_standard_input_where_the_dash_stands(run: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A\n")
    assert run(*ECHO, "-f", "-", "-f", "a", "ask", stdin=b"piped\n").text == "ask\n\npiped\n\n==> a <==\nA\n"


@pytest.mark.parametrize("data", [b"x", b"x\n", b" x \r\n\n\n", "\ufeffx é\u2028".encode()], ids=repr)
def test_piped_text_is_passed_on_byte_for_byte(run: Any, server: Server, data: bytes) -> None:
    run("gptpipe", "--base-url", server.url, "-m", "m", stdin=data)
    assert said(server).encode() == data


def test_utf_8_whatever_the_locale(run: Any) -> None:
    for locale in ("C", "C.UTF-8", "no_SUCH"):
        assert run(*ECHO, "größe", stdin="héllo".encode(), env={"LC_ALL": locale}).text == "größe\n\nhéllo\n"


@pytest.mark.parametrize(("language", "charset"), [("de_DE", "ISO-8859-1"), ("ja_JP", "EUC-JP")])
def test_arguments_are_utf_8_in_a_locale_that_is_not(
    shell: Any, home: Path, tmp_path: Path, language: str, charset: str
) -> None:
    needs("localedef", "/usr/share/i18n/SUPPORTED")
    locale = f"{language}.{charset}"
    shell(f"localedef -i {language} -f {charset} ./{locale}")
    assert (tmp_path / locale).exists()
    env = {"LOCPATH": str(tmp_path), "LC_ALL": locale}
    (tmp_path / "größe").write_text("héllo\n")
    result = shell("gptpipe -n -m echo -s größe -S größe -O a=größe -f größe größe", env=env)
    assert result == (0, "größe\n\n==> größe <==\nhéllo\n".encode(), "")
    line = (home / ".local/share/gptpipe/sessions/größe.jsonl").read_text()
    assert '{"role":"system","content":"größe"}' in line
    assert shell("gptpipe-sessions search -l héllo; gptpipe-sessions path größe", env=env).text.startswith("größe\n/")
    assert shell("echo x | gptpipe -m echo $'a\\xff'", env=env).status == 65


BAD = {
    "NUL": (b"a\0b", "byte 1"),
    "NUL after two bytes a letter": ("ä\0".encode(), "byte 2"),
    "not UTF-8": (b"abc\xff", "byte 3"),
    "cut off": ("ä".encode()[:1], "byte 0"),
}


@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_what_is_not_text(run: Any, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    for result in (run(*ECHO, "x", stdin=data), run(*ECHO, "-f", "file")):
        assert result.status == 65
        assert words in result.err


def test_other_encodings(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes("größe".encode("utf-16"))
    assert run(*ECHO, "--encoding", "utf-16", "-f", "file").text == "==> file <==\ngröße\n"
    assert run(*ECHO, "--encoding", "latin-1", stdin=b"gr\xf6\xdfe").text == "größe\n"


def test_an_argument_that_is_not_utf_8(shell: Any) -> None:
    result = shell("gptpipe -n -m echo $'a\\xff'")
    assert result.status == 65
    assert "byte 1" in result.err


def test_a_device_is_not_read(run: Any) -> None:
    assert run(*ECHO, "x", stdin=None).out == b"x\n"
    assert run(*ECHO, stdin=None).status == 2


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--schema", ""), 66, "cannot read '': No such file or directory"),
        (("--schema", "", "-x"), 2, "--schema and --extract exclude each other"),
        (("--save-role", ""), 2, "'' cannot be a role"),
        (("-f", ""), 66, "cannot read '': No such file or directory"),
        (("-o", ""), 74, "cannot write '': No such file or directory"),
        (("--cache", ""), 2, "'' is not an age"),
    ],
    ids=["schema", "schema and extract", "role", "file", "output", "cache"],
)
def test_an_empty_value_is_not_a_missing_option(run: Any, options: tuple[str, ...], status: int, message: str) -> None:
    # A variable that a script has not set must not turn JSON into prose, or a role to be written into a question.
    call = run("gptpipe", "-n", "-m", "echo", *options, "hi")
    assert (call.status, call.out, call.err.splitlines()[0]) == (status, b"", f"gptpipe: {message}")


def test_empty_input_beside_a_prompt_is_ignored_but_not_where_it_is_asked_for(run: Any) -> None:
    assert run(*ECHO, "x", stdin=b"").out == b"x\n"
    assert run(*ECHO, "x", "-f", "-", stdin=b"").status == 66
    assert run(*ECHO, "x", "-f", "-", stdin=None).status == 66
    assert run(*ECHO, stdin=b"").status == 2


@pytest.mark.parametrize("name", ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
def test_standard_input_by_another_name_is_read_once(shell: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "text").write_text("text\n")
    for before in ("", "cat text | "):
        result = shell(f"{before}gptpipe -m echo -f {name} hi {'' if before else '<text'}")
        assert result == (0, f"hi\n\n==> {name} <==\ntext\n".encode(), "")
    system = shell(f"gptpipe -m echo -S @{name} --dry-run hi <text").json()["body"]["messages"]
    assert [message["content"] for message in system] == ["text\n", "hi"]


def test_no_stdin_reads_nothing(shell: Any) -> None:
    result = shell("printf '1\\n2\\n3\\n' | while read -r line; do gptpipe -m echo -n -- \"$line\"; done")
    assert result == (0, b"1\n2\n3\n", "")


def test_a_file_that_is_not_read_from_its_start_is_announced(shell: Any, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("1\n2\n")
    result = shell('while read -r line; do gptpipe -m echo -- "$line"; done < list')
    assert "-n" in result.err
    assert result.out == b"1\n\n2\n"


def test_typed_text_is_read_after_a_hint(run: Any) -> None:
    result = run(*ECHO, stdin=b"typed\n", tty="in")
    assert result.out.replace(b"\r", b"").endswith(b"typed\n")
    assert "^D" in result.err


def test_the_system_message(run: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "sys").write_text("from a file\n")
    for given, wanted in {"plain": "plain", "@sys": "from a file\n", "@@sys": "@sys"}.items():
        run("gptpipe", "--base-url", server.url, "-m", "m", "-S", given, "x")
        assert server.requests[-1].body["messages"][0] == {"role": "system", "content": wanted}


# What the request holds


def test_nothing_is_sent_that_was_not_given(run: Any, server: Server) -> None:
    run("gptpipe", "--base-url", server.url, "-m", "m", "x")
    assert server.requests[0].body == {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_fields(run: Any, server: Server) -> None:
    fields = ("--temperature", "0", "--max-tokens", "7", "--reasoning-effort", "low", "-O", "seed=1", "-O", "user=me")
    more = ("-O", 'stop=["a"]', "-O", "x=true", "-O", 'y="1"', "-O", "z=")
    run("gptpipe", "--base-url", server.url, "-m", "m", *fields, *more, "x")
    body = server.requests[0].body
    assert {key: body[key] for key in body.keys() - {"model", "messages", "stream", "stream_options"}} == {
        "temperature": 0,
        "max_tokens": 7,
        "reasoning_effort": "low",
        "seed": 1,
        "user": "me",
        "stop": ["a"],
        "x": True,
        "y": "1",
        "z": "",
    }


def test_the_key_goes_to_its_server_and_nothing_else_of_openai(run: Any, server: Server) -> None:
    env = {
        "OPENAI_API_KEY": "sk-1",
        "OPENAI_ORG_ID": "org",
        "OPENAI_PROJECT_ID": "p",
        "OPENAI_CUSTOM_HEADERS": "X-Y: z",
    }
    run("gptpipe", "--base-url", server.url, "-m", "m", "x", env=env)
    headers = server.requests[0].headers
    assert headers["authorization"] == "Bearer sk-1"
    assert not {"openai-organization", "openai-project", "x-y"} & headers.keys()


def test_a_key_that_the_server_repeats_is_masked(run: Any, server: Server) -> None:
    server.json(401, {"error": {"message": "Incorrect API key provided: sk-secret"}})
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "-v", "x", env={"OPENAI_API_KEY": "sk-secret"})
    assert result.status == 77
    assert "sk-secret" not in result.err


# What is written where


@pytest.mark.parametrize("text", ["x", "x\n", "x\n\n"], ids=repr)
def test_one_newline_is_added_if_there_is_none(run: Any, server: Server, text: str) -> None:
    server.reply(say(text), finish(), DONE)
    assert run("gptpipe", "--base-url", server.url, "-m", "m", "x").text == (
        text if text.endswith("\n") else text + "\n"
    )


CONTROL = "a\x1b]52;c;eA==\x07b\x9b31mc\td\re"


def test_control_characters_are_shown_on_a_terminal_and_passed_on_in_a_pipe(run: Any, server: Server) -> None:
    server.reply(say(CONTROL), finish(), DONE, times=2)
    call = ("gptpipe", "--base-url", server.url, "-m", "m", "x")
    assert run(*call).out == CONTROL.encode() + b"\n"
    assert run(*call, tty="out").out.rstrip() == b"a^[]52;c;eA==^Gb\\x9b31mc\td^Me"


@pytest.mark.parametrize("path", ["-", "/dev/stdout", "/dev/fd/1"])
def test_o_onto_a_terminal_shows_control_characters(run: Any, path: str) -> None:
    assert run(*ECHO, "-n", "-o", path, "a\x1b[2J\x9bb", tty="out").out.rstrip() == b"a^[[2J\\x9bb"


@pytest.mark.parametrize("option", ["-o", "--meta"])
@pytest.mark.parametrize("path", ["", "/dev/fd/99", "/dev/fd/99999999999999999999"])
def test_what_cannot_be_written_is_74_before_anything_is_asked(run: Any, option: str, path: str) -> None:
    result = run(*ECHO, "-n", option, path, "hi")
    assert (result.status, result.out) == (74, b"")
    assert "Traceback" not in result.err


def test_what_others_wrote_cannot_drive_the_terminal_on_standard_error(run: Any, server: Server) -> None:
    server.json(400, {"error": {"message": CONTROL}})
    server.reply(chunk({"reasoning": CONTROL}), say("x"), finish(), DONE)
    call = ("gptpipe", "--base-url", server.url, "-m", "m", "--reasoning", "x")
    assert "\x1b" not in run(*call).err
    assert run(*call).err == "a^[]52;c;eA==^Gb\\x9b31mc\td^Me\n"
    assert "\x1b" not in run("gptpipe", "-m", "echo", "-f", "\x1b[2J").err


def test_json_and_meta_are_one_shape(run: Any, server: Server, tmp_path: Path) -> None:
    server.reply(say("Hi"), finish(usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}), DONE)
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "--json", "--meta", "meta", "x")
    value = result.json()
    meta = json.loads((tmp_path / "meta").read_text())
    assert value.keys() == meta.keys()
    assert list(value) == [
        "answer",
        "model",
        "served_by",
        "profile",
        "finish_reason",
        "usage",
        "session",
        "turns_sent",
        "turns_dropped",
        "request_id",
        "retries",
        "cached",
        "citations",
        "tool_calls",
        "seconds",
        "status",
        "name",
        "error",
    ]
    assert (value["answer"], value["model"], value["served_by"], value["profile"]) == ("Hi", "m", "served", None)
    assert (value["status"], value["name"], value["error"]) == (0, "OK", None)


def test_meta_of_a_failure(run: Any, shell: Any) -> None:
    result = shell("gptpipe -n -m echo:cut=2 --retry 0 --meta /dev/fd/3 hello 3>&1 >/dev/null")
    value = json.loads(result.out)
    assert (value["answer"], value["status"], value["name"]) == ("he", 75, "TEMPFAIL")
    assert value["error"].keys() == {"status", "name", "message"}


def test_output_replaces_a_file_and_keeps_its_mode(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "answer"
    path.write_text("old")
    path.chmod(0o640)
    os.symlink("answer", tmp_path / "link")
    before = path.stat().st_ino
    assert run(*ECHO, "-o", "link", "new") == (0, b"", "")
    assert path.read_text() == "new\n"
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_ino != before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["answer", "home", "link"]


def test_output_to_a_descriptor(shell: Any, tmp_path: Path) -> None:
    assert shell("gptpipe -n -m echo -o /dev/fd/3 x 3>&1 >/dev/null").out == b"x\n"
    assert shell("{ echo before; gptpipe -n -m echo -o /dev/stdout x; } > f; cat f").out == b"before\nx\n"
    assert shell("gptpipe -n -m echo -o - x").out == b"x\n"


def test_verbose_tells_of_a_failure_what_was_asked(run: Any, server: Server) -> None:
    for _ in range(2):
        server.json(500, {"error": {"message": "no"}})
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "-v", "--retry", "1", "x")
    first, second, third, *_ = result.err.splitlines()
    assert first == f"gptpipe: model m, {server.url}, key: none needed"
    assert second.endswith("retries: 1")
    assert third == "gptpipe: the server failed (500): no"
    assert "key: not looked for" in run(*ECHO, "-v", "--cache-only", "x").err


def test_verbose_names_model_endpoint_and_key_source(run: Any, server: Server) -> None:
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "-v", "x", env={"OPENAI_API_KEY": "sk-secret"})
    assert "OPENAI_API_KEY" in result.err
    assert server.url in result.err
    assert "sk-secret" not in result.err


def test_closed_descriptors(shell: Any, home: Path) -> None:
    assert shell("gptpipe -m echo -s s hi <&- 2>&-").out == b"hi\n"
    assert shell("gptpipe -m echo -s s hi >&- 2>&- <&-; echo $?").out == b"74\n"
    lines = next(home.rglob("s.jsonl")).read_text().splitlines()
    assert len(lines) == 1


def test_python_unbuffered_into_a_full_pipe_loses_nothing(spawn: Any) -> None:
    process = spawn(*ECHO, stdin=b"", env={"PYTHONUNBUFFERED": "1"})
    os.set_blocking(process.stdout, False)  # the flag is on the pipe, and so on the program's end of it as well
    process.write(b"x" * 400_000)
    process.close_stdin()
    assert len(process.read()) == 400_001


# What a session continues with


def turns(home: Path, name: str = "s") -> list[Any]:
    path = home / f".local/share/gptpipe/sessions/{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_session_sends_its_turns_and_its_system_message(run: Any, server: Server, home: Path) -> None:
    call = ("gptpipe", "--base-url", server.url, "-m", "m", "-s", "s")
    run(*call, "-S", "be brief", "one")
    run(*call, "two")
    assert server.requests[1].body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "two"},
    ]
    first, second = turns(home)
    assert {"n", "at", "profile", "base_url", "model", "messages", "finish_reason", "usage", "tokens"} < first.keys()
    assert (first["n"], second["n"]) == (1, 2)
    assert second["total_tokens"] == first["usage"]["total_tokens"] + second["usage"]["total_tokens"]


def test_a_session_continues_at_its_endpoint_with_its_model(run: Any, server: Server) -> None:
    run("gptpipe", "--base-url", server.url, "-m", "m", "-s", "s", "one")
    assert run("gptpipe", "-s", "s", "two", env={"GPTPIPE_BASE_URL": server.url}).status == 0
    assert server.requests[1].body["model"] == "m"
    elsewhere = run("gptpipe", "-s", "s", "three")
    assert (elsewhere.status, len(server.requests)) == (2, 2)
    assert f"the session was at {server.url}" in elsewhere.err


def test_history_bounds_the_turns(run: Any) -> None:
    for text in ("one", "two", "three"):
        run(*ECHO, "-s", "s", text)
    for number, sent in (("0", 0), ("2", 2), ("9", 3)):
        value = run(*ECHO, "-s", "s", "--no-save", "--json", "--history", number, "x").json()
        assert (value["turns_sent"], value["turns_dropped"]) == (sent, 3 - sent)


def test_turns_that_another_program_wrote_are_counted(run: Any, home: Path) -> None:
    # All that a line needs is its messages; the two that are numbered came by "cat s.jsonl >>s.jsonl".
    messages = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    bare = json.dumps({"messages": messages, "finish_reason": "stop"})
    folder = home / ".local/share/gptpipe/sessions"
    folder.mkdir(parents=True)
    (folder / "bare.jsonl").write_text(f"{bare}\n" * 3)
    (folder / "twice.jsonl").write_text(f'{bare[:-1]}, "n": 1}}\n' * 2)
    for name, number, sent, dropped in (("bare", "9", 3, 0), ("bare", "1", 1, 2), ("twice", "9", 2, 0)):
        value = run(*ECHO, "-s", name, "--no-save", "--json", "--history", number, "x").json()
        assert (value["turns_sent"], value["turns_dropped"]) == (sent, dropped)


def test_no_save_and_dry_run_append_nothing(run: Any, home: Path) -> None:
    run(*ECHO, "-s", "s", "one")
    run(*ECHO, "-s", "s", "--no-save", "two")
    value = run(*ECHO, "-s", "s", "--dry-run", "two").json()
    assert len(turns(home)) == 1
    assert [message["content"] for message in value["body"]["messages"]] == ["one", "one", "two"]
    assert run(*ECHO, "-s", "new", "--dry-run", "two").status == 0
    assert not (home / ".local/share/gptpipe/sessions/new.jsonl").exists()


def test_a_failed_first_request_leaves_no_session(run: Any, home: Path) -> None:
    assert run("gptpipe", "-m", "echo:status=500", "--retry", "0", "-s", "s", "x").status == 75
    assert not list(home.rglob("sessions/*.jsonl"))


def test_a_session_replaced_in_mid_answer_gets_the_turn(spawn: Any, home: Path, server: Server) -> None:
    path = home / ".local/share/gptpipe/sessions/s.jsonl"
    edited = home / "edited"

    def replace() -> None:
        edited.write_bytes(path.read_bytes() or b"")
        os.replace(edited, path)

    call = ("gptpipe", "--base-url", server.url, "-m", "m", "-s", "s")
    assert spawn(*call, "one").wait() == 0
    server.reply(say("tw"), replace, say("o"), finish(), DONE)
    assert spawn(*call, "two").wait() == 0
    assert [turn["n"] for turn in turns(home)] == [1, 2]


def test_a_full_disk_is_74_after_the_answer_and_the_file_is_whole(shell: Any, home: Path) -> None:
    script = """
    gptpipe -n -m echo -s s one
    (ulimit -f 1; trap '' XFSZ; head -c 2000 /dev/zero | tr '\\0' x | gptpipe -m echo -s s)
    echo $?
    """
    result = shell(script)
    assert result.out.endswith(b"x\n74\n")
    assert [turn["n"] for turn in turns(home)] == [1]


def test_a_session_that_goes_while_it_is_looked_for_begins_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / ".local/share/gptpipe/sessions/s.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"{}\n")
    context = here("gptpipe", {})
    call = turn.Call({"model": "echo", "session": "s"}, {})
    question = turn.Question("x", call, context.resolve(call.options))
    found = Path.stat

    def stat_and_remove(self: Path, **options: Any) -> os.stat_result:
        result = found(self, **options)
        if self == path:
            path.unlink()
        return result

    monkeypatch.setattr(Path, "stat", stat_and_remove)
    assert turn.preview(question, context).history == []


def test_a_session_that_is_a_fifo(run: Any, home: Path) -> None:
    folder = home / ".local/share/gptpipe/sessions"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "s.jsonl")
    assert run(*ECHO, "-s", "s", "x").status == 74


def test_twenty_at_once_see_each_other(spawn: Any, home: Path) -> None:
    processes = [spawn(*ECHO, "-s", "s", "--json", str(number)) for number in range(20)]
    sent = sorted(process.communicate().json()["turns_sent"] for process in processes)
    assert sent == list(range(20))
    assert len(turns(home)) == 20


def test_a_damaged_line_is_told_once_also_by_a_dry_run(run: Any, home: Path) -> None:
    run(*ECHO, "-n", "-s", "s", "a")
    path = home / ".local/share/gptpipe/sessions/s.jsonl"
    with path.open("a") as file:
        offset = file.tell()
        file.write("garbage\n")
    for option in ("--dry-run", "--no-save"):
        assert (
            run(*ECHO, "-n", "-s", "s", option, "b").err == f"gptpipe: {path}: damaged line at byte {offset} skipped\n"
        )


# What UTF-8 does not have

UNDECODABLE = {
    "model": ["-m", "m\udcff"],
    "effort": ["--reasoning-effort", "a\udcff"],
    "field": ["-O", "a=\udcff"],
    "field's name": ["-O", "\udcff=1"],
    "escape": ["-O", 'a="\\ud800"'],
    "escape inside": ["-O", 'a={"b":["\\ud800"]}'],
    "nested too deep": ["-O", "a=" + "[" * 100_000],
}


@pytest.mark.parametrize("args", UNDECODABLE.values(), ids=UNDECODABLE)
def test_what_a_request_cannot_hold_is_a_usage_error(shell: Any, args: list[str]) -> None:
    quoted = " ".join(shlex.quote(arg) for arg in ["--base-url", "http://127.0.0.1:1", "-m", "m", *args, "hi"])
    result = shell(f"gptpipe -n {quoted}")
    assert (result.status, result.out) == (2, b"")
    assert len(result.err) < 500


@pytest.mark.parametrize(("encoding", "data"), [("utf-7", b"a+2AA-"), ("unicode_escape", rb"a\ud800")])
def test_half_a_surrogate_pair_in_the_input(run: Any, encoding: str, data: bytes) -> None:
    result = run(*ECHO, "--encoding", encoding, stdin=data)
    assert result.status == 65
    assert "byte 1 " in result.err


# What is imported


@pytest.mark.parametrize(
    "args", [("--version",), ("-h",), ("--bad",), (), ("-s", "a/b", "x")], ids=lambda args: " ".join(args)
)
def test_what_needs_no_request_imports_no_sdk(fresh: Any, args: tuple[str, ...]) -> None:
    modules = fresh("gptpipe", *args).modules
    assert not {"openai", "h11", "httpx2", "tiktoken"} & modules
    assert "gptpipe.errors" in modules
