"""A leader: operations in, answers of its peers, the commit index, heartbeats, reads. Pure.

A leader appends and never truncates (R4). What it sends is in replication.py.
"""
from __future__ import annotations

from consensus.raft.effects import NeedsCopy, ReadReady, Role, SafeTime
from consensus.raft.handover import hand_over, promote
from consensus.raft.inputs import CopyDone, Propose, ReadBarrier, SendFailed, SendFailure, Sent
from consensus.raft.leadership import Barrier, Leadership
from consensus.raft.messages import Kind, Run, UpdateResponse
from consensus.raft.progress import Progress, Sending
from consensus.raft.quorum import majority_value
from consensus.raft.refusals import Refusal, UpdateError
from consensus.raft.replication import append_own, pump, pump_all, send_empty, tell_commit_late
from consensus.raft.state import State


def become_leader(s: State) -> None:
    """Begins the term with a NO_OP: only with an operation of its own term can a leader commit what came before
    (R8)."""
    s.election = None
    s.role = Role.LEADER
    s.leader_id = s.me
    s.failures = 0
    s.election_at_us = None
    s.times.forget()
    s.times.raise_floor(s.clock)
    index = s.terms.last_index + 1
    lead = s.leadership = Leadership(index, s.seq + 1, s.now_us)
    lead.follow_config(s.configs.active, s.me, index, s.now_us)
    lead.next_heartbeat_us = s.now_us + s.timing.heartbeat_us
    s.announce()
    append_own(s, Run(s.term, index, index, Kind.NO_OP))


def on_propose(s: State, event: Propose) -> None:
    lead = s.leadership
    if lead is None:
        s.refuse(event.token, Refusal.TOMBSTONED if s.tombstone is not None else Refusal.NOT_LEADER)
    elif lead.transfer is not None:
        s.refuse(event.token, Refusal.TRANSFERRING)
    elif event.first_timestamp <= s.times.floor or event.last_timestamp < event.first_timestamp or event.count < 1:
        s.refuse(event.token, Refusal.BEHIND_CLOCK)
    else:
        first = s.terms.last_index + 1
        last = first + event.count - 1
        s.times.appended(last, event.first_timestamp, event.last_timestamp)
        s.append((Run(s.term, first, last, Kind.DATA, event.size_bytes),), event.payload, event.token)
        pump_all(s)


# -- to the peers ------------------------------------------------------------------------------------------------------
def on_sent(s: State, event: Sent) -> None:
    p = _progress(s, event.peer_id)
    if p is not None and p.filling_seq == event.seq and p.next_index <= event.last <= s.terms.last_index:
        p.sent(event.seq, event.last, event.size_bytes)
        pump(s, p)


def on_send_failed(s: State, event: SendFailed) -> None:
    p = _progress(s, event.peer_id)
    if p is None or s.leadership is None or event.seq < s.leadership.first_seq or event.seq <= p.acked_seq:
        return
    if event.failure is SendFailure.UNREACHABLE:
        p.failed()
    else:
        _needs_copy(s, p)


def _needs_copy(s: State, p: Progress) -> None:
    if p.sending is not Sending.COPY:
        p.needs_copy()
        s.effects.append(NeedsCopy(p.peer_id))


def on_copy_done(s: State, event: CopyDone) -> None:
    p = _progress(s, event.peer_id)
    if p is not None and p.sending is Sending.COPY:
        p.copied(s.terms.last_index + 1)
        send_empty(s, p)


def _progress(s: State, peer_id: str) -> Progress | None:
    return None if s.leadership is None else s.leadership.progress.get(peer_id)


# -- from the peers ----------------------------------------------------------------------------------------------------
def on_update_response(s: State, response: UpdateResponse) -> None:
    if response.term > s.term:
        s.advance_term(response.term)
        return
    lead = s.leadership
    p = _progress(s, response.peer_id)
    if lead is None or p is None or response.seq < lead.first_seq or response.term < s.term:
        return
    p.contact_us = s.now_us
    if response.seq > p.heard_seq:
        p.heard_seq = response.seq
    p.peer_committed = response.last_committed_index
    if response.time_floor > p.time_floor:
        p.time_floor = response.time_floor
    if response.error is None:
        agreed = response.last_received_current_leader
        if s.terms.holds(response.last_received) and response.last_received.index > agreed.index:
            agreed = response.last_received
        p.accepted(response, agreed.index if s.terms.holds(agreed) else 0, s.seq)
        advance_commit(s)
        _finish_barriers(s, lead)
        promote(s, p)
        if lead.transfer is not None:
            hand_over(s, p)
        pump(s, p)
    elif response.error is UpdateError.PRECEDING_ENTRY_DIDNT_MATCH:
        if p.rewind(response, s.terms, s.seq):
            pump(s, p)
    elif response.error is UpdateError.TOMBSTONED:
        p.last_error = response.error
        _needs_copy(s, p)
    else:
        p.last_error = response.error
        p.failed()


