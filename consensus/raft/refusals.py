"""Why the core does not do what it was asked. A refusal changes nothing but, where it says so, the term. Pure."""
from __future__ import annotations

from enum import Enum


class Refusal(Enum):
    """Of a local request: propose, read, change of configuration, transfer."""

    NOT_LEADER = "not leader"
    TRANSFERRING = "a leader transfer is under way"
    BEHIND_CLOCK = "timestamps must follow all that were given or promised before"
    NOT_READY = "nothing of the leader's own term is committed yet"
    CHANGE_PENDING = "another change of configuration is not committed yet"
    CAS_FAILED = "the committed configuration has another opid_index"
    BAD_CONFIG = "no such configuration can be"
    TOO_MANY_VOTERS_CHANGED = "more than one voter would be added, removed, promoted or demoted"
    UNKNOWN_PEER = "no such peer in the configuration"
    PEER_IS_LEADER = "the leader must give up leadership first"
    NOT_A_VOTER = "only voters lead"
    TOMBSTONED = "a tombstoned replica votes and does nothing else"


class VoteDenial(Enum):
    """ConsensusErrorPB.Code has a number for each."""

    INVALID_TERM = 2
    LAST_OPID_TOO_OLD = 3
    ALREADY_VOTED = 4
    LEADER_IS_ALIVE = 7
    BUSY = 8


class UpdateError(Enum):
    """What a follower answers. The first three are ConsensusErrorPB codes, TOMBSTONED is TabletServerErrorPB's
    TABLET_NOT_RUNNING; MALFORMED is a bug or an attack."""

    INVALID_TERM = 2
    PRECEDING_ENTRY_DIDNT_MATCH = 6
    CANNOT_PREPARE = 9
    TOMBSTONED = 17
    MALFORMED = 100
