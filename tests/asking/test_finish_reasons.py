"""The words with which servers end an answer: complete is what says so, and nothing else is kept as if it were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

LATER, REFUSED, ABSENT = 75, 4, 5

# From the documents and sources of the servers and proxies named.
REASONS = {
    "DeepSeek": {"insufficient_system_resource": LATER},
    "vLLM, SGLang": {"abort": LATER, "repetition": LATER},
    "Zhipu": {"sensitive": REFUSED, "network_error": LATER},
    "Cohere": {"ERROR_TOXIC": REFUSED, "USER_CANCEL": LATER, "TIMEOUT": LATER, "TOOL_CALL": ABSENT},
    "Gemini": {
        "SAFETY": REFUSED,
        "RECITATION": REFUSED,
        "LANGUAGE": REFUSED,
        "BLOCKLIST": REFUSED,
        "PROHIBITED_CONTENT": REFUSED,
        "SPII": REFUSED,
        "IMAGE_SAFETY": REFUSED,
        "OTHER": LATER,
        "FINISH_REASON_UNSPECIFIED": LATER,
        "MALFORMED_FUNCTION_CALL": LATER,
        "UNEXPECTED_TOOL_CALL": ABSENT,
    },
    "Anthropic": {"refusal": REFUSED, "pause_turn": LATER, "tool_use": ABSENT},
    "Bedrock": {"guardrail_intervened": REFUSED, "content_filtered": REFUSED, "malformed_model_output": LATER},
    "watsonx": {"not_finished": LATER, "cancelled": LATER, "time_limit": LATER, "error": LATER},
    "OpenAI": {"content_filter": REFUSED, "tool_calls": ABSENT, "function_call": ABSENT},
    "nobody": {"whatever": LATER},
}
EACH = [(word, status) for words in REASONS.values() for word, status in words.items()]


@pytest.mark.parametrize(("word", "status"), EACH, ids=[word for word, _ in EACH])
def test_an_answer_that_is_not_complete_is_not_kept_as_one(
    run: Any, tmp_path: Path, home: Path, word: str, status: int
) -> None:
    result = run("gptpipe", "-n", "-m", f"echo:finish={word}", "-o", "f", "--cache", "1d", "-s", "x", "--retry=0", "hi")
    assert (result.status, result.out) == (status, b"")
    assert word in result.err
    assert not (tmp_path / "f").exists()
    assert list(home.rglob("answers/*")) == []
    (turn,) = map(json.loads, (home / ".local/share/gptpipe/sessions/x.jsonl").read_text().splitlines())
    assert (turn["finish_reason"], turn["messages"][-1]["content"]) == (None, "hi")


@pytest.mark.parametrize(
    "word", ["stop", "STOP", "end_turn", "stop_sequence", "EOS", "eos_token", "COMPLETE", "completed"]
)
def test_a_complete_answer(run: Any, tmp_path: Path, home: Path, word: str) -> None:
    call = ("gptpipe", "-n", "-m", f"echo:finish={word}", "-o", "f", "--cache", "1d", "-s", "x", "hi")
    assert run(*call) == (0, b"", "")
    assert (tmp_path / "f").read_text() == "hi\n"
    assert len(list(home.rglob("answers/*.json"))) == 1
    (turn,) = map(json.loads, (home / ".local/share/gptpipe/sessions/x.jsonl").read_text().splitlines())
    assert turn["finish_reason"] == word


@pytest.mark.parametrize(
    "word", ["length", "MAX_TOKENS", "model_length", "model_context_window_exceeded", "token_limit"]
)
def test_a_truncated_answer(run: Any, tmp_path: Path, word: str) -> None:
    result = run("gptpipe", "-n", "-m", f"echo:finish={word}", "-o", "f", "hi")
    assert (result.status, result.out) == (3, b"")
    assert not (tmp_path / "f").exists()


def test_a_filtered_answer_without_text_is_a_refusal(run: Any) -> None:
    result = run("gptpipe", "-n", "-m", "echo:finish=SAFETY,empty", "hi")
    assert result == (4, b"", "gptpipe: a filter stopped the answer (finish reason 'SAFETY')\n")


def test_a_wish_for_a_tool_is_said(run: Any) -> None:
    result = run("gptpipe", "-n", "-m", "echo:finish=tool_calls,empty", "hi")
    assert (result.status, result.out) == (5, b"")
    assert result.err == "gptpipe: the model asked for a tool that was not offered (finish reason 'tool_calls')\n"
