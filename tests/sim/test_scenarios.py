"""Each transcript in tests/scenarios tells one rule, and fails when the rule is removed (sim/mutate.py shows it)."""
from __future__ import annotations

from pathlib import Path

import pytest

from sim.stage import Stage

SCENARIOS = sorted((Path(__file__).parents[1] / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_scenario(path: Path) -> None:
    Stage().play(path)


def test_a_scenario_that_expects_the_wrong_thing_fails(tmp_path: Path) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text("group a,b,c\nstart a b c\nrun 50 ms\n= b leads term 1\n")
    with pytest.raises(AssertionError, match=r"wrong.txt:4: = b leads term 1"):
        Stage().play(path)
