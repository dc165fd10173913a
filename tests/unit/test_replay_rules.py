"""The replay decisions, one by one."""
from __future__ import annotations

import itertools

import pytest

from kudu_storage.bootstrap.rules import KINDS, KNOWLEDGE, OUTCOMES, commit_verdict, replicate_verdict, row_action

ALL = list(itertools.product(KINDS, (False, True), OUTCOMES, KNOWLEDGE, (False, True), (False, True)))


@pytest.mark.parametrize(("index", "verdict"), [
    (15, "append"), (16, "gap"), (14, "replace"), (12, "over_committed"), (10, "over_committed"), (9, "below_applied"),
])
def test_a_replicate_follows_replaces_or_does_not_fit(index: int, verdict: str) -> None:
    # 10 to 14 are pending, 12 has its COMMIT already
    assert replicate_verdict(index, 10, 15, 12) == verdict


@pytest.mark.parametrize(("index", "term", "has_commit", "verdict"), [
    (3, 1, False, "orphan"), (15, 1, False, "without_replicate"), (9, 1, False, "twice"), (12, 2, False, "other_term"),
    (12, 1, True, "twice"), (12, 1, False, "buffer"),
])
def test_a_commit_belongs_to_the_pending_operation_of_its_index_and_term(
        index: int, term: int, has_commit: bool, verdict: str) -> None:
    # the log starts at 5; 10 to 14 are pending, of term 1
    assert commit_verdict(index, term, 5, 10, 15, 1, has_commit) == verdict


@pytest.mark.parametrize("outcome", ["failed", "nothing"])
def test_what_failed_or_did_nothing_changes_nothing(outcome: str) -> None:
    assert {row_action(k, i, outcome, r, a, m) for k, i, o, r, a, m in ALL if o == outcome} == {"none"}


def test_only_an_incomplete_log_has_unknown_rows() -> None:
    assert all(row_action(k, i, o, r, a, m) not in ("unknown", "remember_dead")
               for k, i, o, r, a, m in ALL if r != "unknown")


def test_an_unknown_row_is_inserted_only_when_its_content_is_certain() -> None:
    for kind, ignore, outcome, row, sets_all, immutable in ALL:
        if row == "unknown" and row_action(kind, ignore, outcome, row, sets_all, immutable) == "insert":
            certain_insert = kind == "insert" and (outcome == "mutated" or (outcome == "flushed" and not ignore))
            assert certain_insert or sets_all


def test_a_row_without_commit_never_contradicts() -> None:
    assert all(row_action(k, i, "open", r, a, m) != "contradiction" for k, i, o, r, a, m in ALL)


@pytest.mark.parametrize(("kind", "row"), [("insert", "live"), ("update", "dead"), ("delete", "dead")])
def test_a_commit_that_says_a_row_changed_which_it_cannot_have_is_a_contradiction(kind: str, row: str) -> None:
    assert row_action(kind, False, "mutated", row, False, False) == "contradiction"


@pytest.mark.parametrize(("kind", "row", "action"), [
    ("insert", "dead", "insert"), ("upsert", "dead", "insert"), ("upsert", "live", "update"),
    ("update", "live", "update"), ("delete", "live", "delete"), ("delete", "unknown", "remember_dead"),
])
def test_a_committed_row_operation_does_what_it_says(kind: str, row: str, action: str) -> None:
    assert row_action(kind, False, "mutated", row, False, False) == action


def test_pending_operations_on_immutable_columns_fail_where_the_row_exists() -> None:
    assert row_action("upsert", False, "open", "live", False, True) == "none"
    assert row_action("upsert", True, "open", "live", False, True) == "update"
    assert row_action("upsert", False, "open", "dead", False, True) == "insert"
