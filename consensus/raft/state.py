"""The state of one replica, and the transitions that all handlers share. Pure: opens nothing, reads no clock, draws no
number.

    NON_PARTICIPANT / LEARNER          not a voter of the active configuration: never stands
          |  ^  promoted, removed: `refresh_role`
          v  |
       FOLLOWER ---- deadline ----> PRE_CANDIDATE --- majority would vote ---> CANDIDATE --- majority voted ---> LEADER
          ^                              |                                        |                                |
          +------ leader heard, refused, or a higher term: `become_follower` ------+--------------------------------+

| transition | performed by |
| --- | --- |
| a higher term is seen | `advance_term`, which steps down first (R12) |
| anything → FOLLOWER, LEARNER, NON_PARTICIPANT | `become_follower` |
| → PRE_CANDIDATE, CANDIDATE | `voting.stand` |
| CANDIDATE → LEADER | `leading.become_leader` |
| operations at the end of the log | `append` |
| operations replaced | `truncate_after` |
| commit index | `commit_to` |
"""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.raft.configuration import Config, Configs
from consensus.raft.durability import Durability
from consensus.raft.effects import (
    AbortRounds,
    Append,
    CommitUpTo,
    Effect,
    PersistConfig,
    PersistVote,
    ReadFailed,
    Refused,
    Reply,
    Role,
    RoleChanged,
    Schedule,
    Truncate,
)
from consensus.raft.messages import Kind, Run, UpdateRequest, UpdateResponse
from consensus.raft.refusals import Refusal, UpdateError
from consensus.raft.safe_time import SafeTimes
from consensus.raft.terms import Terms
from consensus.raft.timing import Timing, election_wait_us
from kudu_storage.common.opid import MINIMUM_OPID, OpId

