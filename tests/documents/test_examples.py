"""The examples of the manual run as they stand, in a real shell, with the model ``echo``."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from gptpipe.settings import file
from gptpipe.usage import ledger
from tests.conftest import Run, needs
from tests.documents.conftest import Example, sessions, turns
from tests.harness import manual
from tests.harness.server import DONE, Server, finish, say

PAGE = "gptpipe.1"
SESSION = "gptpipe-session.5"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


def test_each_display_is_named_and_tried() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for page in manual.PAGES:
        for display in manual.displays(page.name):
            assert display.name, f"{page.name}: what is {display.text!r}?"
            assert f'"{display.name}")' in tests, f"{page.name}: {display.name}"


def test_pipe(example: Example, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main;\n")
    assert example(manual.display(PAGE, "pipe")) == (0, b"What does this program do?\n\nint main;\n", "")


def test_session(example: Example, home: Path) -> None:
    assert example(manual.display(PAGE, "session")).status == 0
    assert [turn["n"] for turn in turns(home, "trip")] == [1, 2]


def test_loop(example: Example, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one\n-two\nthree\n")
    assert example(manual.display(PAGE, "loop")) == (0, b"", "")
    assert (tmp_path / "mots.txt").read_text() == "one\n-two\nthree\n"


def test_finetune(example: Example, home: Path, tmp_path: Path) -> None:
    needs("jq")
    example("gptpipe -s trip -S 'Be brief.' one; gptpipe -s trip -m echo:cut=2 two; gptpipe -s trip -m echo three")
    assert len(turns(home, "trip")) == 3
    assert example(manual.display(SESSION, "finetune")) == (0, b"", "")
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [line.keys() for line in lines] == [{"messages"}] * 2
    assert [[message["content"] for message in line["messages"]] for line in lines] == [
        ["Be brief.", "one", "one"],
        ["Be brief.", "three", "three"],
    ]


def test_json(example: Example) -> None:
    needs("jq")
    answer, tokens = example(manual.display(PAGE, "json")).text.splitlines()
    assert answer == "Name a fruit."
    assert int(tokens) > 0


@pytest.mark.parametrize(("model", "name"), [("echo", "OK"), ("echo:status=503", "TEMPFAIL")])
def test_meta(model: str, name: str, example: Example, tmp_path: Path) -> None:
    example(manual.display(PAGE, "meta"), model=model)
    assert json.loads((tmp_path / "fruit.json").read_text())["name"] == name


def test_rehearse(example: Example) -> None:
    assert example(manual.display(PAGE, "rehearse")).out == b"75\nhel\n75\n"


@pytest.fixture
def trip(example: Example) -> None:
    """A session of two turns."""
    needs("jq", "flock")
    assert example("gptpipe -s trip one && gptpipe -s trip two").status == 0


@pytest.mark.usefixtures("trip")
def test_last(example: Example) -> None:
    assert example(manual.display(SESSION, "last")).out == b"two\n"


@pytest.mark.usefixtures("trip")
def test_read(example: Example) -> None:
    assert (
        example(manual.display(SESSION, "read")).out
        == b"user: one\n\nassistant: one\n\nuser: two\n\nassistant: two\n\n"
    )


@pytest.mark.usefixtures("trip")
def test_tokens(example: Example, home: Path) -> None:
    total = turns(home, "trip")[-1]["total_tokens"]
    assert json.loads(example(manual.display(SESSION, "tokens")).out) == ["echo", total]


def test_attachments(tmp_path: Path, home: Path, example: Example) -> None:
    needs("jq")
    (tmp_path / "dot.png").write_bytes(PNG)
    assert example("gptpipe -s trip -f dot.png look && gptpipe -s trip again").status == 0
    digest = hashlib.sha256(PNG).hexdigest()
    assert example(manual.display(SESSION, "attachments")).text == f"attachment:image/png;sha256,{digest}\n"
    assert (home / ".local/share/gptpipe/attachments" / digest).read_bytes() == PNG


@pytest.mark.usefixtures("trip")
def test_undo(example: Example, home: Path) -> None:
    assert example(manual.display(SESSION, "undo")) == (0, b"", "")
    assert [turn["n"] for turn in turns(home, "trip")] == [1]
    assert (sessions(home) / "trip.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_settings_file(tmp_path: Path, example: Example) -> None:
    path = tmp_path / "config.toml"
    path.write_text(manual.display("gptpipe-config.5", "config"))
    found = file.load(path, required=True)
    assert found.top["model"] in found.aliases
    assert example(f"gptpipe --config {path} -m echo hi").out == b"hi\n"


def test_the_role(tmp_path: Path, home: Path, server: Server, example: Example) -> None:
    folder = home / ".config/gptpipe/roles"
    folder.mkdir(parents=True)
    (folder / "commit.md").write_text(manual.display("gptpipe-config.5", "commit"))
    (tmp_path / "diff").write_text("+new line\n")
    assert "Ql git diff | gptpipe \\-r commit\n" in manual.source("gptpipe-config.5")
    env = {"OPENAI_BASE_URL": server.url}
    found = example("cat diff | gptpipe -r commit", model="gpt-5.5", env=env)
    assert found.out == b"Write a commit message for this diff.\n\n+new line\n"
    body = server.requests[0].body
    assert body["messages"][0]["content"].startswith("You write commit messages in English:")
    assert body["temperature"] == 0.2


@pytest.fixture
def coded(run: Run, home: Path) -> Path:
    """A session whose last answer has code."""
    run("gptpipe", "-m", "echo", "-s", "trip", "text\n```py\nprint(1)\n```")
    return sessions(home)


def test_answer_again(example: Example, coded: Path, tmp_path: Path) -> None:
    assert example(manual.display("gptpipe-sessions.1", "answer-again")) == (0, b"", "")
    assert (tmp_path / "answer.md").read_text() == "text\n```py\nprint(1)\n```\n"
    assert (tmp_path / "trip.py").read_text() == "print(1)\n"


def test_fork(example: Example, coded: Path, home: Path) -> None:
    assert example(manual.display("gptpipe-sessions.1", "fork")) == (0, b"And by train?\n", "")
    assert [len(turns(home, name)) for name in ("trip", "trip-by-train")] == [1, 2]


def test_largest(example: Example, coded: Path) -> None:
    line = (coded / "trip.jsonl").read_bytes()
    for count in range(1, 5):
        (coded / f"s{count}.jsonl").write_bytes(count * line)
    found = example(manual.display("gptpipe-sessions.1", "largest")).text
    assert [line.split()[0] for line in found.splitlines()] == ["s4", "s3", "s2"]


def test_prune(example: Example, coded: Path) -> None:
    line = (coded / "trip.jsonl").read_bytes()
    (coded / "old.jsonl").write_bytes(re.sub(rb'"at":"[^"]*"', b'"at":"2020-01-01T00:00:00Z"', line))
    (coded / "hurt.jsonl").write_bytes(b"damage\n" + line)
    assert example(manual.display("gptpipe-sessions.1", "prune")) == (0, b"", "")
    assert sorted(os.listdir(coded)) == ["hurt.jsonl", "hurt.jsonl.damaged", "trip.jsonl"]


MAP = "gptpipe-map.1"


def test_map_lines(example: Example, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("house\ntree\n")
    out = b"Translate to German: house\nTranslate to German: tree\n"
    assert example(manual.display(MAP, "lines")) == (0, out, "")


def test_map_pictures(example: Example, tmp_path: Path) -> None:
    (tmp_path / "a picture.png").write_bytes(PNG)
    assert example(manual.display(MAP, "pictures")).status == 0
    row = json.loads((tmp_path / "captions.jsonl").read_text())
    assert (row["record"], row["answer"]) == ("./a picture.png", "Describe the picture in a sentence.")


def test_map_table(example: Example, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text('stars,text\n5,"good, very"\n1,bad\n')
    for _ in range(2):
        assert example(manual.display(MAP, "table")) == (0, b"", "")
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == [f"One word, good or bad: {text}" for text in ("good, very", "bad")]


def test_batch_queued(example: Example, server: Server, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text('stars,text\n5,"good, very"\n')
    server.batches.polls = 0
    result = example(manual.display("gptpipe-batch.1", "queued"), env={"GPTPIPE_BASE_URL": server.url}, model="m")
    assert result == (0, b"", "")
    assert json.loads((tmp_path / "results.jsonl").read_text())["answer"] == "Good or bad? good, very"


def test_batch_submit(example: Example, server: Server, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text('stars,text\n5,"good, very"\n')
    server.batches.polls = 0
    result = example(manual.display("gptpipe-batch.1", "submit"), env={"GPTPIPE_BASE_URL": server.url}, model="m")
    assert result == (0, b"", "")
    assert json.loads((tmp_path / "results.jsonl").read_text())["answer"] == "Good or bad? good, very"


def test_batch_engine(example: Example, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("house\n")
    engine = tmp_path / "vllm"
    engine.write_text(
        """#!/usr/bin/env python3
