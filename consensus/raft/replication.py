"""What a leader sends: operations to whoever may take some, and the commit index at the end of a burst. Pure.

What is sent follows from Progress alone; nothing is sent twice to a peer that did not ask.
"""
from __future__ import annotations

from consensus.raft.effects import NeedsCopy, Replicate, Send
from consensus.raft.messages import Run, UpdateRequest
from consensus.raft.progress import Progress, Sending
from consensus.raft.state import State
from kudu_storage.common.opid import OpId


def append_own(s: State, run: Run, token: object = None) -> None:
    """A NO_OP or a configuration: the leader gives it its timestamp, after all that were given or promised."""
    timestamp = max(s.clock, s.times.floor + 1)
    s.times.appended(run.last, timestamp, timestamp)
    s.append((run,), None, token, timestamp)
    pump_all(s)


def pump_all(s: State) -> None:
    assert s.leadership is not None
    for progress in s.leadership.progress.values():
        pump(s, progress)


def pump(s: State, p: Progress) -> None:
    """Sends what may be sent now; at the end of a burst, the commit index by itself."""
    if p.filling_seq or p.paused or p.sending is Sending.COPY:
        return
    last = s.terms.last_index
    if p.next_index <= last:
        timing = s.timing
        if p.sending is Sending.PROBE:
            if p.in_flight:
                return
        elif len(p.in_flight) >= timing.requests_in_flight_max or p.in_flight_bytes >= timing.bytes_in_flight_max:
            return
        request = _request(s, p)
        if request is not None:
            p.filling_seq = request.seq
            s.effects.append(Replicate(p.peer_id, request, last))
    elif p.told_commit < s.commit_index and p.sending is Sending.REPLICATE and not p.in_flight:
        _tell_commit(s, p)


def _tell_commit(s: State, p: Progress) -> None:
    delay_us, lead = s.timing.commit_delay_us, s.leadership
    assert lead is not None
    if not delay_us:
        send_empty(s, p)
    elif lead.tell_commit_us is None:
        lead.tell_commit_us = s.now_us + delay_us


def tell_commit_late(s: State) -> None:
    """No operations came for it to travel with."""
    lead = s.leadership
    assert lead is not None
    if lead.tell_commit_us is None or s.now_us < lead.tell_commit_us:
        return
    lead.tell_commit_us = None
    for p in lead.progress.values():
        if p.told_commit < s.commit_index and p.sending is Sending.REPLICATE and not (p.in_flight or p.paused
                                                                                      or p.filling_seq):
            send_empty(s, p)


def send_empty(s: State, p: Progress) -> None:
    request = _request(s, p)
    if request is not None:
        s.effects.append(Send(p.peer_id, request))


def _request(s: State, p: Progress) -> UpdateRequest | None:
    """A request without operations, preceding what comes next for this peer."""
    index = p.next_index - 1
    term = s.terms.term_at(index)
    if term < 0:
        p.needs_copy()
        s.effects.append(NeedsCopy(p.peer_id))
        return None
    s.seq += 1
    p.sent_us = s.now_us
    p.told_commit = s.commit_index
    return UpdateRequest(s.me, s.term, OpId(term, index), s.commit_index, (), all_replicated_index(s), s.times.safe,
                         s.times.floor, s.terms.last_index, s.seq)


def all_replicated_index(s: State) -> int:
    """What every peer has, learners too: nobody will ask for it again. Falls when a peer is added."""
    assert s.leadership is not None
    lowest = s.durability.index
    for p in s.leadership.progress.values():
        if p.match_index < lowest:
            lowest = p.match_index
    return lowest
