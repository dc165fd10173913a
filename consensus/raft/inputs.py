"""What happens to a replica, as values: besides the messages of its peers (messages.py), all that the core reacts to.
Pure.

`token` and `payload` are handles that the core hands through unread.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from consensus.raft.configuration import Change
from consensus.raft.messages import RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse


@dataclass(frozen=True, slots=True)
class Start:
    """The first input. Whoever restarts waits a full timeout first, unless nobody else could lead, or nobody ever
    has."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The moment that Schedule asked for has come, or passed long ago."""


@dataclass(frozen=True, slots=True)
class LogDurable:
    """Everything up to the append numbered `batch` survives a crash from now on."""

    batch: int


@dataclass(frozen=True, slots=True)
class LogCut:
    """There was no space for what was appended after `after`: it is in the log no more (W6). Nothing of it was
    durable."""

    after: int


@dataclass(frozen=True, slots=True)
class Propose:
    """`count` operations for the log, of ascending timestamps, encoded when Append is performed."""

    count: int
    size_bytes: int
    first_timestamp: int
    last_timestamp: int
    payload: object = None
    token: object = None


@dataclass(frozen=True, slots=True)
class Sent:
    """The Replicate numbered `seq` was sent, with operations up to `last` (at most those it allowed)."""

    peer_id: str
    seq: int
    last: int
    size_bytes: int


class SendFailure(Enum):
    UNREACHABLE = "no answer"
    COLLECTED = "the log no longer has what this peer needs"
    NO_SUCH_TABLET = "the peer has no such tablet"


@dataclass(frozen=True, slots=True)
class SendFailed:
    """The call failed, timed out, or could not be made. Until the next heartbeat nothing is sent there."""

    peer_id: str
    seq: int
    failure: SendFailure = SendFailure.UNREACHABLE


@dataclass(frozen=True, slots=True)
class LeaderLost:
    """The connection from `leader_id` was reset: its process is gone. That is news of this leader alone."""

    leader_id: str


@dataclass(frozen=True, slots=True)
class CopyDone:
    """A peer that needed a copy of the tablet has one."""

    peer_id: str


@dataclass(frozen=True, slots=True)
class ReadBarrier:
    """Find an index such that whoever has applied it sees all that was acknowledged before now."""

    token: object = None


@dataclass(frozen=True, slots=True)
class ChangeConfig:
    """`cas_opid_index`, when given, must be the opid_index of the committed configuration."""

    changes: tuple[Change, ...]
    cas_opid_index: int | None = None
    token: object = None


@dataclass(frozen=True, slots=True)
class UnsafeChangeConfig:
    """A person says that all peers but those retained are gone for good. Not agreed with anybody."""

    retained: frozenset[str]
    token: object = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """Give leadership to `to`, or to whoever is level first, without losing an operation."""

    to: str | None = None
    token: object = None


@dataclass(frozen=True, slots=True)
class StepDown:
    """Stop leading at once, whoever may follow."""

    token: object = None


Input = (Start | Tick | LogDurable | LogCut | Propose | Sent | SendFailed | LeaderLost | CopyDone | ReadBarrier |
         ChangeConfig | UnsafeChangeConfig | Transfer | StepDown | RunElection | VoteRequest | VoteResponse |
         UpdateRequest | UpdateResponse)
