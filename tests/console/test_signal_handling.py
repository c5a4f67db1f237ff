"""Signals as they are caught: one at a time, and what a program that goes on finds of the others."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from gptpipe.console import signals
from gptpipe.errors import Interrupted, Temporary

INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.fixture(autouse=True)
def caught() -> Iterator[None]:
    """Catch the signals for the test, and then have them as before."""
    before = {number: signal.getsignal(number) for number in (*signals.SIGNALS, signal.SIGALRM)}
    signals.catch()
    yield
    signals.catch()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_in_a_held_block_a_signal_waits_for_its_end() -> None:
    done = []

    def block() -> None:
        with signals.held():
            with signals.held():
                signal.raise_signal(TERM)
                done.append("inner")
            done.append("outer")

    with pytest.raises(Interrupted) as ending:
        block()
    assert (ending.value.signum, done) == (TERM, ["inner", "outer"])


@pytest.mark.parametrize(
    ("later", "raised"),
    [
        pytest.param([INT], None, id="^C again"),
        pytest.param([TERM], TERM, id="another"),
        pytest.param([INT, TERM], TERM, id="the stronger, last"),
        pytest.param([TERM, INT], TERM, id="the stronger, first"),
    ],
)
def test_while_one_is_settled_others_wait(later: list[signal.Signals], raised: signal.Signals | None) -> None:
    with pytest.raises(Interrupted):
        signal.raise_signal(INT)
    for number in later:
        signal.raise_signal(number)
    if raised is None:
        signals.catch()
    else:
        with pytest.raises(Interrupted) as ending:
            signals.catch()
        assert ending.value.signum == raised


def test_after_it_the_next_is_raised() -> None:
    for _ in range(2):
        signals.catch()
        with pytest.raises(Interrupted):
            signal.raise_signal(INT)


@pytest.fixture
def deadline() -> Iterator[signals.Deadline]:
    """Yield a deadline that does not end the process of the tests."""
    found = signals.Deadline()
    yield found
    found.limit(None)


def test_the_deadline_of_an_answer_ends_its_block_and_no_more(deadline: signals.Deadline) -> None:
    with deadline.paused():
        deadline.limit(0.05)
        for _ in range(2):
            with pytest.raises(Temporary, match="the answer took longer than"), deadline.of_answer():
                signal.pause()
        assert deadline.at is None
        deadline.limit(None)


def test_a_pause_moves_the_deadline(deadline: signals.Deadline) -> None:
    deadline.limit(60)
    assert deadline.at == deadline.started + 60
    with deadline.paused():
        assert deadline.at is None
        time.sleep(0.01)
    assert deadline.at >= deadline.started + 60.01


def test_a_deadline_without_a_length_is_none(deadline: signals.Deadline) -> None:
    deadline.limit(0)
    assert deadline.at is None
    with deadline.of_answer():
        pass
