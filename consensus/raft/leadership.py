"""What only a leader has: its peers' progress, reads under way, a transfer under way. Pure."""
from __future__ import annotations

from dataclasses import dataclass

from consensus.raft.configuration import Config
from consensus.raft.progress import Progress


@dataclass(slots=True)
class Barrier:
    """A read: nothing that was acknowledged before it is above `index`. Ready when a majority answered requests after
    `seq`."""

    token: object
    index: int
    seq: int


@dataclass(slots=True)
class Handover:
    """A graceful transfer: no proposals until it has succeeded or `until_us` has come."""

    to: str | None
    token: object
    until_us: int
    told: bool = False


class Leadership:
    """From the NO_OP of a term to its end."""

    __slots__ = ("barriers", "first_index", "first_seq", "next_heartbeat_us", "progress", "started_us",
                 "tell_commit_us", "transfer")

    def __init__(self, first_index: int, first_seq: int, now_us: int) -> None:
        self.first_index = first_index
        self.first_seq = first_seq
        self.started_us = now_us
        self.next_heartbeat_us = now_us
        self.progress: dict[str, Progress] = {}
        self.barriers: list[Barrier] = []
        self.transfer: Handover | None = None
        self.tell_commit_us: int | None = None      # when to tell the commit index to whoever was not told yet

    def follow_config(self, config: Config, me: str, next_index: int, now_us: int) -> None:
        """Peers follow the active configuration (R9); who stays keeps what is known of it."""
        names = [p.peer_id for p in config.peers if p.peer_id != me]
        self.progress = {name: self.progress.get(name) or Progress(name, next_index, now_us) for name in names}
