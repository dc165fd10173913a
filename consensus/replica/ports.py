"""What a replica's driver needs from the world, as protocols. Opens nothing itself.

The shipped driver and the simulator's model stand on the same ports, so that either side can be exchanged for the
other's. None of the calls may block: what takes time is reported later, as an input of the core.
"""
from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from consensus.raft.configuration import Config
from consensus.raft.inputs import SendFailed
from consensus.raft.messages import (
    Message,
    Run,
    RunElection,
    UpdateRequest,
    UpdateResponse,
    VoteRequest,
    VoteResponse,
)
from consensus.transport.names import Names
from kudu_storage.common.opid import OpId


class Clock(Protocol):
    """Two clocks: one that only measures, one whose readings order operations."""

    def now_us(self) -> int:
        """Monotonic, from an arbitrary beginning."""

    def timestamp(self) -> int:
        """Hybrid time: greater than any reading before, and than anything passed to `observe`."""

    def believes(self, timestamp: int) -> bool:
        """Whether somebody else's reading is one that a working clock can have given. Ours stays as it is."""

    def observe(self, timestamp: int) -> None:
        """A reading that is believed, or that this replica's own log has: ours will be greater from now on."""


class Random(Protocol):
    def luck(self) -> float:
        """Uniform in [0, 1)."""


class Transport(Protocol):
    """Messages to peers. Delivery is not promised; an answer comes back as an input."""

    def send(self, to: str, message: UpdateRequest | VoteRequest | RunElection) -> None: ...

    def reply(self, call: object, message: UpdateResponse | VoteResponse) -> None: ...


# (from, message, call): a message came, or word that one was lost. What a request is answered with goes to `call`.
Deliver = Callable[[str, Message | SendFailed, Any], None]
# (peer, up): a connection to or from it was made or ended.
OnConnection = Callable[[str, bool], None]


class Network(Transport, Protocol):
    """A transport that a replica starts and stops. All callbacks come on the replica's event loop.

    The payload of an UpdateRequest that is sent is a list of batches, of which its runs tell the range that counts; of
    one that comes, that or an object whose `body` is one batch (bytes).
    """

    names: Names
    # A peer sends a snapshot; done when it is installed. Set before start().
    on_copy: Callable[[bytes], Awaitable[None]] | None

    async def start(self, deliver: Deliver, on_connection: OnConnection) -> None: ...

    async def stop(self) -> None: ...

    def set_address(self, peer: str, address: str) -> None:
        """Where a member of the active configuration is."""

    async def copy(self, to: str, data: bytes) -> None:
        """Send a snapshot, until it is installed there. Raises an error of this package when it is not."""


class Slice(NamedTuple):
    """Operations found in the log: never more than was asked for, at least one."""

    runs: tuple[Run, ...]
    payload: object
    size_bytes: int


class Log(Protocol):
    """The write-ahead log. Appends and truncations take effect in the order of the calls, and are reported as
    LogDurable."""

    def append(self, batch: int, runs: Sequence[Run], payload: object, timestamp: int) -> None:
        """What `payload` has below the first run's index is left out. `timestamp` is for a NO_OP or CONFIG made
        here."""

    def truncate(self, batch: int, after: int) -> None: ...

    def read(self, first: int, last: int, max_bytes: int) -> Slice | None:
        """None when it must be fetched from disk first, or was collected."""


class Metadata(Protocol):
    """Term, vote and committed configuration. Durable when the call returns, or when the driver goes on."""

    def persist_vote(self, term: int, voted_for: str | None) -> None: ...

    def persist_config(self, config: Config) -> None: ...


class StateMachine(Protocol):
    """What the operations are for. Rounds are what it knows of operations that are not applied yet."""

    def begin(self, runs: Sequence[Run], payload: object) -> None:
        """Operations were appended: prepare them."""

    def abort(self, first: OpId, last: OpId) -> None:
        """They were replaced. Nothing of them may be left (R16)."""

    def commit(self, index: int) -> None:
        """Apply up to `index`, in order."""

    def safe_time(self, timestamp: int) -> None: ...
