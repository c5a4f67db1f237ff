"""Tools end to end: rounds of calls and results, over HTTP, and what is left when something ends them."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gptpipe.wire.echo import Knobs
from tests.conftest import Run, Spawn
from tests.harness.decoding import chunk, say
from tests.harness.leash import Leash
from tests.harness.server import DONE, Server, event
from tests.harness.toolbox import DESCRIPTION, write_tool

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


@pytest.fixture
def leash(tmp_path: Path) -> Iterator[Leash]:
    leash = Leash(tmp_path)
    yield leash
    leash.close()


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    return write_tool(tmp_path, "printf 'in Ulm: '; cat")


def function(name: str = "lookup", arguments: str = '{"order":4711}', id: str = "call_a") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*wanted: dict[str, Any], before: str = "", usage: dict[str, int] = USAGE) -> bytes:
    """Return an answer that wants these calls, after some text."""
    pieces = [{"index": index, **call} for index, call in enumerate(wanted or [function()])]
    text = say(before) if before else b""
    end = chunk({}, "tool_calls") + event({"choices": [], "usage": usage})
    return text + chunk({"tool_calls": pieces}) + end + DONE


def answers(text: str, reason: str = "stop") -> bytes:
    """Return an answer in words."""
    return say(text) + chunk({}, reason) + event({"choices": [], "usage": USAGE}) + DONE


def told(server: Server) -> list[Any]:
    """Return what the model was told of its calls in the last request."""
    return [m["content"] for m in server.requests[-1].body["messages"] if m["role"] == "tool"]


def ask(run: Run, server: Server, *words: str, **more: Any) -> Any:
    return run("gptpipe", "-n", "-m", "m", "--base-url", server.url, *words, **more)


def session(home: Path, name: str = "s") -> list[Any]:
    text = (home / f".local/share/gptpipe/sessions/{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


# Rounds


def test_a_call_its_result_and_the_answer(run: Run, server: Server, home: Path, tool: Path) -> None:
    server.reply(calls(before="let me see"))
    server.reply(answers("It is in Ulm."))
    result = ask(run, server, "-s", "s", "--tool", str(tool), "where is 4711?")
    assert result == (0, b"It is in Ulm.\n", "")
    first, second = (request.body for request in server.requests)
    asked = {"role": "user", "content": "where is 4711?"}
    assert first["messages"] == [asked]
    assert first["tools"] == second["tools"] == [{"type": "function", "function": {"name": "lookup", **DESCRIPTION}}]
    round_ = [
        {"role": "assistant", "content": "let me see", "tool_calls": [function()]},
        {"role": "tool", "tool_call_id": "call_a", "content": 'in Ulm: {"order":4711}'},
    ]
    assert second["messages"] == [asked, *round_]
    (turn,) = session(home)
    assert turn["messages"] == [asked, *round_, {"role": "assistant", "content": "It is in Ulm."}]
    assert (turn["finish_reason"], turn["usage"]["total_tokens"]) == ("stop", 30)
    server.reply(answers("yes"))
    assert ask(run, server, "-s", "s", "really?").out == b"yes\n"
    assert server.requests[2].body["messages"][:-1] == turn["messages"]
    assert "tools" not in server.requests[2].body


def test_json_lists_the_calls(run: Run, server: Server, tool: Path) -> None:
    server.reply(calls(function(), function(arguments="{", id="call_b")))
    server.reply(answers("here"))
    found = ask(run, server, "--json", "--tool", str(tool), "where?").json()
    assert found["answer"] == "here"
    ran, refused = found["tool_calls"]
    assert (ran.pop("seconds") > 0, refused.pop("seconds") >= 0) == (True, True)
    assert ran == {"name": "lookup", "arguments": {"order": 4711}, "status": 0}
    assert refused == {"name": "lookup", "arguments": "{", "status": None}
    assert told(server)[1].startswith("error: the arguments are not JSON: ")


def test_verbose_says_each_call(run: Run, server: Server, tool: Path) -> None:
    server.reply(calls())
    server.reply(answers("here"))
    found = ask(run, server, "-v", "--tool", str(tool), "where?")
    assert '\ngptpipe: lookup {"order":4711}: status 0, 0.' in found.err
    assert "tokens: 20 in, 10 out" in found.err


def test_each_round_is_booked(run: Run, server: Server, tool: Path) -> None:
    server.reply(calls())
    server.reply(answers("here"))
    ask(run, server, "--tool", str(tool), "where?")
    (total,) = (json.loads(run("gptpipe-usage", "--json").out.splitlines()[0]),)
    assert (total["requests"], total["input"]) == (2, 20)


def test_a_schema_is_repaired_after_the_calls(run: Run, server: Server, tool: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type":"object"}')
    server.reply(calls())
    server.reply(answers("no JSON"))
    server.reply(answers('{"place":"Ulm"}'))
    found = ask(run, server, "--schema", "s.json", "--tool", str(tool), "where?")
    assert found == (0, b'{"place":"Ulm"}\n', "")
    roles = [message["role"] for message in server.requests[2].body["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


def test_a_dry_run_shows_the_tools(run: Run, server: Server, tool: Path) -> None:
    found = ask(run, server, "--dry-run", "--tool", str(tool), "where?").json()
    assert found["body"]["tools"][0]["function"]["name"] == "lookup"
    assert server.requests == []


def test_the_limit_of_input_holds_for_each_round(run: Run, server: Server, tmp_path: Path) -> None:
    tool = write_tool(tmp_path, "seq 1000")
    server.reply(calls())
    found = ask(run, server, "--max-input-tokens", "500", "--tool", str(tool), "where?")
    assert (found.status, len(server.requests)) == (6, 1)
    assert "--max-input-tokens allows 500" in found.err
    found = ask(run, server, "--max-input-tokens", "20", "--tool", str(tool), "where?")
    assert (found.status, len(server.requests)) == (6, 1), "the tools count too"


def test_a_budget_is_looked_at_before_each_round(run: Run, server: Server, home: Path, tool: Path) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text("[budget]\nday_tokens = 10\n")
    server.reply(calls(usage={"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}))
    found = ask(run, server, "--tool", str(tool), "where?")
    assert (found.status, len(server.requests)) == (6, 1)


# Calls that do not end well


BAD = [
    pytest.param("exit 3", "error: the tool ended with status 3", id="fails"),
    pytest.param("yes", "y\ny\n", id="floods"),
    pytest.param("printf '\\377'", "error: the result is not UTF-8 text: byte 0 is 0xff", id="binary"),
    pytest.param("kill -9 $$", "error: the tool ended with status 137", id="killed"),
    pytest.param("sleep 60 & sleep 60 >&- 2>&- & echo ok", "ok\n", id="forks"),
    pytest.param("exec <&-; echo ok", "ok\n", id="closes its input"),
]


@pytest.mark.parametrize(("script", "result"), BAD)
def test_the_model_is_told_and_the_run_goes_on(
    run: Run, server: Server, tmp_path: Path, leash: Leash, script: str, result: str
) -> None:
    tool = write_tool(tmp_path, f"{leash.hold}; {script}")
    server.reply(calls())
    server.reply(answers("so be it"))
    assert ask(run, server, "--tool", str(tool), "where?") == (0, b"so be it\n", "")
    assert told(server)[0].startswith(result)
    leash.check_released()


@pytest.mark.parametrize(
    ("describe", "mode", "status"),
    [
        pytest.param("echo {}", 0o644, 66, id="not executable"),
        pytest.param("echo {}", 0o755, 78, id="describes itself badly"),
        pytest.param("exit 1", 0o755, 78, id="fails"),
    ],
)
def test_a_bad_tool_ends_the_run_before_anything_is_asked(
    run: Run, server: Server, tmp_path: Path, describe: str, mode: int, status: int
) -> None:
    tool = write_tool(tmp_path, "cat", describe)
    tool.chmod(mode)
    found = ask(run, server, "--tool", str(tool), "where?")
    assert (found.status, found.out, server.requests) == (status, b"", [])
    assert str(tool) in found.err


def test_a_tool_that_was_not_offered(run: Run, server: Server, tool: Path) -> None:
    server.reply(calls())
    found = ask(run, server, "where?")
    assert (found.status, found.out) == (5, b"")
    assert "asked for a tool lookup that was not offered" in found.err


def test_a_cut_call_is_not_run(run: Run, server: Server, tool: Path, tmp_path: Path) -> None:
    ran = write_tool(tmp_path, f"touch {tmp_path}/ran", name="other")
    server.reply(chunk({"tool_calls": [{"index": 0, **function("other", '{"ord')}]}) + chunk({}, "length") + DONE)
    found = ask(run, server, "--tool", str(tool), "--tool", str(ran), "where?")
    assert (found.status, found.out) == (3, b"")
    assert not (tmp_path / "ran").exists()


def test_a_second_round_that_is_cut(run: Run, server: Server, home: Path, tool: Path) -> None:
    server.reply(calls())
    server.reply(say("It is in"))
    found = ask(run, server, "--retry", "0", "-s", "s", "--tool", str(tool), "where?")
    assert (found.status, found.out) == (75, b"")
    (turn,) = session(home)
    assert turn["finish_reason"] is None
    assert [message["role"] for message in turn["messages"]] == ["user", "assistant", "tool", "assistant"]
    server.reply(answers("new"))
    ask(run, server, "-s", "s", "again?")
    assert [message["content"] for message in server.requests[-1].body["messages"]] == ["again?"]


# What ends a run


def test_a_model_that_never_stops_calling(run: Run, server: Server, home: Path, tmp_path: Path) -> None:
    tool = write_tool(tmp_path, f"echo x >>{tmp_path}/ran")
    server.reply(calls(), times=20)
    found = ask(run, server, "-s", "s", "--max-calls", "3", "--meta", "meta", "--tool", str(tool), "where?")
    assert (found.status, found.out) == (6, b"")
    assert found.err == "gptpipe: the model wants more than 3 calls of tools (--max-calls)\n"
    assert (tmp_path / "ran").read_text() == "x\n" * 3
    assert len(server.requests) == 4
    meta = json.loads((tmp_path / "meta").read_text())
    assert [call["status"] for call in meta["tool_calls"]] == [0, 0, 0]
    (turn,) = session(home)
    assert turn["finish_reason"] is None
    server.reply(answers("new"))


def priced(home: Path, usd: float = 0.01) -> None:
    """Give a token of the model ``m`` this price, in and out."""
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text(f"[prices.m]\ninput = {usd * 1e6}\noutput = {usd * 1e6}\n")


def test_the_cost_of_a_run_is_looked_at_before_each_round(run: Run, server: Server, home: Path, tmp_path: Path) -> None:
    priced(home)
    tool = write_tool(tmp_path, f"echo x >>{tmp_path}/ran")
    server.reply(calls(usage={"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}), times=20)
    found = ask(run, server, "--max-cost", "7.5", "--meta", "meta", "--tool", str(tool), "where?")
    assert (found.status, found.out) == (6, b"")
    first, hint = found.err.splitlines()
    assert first == "gptpipe: the next request could pass --max-cost 7.5 ($6.0000 are used)"
    assert hint.strip() == "a higher --max-cost allows it"
    assert len(server.requests) == 3
    assert (tmp_path / "ran").read_text() == "x\n" * 3
    assert json.loads((tmp_path / "meta").read_text())["usage"]["total_tokens"] == 600


def test_the_cost_of_a_run_is_looked_at_before_a_try_after_one_that_was_paid_for(
    run: Run, server: Server, home: Path
) -> None:
    priced(home)
    server.reply(chunk({"role": "assistant"}), times=9)  # and the connection ends
    found = ask(run, server, "-x", "--retry", "5", "--max-cost", "0.15", "where?")
    assert (found.status, len(server.requests)) == (6, 2)
    totals = json.loads(run("gptpipe-usage", "--json").out.splitlines()[0])
    assert totals["requests"] == 2


def test_the_cost_of_a_run_is_looked_at_before_a_repair(run: Run, server: Server, home: Path, tmp_path: Path) -> None:
    priced(home)
    (tmp_path / "s.json").write_text("{}")
    server.reply(answers("no JSON"), times=9)
    found = ask(run, server, "--schema", "s.json", "--repair", "9", "--max-cost", "1", "where?")
    assert found.status == 6
    assert 1 < len(server.requests) < 6


@pytest.mark.parametrize("words", [[], ["--tool", "./lookup"], ["--schema", "s.json"]])
def test_a_price_that_is_not_known(run: Run, server: Server, tool: Path, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "s.json").write_text("{}")
    server.reply(answers("{}"))
    found = ask(run, server, "--max-cost", "1", *words, "where?")
    assert (found.status, server.requests) == (6, [])
    assert found.err.startswith("gptpipe: the price of m is not known, and --max-cost is given\n")
    assert ask(run, server, "--max-cost", "1", "--over-budget", *words, "where?").out == b"{}\n"


@pytest.mark.parametrize("usd", ["-1", "nan", "inf"])
def test_a_cost_that_is_none(run: Run, server: Server, usd: str) -> None:
    found = ask(run, server, "--max-cost", usd, "where?")
    assert found.status == 2
    assert found.err.startswith("gptpipe: --max-cost must be a number, 0 or more\n")
    assert server.requests == []


def test_the_descriptions_of_tools_count_for_the_cost(run: Run, server: Server, home: Path, tool: Path) -> None:
    priced(home)
    words = ("--max-cost", "0.2", "where?")
    assert ask(run, server, *words).status == 0
    assert ask(run, server, "--tool", str(tool), *words).status == 6
    assert len(server.requests) == 1


def test_the_cost_of_a_map_counts_the_rounds_of_all_records(
    run: Run, server: Server, home: Path, tmp_path: Path
) -> None:
    priced(home)
    write_tool(tmp_path, "cat")
    role = home / ".config/gptpipe/roles/where.md"
    role.parent.mkdir()
    role.write_text(f'+++\ntools = ["{tmp_path}/lookup"]\n+++\n')
    server.reply(calls(usage={"prompt_tokens": 50, "completion_tokens": 50, "total_tokens": 100}), times=50)
    words = ("gptpipe-map", "-m", "m", "--base-url", server.url, "-r", "where", "-j", "2", "--max-cost", "5.5", "{}")
    found = run(*words, stdin=b"one\ntwo\nthree\n")
    assert found.status == 6
    assert len(server.requests) in (4, 5)  # a later round sets more aside, and one record may be ahead of the other
    assert {json.loads(line)["error"]["status"] for line in found.out.splitlines()} == {6}


def test_ten_calls_are_the_limit(run: Run, server: Server, tmp_path: Path) -> None:
    tool = write_tool(tmp_path, f"echo x >>{tmp_path}/ran")
    server.reply(calls(*[function(id=f"call_{n}") for n in range(11)]))
    assert ask(run, server, "--tool", str(tool), "where?").status == 6
    assert (tmp_path / "ran").read_text() == "x\n" * 10


def test_the_deadline_ends_a_tool(run: Run, server: Server, tmp_path: Path, leash: Leash) -> None:
    tool = write_tool(tmp_path, f"{leash.hold}; trap '' TERM INT; sleep 60 & sleep 60")
    server.reply(calls())
    began = time.monotonic()
    found = ask(run, server, "--max-time", "2", "--meta", "meta", "--tool", str(tool), "where?")
    leash.check_released(1)
    assert 2 <= time.monotonic() - began < 3.5
    assert (found.status, found.out) == (75, b"")
    assert json.loads((tmp_path / "meta").read_text())["name"] == "TEMPFAIL"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_tool(
    spawn: Spawn, server: Server, home: Path, tmp_path: Path, leash: Leash, number: signal.Signals
) -> None:
    tool = write_tool(tmp_path, f"{leash.hold}; trap '' TERM INT HUP; sleep 60 & sleep 60")
    server.reply(calls())
    words = ["gptpipe", "-n", "-m", "m", "--base-url", server.url, "-s", "s", "--tool", str(tool), "where?"]
    process = spawn(*words)
    leash.taken()
    process.kill(number)
    assert process.communicate().status == 128 + number
    leash.check_released()
    (turn,) = session(home)
    assert (turn["finish_reason"], len(turn["messages"])) == (None, 2)


def test_a_signal_ends_a_tool_that_describes_itself(spawn: Spawn, tmp_path: Path, leash: Leash) -> None:
    tool = write_tool(tmp_path, "cat", f"{leash.hold}; sleep 60 & sleep 60")
    process = spawn("gptpipe", "-n", "-m", "echo", "--tool", str(tool), "where?")
    leash.taken()
    process.kill(signal.SIGINT)
    assert process.communicate().status == 130
    leash.check_released()


# Keys


def test_a_tool_sees_no_key(run: Run, server: Server, home: Path, tmp_path: Path) -> None:
    secret, other = "sk-secret-of-the-test", "sk-another-secret"
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text(
        f"""
        [profiles.command]
        base_url = "{server.url}"
        api_key_command = ["sh", "-c", "echo $HIDDEN"]
        [profiles.variable]
        base_url = "{server.url}"
        api_key_env = "WORK_KEY"
        [profiles.unused]
        base_url = "{server.url}"
        api_key_env = "UNUSED_KEY"
        """
    )
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "variable_api_key").write_text(secret)
    env = {
        "HIDDEN": secret,
        "WORK_KEY": secret,
        "UNUSED_KEY": other,
        "OPENAI_API_KEY": other,
        "GROQ_API_KEY": other,
        "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
        "COPY": f"x{secret}x",
        "KEPT": "kept",
    }
    tool = write_tool(
        tmp_path, "env", f"env >>{tmp_path}/described; echo '{json.dumps({'name': 'lookup', **DESCRIPTION})}'"
    )
    for profile in ("command", "variable"):
        server.reply(calls())
        server.reply(answers("done"))
        assert run("gptpipe", "-n", "-m", "m", "-p", profile, "--tool", str(tool), "x", env=env).status == 0
        assert server.requests[-1].headers["authorization"] == f"Bearer {secret}"
        (result,) = told(server)
        assert "KEPT=kept\n" in result
        assert "TOOLBOX_ACTION=execute\n" in result
        assert not any(word in result for word in (secret, other, "CREDENTIALS_DIRECTORY"))
    described = (tmp_path / "described").read_text()
    assert "KEPT=kept\n" in described
    assert not any(word in described for word in (other, "OPENAI_API_KEY", "WORK_KEY", "CREDENTIALS_DIRECTORY"))


# --tool-calls


def test_the_calls_alone(run: Run, server: Server, tmp_path: Path) -> None:
    tool = write_tool(tmp_path, f"touch {tmp_path}/ran")
    server.reply(calls(function(), function("find", "{", id="b"), before="let me see"))
    found = ask(run, server, "--tool-calls", "--tool", str(tool), "where?")
    lines = b'{"name":"lookup","arguments":{"order":4711}}\n{"name":"find","arguments":"{"}\n'
    assert found == (0, lines, "")
    assert not (tmp_path / "ran").exists()


def test_no_call_where_calls_are_asked_for(run: Run, server: Server, tool: Path) -> None:
    server.reply(answers("I do not know."))
    found = ask(run, server, "--tool-calls", "--tool", str(tool), "where?")
    assert found == (5, b"", "gptpipe: the model called no tool\n")


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--tool-calls"], id="no tool"),
        pytest.param(["--tool-calls", "--tool", "./lookup", "-x"], id="extract"),
        pytest.param(["--max-calls", "-1", "--tool", "./lookup"], id="negative"),
    ],
)
@pytest.mark.usefixtures("tool")
def test_options_that_do_not_go_together(run: Run, server: Server, words: list[str]) -> None:
    assert ask(run, server, *words, "where?").status == 2


# --approve


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        pytest.param(b"y\n", 0, id="y"),
        pytest.param(b"Yes\n", 0, id="yes"),
        pytest.param(b"n\n", None, id="n"),
        pytest.param(b"\n", None, id="nothing"),
        pytest.param(b"\x04", None, id="end of file"),
    ],
)
def test_approval_on_the_terminal(server: Server, tmp_path: Path, tool: Path, typed: bytes, status: int | None) -> None:
    server.reply(calls(function(arguments='{"order":4711,"note":"\\u202e\\u001b[2J\\n"}')))
    server.reply(answers("so be it"))
    out = tmp_path / "out"
    pid, terminal = os.forkpty()
    if pid == 0:  # pragma: no cover
        words = ["gptpipe", "-n", "-m", "m", "--base-url", server.url, "--json", "--approve", "--tool", str(tool), "x"]
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.execvp("gptpipe", words)
    seen = b""
    while not seen.endswith(b"[y/N] "):
        seen += os.read(terminal, 4096)
    os.write(terminal, typed)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    shown = '"note":"\\\\u202e\\\\u001b[2J\\\\n"'
    assert seen.decode().startswith('run the tool lookup {"order":4711,"note":')
    assert b"\x1b" not in seen
    assert "\u202e" not in seen.decode(), shown
    (call,) = json.loads(out.read_text())["tool_calls"]
    assert call["status"] == status
    if status is None:
        assert told(server) == ["error: the user does not allow this call"]


def test_approval_moves_the_bar_of_a_map_aside(caller: Server, tmp_path: Path, tool: Path) -> None:
    (tmp_path / "in").write_text('{"order":1}\n{"order":2}\n{"order":3}\n')
    words = ["gptpipe-map", "-m", "m", "--base-url", caller.url, "--approve", "--tool", str(tool)]
    pid, terminal = os.forkpty()
    if pid == 0:  # pragma: no cover
        os.execvp("gptpipe-map", [*words, "-f", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "{}"])
    seen = b""
    for _ in range(3):
        while not seen.endswith(b"[y/N] "):
            seen += os.read(terminal, 4096)
        line = seen.replace(b"\n", b"\r").rpartition(b"\r")[2].decode()
        assert line.startswith('run the tool lookup {"order":'), "nothing else stands on its line"
        time.sleep(0.3)  # in which another record may end
        assert not select.select([terminal], [], [], 0)[0], "the bar comes back while the question stands"
        os.write(terminal, b"y\n")
        seen = b""
    with suppress(OSError):  # the end, on Linux
        while more := os.read(terminal, 4096):
            seen += more
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert "3/3" in seen.decode()
    assert len((tmp_path / "out").read_text().splitlines()) == 3


def test_without_a_terminal_nothing_is_approved(run: Run, server: Server, tmp_path: Path) -> None:
    tool = write_tool(tmp_path, f"touch {tmp_path}/ran")
    server.reply(calls())
    server.reply(answers("I was not allowed to."))
    found = ask(run, server, "--approve", "--tool", str(tool), "where?")
    assert found == (0, b"I was not allowed to.\n", "")
    assert told(server) == ["error: the user must approve each call, but this run has no terminal to ask on"]
    assert not (tmp_path / "ran").exists()


# Roles


def test_a_role_names_tools(run: Run, server: Server, home: Path) -> None:
    for folder in ("tools", "roles"):
        (home / ".config/gptpipe" / folder).mkdir(parents=True)
    write_tool(home / ".config/gptpipe/tools", "echo one", name="one")
    write_tool(home / ".config/gptpipe/roles", "echo two", name="two")
    write_tool(home / ".config/gptpipe/tools", "echo three", name="three")
    (home / ".config/gptpipe/roles/r.md").write_text('+++\ntools = ["one", "./two"]\n+++\nBe brief.\n')
    server.reply(answers("hi"), times=2)
    assert ask(run, server, "-r", "r", "--tool", "three", "x").status == 0
    names = [each["function"]["name"] for each in server.requests[0].body["tools"]]
    assert names == ["one", "two", "three"]
    assert run("gptpipe", "-r", "r", "--tool", "three", "--save-role", "both", "x").status == 0
    assert ask(run, server, "-r", "both", "x").status == 0
    assert server.requests[1].body["tools"] == server.requests[0].body["tools"]


# gptpipe-config tools, gptpipe-chat, gptpipe-map


def test_the_list_of_tools(run: Run, home: Path) -> None:
    folder = home / ".config/gptpipe/tools"
    assert run("gptpipe-config", "tools") == (0, b"", "")
    folder.mkdir(parents=True)
    write_tool(folder, "cat")
    assert run("gptpipe-config", "tools") == (0, b"lookup  finds an order\n", "")
    write_tool(folder, "cat", "exit 3", name="bad")
    (folder / "plain").touch()
    found = run("gptpipe-config", "tools")
    assert (found.status, found.out) == (78, b"lookup  finds an order\n")
    assert f"the tool {folder}/bad ended with status 3" in found.err
    assert f"the tool {folder}/plain is not executable" in found.err


def test_a_chat_shows_each_call(run: Run, server: Server, tool: Path) -> None:
    server.reply(calls())
    server.reply(answers("In Ulm."))
    words = ["gptpipe-chat", "-m", "m", "--base-url", server.url, "--tool", str(tool)]
    found = run(*words, stdin=b"where?\n")
    assert (found.status, found.out) == (0, b"In Ulm.\n")
    assert '[lookup {"order":4711}: status 0, 0.' in found.err


@pytest.fixture
def caller() -> Iterator[Server]:
    """A server whose model calls the tool lookup with what it is asked, and says the result."""
    with Server(Knobs(call="lookup")) as running:
        yield running


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_echo_calls_a_tool_over_http(run: Run, caller: Server, home: Path, tool: Path, api: str) -> None:
    words = ["-m", "m", "-p", "loop", "--api", api, "-s", "s", "--tool", str(tool)]
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text(f'[profiles.loop]\nbase_url = "{caller.url}"\napi_key_env = ""\n')
    found = run("gptpipe", "-n", "--json", *words, '{"order":4711}').json()
    assert found["answer"] == 'in Ulm: {"order":4711}'
    (called,) = found["tool_calls"]
    assert (called["arguments"], called["status"]) == ({"order": 4711}, 0)
    (turn,) = session(home)
    assert [message["role"] for message in turn["messages"]] == ["user", "assistant", "tool", "assistant"]
    found = run("gptpipe", "-n", *words, '{"order":1}')
    assert found == (0, b'in Ulm: {"order":1}\n', "")
    last = caller.requests[-1].body
    if api == "chat":
        roles = [message["role"] for message in last["messages"]]
        assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant", "tool"]
    else:
        kinds = [item.get("type", "message") for item in last["input"]]
        assert kinds.count("function_call") == kinds.count("function_call_output") == 2
    assert run("gptpipe-sessions", "show", "s").text.count('[calls lookup {"order":') == 2


def test_a_map_with_a_tool_that_is_killed_and_resumed(
    spawn: Spawn, run: Run, caller: Server, tmp_path: Path, tool: Path
) -> None:
    count = 200
    (tmp_path / "in").write_text("".join(f'{{"order":{n}}}\n' for n in range(count)))
    words = ["gptpipe-map", "-m", "m", "--base-url", caller.url, "-j", "16", "--tool", str(tool)]
    words += ["-f", "in", "-o", "out", "{}"]
    process = spawn(*words)
    caller.wait_for_requests(150)
    process.kill(signal.SIGKILL)
    process.wait()
    done = len((tmp_path / "out").read_text().splitlines())
    assert 0 < done < count
    assert run(*words, "--resume", timeout=60).status == 0
    results = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert sorted(result["index"] for result in results) == list(range(1, count + 1))
    for result in results:
        assert result["answer"] == f'in Ulm: {{"order":{result["index"] - 1}}}'
        (call,) = result["tool_calls"]
        assert (call["arguments"], call["status"]) == ({"order": result["index"] - 1}, 0)


def test_a_signal_ends_the_tools_of_a_map(spawn: Spawn, caller: Server, tmp_path: Path, leash: Leash) -> None:
    tool = write_tool(tmp_path, f"{leash.hold}; sleep 60")
    words = ["gptpipe-map", "-m", "m", "--base-url", caller.url, "--tool", str(tool), "{}"]
    (tmp_path / "in").write_text('{"order":1}\n{"order":2}\n')
    process = spawn(*words, "-f", "in")
    leash.taken()
    process.kill(signal.SIGINT)
    assert process.communicate().status == 130
    leash.check_released()
