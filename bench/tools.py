"""The tools that are compared: each installed into a folder of its own, each with a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.measure import Command

ROOT = Path(__file__).parent.parent
ENVS = Path(__file__).parent / ".envs"
MODELS = ("chunks-20", "chunks-20000", "paced-400", "late-200")
KEY = "sk-loopback"


class Tool(NamedTuple):
    """A tool that is there: ``ask(model, prompt)`` is its command line, without a prompt it reads standard input."""

    name: str
    version: str
    ask: Callable[[str, str | None], Sequence[str]]
    version_argv: Sequence[str]
    env: Mapping[str, str]

    def command(self, model: str, prompt: str | None = None) -> Command:
        """Return the command that asks a model."""
        return Command(self.ask(model, prompt), self.env)


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def environment(home: Path, **more: str) -> dict[str, str]:
    home.mkdir(parents=True, exist_ok=True)
    return {"HOME": str(home), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TMPDIR": str(home), **more}


def pip(name: str, *packages: str) -> Path:
    """Install packages into the environment ``name``, once, and return its folder of programs."""
    folder = ENVS / name
    ready = folder / "ready"
    if not ready.exists():
        say(f"installing {' '.join(packages)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", *_QUIET, *packages], check=True)
        ready.touch()
    return folder / "bin"


_QUIET = ("--disable-pip-version-check",)


def debian(program: str, package: str | None = None) -> str | None:
    """Return the path of a program of Debian's, installing its package if that is possible."""
    if shutil.which(program) is None and shutil.which("apt-get") and os.geteuid() == 0:
        say(f"installing {program}")
        subprocess.run(["apt-get", "install", "-y", "-q", package or program], stdout=sys.stderr, check=False)
    return shutil.which(program)


def built(name: str, compiler: str, argv: Sequence[str], env: Mapping[str, str]) -> Path | None:
    """Build a program once with a compiler that is there; None, and a note, where that is not possible."""
    program = ENVS / compiler / "bin" / name
    if not program.exists():
        if shutil.which(compiler) is None:
            say(f"{name}: left out, {compiler} is not there")
            return None
        say(f"building {name} with {compiler}; this takes minutes, once")
        done = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True)
        if done.returncode:
            say(f"{name}: left out, {compiler} says: {done.stderr.strip().splitlines()[-1].strip()}")
            return None
    return program


def gptpipe(home: Path, url: str) -> Tool:
    programs = pip("gptpipe", str(ROOT))
    # The code may have changed since the environment was made.
    reinstall = ["install", "-q", *_QUIET, "--no-deps", "--force-reinstall", str(ROOT)]
    subprocess.run([programs / "python", "-m", "pip", *reinstall], check=True)
    program = str(programs / "gptpipe")

    def ask(model: str, prompt: str | None) -> Sequence[str]:
        return [program, "--base-url", url, "-m", model, *([prompt] if prompt else [])]

    return _tool("gptpipe", ask, [program, "--version"], environment(home))


def ten_lines(home: Path, url: str) -> Tool:
    python = str(pip("sdk", "openai", "httpx2[socks]") / "python")
    script = str(Path(__file__).parent / "ten_lines.py")

    def ask(model: str, prompt: str | None) -> Sequence[str]:
        return [python, script, model, *([prompt] if prompt else [])]

    version = [python, "-c", "from importlib.metadata import version; print('openai', version('openai'))"]
    return _tool("ten lines", ask, version, environment(home, OPENAI_BASE_URL=url, OPENAI_API_KEY=KEY))


