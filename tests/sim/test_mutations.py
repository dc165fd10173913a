"""Some of the deliberate bugs, each noticed by what stands beside it: all of them are `python -m sim.mutate`."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sim.mutate import ROOT, BadMutation, Verdict, by_scenario, by_test, mutated
from sim.mutations import CORE, MUTATIONS, Mutation

RULES = [f"R{n}" for n in range(1, 17)]
# The first one of each invariant of Raft, and what takes a second of the others.
CHOSEN = [next(m for m in CORE if m.rule == rule) for rule in RULES]
QUICK = [m for m in MUTATIONS if m.what in (
    "a torn tail is kept", "collection goes past an anchor", "a vote is told before the metadata are durable",
    "every timestamp is believed", "a committed operation of a higher term settles nothing")]


@pytest.mark.parametrize("mutation", CHOSEN, ids=lambda m: f"{m.rule} {m.what}")
def test_a_transcript_notices(mutation: Mutation, tmp_path: Path) -> None:
    mutated(mutation, tmp_path)
    assert by_scenario(mutation, tmp_path) is not None


@pytest.mark.parametrize("mutation", QUICK, ids=lambda m: f"{m.rule} {m.what}")
def test_a_test_notices(mutation: Mutation, tmp_path: Path) -> None:
    mutated(mutation, tmp_path)
    found = by_test(mutation, tmp_path)
    assert found is not None and found.startswith("tests/"), found


def test_a_change_that_is_no_bug_is_not_noticed(tmp_path: Path) -> None:
    """Else all of this would show nothing."""
    harmless = replace(QUICK[0], old='    """Cut the tail and close the segment, durably."""\n', new="")
    mutated(harmless, tmp_path / "log")
    assert by_test(harmless, tmp_path / "log") is None
    core = replace(CHOSEN[0], old="voter_count // 2 + 1", new="1 + voter_count // 2")
    mutated(core, tmp_path / "core")
    assert by_scenario(core, tmp_path / "core") is None
    assert Verdict(core).missed


def test_each_invariant_has_a_mutation_and_each_mutation_its_text() -> None:
    assert {m.rule for m in MUTATIONS} >= {*RULES, *(f"W{n}" for n in range(1, 9))}
    for mutation in MUTATIONS:
        assert (ROOT / mutation.path).read_text().count(mutation.old) == 1, mutation.what
        assert mutation.scenario or mutation.tests or mutation.seeds, mutation.what
        for name in mutation.tests.split():
            assert (ROOT / name).exists(), name


def test_a_text_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadMutation):
        mutated(replace(CHOSEN[0], old="no such text"), tmp_path)
