"""What replicas say to each other, as values. Pure.

Bytes are not here. A run names operations; the log and its cache own their bytes. `payload` and `call` are handles that
the core hands through unread: the slices that came with a request, and the call that wants an answer.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from consensus.raft.configuration import Config
from consensus.raft.refusals import UpdateError, VoteDenial
from kudu_storage.common.opid import MINIMUM_OPID, OpId


class Kind(IntEnum):
    """What the core must tell apart. The first is everything that is the state machine's."""

    DATA = 0
    NO_OP = 1
    CONFIG = 5


@dataclass(frozen=True, slots=True)
class Run:
    """Operations [first, last] of one term. A CONFIG run is one operation, and carries what it says."""

    term: int
    first: int
    last: int
    kind: Kind = Kind.DATA
    size_bytes: int = 0
    config: Config | None = None

    def __str__(self) -> str:
        range_ = f"{self.term}.{self.first}" + (f"-{self.last}" if self.last != self.first else "")
        return range_ + {Kind.DATA: "", Kind.NO_OP: " no-op", Kind.CONFIG: f" config {self.config}"}[self.kind]


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """RequestConsensusVote. A pre-election asks what the answer would be and leaves no trace at the voter."""

    candidate_id: str
    term: int
    last_received: OpId
    is_pre_election: bool = False
    ignore_live_leader: bool = False
    call: object = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class VoteResponse:
    """`term` and `is_pre_election` are those of the request: a call knows what it asked. `responder_term` is 0 when
    withheld: a candidate that lost touch with a live leader must not learn a term from those that still hear it."""

    voter_id: str
    term: int
    is_pre_election: bool
    granted: bool
    responder_term: int = 0
    denial: VoteDenial | None = None
    time_floor: int = 0


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    """UpdateConsensus. `seq` numbers a leader's requests to all peers; it stays with the call and need not travel."""

    leader_id: str
    term: int
    preceding: OpId
    committed_index: int
    runs: tuple[Run, ...] = ()
    all_replicated_index: int = 0
    safe_time: int = 0
    time_floor: int = 0
    last_index: int = 0
    seq: int = 0
    payload: object = field(default=None, compare=False, repr=False)
    call: object = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class UpdateResponse:
    """Leaves only when all that the request carried is durable (R13).

    `last_received_current_leader` is the last operation that is durable there and known to be the leader's;
    `last_received` the last of that log, which may be another leader's.
    """

    peer_id: str
    term: int
    last_received: OpId = MINIMUM_OPID
    last_received_current_leader: OpId = MINIMUM_OPID
    last_committed_index: int = 0
    error: UpdateError | None = None
    seq: int = 0
    time_floor: int = 0


@dataclass(frozen=True, slots=True)
class RunElection:
    """RunLeaderElection: stand for election now, although a leader is alive. From a leader that hands over, or a
    person."""

    sender_id: str = ""


Message = VoteRequest | VoteResponse | UpdateRequest | UpdateResponse | RunElection
