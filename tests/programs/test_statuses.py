"""Every exit status of the table, each by a run that earns it, over HTTP on loopback where it is a server's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gptpipe.errors import Status
from tests.harness.server import DONE, Server, finish, say
from tests.harness.tools import needs_right_to

ANSWER = (say("Hello"), finish(), DONE)

LOCAL = {
    "0": (("-m", "echo", "hi"), 0, ""),
    "2 nothing to ask": ((), 2, "nothing to ask"),
    "2 unknown option": (("--sesion", "x", "hi"), 2, "--sesion"),
    "2 bad number": (("--history", "x", "hi"), 2, "--history"),
    "2 negative number": (("-m", "echo", "--history", "-1", "hi"), 2, "--history"),
    "2 session name": (("-m", "echo", "-s", "a/b", "hi"), 2, "a/b"),
    "2 reserved field": (("-m", "echo", "-O", "stream=false", "hi"), 2, "stream"),
    "2 NaN": (("-m", "echo", "-O", "x=NaN", "hi"), 2, "NaN"),
    "2 bad JSON": (("-m", "echo", "-O", "x={", "hi"), 2, "JSON"),
    "2 echo knob": (("-m", "echo:nope", "hi"), 2, "nope"),
    "2 encoding": (("-m", "echo", "--encoding", "klingon", "-f", "/etc/passwd"), 2, "klingon"),
    "3": (("-m", "echo:finish=length", "hi"), 3, "length limit"),
    "4": (("-m", "echo:refuse", "hi"), 4, 'the model refused: "'),
    "5": (("-m", "echo:empty", "hi"), 5, "empty"),
    "6": (("-m", "echo", "--max-input-tokens", "5", "a longer question than that"), 6, "--max-input-tokens"),
    "65 too large": (("-m", "echo:status=413", "hi"), 65, "413"),
    "66 file": (("-m", "echo", "-f", "/nowhere", "hi"), 66, "/nowhere"),
    "66 system file": (("-m", "echo", "-S", "@/nowhere", "hi"), 66, "/nowhere"),
    "66 session": (("-m", "echo", "-s", "none", "--no-save", "hi"), 66, "none"),
    "69": (("-m", "echo:status=404", "hi"), 69, "404"),
    "74 meta": (("-m", "echo", "--meta", "/nowhere/x", "hi"), 74, "/nowhere/x"),
    "74 output": (("-m", "echo", "-o", "/dev/full", "hi"), 74, "/dev/full"),
    "75": (("-m", "echo:cut=1", "--retry", "0", "hi"), 75, "cut"),
    "77": (("-m", "echo:status=401", "hi"), 77, "401"),
    "78 no key": (("hi",), 78, "-m echo"),
    "78 profile": (("-p", "nope", "hi"), 78, "nope"),
    "78 config": (("--config", "/nowhere", "-m", "echo", "hi"), 78, "/nowhere"),
    "78 cacert": (("--base-url", "https://localhost", "-m", "m", "--cacert", "/nowhere", "hi"), 78, "/nowhere"),
}


@pytest.mark.parametrize(("args", "status", "words"), LOCAL.values(), ids=LOCAL)
def test_statuses(run: Any, args: tuple[str, ...], status: int, words: str) -> None:
    result = run("gptpipe", *args)
    assert result.status == status
    lines = result.err.splitlines()
    assert len(lines) <= (2 if status else 0)
    assert words in result.err
    if status:
        assert lines[0].startswith("gptpipe: ")
        assert status == 4 or not lines[0].endswith(".")


SERVED: dict[int, tuple[dict[str, Any], str]] = {
    0: ({"packets": ANSWER}, "Hello"),
    3: ({"packets": (say("Hello"), finish("length"), DONE)}, "Hello"),
    4: ({"packets": (finish("content_filter"), DONE)}, ""),
    5: ({"packets": (finish(), DONE)}, ""),
    65: ({"packets": (b'{"error":{"code":"context_length_exceeded"}}',), "status": 400}, ""),
    69: ({"packets": (b'{"error":{"message":"no such model"}}',), "status": 404}, ""),
    75: ({"packets": (say("Hello"),)}, "Hello"),
    76: ({"packets": (b"<html>",)}, ""),
    77: ({"packets": (b"{}",), "status": 401}, ""),
}


@pytest.mark.parametrize("status", SERVED)
@pytest.mark.parametrize("mode", ["stream", "--no-stream", "--json", "-o"])
def test_what_each_way_of_writing_writes(run: Any, server: Server, tmp_path: Path, mode: str, status: int) -> None:
    reply, text = SERVED[status]
    server.reply(*reply["packets"], status=reply.get("status", 200))
    path = tmp_path / "answer"
    path.write_text("old")
    args = {"stream": [], "-o": ["-o", str(path)]}.get(mode, [mode])
    meta = tmp_path / "meta"
    call = ("gptpipe", "--base-url", server.url, "-m", "m", "--retry", "0", "--meta", str(meta), *args, "hi")
    result = run(*call)
    assert result.status == status
    complete = f"{text}\n" if text else ""
    if mode == "stream":
        assert result.text == complete
    elif mode == "--json":
        if status in (0, 3, 4):
            assert result.json()["answer"] == text
        else:
            assert result.out == b""
    elif mode == "-o":
        assert path.read_text() == (complete if status == 0 else "old")
        assert result.out == b""
    else:
        assert result.text == (complete if status == 0 else "")
    assert f'"name":"{Status(status).name}"' in meta.read_text()


def test_1_is_a_bug_with_its_traceback(shell: Any, tmp_path: Path) -> None:
    (tmp_path / "jsonschema.py").write_text("1 / 0\n")
    (tmp_path / "schema").write_text("{}")
    result = shell("PYTHONPATH=. gptpipe -n -m echo --schema schema hi")
    assert result.status == 1
    assert "Traceback" in result.err


@pytest.mark.parametrize("call", ["gptpipe -n", "gptpipe -n --max-time 60", "echo x | gptpipe-map"])
def test_75_no_more_threads(shell: Any, call: str) -> None:
    other = ""
    if os.geteuid() == 0:  # whom no limit holds
        user = (
            "setpriv",
            "--reuid=54321",
            "--clear-groups",
            "--inh-caps=+dac_override",
            "--ambient-caps=+dac_override",
        )
        needs_right_to(*user, "true")
        other = " ".join(user)
    before, sign, program = call.rpartition("| ")
    result = shell(f"{before}{sign}{other} prlimit --nproc=1 {program} -m echo hi")
    assert (result.status, result.out) == (75, b"")
    assert result.err.partition(": ")[2].startswith("no more threads can be started\n")


def test_74_a_closed_standard_output_asks_nothing(shell: Any, server: Server) -> None:
    result = shell(f"gptpipe -n --base-url {server.url} -m m hi >&-")
    assert result.status == 74
    assert server.requests == []
