"""What a replica tells people about itself, as values. Pure."""
from __future__ import annotations

from dataclasses import dataclass

from consensus.raft.configuration import Config
from consensus.raft.effects import Role
from consensus.raft.progress import Sending
from consensus.raft.status import PeerStatus
from consensus.replica.trail import Trail
from kudu_storage.common.opid import OpId


@dataclass(frozen=True, slots=True)
class PeerLag:
    """A peer, as its leader sees it. `lag_s`: the age of the oldest operation that it has not acknowledged."""

    name: str
    sending: Sending
    match_index: int
    lag_ops: int
    lag_bytes: int
    lag_s: float
    silent_s: float
    in_flight_bytes: int
    last_rejection: str | None


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """What a replica tells people about itself. Watermarks are indexes of the log.

    `state`: "starting", "replaying" (committed operations of before are being applied), "running", "copying" (the
    leader's snapshot takes the place of the log), "failed", "closed".
    """

    name: str
    state: str
    role: Role
    term: int
    leader: str | None
    config: Config
    pending_config: Config | None
    last: OpId
    durable_index: int
    commit_index: int
    applied_index: int
    all_replicated_index: int
    snapshot_index: int
    first_index: int
    failed_elections: int
    peers: tuple[PeerLag, ...]
    failure: str | None


def lag(peer: PeerStatus, trail: Trail, now: float) -> PeerLag:
    """What the core knows of a peer, in bytes and seconds too."""
    lag_bytes, lag_s = trail.behind(peer.match_index, now)
    return PeerLag(peer.peer_id, peer.sending, peer.match_index, peer.lag_ops, lag_bytes, lag_s, peer.silent_us / 1e6,
                   peer.in_flight_bytes, None if peer.last_error is None else peer.last_error.name)