if TYPE_CHECKING:
    from consensus.raft.election import Election
    from consensus.raft.leadership import Leadership


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a replica finds on its disk, all of it synced before the core is made (W8).

    `spans` are (term, first index) of the log after `base`; `configs` those that the log carries, in order.
    `commit_index` may be an old one. `unsure_until`: see safe_time.py. `tombstone` is the last operation of a replica
    whose rows and log are gone.
    """

    config: Config
    term: int = 0
    voted_for: str | None = None
    base: OpId = MINIMUM_OPID
    spans: tuple[tuple[int, int], ...] = ()
    last_index: int = 0
    configs: tuple[Config, ...] = ()
    commit_index: int = 0
    unsure_until: int = 0
    tombstone: OpId | None = field(default=None)


class State:
    """One replica. Only `step` (core.py) and the handlers it chooses change it."""

    __slots__ = ("clock", "commit_index", "configs", "durability", "effects", "election", "election_at_us",
                 "excused", "failures", "leader_commit", "leader_id", "leadership", "luck", "matched_index", "me",
                 "now_us", "role", "scheduled_us", "seq", "term", "terms", "times", "timing", "told", "tombstone",
                 "unsure_until", "voted_for", "waiting", "withhold_until_us")

    def __init__(self, me: str, recovered: Recovered, timing: Timing) -> None:
        self.me = me
        self.timing = timing
        self.term = recovered.term
        self.voted_for = recovered.voted_for
        self.configs = Configs(recovered.config)
        for config in recovered.configs:
            self.configs.append(config)
        self.terms = Terms(recovered.base, recovered.spans, max(recovered.last_index, recovered.base.index))
        self.durability = Durability(self.terms.last_index)
        # A committed configuration was committed with all operations before it.
        self.commit_index = min(max(recovered.commit_index, recovered.base.index, recovered.config.opid_index),
                                self.terms.last_index)
        self.configs.commit_up_to(self.commit_index)
        self.times = SafeTimes()
        self.unsure_until = recovered.unsure_until
        self.tombstone = recovered.tombstone
        self.role = Role.FOLLOWER
        self.leader_id: str | None = None
        self.leadership: Leadership | None = None
        self.election: Election | None = None
        self.failures = 0                         # elections that failed since a leader was last heard
        self.election_at_us: int | None = None    # when to stand; None: never
        self.withhold_until_us = 0
        self.excused = False                      # a late tick was forgiven since a leader was last heard
        self.scheduled_us: int | None = None      # the tick that the driver owes
        self.matched_index = 0                    # the log agrees with the current leader's up to here, durable or not
        self.leader_commit = 0
        self.waiting: deque[tuple[int, UpdateRequest]] = deque()  # answers that wait for durability, and of what index
        self.seq = 0
        self.now_us = 0
        self.luck = 0.0
        self.clock = 0
        self.effects: list[Effect] = []
        self.told: tuple[Role, int, str | None] | None = None

    # -- what follows from the state -----------------------------------------------------------------------------------
    @property
    def last_received(self) -> OpId:
        return self.tombstone if self.tombstone is not None else self.terms.last

    def is_voter(self) -> bool:
        return self.me in self.configs.active.voters

    def is_sure(self) -> bool:
        """Whether the clock has passed every promise that this replica may have forgotten (R15)."""
        return self.clock >= self.unsure_until

    def standing_role(self) -> Role:
        """The role that the active configuration gives to a replica which neither leads nor stands."""
        if self.tombstone is not None:
            return Role.TOMBSTONED
        if self.is_voter():
            return Role.FOLLOWER
        return Role.NON_PARTICIPANT if self.configs.active.peer(self.me) is None else Role.LEARNER

    # -- roles and terms -----------------------------------------------------------------------------------------------
    def announce(self) -> None:
        now = (self.role, self.term, self.leader_id)
        if now != self.told:
            self.told = now
            self.effects.append(RoleChanged(*now, self.times.floor if self.role is Role.LEADER else 0))

    def refuse(self, token: object, refusal: Refusal) -> None:
        self.effects.append(Refused(token, refusal, self.leader_id))

    def become_follower(self) -> None:
        """Out of any role; in the same term or, by `advance_term`, in a higher one."""
        if self.leadership is not None:
            self.effects.extend(ReadFailed(barrier.token) for barrier in self.leadership.barriers)
            if self.leadership.transfer is not None and not self.leadership.transfer.told:
                self.refuse(self.leadership.transfer.token, Refusal.NOT_LEADER)
            self.leadership = None
            self.leader_id = None
            self.withhold_until_us = 0
            # Not agreed with anybody by now: our own log was the measure.
            self.matched_index = 0
            self.times.forget()
        self.election = None
        self.role = self.standing_role()
        self.await_election()
        self.announce()

    def await_election(self, extra_us: int = 0) -> None:
        """The next attempt, after a full wait; never for one that may not stand."""
        if self.role is Role.FOLLOWER:
            self.election_at_us = self.now_us + extra_us + election_wait_us(self.timing, self.failures, self.luck)
        elif self.role not in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            self.election_at_us = None

    def refresh_role(self) -> None:
        """The active configuration changed (R9)."""
        if self.leadership is not None:
            self.leadership.follow_config(self.configs.active, self.me, self.terms.last_index, self.now_us)
        elif self.election is None and self.role is not self.standing_role():
            self.role = self.standing_role()
            self.await_election()

    def advance_term(self, term: int, voted_for: str | None = None) -> None:
        """R2, R12: steps down, then takes the term, with the vote in it if there is one already."""
        assert term > self.term, f"R2: {term} after {self.term}"
        self.term = term
        self.voted_for = voted_for
        self.leader_id = None
        self.become_follower()
        self.effects.append(PersistVote(term, voted_for))
        self.matched_index = 0
        self.leader_commit = self.commit_index
        self.times.forget()
        while self.waiting:
            _, request = self.waiting.popleft()
            self.reply_update(request, UpdateError.INVALID_TERM)

    # -- the log -------------------------------------------------------------------------------------------------------
    def append(self, runs: tuple[Run, ...], payload: object = None, token: object = None, timestamp: int = 0) -> None:
        for run in runs:
            assert run.first == self.terms.last_index + 1, f"R5: {run} after {self.terms.last}"
            self.terms.append(run.term, run.last)
            if run.kind is Kind.CONFIG:
                assert run.config is not None
                self.configs.append(run.config)
                self.refresh_role()
        self.effects.append(Append(self.durability.append(self.terms.last_index), runs, payload, token, timestamp))

    def truncate_after(self, index: int) -> None:
        """Another leader's log goes on differently after `index`."""
        self.effects.append(Truncate(self.cut_after(index), index))

    def cut_after(self, index: int) -> int:
        """Forgets operations after `index`, whose rounds are aborted. The number of the truncation in the log's
        queue."""
        assert index >= self.commit_index, f"R7: {index} is committed up to {self.commit_index}"
        assert self.leadership is None, "R4"
        terms = self.terms
        self.effects.append(AbortRounds(terms.opid_at(index + 1), terms.last))
        terms.truncate_after(index)
        self.matched_index = min(self.matched_index, index)
        if self.configs.truncate_after(index):
            self.refresh_role()
        return self.durability.truncate_after(index)

    def commit_to(self, index: int) -> None:
        durable = self.durability.index
        assert self.commit_index < index <= durable, f"R14: from {self.commit_index} to {index}, durable {durable}"
        self.commit_index = index
        if self.configs.commit_up_to(index):
            self.effects.append(PersistConfig(self.configs.committed))
        self.effects.append(CommitUpTo(index))

    # -- answers and wishes --------------------------------------------------------------------------------------------
    def reply_update(self, request: UpdateRequest, error: UpdateError | None = None) -> None:
        """Acknowledges what is durable and the leader's (R13); the rest of the log is a hint where to go on."""
        agreed = min(self.matched_index, self.durability.index)
        agreed_id = self.terms.opid_at(agreed) if agreed >= self.terms.base.index else MINIMUM_OPID
        last = self.terms.last if error is not None or self.durability.index >= self.terms.last_index else agreed_id
        self.effects.append(Reply(request.call, UpdateResponse(
            self.me, self.term, last, agreed_id, self.commit_index, error, request.seq, self.times.floor)))

    def schedule(self) -> None:
        """Asks for a tick only when the one on its way would come too late: snoozing costs nothing."""
        lead = self.leadership
        at_us = self.election_at_us
        if lead is not None:
            at_us = lead.next_heartbeat_us
            if lead.tell_commit_us is not None and lead.tell_commit_us < at_us:
                at_us = lead.tell_commit_us
        if at_us is not None and (self.scheduled_us is None or at_us < self.scheduled_us):
            self.scheduled_us = at_us
            self.effects.append(Schedule(at_us))
