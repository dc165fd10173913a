"""A follower and its leader's updates. Pure.

In this order: is the request possible at all, is its term current, do the logs agree before it, what in it is new, what
of ours does it replace. Only then is anything appended; the answer waits until it is durable (R13).
"""
from __future__ import annotations

from consensus.raft.configuration import is_sound
from consensus.raft.effects import Reply, SafeTime
from consensus.raft.inputs import LogCut, LogDurable
from consensus.raft.leading import advance_commit
from consensus.raft.messages import Kind, Run, UpdateRequest, UpdateResponse
from consensus.raft.refusals import UpdateError
from consensus.raft.state import State


def on_update_request(s: State, request: UpdateRequest) -> None:
    if s.tombstone is not None:
        _turn_down(s, request, UpdateError.TOMBSTONED)
        return
    if not _is_possible(request) or _contradicts(s, request):
        _turn_down(s, request, UpdateError.MALFORMED)
        return
    if request.term < s.term:
        s.reply_update(request, UpdateError.INVALID_TERM)
        return
    if request.term > s.term:
        s.advance_term(request.term)
    _hear_leader(s, request.leader_id)
    s.times.raise_floor(request.time_floor)
    preceding = request.preceding
    here = s.terms.term_at(preceding.index)
    if here != preceding.term and preceding.index >= s.terms.base.index:
        if here >= 0 and preceding.index > s.commit_index:
            # Not the leader's, so it goes now: what is reported below must not be something that the leader lacks.
            s.truncate_after(preceding.index - 1)
        s.reply_update(request, UpdateError.PRECEDING_ENTRY_DIDNT_MATCH)
        return
    end_index = _take(s, request)
    s.matched_index = max(s.matched_index, end_index)
    s.leader_commit = max(s.leader_commit, request.committed_index)
    if request.safe_time > s.times.safe:
        s.times.declare(request.committed_index, request.safe_time)
    follow_commit(s)
    if request.runs and s.durability.index < end_index:
        s.waiting.append((end_index, request))
    else:
        s.reply_update(request)


def _turn_down(s: State, request: UpdateRequest, error: UpdateError) -> None:
    """Without a word about the log."""
    s.effects.append(Reply(request.call, UpdateResponse(s.me, s.term, error=error, seq=request.seq)))


def _is_possible(request: UpdateRequest) -> bool:
    """Indexes without gaps, terms that never go down nor pass the leader's, configurations that can be."""
    term, index = request.preceding
    if index < 0 or term < 0 or request.term < term or request.term < 1 or request.committed_index < 0:
        return False
    if (index == 0) != (term == 0):
        return False
    for run in request.runs:
        if run.first != index + 1 or run.last < run.first or not max(term, 1) <= run.term <= request.term:
            return False
        config = run.config
        if run.kind is Kind.CONFIG and (config is None or run.first != run.last or config.opid_index != run.first
                                        or not is_sound(config)):
            return False
        term, index = run.term, run.last
    return True


def _contradicts(s: State, request: UpdateRequest) -> bool:
    """A second leader of our term (R1), or a log that lacks what we know to be committed (R6): not Raft at work."""
    if request.term < s.term:
        return False
    if request.term == s.term and s.leader_id is not None and s.leader_id != request.leader_id:
        return True
    committed = s.commit_index
    preceding = request.preceding
    if s.terms.base.index <= preceding.index <= committed and s.terms.term_at(preceding.index) != preceding.term:
        return True
    for run in request.runs:
        end = min(run.last, committed) + 1
        if run.first < end and s.terms.first_mismatch(run.term, run.first, end) < end:
            return True
    return False


def _hear_leader(s: State, leader_id: str) -> None:
    """A valid leader spoke: nobody else gets our vote for a while, and we do not stand."""
    if s.leader_id is None or s.election is not None:
        s.leader_id = leader_id
        s.failures = 0
        s.become_follower()
    s.failures = 0
    s.excused = False
    timing = s.timing
    s.withhold_until_us = s.now_us + timing.election_timeout_us
    if s.election_at_us is not None:
        s.election_at_us = s.withhold_until_us + int(s.luck * timing.heartbeat_us / 2)


def _take(s: State, request: UpdateRequest) -> int:
    """Appends what is new, after replacing what differs. Index of the last operation that the request named."""
    runs = request.runs
    if not runs:
        return request.preceding.index
    last = s.terms.last_index
    new: list[Run] = []
    for run in runs:
        if new:
            new.append(run)
            continue
        differs = run.first
        if run.first <= last:
            differs = s.terms.first_mismatch(run.term, run.first, min(run.last, last) + 1)
        if differs > run.last:
            continue
        if differs <= last:
            s.truncate_after(differs - 1)
            last = differs - 1
        new.append(run if differs == run.first else Run(run.term, differs, run.last, run.kind, run.size_bytes))
    if new:
        s.append(tuple(new), request.payload)
    return runs[-1].last


def follow_commit(s: State) -> None:
    """As far as the leader has committed, the logs agree, and this log is durable (R14)."""
    index = min(s.leader_commit, s.matched_index, s.durability.index)
    if index > s.commit_index:
        s.commit_to(index)
    if s.times.follow(s.commit_index):
        s.effects.append(SafeTime(s.times.safe))


def on_log_durable(s: State, event: LogDurable) -> None:
    if not s.durability.durable(event.batch):
        return
    if s.leadership is not None:
        advance_commit(s)
        return
    follow_commit(s)
    waiting = s.waiting
    while waiting and waiting[0][0] <= s.durability.index:
        s.reply_update(waiting.popleft()[1])


def on_log_cut(s: State, event: LogCut) -> None:
    """A leader may have sent what it lost, and must not give those indexes again in its term (R4): it steps down."""
    after = event.after
    if after >= s.terms.last_index:
        return
    if s.leadership is not None:
        s.become_follower()
    kept = [(index, request) for index, request in s.waiting if index <= after]
    lost = [request for index, request in s.waiting if index > after]
    s.cut_after(after)
    s.waiting.clear()
    s.waiting.extend(kept)
    for request in lost:
        s.reply_update(request, UpdateError.CANNOT_PREPARE)
