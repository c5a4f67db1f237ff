"""Sessions under kills, and under everything at once, by the programs themselves; with large numbers in torture/."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Spawn
from tests.harness.contention import Kills, Moves


def test_a_kill_at_any_moment_costs_no_finished_turn(spawn: Spawn, home: Path) -> None:
    assert Kills(spawn, home).all(40) == []


def test_no_turn_is_lost_or_doubled_while_files_are_moved_mended_and_edited(spawn: Spawn, home: Path) -> None:
    assert Moves(spawn, home).all(5, rounds=6) == []
