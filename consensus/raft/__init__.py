"""The Raft core: `Raft.step(input) -> effects`. Imports nothing but OpId; opens nothing; knows no clock, luck or
thread."""
from consensus.raft.configuration import (
    INITIAL_OPID_INDEX,
    VOTERS_MAX,
    Change,
    ChangeType,
    Config,
    MemberType,
    Peer,
    is_sound,
    voters,
)
from consensus.raft.core import Raft
from consensus.raft.effects import Role
from consensus.raft.messages import Kind, Run, RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import Refusal, UpdateError, VoteDenial
from consensus.raft.state import Recovered
from consensus.raft.status import PeerStatus, Status
from consensus.raft.timing import Timing

__all__ = [
    "INITIAL_OPID_INDEX",
    "VOTERS_MAX",
    "Change",
    "ChangeType",
    "Config",
    "Kind",
    "MemberType",
    "Peer",
    "PeerStatus",
    "Raft",
    "Recovered",
    "Refusal",
    "Role",
    "Run",
    "RunElection",
    "Status",
    "Timing",
    "UpdateError",
    "UpdateRequest",
    "UpdateResponse",
    "VoteDenial",
    "VoteRequest",
    "VoteResponse",
    "is_sound",
    "voters",
]
