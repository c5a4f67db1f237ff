"""How the rate is learned, against servers that are simulated to the millisecond."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gptpipe.records.rate import Rate

Ask = Callable[[float], float | None]  # at a moment: None if the request is accepted, else the wait that it asks


def bucket(rate: float, burst: float, *, whole: bool = False) -> Ask:
    """Return a token bucket; ``whole`` rounds the wait that it asks up to seconds."""
    tokens, at = burst, 0.0

    def ask(now: float) -> float | None:
        nonlocal tokens, at
        tokens, at = min(burst, tokens + (now - at) * rate), now
        if tokens >= 1 - 1e-9:
            tokens -= 1
            return None
        wait = (1 - tokens) / rate
        return float(math.ceil(wait)) if whole else wait

    return ask


def window(limit: int, seconds: float) -> Ask:
    """Return a server that takes so many requests in each window of so many seconds."""
    present, taken = 0, 0

    def ask(now: float) -> float | None:
        nonlocal present, taken
        if int(now / seconds) > present:
            present, taken = int(now / seconds), 0
        taken += 1
        return None if taken <= limit else (present + 1) * seconds - now

    return ask


def simulate(ask: Ask, records: int, step: float = 0.001) -> tuple[float, int]:
    """Send requests one after the other, ``step`` seconds for each; return the time and how many were refused."""
    rate, now, refused, done = Rate(None), 0.0, 0, 0
    while done < records:
        wait = ask(now)
        if wait is None:
            done += 1
            rate.accept(now, now)
            found = rate.at(now)
            now += max(step, 1 / found if found else 0)
        else:
            refused += 1
            now = max(now + step, rate.refuse(now, now + wait))
    return now, refused


SERVERS = {
    "5 a second": (lambda: bucket(5, 300), 600, 60.0),
    "5 a second, waits in whole seconds": (lambda: bucket(5, 300, whole=True), 900, 120.0),
    "300 a minute": (lambda: bucket(5, 5), 600, 119.0),
    "100 a second": (lambda: bucket(100, 100), 4000, 39.0),
    "a slow one": (lambda: bucket(0.5, 10), 60, 100.0),
    "60 in each minute": (lambda: window(60, 60), 300, 240.0),
}


@pytest.mark.parametrize(("server", "records", "least"), SERVERS.values(), ids=SERVERS)
def test_the_limit_is_found_with_few_refusals(server: Callable[[], Ask], records: int, least: float) -> None:
    seconds, refused = simulate(server(), records)
    assert seconds <= 1.15 * least + 2
    assert refused <= 0.1 * records


def test_a_limit_that_rises_is_found_within_minutes() -> None:
    rate = Rate(None)
    for second in range(100):
        rate.accept(second / 10, second / 10)
        if second % 10 == 9:
            rate.refuse(second / 10, second / 10 + 0.1)
    slow = rate.at(10.0)
    assert slow == pytest.approx(10, rel=0.2)
    assert rate.at(190.0) == pytest.approx(80, rel=0.2)


def test_the_cap_of_the_user_is_never_passed() -> None:
    rate = Rate(2.0)
    assert rate.at(0) == 2.0
    rate.accept(0.0, 0.0)
    rate.refuse(1.0, 2.0)
    assert rate.at(2.0) == 1.0
    assert rate.at(60.0) == 2.0