def advance_commit(s: State) -> None:
    """R8, R13, R14: by counting, and only operations of this term; never what this log might still lose."""
    lead = s.leadership
    assert lead is not None
    progress, durable = lead.progress, s.durability.index
    counted = majority_value([durable if v == s.me else progress[v].match_index for v in s.configs.active.voters])
    index = min(counted, durable)
    if index > s.commit_index and index >= lead.first_index:
        s.commit_to(index)
        _declare_safe_time(s, lead)
        for p in progress.values():
            if not p.in_flight:
                pump(s, p)
        _finish_barriers(s, lead)


def _declare_safe_time(s: State, lead: Leadership) -> None:
    """Not before the term's NO_OP is committed: until then another leader may still commit what this one knows nothing
    of."""
    if s.commit_index < lead.first_index:
        return
    before = s.times.safe
    voters = s.configs.active.voters
    floor = majority_value([s.times.floor if v == s.me else lead.progress[v].time_floor for v in voters])
    if s.times.lead(s.commit_index, floor) > before:
        s.effects.append(SafeTime(s.times.safe))


# -- time --------------------------------------------------------------------------------------------------------------
def lead_tick(s: State, late: bool) -> None:
    """A heartbeat. A leader that a majority has not answered for an election timeout leads nobody and says so."""
    lead = s.leadership
    assert lead is not None
    tell_commit_late(s)
    if s.now_us < lead.next_heartbeat_us:
        return
    lead.next_heartbeat_us = s.now_us + s.timing.heartbeat_us
    if lead.transfer is not None and s.now_us >= lead.transfer.until_us:
        if not lead.transfer.told:
            s.refuse(lead.transfer.token, Refusal.NOT_READY)
        lead.transfer = None
    # After a late tick the answers are still in the queue: this process was away, not they.
    if not late and quorum_contact_us(s) < s.now_us - s.timing.election_timeout_us:
        s.become_follower()
        return
    s.times.raise_floor(s.clock)
    _declare_safe_time(s, lead)
    recently_us = s.now_us - s.timing.heartbeat_us // 2
    for p in lead.progress.values():
        if p.sending is Sending.COPY:
            continue
        p.paused = False
        if p.sending is Sending.PROBE or p.sent_us <= recently_us:
            send_empty(s, p)


def quorum_contact_us(s: State) -> int:
    """When a majority, this replica among them, was last known to follow."""
    lead = s.leadership
    assert lead is not None
    return majority_value([s.now_us if v == s.me else lead.progress[v].contact_us for v in s.configs.active.voters])


# -- reads -------------------------------------------------------------------------------------------------------------
def on_read_barrier(s: State, event: ReadBarrier) -> None:
    """Read index: the commit index now, if a majority says, after now, that this is still the leader. No clock is
    trusted."""
    lead = s.leadership
    if lead is None:
        s.refuse(event.token, Refusal.TOMBSTONED if s.tombstone is not None else Refusal.NOT_LEADER)
        return
    if s.commit_index < lead.first_index:
        s.refuse(event.token, Refusal.NOT_READY)
        return
    lead.barriers.append(Barrier(event.token, s.commit_index, s.seq))
    for p in lead.progress.values():
        if p.sending is not Sending.COPY:
            send_empty(s, p)
    _finish_barriers(s, lead)


def _finish_barriers(s: State, lead: Leadership) -> None:
    if not lead.barriers:
        return
    seq = majority_value([s.seq + 1 if v == s.me else lead.progress[v].heard_seq for v in s.configs.active.voters])
    ready = [b for b in lead.barriers if b.seq < seq]
    if ready:
        lead.barriers = [b for b in lead.barriers if b.seq >= seq]
        s.effects.extend(ReadReady(b.token, b.index) for b in ready)