def llm(home: Path, url: str) -> Tool:
    program = str(pip("llm", "llm") / "llm")
    env = environment(home, LLM_USER_PATH=str(home), OPENAI_API_KEY=KEY)
    models = [{"model_id": name, "model_name": name, "api_base": url} for name in MODELS]
    (home / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML

    def ask(model: str, prompt: str | None) -> Sequence[str]:
        return [program, "-m", model, *([prompt] if prompt else [])]

    return _tool("llm", ask, [program, "--version"], env)


def sgpt(home: Path, url: str) -> Tool:
    program = str(pip("shell-gpt", "shell-gpt", "click") / "sgpt")
    env = environment(home, OPENAI_API_KEY=KEY, API_BASE_URL=url, SHELL_INTERACTION="false")

    def ask(model: str, prompt: str | None) -> Sequence[str]:
        return [program, "--no-cache", "--no-md", "--model", model, *([prompt] if prompt else [])]

    return _tool("sgpt", ask, [program, "--version"], env)


def aichat(home: Path, url: str) -> Tool | None:
    target = ENVS / "cargo"
    program = built("aichat", "cargo", ["cargo", "install", "--quiet", "--locked", "--root", str(target), "aichat"], {})
    if program is None:
        return None
    models = [{"name": name} for name in MODELS]
    client = {"type": "openai-compatible", "name": "loopback", "api_base": url, "api_key": KEY, "models": models}
    env = environment(home, AICHAT_CONFIG_DIR=str(home))
    (home / "config.yaml").write_text(
        json.dumps({"model": f"loopback:{MODELS[0]}", "save_session": True, "clients": [client]})
    )

    def ask(model: str, prompt: str | None) -> Sequence[str]:
        return [str(program), "-m", f"loopback:{model}", *([prompt] if prompt else [])]

    return _tool("aichat", ask, [str(program), "--version"], env)


def mods(home: Path, url: str) -> Tool | None:
    target = ENVS / "go/bin"
    module = "github.com/charmbracelet/mods@latest"
    program = built("mods", "go", ["go", "install", module], {"GOBIN": str(target)})
    if program is None:
        return None
    env = environment(home, XDG_CONFIG_HOME=str(home), OPENAI_API_KEY=KEY)
    models = {name: {"max-input-chars": 100_000_000} for name in MODELS}
    apis = {"loopback": {"base-url": url, "api-key": KEY, "models": models}}
    (home / "mods").mkdir(exist_ok=True)
    (home / "mods/mods.yml").write_text(json.dumps({"default-model": MODELS[0], "apis": apis}))

    def ask(model: str, prompt: str | None) -> Sequence[str]:
        return [str(program), "--api", "loopback", "--model", model, *([prompt] if prompt else [])]

    return _tool("mods", ask, [str(program), "--version"], env)


def curl(home: Path, url: str) -> Tool | None:
    program = debian("curl")
    if program is None:
        say("curl: left out, it is not there")
        return None

    def ask(model: str, prompt: str | None) -> Sequence[str]:
        if prompt is None:
            return [program, "-sN", *_JSON, "--data-binary", "@-", f"{url}/chat/completions"]
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True}
        return [program, "-sN", *_JSON, "--data-binary", json.dumps(body), f"{url}/chat/completions"]

    return _tool("curl", ask, [program, "--version"], environment(home))


_JSON = ("-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {KEY}")

_ALL: dict[str, Callable[[Path, str], Tool | None]] = {
    "gptpipe": gptpipe,
    "ten lines": ten_lines,
    "llm": llm,
    "sgpt": sgpt,
    "mods": mods,
    "aichat": aichat,
    "curl": curl,
}


def _tool(
    name: str, ask: Callable[[str, str | None], Sequence[str]], version_argv: Sequence[str], env: Mapping[str, str]
) -> Tool:
    shown = subprocess.run(version_argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    return Tool(name, shown.stdout.splitlines()[0].partition(" (")[0], ask, version_argv, env)


def install(home: Path, url: str, without: Sequence[str]) -> dict[str, Tool]:
    """Install what is not there yet and return the tools by name; each gets a folder in ``home`` for its settings."""
    found = {name: make(home / name, url) for name, make in _ALL.items() if name not in without}
    return {name: tool for name, tool in found.items() if tool is not None}
