"""What happens in a simulation, as lines for people. Pure."""
from __future__ import annotations

from consensus.raft.inputs import Input, LogCut, LogDurable, Propose, Sent
from consensus.raft.messages import RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse


def received(now_us: int, name: str, event: Input) -> str:
    """One input of a replica: when, whose, what."""
    return f"{now_us / 1e6:9.6f}  {name} <- {_said(event)}"


def became(name: str, effect: object) -> str:
    """What it does about it."""
    return f"{'':9}  {name}    {type(effect).__name__} {_fields(effect)}"


def _said(event: object) -> str:
    if isinstance(event, UpdateRequest):
        ops = ", ".join(map(str, event.runs)) or "nothing"
        return f"update from {event.leader_id} of term {event.term}: {ops} after {event.preceding}, " \
               f"committed {event.committed_index} (#{event.seq})"
    if isinstance(event, UpdateResponse):
        error = "" if event.error is None else f" {event.error.name},"
        return f"answer from {event.peer_id} of term {event.term} to #{event.seq}:{error} has " \
               f"{event.last_received}, of this leader's {event.last_received_current_leader}"
    if isinstance(event, VoteRequest):
        kind = "would you vote" if event.is_pre_election else "vote"
        return f"{kind} for {event.candidate_id} in term {event.term}? it has {event.last_received}" \
               + (" (whoever leads)" if event.ignore_live_leader else "")
    if isinstance(event, VoteResponse):
        kind = "would vote" if event.is_pre_election else "vote"
        why = "" if event.denial is None else f": {event.denial.name}"
        return f"{kind} of {event.voter_id} in term {event.term}: {'yes' if event.granted else 'no' + why}"
    if isinstance(event, RunElection):
        return "stand for election now"
    if isinstance(event, Propose):
        return f"{event.count} operations of clients"
    if isinstance(event, Sent):
        return f"sent to {event.peer_id} up to {event.last} (#{event.seq})"
    if isinstance(event, LogDurable):
        return f"append {event.batch} is durable"
    if isinstance(event, LogCut):
        return f"no space behind {event.after}"
    return f"{type(event).__name__} {_fields(event)}".strip()


def _fields(value: object) -> str:
    names = [name for name in getattr(type(value), "__slots__", ()) if name not in ("payload", "token", "call")]
    return ", ".join(f"{name} {getattr(value, name)}" for name in names)