import json, sys
request = json.loads(open(sys.argv[3]).read())
choice = {"index": 0, "message": {"role": "assistant", "content": "Haus"}, "finish_reason": "stop"}
response = {"status_code": 200, "body": {"object": "chat.completion", "choices": [choice]}}
reply = {"id": "vllm", "custom_id": request["custom_id"], "response": response, "error": None}
open(sys.argv[5], "w").write(json.dumps(reply))
"""
    )
    engine.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OPENAI_API_KEY": "sk-x"}
    result = example(manual.display("gptpipe-batch.1", "engine"), env=env)
    assert json.loads(result.out)["answer"] == "Haus"


def test_map_cost(example: Example, tmp_path: Path) -> None:
    needs("jq")
    (tmp_path / "words.txt").write_text("house\ntree\n")
    args = {"GPTPIPE_PROFILE": "openai", "OPENAI_API_KEY": "sk-x"}
    result = example(manual.display(MAP, "cost"), model="gpt-4o", env=args)
    assert 0 < float(result.out) < 0.01


def test_the_example_of_a_result_has_its_keys(run: Run) -> None:
    shown = json.loads(manual.display(MAP, "result"))
    assert list(run("gptpipe-map", "-m", "echo", "{}", stdin=b"a\n").json()) == list(shown)


CHAT = "gptpipe-chat.1"


def test_chat(example: Example) -> None:
    assert example(manual.display(CHAT, "chat"), stdin=b"hello\n") == (0, b"hello\n", "")


def test_chat_script(example: Example) -> None:
    assert example(manual.display(CHAT, "chat-script")) == (0, b"Name a fruit.\nAnd one of another colour.\n", "")


def test_models(example: Example, server: Server, home: Path) -> None:
    server.json(200, {"data": [{"id": "qwen3"}]})
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(f'[profiles.ollama]\nbase_url = "{server.url}"\n')
    env = {"GPTPIPE_MODEL": ""}
    assert example(manual.display("gptpipe-models.1", "models"), env=env) == (0, b"qwen3\n", "")


USAGE = "gptpipe-usage.1"


def test_usage(example: Example, run: Run, server: Server) -> None:
    needs("jq")
    for session in ("a", "b", "b"):
        run("gptpipe", "--base-url", server.url, "-m", "m", "-s", session, "hi")
    assert "\u2588" in example(manual.display(USAGE, "plot")).text
    assert example(manual.display(USAGE, "most")).json()["session"] == "b"


def test_the_examples_of_usage_have_its_keys(run: Run, server: Server) -> None:
    run("gptpipe", "--base-url", server.url, "-m", "m", "hi")
    row = json.loads(manual.display(USAGE, "row"))
    assert list(run("gptpipe-usage", "--by", "model", "--json").json()) == list(row)
    assert list(json.loads(manual.display(USAGE, "entry"))) == list(ledger.Entry._fields)


CONFIG = "gptpipe-config.1"


def test_config(example: Example) -> None:
    assert example(manual.display(CONFIG, "clear")) == (0, b"0\n", "")
    shown = example(manual.display(CONFIG, "show"), env={"GPTPIPE_MODEL": ""}).text
    assert 'profile = "groq"' in shown


@pytest.mark.parametrize(("more", "sent"), [("", 0), (',"finish_reason":"stop"', 1)], ids=["alone", "finished"])
def test_a_line_with_messages_is_sent_only_if_it_is_finished(
    more: str, sent: int, example: Example, home: Path
) -> None:
    """As gptpipe-session(5) says."""
    sessions(home).mkdir(parents=True)
    messages = '[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]'
    (sessions(home) / "mine.jsonl").write_text(f'{{"messages":{messages}{more}}}\n')
    found = example("gptpipe -n --json -s mine c").json()
    assert (found["turns_sent"], found["turns_dropped"]) == (sent, 1 - sent)


def test_azure(home: Path, server: Server, example: Example) -> None:
    """The profile with this machine's address: the deployment is in the path, the version in the query."""
    (home / ".config/gptpipe").mkdir(parents=True)
    text = manual.display("gptpipe-config.5", "azure").replace("https://NAME.openai.azure.com", server.url[:-3])
    (home / ".config/gptpipe/config.toml").write_text(text)
    (home / ".config/gptpipe/config.toml").chmod(0o600)
    server.reply(say("Hi."), finish(), DONE)
    assert example("gptpipe -n -p azure hello", env={"GPTPIPE_MODEL": ""}).out == b"Hi.\n"
    [request] = server.requests
    assert request.path == "/openai/deployments/DEPLOYMENT/chat/completions?api-version=2024-10-21"
    assert request.headers["api-key"]
    assert "authorization" not in request.headers
