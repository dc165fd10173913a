"""The Raft core of one replica: `step(input) -> effects`.

It opens nothing, reads no clock, draws no random number and starts no thread: time, luck and timestamps come in, what
to do goes out. `step` is the only way to change it; it chooses the handler by the type of the input, and the handlers
do the rest.

    voting.py     elections              following.py  a leader's updates
    leading.py    answers and commit     replication.py  what is sent     handover.py  configurations and transfers
    state.py      what they all share    relations.py  what must always hold

The invariants R1 to R16 that comments and asserts cite are those of docs/raft.md.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from consensus.raft import following, handover, leading, voting
from consensus.raft.effects import Effect
from consensus.raft.inputs import (
    ChangeConfig,
    CopyDone,
    Input,
    LeaderLost,
    LogCut,
    LogDurable,
    Propose,
    ReadBarrier,
    SendFailed,
    Sent,
    Start,
    StepDown,
    Tick,
    Transfer,
    UnsafeChangeConfig,
)
from consensus.raft.messages import RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.relations import check
from consensus.raft.state import Recovered, State
from consensus.raft.status import Status, status
from consensus.raft.timing import Timing

# Each handler takes the one type that stands beside it.
_HANDLERS: Final[dict[type, Callable[[State, Any], None]]] = {
    Start: voting.on_start,
    Tick: voting.on_tick,
    LeaderLost: voting.on_leader_lost,
    RunElection: voting.on_run_election,
    VoteRequest: voting.on_vote_request,
    VoteResponse: voting.on_vote_response,
    UpdateRequest: following.on_update_request,
    LogDurable: following.on_log_durable,
    LogCut: following.on_log_cut,
    UpdateResponse: leading.on_update_response,
    Propose: leading.on_propose,
    Sent: leading.on_sent,
    SendFailed: leading.on_send_failed,
    CopyDone: leading.on_copy_done,
    ReadBarrier: leading.on_read_barrier,
    ChangeConfig: handover.on_change_config,
    UnsafeChangeConfig: handover.on_unsafe_change_config,
    Transfer: handover.on_transfer,
    StepDown: handover.on_step_down,
}


class Raft:
    """One replica of one group."""

    __slots__ = ("state",)

    def __init__(self, me: str, recovered: Recovered, timing: Timing | None = None) -> None:
        """`recovered` is what the disk holds, synced. The first input must be Start."""
        self.state = State(me, recovered, timing or Timing())

    def step(self, event: Input, now_us: int, luck: float, clock: int) -> list[Effect]:
        """What to do about `event`, in order.

        `now_us` is a monotonic clock, `luck` a fresh random number in [0, 1), `clock` the hybrid clock's reading.
        """
        s = self.state
        s.now_us = now_us
        s.luck = luck
        s.clock = clock
        _HANDLERS[type(event)](s, event)
        s.announce()
        s.schedule()
        effects = s.effects
        s.effects = []
        return effects

    @property
    def next_index(self) -> int:
        """The index that the next proposal's first operation gets."""
        return self.state.terms.last_index + 1

    def status(self) -> Status:
        """As of the last step."""
        return status(self.state)

    def check(self) -> None:
        """Derives every relation again that one replica can see. AssertionError names the first that does not hold."""
        check(self.state)
