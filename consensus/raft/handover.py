"""Changes of who belongs and who leads, asked for by people, by their tools, or by a learner's progress. Pure.

One change of configuration at a time, appended and replicated like any operation (R9). All of Kudu's conditions hold:
the leader has committed in its own term, nothing is pending, and the committed configuration is the one that the caller
has seen.
"""
from __future__ import annotations

from dataclasses import replace

from consensus.raft.configuration import Change, ChangeType, Config, MemberType, changed, survivors
from consensus.raft.effects import Done, Send
from consensus.raft.inputs import ChangeConfig, StepDown, Transfer, UnsafeChangeConfig
from consensus.raft.leadership import Handover
from consensus.raft.messages import Kind, Run, RunElection
from consensus.raft.progress import Progress
from consensus.raft.refusals import Refusal
from consensus.raft.replication import append_own
from consensus.raft.state import State


def on_change_config(s: State, event: ChangeConfig) -> None:
    after = _changed(s, event.changes, event.cas_opid_index)
    if isinstance(after, Refusal):
        s.refuse(event.token, after)
    else:
        _replicate(s, after, event.token)


def _changed(s: State, changes: tuple[Change, ...], cas_opid_index: int | None) -> Config | Refusal:
    lead = s.leadership
    if lead is None:
        return Refusal.TOMBSTONED if s.tombstone is not None else Refusal.NOT_LEADER
    if lead.transfer is not None:
        return Refusal.TRANSFERRING
    if s.configs.pending:
        return Refusal.CHANGE_PENDING
    # Without this, two leaders in turn could each commit a change by a majority that the other one's has nothing in
    # common with.
    if s.commit_index < lead.first_index:
        return Refusal.NOT_READY
    committed = s.configs.committed
    if cas_opid_index is not None and cas_opid_index != committed.opid_index:
        return Refusal.CAS_FAILED
    return changed(committed, changes, s.me)


def _replicate(s: State, config: Config, token: object) -> None:
    index = s.terms.last_index + 1
    append_own(s, Run(s.term, index, index, Kind.CONFIG, 0, replace(config, opid_index=index)), token)


def promote(s: State, p: Progress) -> None:
    """Makes a learner that was marked for it a voter, once another round as large as its last would bring it level."""
    config = s.configs.active
    if len(config.voters) == len(config.peers) or p.match_index == 0 or p.match_index + p.advanced < s.commit_index:
        return
    peer = config.peer(p.peer_id)
    if peer is None or not peer.promote or peer.member_type is MemberType.VOTER:
        return
    change = Change(ChangeType.MODIFY, p.peer_id, MemberType.VOTER, promote=False)
    after = _changed(s, (change,), None)
    if not isinstance(after, Refusal):
        _replicate(s, after, None)


def on_unsafe_change_config(s: State, event: UnsafeChangeConfig) -> None:
    """As if a leader of the next term had sent it: whatever is pending, whoever leads. What is left elects among itself
    then."""
    if s.tombstone is not None:
        s.refuse(event.token, Refusal.TOMBSTONED)
        return
    after = survivors(s.configs.committed, event.retained, s.me)
    if isinstance(after, Refusal):
        s.refuse(event.token, after)
        return
    s.advance_term(s.term + 1)
    index = s.terms.last_index + 1
    s.append((Run(s.term, index, index, Kind.CONFIG, 0, replace(after, opid_index=index)),),
             timestamp=max(s.clock, s.times.floor + 1))
    s.times.raise_floor(max(s.clock, s.times.floor + 1))
    s.effects.append(Done(event.token))


def on_transfer(s: State, event: Transfer) -> None:
    """Stops taking proposals, waits for the successor to be level, tells it to stand. If it does not win in time, goes
    on."""
    lead = s.leadership
    if lead is None:
        s.refuse(event.token, Refusal.TOMBSTONED if s.tombstone is not None else Refusal.NOT_LEADER)
    elif lead.transfer is not None:
        s.refuse(event.token, Refusal.TRANSFERRING)
    elif event.to == s.me:
        s.effects.append(Done(event.token))
    elif event.to is not None and event.to not in s.configs.active.voters:
        s.refuse(event.token, Refusal.NOT_A_VOTER)
    elif event.to is None and s.configs.active.voters == (s.me,):
        s.refuse(event.token, Refusal.UNKNOWN_PEER)
    else:
        lead.transfer = Handover(event.to, event.token, s.now_us + s.timing.election_timeout_us)
        for p in sorted(lead.progress.values(), key=lambda p: -p.contact_us):
            hand_over(s, p)


def hand_over(s: State, p: Progress) -> None:
    """Tells this peer to stand, if it is the one that is waited for."""
    assert s.leadership is not None
    transfer = s.leadership.transfer
    if transfer is None or transfer.told or p.match_index != s.terms.last_index:
        return
    if p.peer_id not in s.configs.active.voters or transfer.to not in (None, p.peer_id):
        return
    transfer.told = True
    s.effects.append(Send(p.peer_id, RunElection(s.me)))
    s.effects.append(Done(transfer.token))


def on_step_down(s: State, event: StepDown) -> None:
    """The next term begins without a leader; this replica lets others try first."""
    if s.leadership is None:
        s.refuse(event.token, Refusal.TOMBSTONED if s.tombstone is not None else Refusal.NOT_LEADER)
        return
    s.advance_term(s.term + 1)
    s.await_election(extra_us=s.timing.election_timeout_us)
    s.effects.append(Done(event.token))
