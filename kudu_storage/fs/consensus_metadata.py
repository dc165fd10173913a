"""Consensus metadata of one replica on disk: term, vote and committed configuration. Blocks on the disk.

 I1  The term never goes down (R2), and there is at most one vote a term (R3): kept by whoever writes. A negative term
     and a vote for nobody are refused here.
 I2  On return from `write_consensus_metadata` the new state survives a crash.
The pending configuration is not here: it is in the log until it is committed.
"""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final

from kudu_storage._native.disk import Disk
from kudu_storage.errors import BadFormat
from kudu_storage.fs.pb_container import as_text, read_single, write_single
from kudu_storage.protos import enum_name, message_class

TYPE: Final = "kudu.consensus.ConsensusMetadataPB"
# opid_index of a configuration that no operation has changed yet.
OPID_INDEX_NONE: Final = -1


@dataclass(frozen=True, slots=True)
class Peer:
    """One replica in a configuration."""

    uuid: str
    member_type: str            # "VOTER" or "NON_VOTER"
    host: str | None = None     # last known address, for finding it only
    port: int | None = None


@dataclass(frozen=True, slots=True)
class ConsensusMetadata:
    """What a replica must remember of Raft. `message` is the whole ConsensusMetadataPB; do not change it."""

    current_term: int
    voted_for: str | None               # in current_term
    opid_index: int                     # index of the operation that made the configuration, or OPID_INDEX_NONE
    peers: tuple[Peer, ...]
    message: Any = field(repr=False, compare=False)

    @property
    def voters(self) -> tuple[Peer, ...]:
        return tuple(peer for peer in self.peers if peer.member_type == "VOTER")


def read_consensus_metadata(path: str | os.PathLike[str]) -> ConsensusMetadata:
    """Raises as `read_single` does, and BadFormat for a state that no replica can be in."""
    message: Any = read_single(path, message_class(TYPE))
    return from_message(message, os.fspath(path))


def from_message(message: Any, path: str | None = None) -> ConsensusMetadata:
    """The state in a kudu.consensus.ConsensusMetadataPB. Raises BadFormat."""
    config = message.committed_config
    if message.current_term < 0:
        raise BadFormat(f"current term {message.current_term} is negative", path=path)
    if message.HasField("voted_for") and not message.voted_for:
        raise BadFormat("a vote for a replica without a name", path=path)
    return ConsensusMetadata(
        current_term=message.current_term,
        voted_for=as_text(message.voted_for) if message.HasField("voted_for") else None,
        opid_index=config.opid_index if config.HasField("opid_index") else OPID_INDEX_NONE,
        peers=tuple(_peer(peer) for peer in config.peers),
        message=message,
    )


def _peer(peer: Any) -> Peer:
    has_address = peer.HasField("last_known_addr")
    return Peer(
        uuid=peer.permanent_uuid.decode("latin-1"),
        member_type=enum_name("kudu.consensus.RaftPeerPB.MemberType", peer.member_type),
        host=as_text(peer.last_known_addr.host) if has_address else None,
        port=peer.last_known_addr.port if has_address else None,
    )


def write_consensus_metadata(path: str | os.PathLike[str], message: Any, *, disk: Disk | None = None) -> None:
    """Replace the file durably by a kudu.consensus.ConsensusMetadataPB. Raises DiskError or InvalidArgument."""
    write_single(path, message, disk=disk)
