"""Other people's software: gptpipe against servers that nobody here wrote, from PyPI and npm.

LiteLLM's proxy stands in front of the tests' own server and passes on, in its own words, what that does: answers,
refusals, limits, errors. The others answer by rules of their own. The manual's examples run against each. They are
installed under ``torture/.envs`` the first time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gptpipe.errors import Status
from gptpipe.wire.echo import Knobs
from tests.harness import manual
from tests.harness.server import Server
from torture.frame import ROOT, Case, Rig, environment, execute, needs, outcome, parallel, session
from torture.networks import free_port

TITLE = "Other people's software"

ENVS = ROOT / "torture/.envs"
LITELLM = "litellm[proxy]==1.106.2"
MOCKS = ("fakellm==0.3.5", "llm-mock-api==0.1.2")
NODE = "@dwmkerr/mock-llm@0.1.29"
KEY = "sk-others-1234"
TEXT = "What came of it?"
STARTS = 120  # seconds

# What the server behind LiteLLM does, and what LiteLLM makes of it: the statuses that may come of that.
BEHIND: dict[str, tuple[Knobs, frozenset[Status]]] = {
    "answer": (Knobs(text=TEXT), frozenset({Status.OK})),
    "slow": (Knobs(text=TEXT, delay=0.1), frozenset({Status.OK})),
    "long": (Knobs(text=" ".join(map(str, range(5000)))), frozenset({Status.OK})),
    "length": (Knobs(text=TEXT, finish="length"), frozenset({Status.TRUNCATED})),
    "filter": (Knobs(text=TEXT, finish="content_filter"), frozenset({Status.REFUSED})),
    "empty": (Knobs(empty=True), frozenset({Status.ABSENT})),
    "stall": (Knobs(text=TEXT, stall=4), frozenset({Status.TEMPFAIL})),
    "400": (Knobs(status=400), frozenset({Status.UNAVAILABLE})),
    "401": (Knobs(status=401), frozenset({Status.NOPERM})),
    "403": (Knobs(status=403), frozenset({Status.UNAVAILABLE})),
    "404": (Knobs(status=404), frozenset({Status.UNAVAILABLE})),
    "429": (Knobs(status=429), frozenset({Status.TEMPFAIL})),
    "500": (Knobs(status=500), frozenset({Status.TEMPFAIL})),
    "503": (Knobs(status=503), frozenset({Status.TEMPFAIL})),
}
MODES = ((), ("--no-stream",), ("--json",), ("-o", "out"))

ERRORS = {
    400: Status.UNAVAILABLE,
    401: Status.NOPERM,
    403: Status.UNAVAILABLE,
    404: Status.UNAVAILABLE,
    413: Status.DATAERR,
    429: Status.TEMPFAIL,
    500: Status.TEMPFAIL,
    502: Status.TEMPFAIL,
    503: Status.TEMPFAIL,
}


class Other(NamedTuple):
    """A server that runs: its base URL, and the model to ask for."""

    name: str
    url: str
    model: str


def install() -> None:
    """Make the environments that are missing."""
    for name, packages in (("litellm", (LITELLM,)), ("mocks", MOCKS)):
        if not (ENVS / name / "ready").exists():
            subprocess.run([sys.executable, "-m", "venv", ENVS / name], check=True)
            pip: list[str | Path] = [ENVS / name / "bin/python", "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, "--disable-pip-version-check", *packages], check=True)
            (ENVS / name / "ready").touch()
    if not (ENVS / "npm/ready").exists():
        (ENVS / "npm").mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--ignore-scripts", NODE]
        subprocess.run(command, cwd=ENVS / "npm", check=True)
        (ENVS / "npm/ready").touch()


@contextlib.contextmanager
def running(folder: Path, command: Callable[[int], list[str | Path]], **env: str) -> Iterator[int]:
    """Run a server, all its processes, while the block lasts; give its port."""
    port = free_port()
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            command(port),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(folder, {"PORT": str(port), "HOST": "127.0.0.1", **env}),
            start_new_session=True,
        )
    try:
        end = time.monotonic() + STARTS
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def litellm(folder: Path) -> Iterator[str]:
    """Run LiteLLM's proxy before a server for each of BEHIND; give its base URL."""
    with contextlib.ExitStack() as stack:
        models = [
            {
                "model_name": name,
                "litellm_params": {
                    "model": f"openai/{name}",
                    "api_base": stack.enter_context(Server(knobs)).url,
                    "api_key": "none",
                    "max_retries": 0,
                },
            }
            for name, (knobs, _) in BEHIND.items()
        ]
        general = {"master_key": KEY}
        settings = {
            "model_list": models,
            "general_settings": general,
            "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        }
        (folder / "litellm.yaml").write_text(json.dumps(settings))  # JSON is YAML
        program = ENVS / "litellm/bin/litellm"
        command: list[str | Path] = [
            program,
            "--config",
            "litellm.yaml",
            "--host",
            "127.0.0.1",
            "--telemetry",
            "False",
            "--port",
        ]
        with running(folder, lambda port: [*command, str(port)], LITELLM_LOCAL_MODEL_COST_MAP="True") as port:
            yield f"http://127.0.0.1:{port}/v1"


def passed_on(rig: Rig, url: str, name: str, mode: tuple[str, ...]) -> Case:
    """Ask LiteLLM for what the server behind it does."""
    knobs, statuses = BEHIND[name]
    idle = "3" if name == "stall" else "60"
    call = ("--base-url", url, "-m", name, "--retry", "0", "--idle-timeout", idle, "-s", "s", *mode, "hi")
    with rig.home() as home:
        result = rig.run(home, "gptpipe", *call, env={"OPENAI_API_KEY": KEY}, timeout=60)
        case = outcome(f"LiteLLM, {name}, {' '.join(mode)}", result, status=statuses)
        if not case.ok or result.status != Status.OK:
            return case
        text = (home / "out").read_text() if "-o" in mode else result.text
        answer = json.loads(text)["answer"] if "--json" in mode else text
        wanted = (knobs.text or "").rstrip("\n")
        turns = session(home)
        ok = answer.rstrip("\n") == wanted and [turn["finish_reason"] for turn in turns] == ["stop"]
        return Case(case.name, ok, f"{answer[:200]!r} {turns}"[:600])


def rules() -> list[Any]:
    """Return the rules of mock-llm: an answer, and for some models an error, which it sends under status 200."""
    message = {"role": "assistant", "content": TEXT}
    answer = {"object": "chat.completion", "model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}
    path = "/v1/chat/completions"
    errors = [
        {
            "path": path,
            "match": f"body.model == 'm{code}'",
            "response": {"status": code, "content": json.dumps({"error": {"message": f"reason {code}", "code": code}})},
        }
        for code in ERRORS
    ]
    return [{"path": path, "match": "@", "response": {"status": 200, "content": json.dumps(answer)}}, *errors]


def told(rig: Rig, url: str, code: int, mode: tuple[str, ...]) -> Case:
    """Let mock-llm answer with an error."""
    call = ("gptpipe", "--base-url", url, "-m", f"m{code}", "--retry", "0", *mode, "hi")
    with rig.home() as home:
        result = rig.run(home, *call)
        case = outcome(f"mock-llm, {code}, {' '.join(mode)}", result, status=ERRORS[code], out=b"")
        return case if f"reason {code}" in result.err else Case(case.name, False, f"{result}")


SCRIPTS = {
    "pipe": manual.display("gptpipe.1", "pipe"),
    "session": manual.display("gptpipe.1", "session"),
    "loop": manual.display("gptpipe.1", "loop"),
    "json": manual.display("gptpipe.1", "json"),
    "meta": manual.display("gptpipe.1", "meta"),
    "case": manual.display("gptpipe-examples.7", "case"),
    "retry": manual.display("gptpipe-examples.7", "retry"),
    **{f"README, {number}": script for number, script in enumerate(manual.pipelines()) if number},
    "map": "seq 5 | gptpipe-map -n 3 'Say {}.' || seq 5 | gptpipe-map 'Say {}.'",
    "chat": "printf 'one\\ntwo\\n' | gptpipe-chat -s talk 2>/dev/null",
    "image": "gptpipe -f dot.png -s pictures look",
    "ten at once": "for n in $(seq 10); do gptpipe -n -s many -- $n & done; wait",
}
SILENT = {"README, 2", "README, 3", "loop", "case", "retry"}  # what they say goes into files


def example(rig: Rig, other: Other, name: str) -> Case:
    """Run an example of the manual with another server's model."""
    with rig.home() as home:
        for file in ("main.c", "report.txt", "words.txt"):
            (home / file).write_text("one\ntwo\n")
        (home / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8))
        env = {"GPTPIPE_MODEL": other.model, "OPENAI_BASE_URL": other.url, "OPENAI_API_KEY": KEY}
        result = execute(home, "bash", "-c", SCRIPTS[name], env=env, timeout=120)
        said = bool(result.out) or name in SILENT
        turns = [len(path.read_bytes().splitlines()) for path in home.glob(".local/share/gptpipe/sessions/*.jsonl")]
        right = turns == [10] if name == "ten at once" else True
        ok = result.status == 0 and said and right and "gptpipe: " not in result.err and result.text.strip() != "null"
        return Case(f"{other.name}, {name}", ok, f"{result} {turns}")


def named(rig: Rig, url: str) -> Case:
    """Ask LiteLLM which models there are."""
    with rig.home() as home:
        result = rig.run(home, "gptpipe-models", "--base-url", url, env={"OPENAI_API_KEY": KEY})
        return Case("LiteLLM, models", sorted(result.text.split()) == sorted(BEHIND), f"{result}")


def cases(rig: Rig) -> Iterator[Case]:
    """Ask each server for all that it can do."""
    needs("npm", "jq")
    install()
    folder = rig.folder / "others"
    folder.mkdir()
    (folder / "fakellm.yaml").write_text("version: 1\n")
    (folder / "mock-llm.yaml").write_text(json.dumps({"rules": rules()}))
    mocks = ENVS / "mocks/bin"
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(litellm(folder))
        fake = stack.enter_context(running(folder, lambda port: [mocks / "fakellm", "serve", "--port", str(port)]))
        api = stack.enter_context(
            running(
                folder,
                lambda port: [
                    mocks / "llm-mock-api",
                    "start",
                    "-p",
                    str(port),
                    "-H",
                    "127.0.0.1",
                    "-c",
                    "3",
                    "-f",
                    TEXT,
                ],
            )
        )
        node = stack.enter_context(running(folder, lambda _: [ENVS / "npm/node_modules/.bin/mock-llm"]))
        yield named(rig, proxy)
        pairs = [(name, mode) for name in BEHIND for mode in MODES]
        yield from parallel(lambda pair: passed_on(rig, proxy, *pair), pairs, 3)
        url = f"http://127.0.0.1:{node}/v1"
        errors = [(code, mode) for code in ERRORS for mode in MODES]
        yield from parallel(lambda pair: told(rig, url, *pair), errors, 3)
        others = [
            Other("LiteLLM", proxy, "answer"),
            Other("fakellm", f"http://127.0.0.1:{fake}/v1", "m"),
            Other("llm-mock-api", f"http://127.0.0.1:{api}/v1", "m"),
            Other("mock-llm", url, "m"),
        ]
        examples = [(other, name) for other in others for name in SCRIPTS]
        yield from parallel(lambda pair: example(rig, *pair), examples, 3)
