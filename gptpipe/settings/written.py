"""Settings as a settings file: those in effect, and a file to begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gptpipe.errors import UsageError, WriteError
from gptpipe.settings.built_in import DEFAULT_MODEL
from gptpipe.settings.file import TOP, Config, dotted
from gptpipe.settings.settings import TIMES, Price, Settings
from gptpipe.storage import create, failing
from gptpipe.text import toml
from gptpipe.text.address import masked, masked_headers, stored

_MASKS: Mapping[str, Callable[[Any], Any]] = {"base_url": masked, "proxy": masked, "headers": masked_headers}

STARTER = f"""\
# The settings of gptpipe. Every line is optional; gptpipe-config(5) has them all, gptpipe-config check tries them.

# The model that answers if none is named, and the endpoint that serves it. The built-in profiles are
# openai, anthropic, deepseek, gemini, groq, mistral, openrouter, xai, and here ollama, llamacpp, lmstudio, vllm.
# model = "{DEFAULT_MODEL}"
# profile = "openai"

# Stop waiting: seconds for a whole run, and for a server that sends nothing.
# max_time = 600
# idle_timeout = 300

# Short names for models: gptpipe -m fast.
# [aliases]
# fast = "gpt-5.4-mini"

# An endpoint of your own: gptpipe -p work. The key itself is never written here.
# [profiles.work]
# base_url = "https://llm.example.com/v1"
# model = "llama-3.3-70b"
# api_key_env = "WORK_API_KEY"

# What may be spent. When it is used up, the next call is refused.
# [budget]
# day_tokens = 1000000
# month_usd = 20
"""


def in_effect(settings: Settings, config: Config) -> str:
    """Return the settings as a settings file; what does not belong there, or is masked, is a comment."""
    values = settings._asdict()
    values |= {name: values[name] or 0 for name in TIMES}
    chat = {"question": values.pop("question"), "answer": values.pop("answer"), "history": values.pop("remember")}
    tables: dict[str, Mapping[str, Any]] = {
        "aliases": config.aliases,
        "chat": chat,
        "budget": values.pop("budget")._asdict(),
        "prices": {model: _price(price) for model, price in values.pop("prices").items()},
    }
    del values["key"]
    tables |= {f"profiles.{dotted((name,))}": table for name, table in config.profiles.items()}
    text = "".join(_line(name, value, belongs=name in TOP) for name, value in values.items())
    for name, table in tables.items():
        inner = "".join(_line(key, value, belongs=True) for key, value in table.items())
        text += f"\n[{name}]\n{inner}" if inner else ""
    return text


def _price(price: Price) -> dict[str, float]:
    return {name: item for name, item in price._asdict().items() if item is not None}


def _line(name: str, value: Any, *, belongs: bool) -> str:
    if value is None:
        return ""
    if (mask := _MASKS.get(name)) and mask(value) != value:
        # The address without its secrets stays, or a profile would lead to another place.
        rest = "" if name == "headers" else _line(name, stored(value), belongs=belongs)
        return f"# {toml.lines({name: mask(value)})}{rest}"
    try:
        line = toml.lines({name: value})
    except UsageError:
        return f"# {name} holds null, which TOML does not have\n"
    return line if belongs or not line else f"# {line}"


def start(path: Path) -> None:
    """Write a settings file to begin with: UsageError if one is there, WriteError if it cannot be written."""
    with failing(WriteError, f"cannot write {path}"):
        try:
            create(path, STARTER.encode())
        except FileExistsError:
            raise UsageError(
                f"{path} exists", "it is left as it is: gptpipe-config show prints what is in effect"
            ) from None
