"""Who belongs to a group: peers, configurations, and which one is active. Pure.

C1  A configuration has at least one voter, at most VOTERS_MAX, and each peer once.
C2  The newest configuration in the log is the active one, from the moment it is appended (R9).
C3  `opid_index` is the index of the operation that carries the configuration, INITIAL_OPID_INDEX for the first one.
    What is committed is known by it alone; compare-and-swap is on it.
C4  A change adds, removes, promotes or demotes at most one voter, so that majorities before and after have a member in
    common.
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Final

from consensus.raft.refusals import Refusal

# As Kudu's --max_num_replicas.
VOTERS_MAX: Final = 7
INITIAL_OPID_INDEX: Final = -1


class MemberType(IntEnum):
    """The numbers are those of RaftPeerPB.MemberType."""

    NON_VOTER = 0
    VOTER = 1


@dataclass(frozen=True, slots=True)
class Peer:
    """One member. `promote`: make it a voter when it has caught up. `replace`: whoever manages the group should replace
    it."""

    peer_id: str
    member_type: MemberType = MemberType.VOTER
    address: str = ""
    promote: bool = False
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """A set of peers, as one operation of the log, or the tablet's creation, has it."""

    peers: tuple[Peer, ...]
    opid_index: int = INITIAL_OPID_INDEX
    unsafe: bool = False
    voters: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "voters", tuple(p.peer_id for p in self.peers if p.member_type is MemberType.VOTER))

    def peer(self, peer_id: str) -> Peer | None:
        return next((p for p in self.peers if p.peer_id == peer_id), None)

    def __str__(self) -> str:
        names = [p.peer_id + ("" if p.member_type is MemberType.VOTER else "+" if p.promote else "?")
                 + ("!" if p.replace else "") for p in self.peers]
        return ",".join(names)


def voters(*peer_ids: str) -> Config:
    """A first configuration of voters only."""
    return Config(tuple(Peer(i) for i in peer_ids))


def is_sound(config: Config) -> bool:
    """C1. Addresses are the caller's business: a group within one process has none."""
    names = {p.peer_id for p in config.peers}
    return len(names) == len(config.peers) and "" not in names and 1 <= len(config.voters) <= VOTERS_MAX


class ChangeType(Enum):
    ADD = "add"
    REMOVE = "remove"
    MODIFY = "modify"


@dataclass(frozen=True, slots=True)
class Change:
    """One item of a change request. None leaves a field as it is."""

    change_type: ChangeType
    peer_id: str
    member_type: MemberType | None = None
    address: str = ""
    promote: bool | None = None
    replace: bool | None = None


def changed(config: Config, changes: tuple[Change, ...], leader_id: str) -> Config | Refusal:
    """`config` with all of `changes`, or why not. The rules are those of Kudu's BulkChangeConfig."""
    peers = list(config.peers)
    touched: set[str] = set()
    for change in changes:
        if change.peer_id in touched:
            return Refusal.BAD_CONFIG
        touched.add(change.peer_id)
        refusal = _apply(peers, change, leader_id)
        if refusal is not None:
            return refusal
    after = Config(tuple(peers))
    if len(set(config.voters) ^ set(after.voters)) > 1:
        return Refusal.TOO_MANY_VOTERS_CHANGED
    if not is_sound(after) or after.peers == config.peers:
        return Refusal.BAD_CONFIG
    return after


def _apply(peers: list[Peer], change: Change, leader_id: str) -> Refusal | None:
    at = next((i for i, p in enumerate(peers) if p.peer_id == change.peer_id), None)
    if change.change_type is ChangeType.ADD:
        if at is not None or change.member_type is None:
            return Refusal.BAD_CONFIG
        peers.append(Peer(change.peer_id, change.member_type, change.address, bool(change.promote),
                          bool(change.replace)))
        return None
    if at is None:
        return Refusal.UNKNOWN_PEER
    if change.change_type is ChangeType.REMOVE:
        # A leader that removed itself would have to count majorities that it is no part of.
        if change.peer_id == leader_id:
            return Refusal.PEER_IS_LEADER
        del peers[at]
        return None
    was = peers[at]
    member_type = was.member_type if change.member_type is None else change.member_type
    if change.peer_id == leader_id and member_type is not was.member_type:
        return Refusal.PEER_IS_LEADER
    peers[at] = replace(was, member_type=member_type, promote=was.promote if change.promote is None else change.promote,
                        replace=was.replace if change.replace is None else change.replace)
    return Refusal.BAD_CONFIG if peers[at] == was else None


def survivors(config: Config, retained: frozenset[str], me: str) -> Config | Refusal:
    """What an unsafe change makes of `config`: only those `retained`, this replica a voter among them."""
    if not retained <= {p.peer_id for p in config.peers}:
        return Refusal.UNKNOWN_PEER
    after = Config(tuple(p for p in config.peers if p.peer_id in retained), unsafe=True)
    return after if is_sound(after) and me in after.voters else Refusal.BAD_CONFIG


class Configs:
    """The committed configuration of one replica and those that its log holds beyond it.

    A leader has at most one beyond (R9), unless an unsafe change was appended over it. A follower may receive one
    before it knows that the one before is committed.
    """

    __slots__ = ("active", "committed", "pending")

    def __init__(self, committed: Config, pending: tuple[Config, ...] = ()) -> None:
        self.committed = committed
        self.pending: list[Config] = list(pending)
        self.active = self.pending[-1] if self.pending else committed

    def append(self, config: Config) -> None:
        """R9: in force from now on. One that is committed already comes again when a log is read at start."""
        if config.opid_index > self.committed.opid_index:
            self.pending.append(config)
            self.active = config

    def truncate_after(self, index: int) -> bool:
        """Takes back what was appended after `index`. Whether that changed the active configuration."""
        if not self.pending or self.pending[-1].opid_index <= index:
            return False
        while self.pending and self.pending[-1].opid_index > index:
            self.pending.pop()
        self.active = self.pending[-1] if self.pending else self.committed
        return True

    def commit_up_to(self, index: int) -> bool:
        """Whether a pending configuration became the committed one."""
        if not self.pending or self.pending[0].opid_index > index:
            return False
        while self.pending and self.pending[0].opid_index <= index:
            self.committed = self.pending.pop(0)
        return True

    def check(self) -> None:
        for config in (self.committed, *self.pending):
            assert is_sound(config), f"C1: {config}"
        indexes = [c.opid_index for c in (self.committed, *self.pending)]
        assert indexes == sorted(set(indexes)), f"C2: {indexes}"
        assert self.active is (self.pending[-1] if self.pending else self.committed), "C2"
