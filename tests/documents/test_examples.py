"""The examples of the manual and the README run as they stand, in a real shell, with the model ``echo``."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptpipe.settings import file
from gptpipe.usage import ledger
from tests.conftest import Run, needs
from tests.harness import manual
from tests.harness.processes import Result
from tests.harness.server import Server

PAGE = "gptpipe.1"
SESSION = "gptpipe-session.5"
ECHO = {"GPTPIPE_MODEL": "echo", "GPTPIPE_RETRY": "0"}
GIT = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")} | {
    "GIT_EDITOR": "true"
}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
COMMIT = manual.display(PAGE, "commit")

Example = Callable[..., Result]


@pytest.fixture
def example(shell: Run) -> Example:
    """Run the text of an example in the test's folder, as ``shell`` does, with another ``model`` if one is named."""

    def call(script: str, *, model: str = "echo", env: dict[str, str] | None = None, **more: Any) -> Result:
        return shell(script, env=ECHO | {"GPTPIPE_MODEL": model} | (env or {}), **more)

    return call


def sessions(home: Path) -> Path:
    return home / ".local/share/gptpipe/sessions"


def turns(home: Path, name: str) -> list[Any]:
    return [json.loads(line) for line in (sessions(home) / f"{name}.jsonl").read_text().splitlines()]


