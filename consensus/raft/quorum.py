"""Counting to a majority. Pure."""
from __future__ import annotations


def majority_size(voter_count: int) -> int:
    """How many of `voter_count` voters are more than half."""
    return voter_count // 2 + 1


def majority_value(values: list[int]) -> int:
    """The largest value that a majority has reached: the middle one. Sorts `values`."""
    values.sort()
    return values[(len(values) - 1) // 2]
