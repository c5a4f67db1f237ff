"""Hostile input: the properties of ``torture.properties``, a guided search in the decoder, and arguments."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptpipe.errors import Status
from torture.frame import ROOT, Case, Rig, execute, manners, parallel
from torture.properties import Property, properties
from torture.wire import recordings

TITLE = "Fuzzing"

EXAMPLES = 1000  # of each property
RUNS = 700  # of programs with arguments that make no sense
SECONDS = 30  # of atheris
_ENV = ROOT / "torture/.envs/atheris"


def fuzzed(name: str, subject: Property) -> Case:
    """Return the case of a property that hypothesis tries to break."""
    inputs = 0

    @settings(max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(*subject.strategies))
    def run(values: tuple[Any, ...]) -> None:
        nonlocal inputs
        inputs += 1
        subject.check(*values)

    try:
        run()
    except BaseException as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        return Case(name, False, f"{error!r}: {notes}", inputs)
    return Case(name, True, inputs=inputs)


def _atheris(folder: Path) -> Case:
    """Let atheris look for a split that makes a difference, guided by what the decoder's code does."""
    name = "the decoder, by atheris"
    python = _ENV / "bin/python"
    if not python.exists():
        execute(folder, sys.executable, "-m", "venv", str(_ENV))
    install = (str(python), "-m", "pip", "install", "--quiet", "atheris>=3,<4", "xdg-base-dirs")
    made = execute(folder, *install, timeout=300)
    if made.status:
        return Case(name, False, f"cannot install atheris: {made}")
    seeds = folder / "seeds"
    seeds.mkdir()
    for recording in [*recordings("chat"), *recordings("responses")]:
        body = recording.data[recording.head :]
        (seeds / f"{recording.api}-{recording.framing}").write_bytes(b"\x05\1\0\x1f\2\3\7\0" + body)
    words = ('"data: "', '"<think>"', '"</think>"', r'"\\ud83d"', r'"\x0a\x0a"', r'"\x0d\x0a"', '"[DONE]"', '"error"')
    (folder / "words").write_text("\n".join(words) + "\n")
    options = [f"-max_total_time={SECONDS}", "-max_len=1500", "-dict=words", "-verbosity=1", "-timeout=10"]
    result = execute(
        folder,
        *(str(python), "-m", "torture.decoder", *options, str(seeds)),
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=SECONDS + 60,
    )
    done = re.search(r"Done (\d+) (?:runs|in)", result.err)
    return Case(name, result.status == 0 and done is not None, result.err[-900:], int(done[1]) if done else 0)


# Arguments


_PROGRAMS: dict[str, str] = {
    "gptpipe": "-f -n -S --encoding -s --history --history-tokens --no-save --lock-timeout -m -p --temperature -O -o "
    "--max-tokens --reasoning-effort --no-stream --json --meta --reasoning --max-time --idle-timeout --retry "
    "--max-input-tokens --cache --cache-only --base-url --proxy --cacert --config --dry-run -h --version -r -V -x "
    "--extract-last --schema --repair -e --save-role --over-budget --",
    "gptpipe-sessions": "list show search path copy rename remove check --json --header --last -n -x --yes --force "
    "--older-than --repair --lock-timeout -h --",
    "gptpipe-usage": "--json --since --by -h --header --config",
    "gptpipe-config": "show path check roles cache tokenizer -h --",
    "gptpipe-chat": "-s -S -m --history --reasoning --retry --max-time --cache --no-save -h --",
    "gptpipe-map": "-m {} {a} a {{ --json --jsonl --csv --input -j --retry --max-time --resume -o -x --schema -h --",
    "gptpipe-batch": "submit status fetch cancel list --requests-only --results --failed-records --wait --csv --jsonl "
    "-m {} {a} --text -o --force --schema -x --base-url -h --",
    "gptpipe-models": "-p --base-url --json -h --config",
}
_WORDS = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["echo", "echo:cut=1", "echo:status=429", "echo:x=", "s", "answer", "-", "@answer", "0", "-1", "1e9", "nan"]
    ),
    st.sampled_from(
        ["a=1", "a={", "=", "30m", "http://127.0.0.1:9", "[", "../x", "~", "\udcff", "x" * 300, "/dev/null"]
    ),
)
CALLS = st.sampled_from(sorted(_PROGRAMS)).flatmap(
    lambda program: st.tuples(
        st.just(program),
        st.lists(st.sampled_from(_PROGRAMS[program].split()) | _WORDS, max_size=6),
        st.binary(max_size=20),
    )
)


def _call(rig: Rig, call: tuple[str, list[str], bytes]) -> Case:
    """Run a program with arguments that make no sense: it does something sensible, or says what is wrong."""
    program, words, stdin = call
    with rig.home() as home:
        rig.run(home, "gptpipe", "-n", "-m", "echo", "-s", "s", "-o", "answer", "hi")
        # By the proxy that is not there nothing leaves the machine: gptpipe-config would fetch a vocabulary.
        env = {
            "GPTPIPE_MODEL": "echo",
            "GPTPIPE_RETRY": "0",
            "GPTPIPE_MAX_TIME": "10",
            "GPTPIPE_PROXY": "http://127.0.0.1:9",
        }
        result = rig.run(home, program, *words, stdin=stdin, env=env)
        if program == "gptpipe-chat" and "Traceback" not in result.err:  # it says more: each failure
            result = result._replace(err=result.err.partition("\n")[0] if result.status else "")
        no_match = program == "gptpipe-sessions" and result.status == Status.ABSENT and not result.err  # as in grep
        wrong = "" if no_match else manners(result)
        outside = [path.name for path in home.parent.iterdir() if not path.name.isdecimal()]
    return Case(f"{program} {words} {stdin!r}", not (wrong or outside), f"{wrong} {outside}")


def _drawn(count: int) -> list[Any]:
    """Return so many calls of programs as hypothesis draws them."""
    drawn: list[Any] = []

    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(CALLS)
    def draw(call: Any) -> None:
        drawn.append(call)

    draw()
    return drawn


def cases(rig: Rig) -> Iterator[Case]:
    """Try all of them."""
    with rig.home() as home:
        for name, each in properties(home).items():
            yield fuzzed(name, each)
        (home / "atheris").mkdir()
        yield _atheris(home / "atheris")
    yield from parallel(lambda call: _call(rig, call), _drawn(RUNS))
