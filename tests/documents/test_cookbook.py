"""gptpipe-examples(7): each recipe runs as it stands, in the order of the page, with the model ``echo``."""

from __future__ import annotations

import configparser
import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, Run, needs
from tests.documents.conftest import ECHO, GIT, Example, turns
from tests.harness import manual
from tests.harness.server import Server

PAGE = "gptpipe-examples.7"


TICKETS = '{"id":7,"text":"it is late"}\n{"id":9,"text":"thanks"}\n'

ENGINE = """
import json, sys
with open(sys.argv[3]) as asked, open(sys.argv[5], "w") as answers:
    for row in map(json.loads, asked):
        message = row["body"]["messages"][-1] | {"role": "assistant"}
        body = {"object": "chat.completion", "choices": [{"message": message, "finish_reason": "stop"}]}
        reply = {"custom_id": row["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
        print(json.dumps(reply), file=answers)
"""

RAY_DATA = """
import json, os
class Dataset(list):
    def write_json(self, folder):
        os.mkdir(folder)
        open(folder + "/0.json", "w").write("".join(json.dumps(row) + "\\n" for row in self))
def read_json(path, lines):
    return Dataset(map(json.loads, open(path)))
"""

RAY_LLM = """
from ray.data import Dataset
HttpRequestProcessorConfig = dict
def build_processor(config, preprocess, postprocess):
    def asked(row):
        message = row["payload"]["messages"][-1] | {"role": "assistant"}
        choice = {"message": message, "finish_reason": "stop"}
        return row | {"http_response": {"object": "chat.completion", "choices": [choice]}}
    return lambda rows: Dataset(postprocess(asked(preprocess(row))) for row in rows)
"""


def recipe(name: str) -> str:
    """Return the script of this name."""
    return manual.display(PAGE, name)


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_recipe_is_tried_in_the_order_of_the_page() -> None:
    tried = re.findall(r'recipe\("(\w+)"\)', Path(__file__).read_text())
    assert list(dict.fromkeys(tried)) == [display.name for display in manual.displays(PAGE)]


def test_commit(example: Example, repository: Path) -> None:
    assert example(recipe("commit"), env=GIT, cwd=repository).status == 0
    message = subprocess.check_output(["git", "-C", repository, "log", "--format=%B"], text=True)
    assert message.startswith("Write a commit message for this diff.")
    assert "+new line" in message


