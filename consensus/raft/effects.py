"""What the core wants done, as values. Pure.

The driver performs the effects of a step from first to last, and the next input comes after the last. PersistVote and
PersistConfig are durable before the effect behind them is performed; Append and Truncate take their place in the log's
queue and are reported by LogDurable.
"""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from consensus.raft.configuration import Config
from consensus.raft.messages import Run, RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import Refusal
from kudu_storage.common.opid import OpId


class Role(Enum):
    """LEARNER and NON_PARTICIPANT follow from the active configuration; the rest from elections."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"
    LEARNER = "learner"
    NON_PARTICIPANT = "non-participant"
    TOMBSTONED = "tombstoned"


@dataclass(frozen=True, slots=True)
class PersistVote:
    """Durable before any later effect of the same step is performed (R3). None: no vote in this term so far."""

    term: int
    voted_for: str | None


@dataclass(frozen=True, slots=True)
class PersistConfig:
    """The committed configuration. Durable before any later effect of the same step is performed."""

    config: Config


@dataclass(frozen=True, slots=True)
class Append:
    """Operations for the end of the log. LogDurable with this `batch` or a later one says that they are durable.

    What is in `payload` and below the first run's `first` is there already and must be left out. `timestamp` is that of
    a NO_OP or CONFIG operation which the leader itself makes; 0 for all others.
    """

    batch: int
    runs: tuple[Run, ...]
    payload: object = None
    token: object = None
    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class Truncate:
    """Operations after `after` are no longer in the log. Comes after AbortRounds for them."""

    batch: int
    after: int


@dataclass(frozen=True, slots=True)
class AbortRounds:
    """Operations [first, last] were replaced here: undo them, also those still being prepared, leaving no trace (R16).

    Each operation is aborted at most once. It may still be committed from another replica's log; that it was not is
    certain only when an operation of another term is committed at its index (or any later leader's, at a lower one).
    """

    first: OpId
    last: OpId


@dataclass(frozen=True, slots=True)
class CommitUpTo:
    """Operations up to `index` may be applied, in order."""

    index: int


@dataclass(frozen=True, slots=True)
class SafeTime:
    """Once all that was committed is applied: no operation at or below this timestamp will still be (R15)."""

    timestamp: int


@dataclass(frozen=True, slots=True)
class Send:
    """A message as it is. Nobody waits for it."""

    to: str
    message: UpdateRequest | VoteRequest | RunElection


@dataclass(frozen=True, slots=True)
class Replicate:
    """`request` with as many operations behind its preceding one as fit, at most up to `last`; then Sent or
    SendFailed."""

    to: str
    request: UpdateRequest
    last: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a call."""

    call: object
    message: UpdateResponse | VoteResponse


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """What the world may know. A new leader's clock must pass `time_floor` before it gives timestamps."""

    role: Role
    term: int
    leader_id: str | None
    time_floor: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tick at or soon after this time. Takes the place of any earlier wish."""

    at_us: int


@dataclass(frozen=True, slots=True)
class ReadReady:
    """Whoever has applied `index` may answer the read."""

    token: object
    index: int


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """This replica ceased to lead before it knew."""

    token: object


@dataclass(frozen=True, slots=True)
class NeedsCopy:
    """This peer cannot be brought level from the log: copy the tablet there, then CopyDone."""

    peer_id: str


@dataclass(frozen=True, slots=True)
class Done:
    """A step-down, unsafe change or transfer was carried out; a transfer, as far as the successor was told to stand."""

    token: object


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was done, and nothing will be: certainly not applied."""

    token: object
    refusal: Refusal
    leader_id: str | None = None


Effect = (PersistVote | PersistConfig | Append | Truncate | AbortRounds | CommitUpTo | SafeTime | Send | Replicate
          | Reply | RoleChanged | Schedule | ReadReady | ReadFailed | NeedsCopy | Done | Refused)