def test_each_display_is_named_and_tried_here_or_in_test_documents() -> None:
    tests = Path(__file__).read_text() + Path(__file__).with_name("test_documents.py").read_text()
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


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with a file staged."""
    needs("git")
    path = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", path], check=True)
    (path / "new.txt").write_text("new line\n")
    subprocess.run(["git", "-C", path, "add", "new.txt"], check=True)
    return path


@pytest.mark.parametrize("script", [COMMIT, manual.pipelines()[0]], ids=["manual", "readme"])
def test_commit(script: str, example: Example, repository: Path) -> None:
    assert example(script, env=GIT, cwd=repository).status == 0
    message = subprocess.check_output(["git", "-C", repository, "log", "--format=%B"], text=True)
    assert message.startswith("Write a commit message for this diff.")
    assert "+new line" in message


@pytest.mark.parametrize("script", [COMMIT, manual.pipelines()[0]], ids=["manual", "readme"])
def test_commit_does_nothing_without_a_complete_answer(script: str, example: Example, repository: Path) -> None:
    found = example(script, env=GIT, cwd=repository, model="echo:cut=20")
    assert found.status != 0
    assert "empty commit message" in found.err
    assert subprocess.run(["git", "-C", repository, "log"], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("script", [manual.display(PAGE, "loop"), manual.pipelines()[2]], ids=["manual", "readme"])
def test_loop(script: str, example: Example, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one\n-two\nthree\n")
    assert example(script) == (0, b"", "")
    assert (tmp_path / "mots.txt").read_text() == "one\n-two\nthree\n"


def crontab_command() -> str:
    fields = manual.display(PAGE, "cron").split(maxsplit=5)
    assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields[:5])
    assert "%" not in fields[5]  # cron takes it for a newline
    return fields[5]


def by_cron(command: str, home: Path, model: str) -> subprocess.CompletedProcess[str]:
    """Run a command as cron does: by ``sh``, in the home folder, with next to no environment."""
    env = ECHO | {"GPTPIPE_MODEL": model, "HOME": str(home), "PATH": os.environ["PATH"], "SHELL": "/bin/sh"}
    return subprocess.run(["/bin/sh", "-c", command], cwd=home, env=env, capture_output=True, text=True, check=False)


def test_cron(home: Path) -> None:
    for day in (1, 2):
        found = by_cron(crontab_command(), home, "echo")
        assert (found.returncode, found.stdout + found.stderr) == (0, ""), "cron would mail this"
        assert [turn["n"] for turn in turns(home, "disks")][-1] == day
    assert "What fills up" in (home / "disks.txt").read_text()


def test_cron_mails_a_failure(home: Path) -> None:
    found = by_cron(crontab_command(), home, "echo:status=401")
    assert found.stdout == ""
    assert found.stderr.startswith("gptpipe: ")
    assert not (home / "disks.txt").exists()


@pytest.mark.parametrize(
    ("model", "status", "out", "err"),
    [
        ("echo:text=short", 0, b"short\n", ""),
        ("echo:finish=length", 0, b"", "no use asking again"),
        ("echo:refuse", 0, b"", "no use asking again"),
        ("echo:empty", 0, b"", "no use asking again"),
        ("echo:status=413", 0, b"", "wrong with report.txt"),
        ("echo:status=503", 0, b"", "try again later"),
        ("echo:status=401", 1, b"", "someone must look"),
    ],
)
def test_case(model: str, status: int, out: bytes, err: str, example: Example, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("long\n")
    found = example(manual.display(PAGE, "case"), model=model)
    assert (found.status, found.out) == (status, out)
    assert err in found.err


def test_case_without_the_file(example: Example) -> None:
    assert "wrong with report.txt" in example(manual.display(PAGE, "case")).err


def test_retry(example: Example, tmp_path: Path) -> None:
    script = 'sleep() { echo "sleep $1"; }\n' + manual.display(PAGE, "retry")
    assert example(script, model="echo:text=roses").status == 0
    assert (tmp_path / "poem.txt").read_text() == "roses\n"
    (tmp_path / "poem.txt").unlink()
    found = example(script, model="echo:cut=3")
    assert (found.status, found.text.split()[1::2]) == (75, ["60", "600", "3000", "0"])
    assert not (tmp_path / "poem.txt").exists()
    assert example(script, model="echo:status=401")[:2] == (77, b"")


def test_make(example: Example, tmp_path: Path) -> None:
    needs("make")
    (tmp_path / "Makefile").write_text(manual.display(PAGE, "make"))
    (tmp_path / "report.txt").write_text("long\n")
    assert example("make report.summary", model="echo:cut=9").status != 0
    assert not (tmp_path / "report.summary").exists()
    assert example("make report.summary").status == 0
    assert (tmp_path / "report.summary").read_text().endswith("==> report.txt <==\nlong\n")
    assert "up to date" in example("make report.summary").text


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(manual.display(PAGE, name))
    return parser


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    needs("systemd-analyze")
    for name, text in (("service", manual.display(PAGE, "service")), ("timer", manual.display(PAGE, "timer"))):
        assert text.startswith(f"# /etc/systemd/system/digest.{name}\n")
        (tmp_path / f"digest.{name}").write_text(text)
    units = [tmp_path / "digest.service", tmp_path / "digest.timer"]
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_the_service_runs(example: Example, tmp_path: Path) -> None:
    service = unit("service")["Service"]
    state = tmp_path / service["StateDirectory"]
    state.mkdir()
    variable, _, value = service["Environment"].partition("=")
    env = {"HOME": str(tmp_path), variable: value.replace("%S", str(tmp_path))}
    unset = {name: None for name in os.environ if name.startswith("XDG_")}
    assert example(shlex.join(shlex.split(service["ExecStart"])), env=env | unset) == (0, b"", "")
    assert "What fills up" in (state / "disks.txt").read_text()
    assert (state / ".local/share/gptpipe/sessions/disks.jsonl").exists()


def test_the_credential_of_the_service_is_the_key(tmp_path: Path, example: Example, server: Server) -> None:
    name, _, path = unit("service")["Service"]["LoadCredential"].partition(":")
    assert os.path.isabs(path)
    (tmp_path / name).write_text("sk-secret\n")
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path), "OPENAI_BASE_URL": server.url}
    assert example("gptpipe hi", model="gpt-5.5", env=env).out == b"hi\n"
    assert server.requests[0].headers["authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("page", [PAGE, SESSION])
def test_finetune(page: str, example: Example, home: Path, tmp_path: Path) -> None:
    needs("jq")
    example("gptpipe -s trip -S 'Be brief.' one; gptpipe -s trip -m echo:cut=2 two; gptpipe -s trip -m echo three")
    assert len(turns(home, "trip")) == 3
    assert example(manual.display(page, "finetune")) == (0, b"", "")
    lines = [json.loads(line) for line in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert [line.keys() for line in lines] == [{"messages"}] * 2
    assert [[message["content"] for message in line["messages"]] for line in lines] == [
        ["Be brief.", "one", "one"],
        ["Be brief.", "three", "three"],
    ]


@pytest.mark.parametrize("script", [manual.display(PAGE, "json"), manual.pipelines()[4]], ids=["manual", "readme"])
def test_json(script: str, example: Example) -> None:
    needs("jq")
    answer, tokens = example(script).text.splitlines()
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


def test_the_lasting_conversation_of_the_readme(example: Example, home: Path) -> None:
    assert example(manual.pipelines()[1]).status == 0
    assert [turn["n"] for turn in turns(home, "disks")] == [1, 2]


def test_the_whole_file_of_the_readme(example: Example, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("long\n")
    assert example(manual.pipelines()[3]) == (0, b"", "")
    assert (tmp_path / "summary.txt").read_text().endswith("long\n")
    (tmp_path / "summary.txt").unlink()
    assert example(manual.pipelines()[3], model="echo:cut=3").out == b"status 75\n"
    assert not (tmp_path / "summary.txt").exists()


def test_the_readme_has_five_pipelines() -> None:
    assert len(manual.pipelines()) == 5


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
    assert example(manual.display(CHAT, "chat"), stdin=b"hello\n") == (0, b"hello\n", "Bye!\n")


def test_chat_script(example: Example) -> None:
    assert example(manual.display(CHAT, "chat-script")) == (0, b"Name a fruit.\nAnd one of another colour.\n", "Bye!\n")


def test_models(example: Example, server: Server, home: Path) -> None:
    server.json(200, {"data": [{"id": "qwen3"}]})
    path = home / ".config/gptpipe/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(f'[profiles.ollama]\nbase_url = "{server.url}"\n')
    env = {"GPTPIPE_MODEL": ""}
    assert example(manual.display("gptpipe-models.1", "models"), env=env) == (0, b"qwen3\n", "")


USAGE = "gptpipe-usage.1"


def test_usage(example: Example, run: Run) -> None:
    needs("jq")
    for session in ("a", "b", "b"):
        run("gptpipe", "-m", "echo", "-s", session, "hi")
    assert "\u2588" in example(manual.display(USAGE, "plot")).text
    assert example(manual.display(USAGE, "most")).json()["session"] == "b"


def test_the_examples_of_usage_have_its_keys(run: Run, home: Path) -> None:
    run("gptpipe", "-m", "echo", "hi")
    row = json.loads(manual.display(USAGE, "row"))
    assert list(run("gptpipe-usage", "--by", "model", "--json").json()) == list(row)
    assert list(json.loads(manual.display(USAGE, "entry"))) == list(ledger.Entry._fields)


CONFIG = "gptpipe-config.1"


def test_config(example: Example) -> None:
    assert example(manual.display(CONFIG, "clear")) == (0, b"0\n", "")
    shown = example(manual.display(CONFIG, "show"), env={"GPTPIPE_MODEL": ""}).text
    assert 'profile = "groq"' in shown