@pytest.mark.parametrize("model", ["echo:cut=20", "echo:refuse"])
def test_commit_does_nothing_without_a_complete_answer(model: str, example: Example, repository: Path) -> None:
    found = example(recipe("commit"), env=GIT, cwd=repository, model=model)
    assert found.status != 0
    assert "empty commit message" in found.err
    assert subprocess.run(["git", "-C", repository, "log"], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize(
    ("model", "subject"), [("echo:text=Add a line", "Add a line"), ("echo:cut=5", "")], ids=["answer", "cut"]
)
def test_hook(model: str, subject: str, example: Example, repository: Path) -> None:
    executable(repository / ".git/hooks/prepare-commit-msg", recipe("hook"))
    editor = executable(repository.parent / "editor", '#!/bin/sh\ncp "$1" "$0.saw"\necho "By hand" >>"$1"\n')
    found = example("git commit --quiet", env=GIT | {"GIT_EDITOR": str(editor)}, cwd=repository, model=model)
    assert found.status == 0, found.err
    assert (repository.parent / "editor.saw").read_text().partition("\n")[0] == subject
    log = ["git", "-C", str(repository), "log", "--format=%s %b"]
    assert subprocess.check_output(log, text=True).split() == [*subject.split(), "By", "hand"]
    assert not list((repository / ".git").glob("*.proposal"))


def test_review(example: Example, repository: Path) -> None:
    script = executable(repository.parent / "review", recipe("review"))
    setup = "git commit --quiet -m one; git switch --quiet -c branch; "
    change = "seq {} >>new.txt; git commit --quiet -am two; "
    found = example(setup + change.format(3) + str(script), env=GIT, cwd=repository)
    assert (found.status, found.err) == (0, "")
    assert found.text.startswith("Name what can break.")
    assert "+3\n" in found.text
    assert example(change.format(90_000) + str(script), env=GIT, cwd=repository)[:2] == (6, b"")
    assert example(f"{script} branch", env=GIT, cwd=repository)[:2] == (66, b""), "without a change it does not ask"


def test_make(example: Example, tmp_path: Path) -> None:
    needs("make")
    (tmp_path / "Makefile").write_text(recipe("make"))
    (tmp_path / "report.txt").write_text("long\n")
    assert example("make report.summary", model="echo:cut=9").status != 0
    assert not (tmp_path / "report.summary").exists()
    assert example("make report.summary").status == 0
    assert (tmp_path / "report.summary").read_text().endswith("==> report.txt <==\nlong\n")
    assert "up to date" in example("make report.summary").text


def write_key(home: Path) -> None:
    """Do what the page says about the key of a cron job."""
    folder = home / ".config/gptpipe"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(recipe("keyfile"))
    (folder / "openai.key").write_text("sk-from-the-file\n")
    (folder / "openai.key").chmod(0o600)


def by_cron(home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the line of the table as cron does: by ``sh``, in the home folder, with next to no environment."""
    variable, line = recipe("cron").splitlines()
    fields = line.split(maxsplit=5)
    assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields[:5])
    assert "%" not in fields[5]  # cron takes it for a newline
    name, _, path = variable.partition("=")
    assert (name, path.split(":")[0]) == ("PATH", "/home/me/.local/bin")
    assert "$" not in path  # cron does not expand it
    env = {"HOME": str(home), "SHELL": "/bin/sh", "LOGNAME": "me", name: path.replace("/home/me/.local/bin", str(BIN))}
    command = ["/bin/sh", "-c", fields[5]]
    return subprocess.run(command, cwd=home, env=env | more, capture_output=True, text=True, check=False)


def test_the_key_of_cron_comes_from_its_file(home: Path, server: Server) -> None:
    write_key(home)
    found = by_cron(home, OPENAI_BASE_URL=server.url)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")
    assert server.requests[0].headers["authorization"] == "Bearer sk-from-the-file"


def test_cron(home: Path) -> None:
    for day in (1, 2):
        found = by_cron(home, **ECHO)
        assert (found.returncode, found.stdout + found.stderr) == (0, ""), "cron would mail this"
        assert [turn["n"] for turn in turns(home, "disks")][-1] == day
    assert "What fills up" in (home / "disks.txt").read_text()


def test_cron_mails_a_failure(home: Path) -> None:
    found = by_cron(home, **ECHO | {"GPTPIPE_MODEL": "echo:status=401"})
    assert found.stdout == ""
    assert found.stderr.startswith("gptpipe: ")
    assert not (home / "disks.txt").exists()


def unit(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    needs("systemd-analyze")
    for name, text in (("service", recipe("service")), ("timer", recipe("timer"))):
        assert text.startswith(f"# /etc/systemd/system/digest.{name}\n")
        (tmp_path / f"digest.{name}").write_text(text)
    units = [tmp_path / "digest.service", tmp_path / "digest.timer"]
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_the_service_runs(example: Example, tmp_path: Path) -> None:
    service = unit(recipe("service"))["Service"]
    state = tmp_path / service["StateDirectory"]
    state.mkdir()
    variable, _, value = service["Environment"].partition("=")
    env = {"HOME": str(tmp_path), variable: value.replace("%S", str(tmp_path))}
    unset = {name: None for name in os.environ if name.startswith("XDG_")}
    assert example(shlex.join(shlex.split(service["ExecStart"])), env=env | unset) == (0, b"", "")
    assert "What fills up" in (state / "disks.txt").read_text()
    assert (state / ".local/share/gptpipe/sessions/disks.jsonl").exists()


def test_the_credential_of_the_service_is_the_key(tmp_path: Path, example: Example, server: Server) -> None:
    name, _, path = unit(recipe("service"))["Service"]["LoadCredential"].partition(":")
    assert os.path.isabs(path)
    (tmp_path / name).write_text("sk-secret\n")
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path), "OPENAI_BASE_URL": server.url}
    assert example("gptpipe hi", model="gpt-5.5", env=env).out == b"hi\n"
    assert server.requests[0].headers["authorization"] == "Bearer sk-secret"


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
    found = example(recipe("case"), model=model)
    assert (found.status, found.out) == (status, out)
    assert err in found.err


def test_case_without_the_file(example: Example) -> None:
    assert "wrong with report.txt" in example(recipe("case")).err


def test_retry(example: Example, tmp_path: Path) -> None:
    script = 'sleep() { echo "sleep $1"; }\n' + recipe("retry")
    assert example(script, model="echo:text=roses").status == 0
    assert (tmp_path / "poem.txt").read_text() == "roses\n"
    (tmp_path / "poem.txt").unlink()
    found = example(script, model="echo:cut=3")
    assert (found.status, found.text.split()[1::2]) == (75, ["60", "600", "3000", "0"])
    assert not (tmp_path / "poem.txt").exists()
    assert example(script, model="echo:status=401")[:2] == (77, b"")


def test_fallback(example: Example, server: Server, home: Path, tmp_path: Path) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text(
        f'[profiles.openai]\nbase_url = "{server.url}"\n[profiles.mistral]\nbase_url = "{server.url}"\n'
    )
    (tmp_path / "question.txt").write_text("why\n")
    server.json(503, {"error": {"message": "down"}})
    assert example(recipe("fallback"), model="").status == 0
    assert "why" in (tmp_path / "answer.txt").read_text()
    assert [request.body["model"] for request in server.requests] == ["gpt-5.5", "mistral-large-latest"]
    server.json(413, {"error": {"message": "too long"}})
    assert example(recipe("fallback"), model="").status == 0  # that of the case, as nothing was tried again
    assert len(server.requests) == 3


MAIL = b"From: a@example.org\nSubject: caf\xe9\n\nCome for a drink.\n"


@pytest.mark.parametrize(
    ("model", "topic"),
    [
        ("echo:text=private", "private"),
        ("echo:text=private\nBcc: thief@example.org", "unknown"),
        ("echo:cut=3", "unknown"),
        ("echo", "unknown"),
    ],
    ids=["topic", "a header in the answer", "cut", "talk"],
)
def test_mail(model: str, topic: str, shell: Run, tmp_path: Path) -> None:
    script = executable(tmp_path / "filter", recipe("mail"))
    found = shell(str(script), stdin=MAIL, env=ECHO | {"GPTPIPE_MODEL": model, "TMPDIR": str(tmp_path)})
    assert (found.status, found.out) == (0, f"X-Topic: {topic}\n".encode() + MAIL)
    assert not list(tmp_path.glob("tmp.*"))


REVIEWS = 'id,stars,text\n1,5,"good, very"\n2,1,bad\n3,4,fine\n'


def test_csv(example: Example, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text(REVIEWS)
    for _ in range(2):
        assert example(recipe("csv")) == (0, b"", "")
    before, after = (csv.DictReader(text.splitlines()) for text in (REVIEWS, (tmp_path / "verdicts.csv").read_text()))
    for row, found in zip(before, after, strict=True):
        assert found.items() >= {**row, "answer": f"One word, good or bad: {row['text']}", "status": "0"}.items()


def test_fields(example: Example, tmp_path: Path) -> None:
    needs("jq")
    (tmp_path / "tickets.jsonl").write_text(TICKETS)
    (tmp_path / "topic.json").write_text('{"type":"object","properties":{"topic":{"type":"string"}}}')
    assert example(recipe("fields"), model='echo:text={"topic":"time"}') == (0, b"", "")
    expected = [{**json.loads(line), "topic": "time"} for line in TICKETS.splitlines()]
    assert rows(tmp_path / "sorted.jsonl") == expected


def test_statistics(example: Example, tmp_path: Path) -> None:
    needs("jq", "sqlite3")
    (tmp_path / "reviews.csv").write_text(REVIEWS)
    setup = "gptpipe-map --csv -f reviews.csv -o results.jsonl -m echo:text=good x\n"
    found = example(setup + recipe("statistics"))
    assert (found.status, found.err) == (0, "")
    assert [line.split() for line in found.text.splitlines()][::2] == [
        ["answer", "reviews", "stars"],
        ["good", "3", "3.3"],
    ]


def test_join(example: Example, tmp_path: Path) -> None:
    needs("jq")
    (tmp_path / "tickets.jsonl").write_text(TICKETS)
    found = example(recipe("join"))
    assert [json.loads(line) for line in found.text.splitlines()] == [
        {"id": number, "topic": f"The topic, in one word: {text}", "mood": f"The mood, in one word: {text}"}
        for number, text in ((7, "it is late"), (9, "thanks"))
    ]


def test_vote(example: Example) -> None:
    assert example(recipe("vote"), model="echo:text=yes").text.split() == ["5", "yes"]


def test_votes(example: Example, tmp_path: Path) -> None:
    needs("jq", "sqlite3")
    (tmp_path / "tickets.jsonl").write_text(TICKETS)
    found = example(recipe("votes"), model="echo:text=yes")
    assert (found.status, found.err, found.text.split()) == (0, "", ["7,yes,5", "9,yes,5"])
    assert not any("same_as" in row for row in rows(tmp_path / "votes.jsonl"))
    votes = "7,no\n7,yes\n9,yes\n7,no\n9,yes\n"
    counted = example(f"cat >votes.csv <<.\n{votes}.\n" + recipe("votes").partition(">votes.csv")[2])
    assert counted.text.split() == ["7,no,2", "9,yes,2"]


def test_shard(example: Example, tmp_path: Path) -> None:
    words = [f"word {number}" for number in range(50)]
    (tmp_path / "words.txt").write_text("".join(f"{word}\n" for word in words))
    assert example(recipe("shard")) == (0, b"", "")
    found = {row["record"]: row["answer"] for row in rows(tmp_path / "results.jsonl")}
    assert found == {word: f"Translate into German: {word}" for word in words}
    assert len(list(tmp_path.glob("part.*.jsonl"))) == 8


def test_vllm(example: Example, tmp_path: Path) -> None:
    """Engines that answer as vLLM does; make engines runs the real one."""
    (tmp_path / "tickets.jsonl").write_text(TICKETS)
    executable(tmp_path / "vllm", f"#!{sys.executable}\n{ENGINE}")
    found = example(recipe("vllm"), env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "OPENAI_API_KEY": "k"}, model="m")
    assert (found.status, found.err) == (0, "")
    answers = [(row["record"]["id"], row["answer"]) for row in rows(tmp_path / "results.jsonl")]
    assert answers == [(7, "The topic, in one word: it is late"), (9, "The topic, in one word: thanks")]


def test_ray(example: Example, tmp_path: Path) -> None:
    """A module in the place of Ray, which asks nobody, gives the two functions rows as Ray does."""
    (tmp_path / "words.txt").write_text("house\ntree\n")
    (tmp_path / "ask.py").write_text(recipe("ray"))
    (tmp_path / "ray/data/llm").mkdir(parents=True)
    for name, text in (("", "from . import data"), ("data", RAY_DATA), ("data/llm", RAY_LLM)):
        (tmp_path / "ray" / name / "__init__.py").write_text(text)
    found = example(recipe("rayfiles"), env={"PYTHONPATH": str(tmp_path), "OPENAI_API_KEY": "k"}, model="m")
    assert (found.status, found.err) == (0, "")
    answers = [(row["record"], row["answer"]) for row in rows(tmp_path / "results.jsonl")]
    assert answers == [(word, f"Translate into German: {word}") for word in ("house", "tree")]


def test_daily(example: Example, home: Path) -> None:
    name = time.strftime("log-%Y-%m-%d")
    assert example("gptpipe -s log-2020-01-01 'The disk was full.'").status == 0
    found = example("uptime() { echo load: 9; }\n" + recipe("daily"))
    assert found.status == 0, found.err
    first, second = (turn["messages"][0]["content"] for turn in turns(home, name))
    assert first.endswith("\n\nThe disk was full.\n")
    assert second == "Is this machine busy?\n\nload: 9\n"
    assert example("uptime() { echo load: 9; }\n" + recipe("daily")).status == 0
    assert len(turns(home, name)) == 3


def test_fork(example: Example, home: Path) -> None:
    example("gptpipe -s trip 'Three days in Lisbon.'")
    assert example(recipe("fork")) == (0, b"And by train?\n", "")
    assert [len(turns(home, name)) for name in ("trip", "trip-by-train")] == [1, 2]


def test_code(example: Example, tmp_path: Path) -> None:
    example("gptpipe -s trip", stdin=b"text\n```py\nprint(1)\n```\n")
    assert example(recipe("code")) == (0, b"", "")
    assert (tmp_path / "trip.py").read_text() == "print(1)\n"


def test_finetune(example: Example, home: Path, tmp_path: Path) -> None:
    needs("jq")
    example("gptpipe -s trip -S 'Be brief.' one; gptpipe -s trip -m echo:cut=2 two; gptpipe -s trip -m echo three")
    assert len(turns(home, "trip")) == 3
    assert example(recipe("finetune")) == (0, b"", "")
    lines = rows(tmp_path / "training.jsonl")
    assert [line.keys() for line in lines] == [{"messages"}] * 2
    assert [[message["content"] for message in line["messages"]] for line in lines] == [
        ["Be brief.", "one", "one"],
        ["Be brief.", "three", "three"],
    ]


def test_budget(example: Example, home: Path) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text(recipe("budget"))
    shown = example("gptpipe-config show").text
    assert "day_tokens = 200000\n" in shown
    assert "month_tokens = 2000000\n" in shown


def test_stop(example: Example, server: Server, home: Path, tmp_path: Path) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    (home / ".config/gptpipe/config.toml").write_text("[budget]\nday_tokens = 1\n")
    (tmp_path / "questions.txt").write_text("one\n-two\nthree\n")
    found = example(recipe("stop"), env={"GPTPIPE_BASE_URL": server.url}, model="m")
    assert (found.status, found.out) == (6, b"one\n")
    assert found.err.endswith("the budget is used up; the rest must wait\n")
    assert len(server.requests) == 1
    (home / ".config/gptpipe/config.toml").unlink()
    assert example(recipe("stop")) == (0, b"one\n-two\nthree\n", "")


def test_cost(example: Example, tmp_path: Path) -> None:
    needs("jq")
    (tmp_path / "words.txt").write_text("house\ntree\n")
    env = {"OPENAI_API_KEY": "sk-x"}
    found = example(recipe("cost"), model="gpt-4o", env=env).json()
    assert (found["records"], 0 < found["price"] < 0.01) == (2, True)


@pytest.mark.parametrize(("model", "name"), [("echo", "OK"), ("echo:status=503", "TEMPFAIL")])
def test_log(model: str, name: str, example: Example, tmp_path: Path) -> None:
    needs("jq")
    example(recipe("log"), model=model)
    assert (tmp_path / "calls.tsv").read_text().split("\t")[:2] == [name, model]


def test_cache(example: Example, server: Server, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("I wrote this.\n")
    found = example(recipe("cache"), env={"GPTPIPE_BASE_URL": server.url}, model="m")
    half = len(found.out) // 2
    assert (found.status, found.out[:half]) == (0, found.out[half:])
    assert len(server.requests) == 1
