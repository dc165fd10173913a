"""A seed that fails is made small, and what is left still fails."""
from __future__ import annotations

import pytest

from sim.shrink import Shrinker, _minimal, transcript

STEPS = 1500


@pytest.mark.parametrize("needed", [[3], [3, 40], [0, 1, 2], [5, 17, 63, 64]], ids=str)
def test_what_is_left_is_what_is_needed(needed: list[int]) -> None:
    asked: list[list[int]] = []

    def fails(some: list[int]) -> bool:
        asked.append(some)
        return set(needed) <= set(some)

    assert _minimal(list(range(65)), fails) == needed
    assert len(asked) < 200


def test_nothing_is_left_when_nothing_is_needed() -> None:
    assert _minimal(list(range(65)), lambda some: True) == []


def test_a_seed_that_does_not_fail_is_not_shrunk() -> None:
    assert Shrinker(3, 300).shrink() is None


def test_a_bug_is_shrunk_to_a_transcript(monkeypatch: pytest.MonkeyPatch) -> None:
    """R7: a follower believes the leader's commit index beyond where the logs agree."""
    from consensus.raft import following

    def trusting(s: following.State) -> None:
        index = min(s.leader_commit, s.durability.index)
        if index > s.commit_index:
            s.commit_to(index)

    monkeypatch.setattr(following, "follow_commit", trusting)
    for seed in range(40):
        shrunk = Shrinker(seed, STEPS).shrink()
        if shrunk is not None:
            break
    else:
        raise AssertionError("no seed fails")
    assert shrunk.faults <= 12 and shrunk.steps <= STEPS
    lines = transcript(seed, shrunk)
    assert lines[-1].startswith("violated: R") and shrunk.said.startswith(lines[-1][10:13])
    assert sum("**" in line for line in lines) <= shrunk.faults, "only the faults that are left are told"
    monkeypatch.undo()
    assert transcript(seed, shrunk)[-1].startswith("violated") is False, "without the bug the same run is a good one"
