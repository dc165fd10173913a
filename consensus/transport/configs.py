"""Configurations and states of a group: the core's values <-> RaftConfigPB, ConsensusStatePB. Pure.

An address is "host:port". What no configuration can say is refused here with BadFrame; whether a group may have that
configuration is the core's business.
"""
from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError

from consensus.raft.configuration import INITIAL_OPID_INDEX, Change, ChangeType, Config, MemberType, Peer
from consensus.raft.effects import Role
from consensus.raft.progress import Sending
from consensus.raft.status import Status
from consensus.transport.names import Names
from kudu_storage.errors import BadFrame, InvalidArgument
from kudu_storage.protos import message_class

# More peers than anybody has; the core allows at most VOTERS_MAX voters.
PEERS_MAX: Final = 64
# Kudu's --follower_unavailable_considered_failed_sec.
FAILED_AFTER_US: Final = 300_000_000
_HEALTHY, _FAILED, _UNRECOVERABLE, _UNKNOWN = 1, 0, 2, 999

_config_pb: Any = message_class("kudu.consensus.RaftConfigPB")
_record_pb: Any = message_class("kudu.consensus.ChangeConfigRecordPB")
_state_pb: Any = message_class("kudu.consensus.ConsensusStatePB")


def split_address(address: str) -> tuple[str, int]:
    """Host and port. An IPv6 address may stand in brackets."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise InvalidArgument(f"not an address of the form host:port: {address!r}")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- configurations ----------------------------------------------------------------------------------------------------
def config_from(message: Any, names: Names) -> Config:
    """A RaftConfigPB. Raises BadFrame for a peer without a uuid, or of a type that this version does not know."""
    if len(message.peers) > PEERS_MAX:
        raise BadFrame(f"a configuration of {len(message.peers)} peers; {PEERS_MAX} is the limit")
    opid_index = message.opid_index if message.HasField("opid_index") else INITIAL_OPID_INDEX
    return Config(tuple(_peer_from(peer, names) for peer in message.peers), opid_index, message.unsafe_config_change)


def _peer_from(message: Any, names: Names) -> Peer:
    name = names.name(message.permanent_uuid)
    if name is None:
        raise BadFrame(f"a configuration with a peer {message.permanent_uuid!r}, which is no uuid")
    return Peer(name, _member_type(message.member_type), address_from(message), message.attrs.promote,
                message.attrs.replace)


def _member_type(number: int) -> MemberType:
    try:
        return MemberType(number)
    except ValueError:
        raise BadFrame(f"a configuration with a peer of type {number}") from None


def address_from(peer: Any) -> str:
    """A RaftPeerPB's address; "": it has none."""
    if not peer.HasField("last_known_addr"):
        return ""
    address = peer.last_known_addr
    if not address.host or not 0 < address.port < 1 << 16:
        raise BadFrame("a configuration with a peer whose address cannot be")
    return join_address(address.host, address.port)


def config_to(config: Config, names: Names, message: Any = None) -> Any:
    """A RaftConfigPB, or `message` filled."""
    message = _config_pb() if message is None else message
    message.opid_index = config.opid_index
    if config.unsafe:
        message.unsafe_config_change = True
    for peer in config.peers:
        added = message.peers.add()
        added.permanent_uuid = names.wire(peer.peer_id)
        added.member_type = int(peer.member_type)
        if peer.address:
            added.last_known_addr.host, added.last_known_addr.port = split_address(peer.address)
        if peer.promote:
            added.attrs.promote = True
        if peer.replace:
            added.attrs.replace = True
    return message


def record_config(record: bytes, index: int, names: Names) -> Config:
    """What a CHANGE_CONFIG operation at `index` makes the configuration, from its ChangeConfigRecordPB.

    Kudu leaves opid_index open in the record, since only the operation's place in the log says it.
    """
    try:
        message = _record_pb.FromString(record)
    except DecodeError as error:
        raise BadFrame(f"a change of configuration that cannot be parsed: {error}") from None
    if not message.IsInitialized():
        raise BadFrame("a change of configuration without a configuration")
    config = config_from(message.new_config, names)
    return Config(config.peers, index, config.unsafe)


def config_record(tablet_id: str, before: Config, after: Config, names: Names) -> bytes:
    """The ChangeConfigRecordPB that the log keeps of a change."""
    message = _record_pb(tablet_id=tablet_id.encode())
    config_to(before, names, message.old_config)
    config_to(after, names, message.new_config)
    message.new_config.ClearField("opid_index")
    data: bytes = message.SerializeToString()
    return data


# -- changes -----------------------------------------------------------------------------------------------------------
_CHANGE_TYPES: Final = {1: ChangeType.ADD, 2: ChangeType.REMOVE, 3: ChangeType.MODIFY}


def change_from(change_type: int | None, peer: Any, names: Names) -> Change:
    """One item of a (Bulk)ChangeConfig request. Raises InvalidArgument in Kudu's words."""
    kind = _CHANGE_TYPES.get(change_type or 0)
    if kind is None:
        raise InvalidArgument("Must specify 'type' argument" if change_type is None
                              else f"unsupported type of configuration change: {change_type}")
    if peer is None:
        raise InvalidArgument("Must specify 'peer' argument")
    name = names.name(peer.permanent_uuid)
    if name is None:
        raise InvalidArgument("peer must have permanent_uuid specified")
    member_type = _member_type(peer.member_type) if peer.HasField("member_type") else None
    address = address_from(peer)
    if kind is ChangeType.ADD and member_type is None:
        raise InvalidArgument("peer must have member_type specified")
    if kind is ChangeType.ADD and not address:
        raise InvalidArgument("peer must have last_known_addr specified")
    attrs = peer.attrs
    return Change(kind, name, member_type, address, attrs.promote if attrs.HasField("promote") else None,
                  attrs.replace if attrs.HasField("replace") else None)


# -- states ------------------------------------------------------------------------------------------------------------
def state_to(status: Status, names: Names, message: Any = None, *, health: bool = False) -> Any:
    """A ConsensusStatePB, or `message` filled; `health`: with what a leader knows of its peers' health."""
    message = _state_pb() if message is None else message
    message.current_term = status.term
    if status.leader_id is not None:
        message.leader_uuid = names.uuid(status.leader_id)
    config_to(status.committed_config, names, message.committed_config)
    if status.pending_config is not None:
        config_to(status.pending_config, names, message.pending_config)
        message.pending_config.ClearField("opid_index")
    if health and status.role is Role.LEADER:
        _report_health(status, names, message)
    return message


def _report_health(status: Status, names: Names, message: Any) -> None:
    known = {names.wire(peer.peer_id): _FAILED if peer.silent_us > FAILED_AFTER_US
             else _UNRECOVERABLE if peer.sending is Sending.COPY else _HEALTHY for peer in status.peers}
    if status.leader_id is not None:
        known[names.wire(status.leader_id)] = _HEALTHY
    for config in (message.committed_config, message.pending_config):
        for peer in config.peers:
            peer.health_report.overall_health = known.get(peer.permanent_uuid, _UNKNOWN)
