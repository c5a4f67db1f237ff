"""The built-in profiles, the default model, and the model ``echo``."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

OPENAI = "openai"
DEFAULT_MODEL = "gpt-5.5"

# Endpoints by name. An empty api_key_env says that the server needs no key, wherever it stands; the profile openai
# has none here because OPENAI_API_KEY comes after systemd's credentials (gptpipe.settings.keys).
BUILT_IN: Mapping[str, Mapping[str, str]] = {
    OPENAI: {"base_url": "https://api.openai.com/v1"},
    "ollama": {"base_url": "http://localhost:11434/v1", "api_key_env": ""},
    "llamacpp": {"base_url": "http://localhost:8080/v1", "api_key_env": ""},
    "lmstudio": {"base_url": "http://localhost:1234/v1", "api_key_env": ""},
    "vllm": {"base_url": "http://localhost:8000/v1", "api_key_env": ""},
    "openrouter": {"base_url": "https://openrouter.ai/api/v1", "api_key_env": "OPENROUTER_API_KEY"},
    "groq": {"base_url": "https://api.groq.com/openai/v1", "api_key_env": "GROQ_API_KEY"},
    "mistral": {"base_url": "https://api.mistral.ai/v1", "api_key_env": "MISTRAL_API_KEY"},
    "deepseek": {"base_url": "https://api.deepseek.com/v1", "api_key_env": "DEEPSEEK_API_KEY"},
    "gemini": {"base_url": "https://generativelanguage.googleapis.com/v1beta/openai", "api_key_env": "GEMINI_API_KEY"},
    "anthropic": {"base_url": "https://api.anthropic.com/v1", "api_key_env": "ANTHROPIC_API_KEY"},
    "xai": {"base_url": "https://api.x.ai/v1", "api_key_env": "XAI_API_KEY"},
}


ECHO_URL = "http://echo.invalid/v1"
"""Stands for the address of the built-in model; it leads nowhere."""


def is_echo(model: str) -> bool:
    """Return whether the model is the built-in endpoint's, which needs no key and no network."""
    return model == "echo" or model.startswith("echo:")


def is_openai(base_url: str | None) -> bool:
    """Return whether a base URL is one of OpenAI's own, whatever the profile that names it: they have regions."""
    return base_url is not None and (urlsplit(base_url).hostname or "").endswith("api.openai.com")
