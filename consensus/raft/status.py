"""What a replica tells people about itself. Pure: a copy of values, taken between two steps."""
from __future__ import annotations

from dataclasses import dataclass

from consensus.raft.configuration import Config
from consensus.raft.effects import Role
from consensus.raft.progress import Sending
from consensus.raft.refusals import UpdateError
from consensus.raft.replication import all_replicated_index
from consensus.raft.state import State
from kudu_storage.common.opid import OpId


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer, as its leader sees it. `silent_us`: since it last answered. `last_error`: why it last refused, if it
    still does."""

    peer_id: str
    sending: Sending
    match_index: int
    next_index: int
    lag_ops: int
    in_flight_count: int
    in_flight_bytes: int
    silent_us: int
    last_error: UpdateError | None


@dataclass(frozen=True, slots=True)
class Status:
    """`all_replicated_index` is 0, and `peers` empty, for one that does not lead."""

    role: Role
    term: int
    leader_id: str | None
    voted_for: str | None
    committed_config: Config
    pending_config: Config | None
    last: OpId
    durable_index: int
    commit_index: int
    all_replicated_index: int
    safe_time: int
    failed_elections: int
    peers: tuple[PeerStatus, ...]


def status(s: State) -> Status:
    lead = s.leadership
    last = s.terms.last_index
    peers = () if lead is None else tuple(
        PeerStatus(p.peer_id, p.sending, p.match_index, p.next_index, last - p.match_index, len(p.in_flight),
                   p.in_flight_bytes, s.now_us - p.contact_us, p.last_error) for p in lead.progress.values())
    return Status(s.role, s.term, s.leader_id, s.voted_for, s.configs.committed,
                  s.configs.active if s.configs.pending else None, s.terms.last, s.durability.index, s.commit_index,
                  0 if lead is None else all_replicated_index(s), s.times.safe, s.failures, peers)
