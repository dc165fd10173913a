"""One attempt to be elected: who was asked, who answered what. Pure.

E1  Only voters of the active configuration count (R10), each once.
"""
from __future__ import annotations

from enum import Enum

from consensus.raft.quorum import majority_size


class Mode(Enum):
    PRE = "pre-election"
    REAL = "election"
    FORCED = "election although a leader is alive"


class Outcome(Enum):
    OPEN = "open"
    WON = "won"
    LOST = "lost"


class Election:
    """Votes for `term` so far."""

    __slots__ = ("mode", "term", "votes", "withheld")

    def __init__(self, mode: Mode, term: int, me: str) -> None:
        self.mode = mode
        self.term = term
        self.votes: dict[str, bool] = {me: True}
        self.withheld = False  # somebody hears a leader, or is not sure yet: no rival, so no reason to back off further

    def outcome(self, voters: tuple[str, ...]) -> Outcome:
        votes = self.votes
        need = majority_size(len(voters))
        granted = sum(1 for v in voters if votes.get(v, False))
        if granted >= need:
            return Outcome.WON
        denied = sum(1 for v in voters if not votes.get(v, True))
        return Outcome.LOST if denied > len(voters) - need else Outcome.OPEN
