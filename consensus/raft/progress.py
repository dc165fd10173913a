"""What a leader knows of one peer: how far its log agrees, what is on the way to it, when it was last heard. Pure.

    PROBE      one request at a time: where the logs agree is a guess
    REPLICATE  up to a window of requests on the way, each behind the one before
    COPY       nothing is sent: the log cannot help this peer

| from → to | by |
| --- | --- |
| PROBE → REPLICATE | `accepted`: an answer without error |
| REPLICATE → PROBE | `rewind`: the preceding operation did not match; `failed`: a call failed |
| any → COPY, COPY → PROBE | `needs_copy`, `copied` |

P1  match_index < next_index: what is known to be there is not sent again.
P2  A rejection moves next_index once: answers to requests sent before it moved say nothing new (never spinning).
"""
from __future__ import annotations

from collections import deque
from enum import Enum

from consensus.raft.messages import UpdateResponse
from consensus.raft.refusals import UpdateError
from consensus.raft.terms import Terms


class Sending(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    COPY = "copy"


class Progress:
    """One peer, as its leader sees it."""

    __slots__ = ("acked_seq", "advanced", "contact_us", "doubts", "filling_seq", "heard_seq", "in_flight",
                 "in_flight_bytes", "last_error", "match_index", "next_index", "paused", "peer_committed", "peer_id",
                 "rewound_seq", "sending", "sent_us", "time_floor", "told_commit")

    def __init__(self, peer_id: str, next_index: int, now_us: int) -> None:
        self.peer_id = peer_id
        self.sending = Sending.PROBE
        self.match_index = 0
        self.next_index = next_index
        self.paused = False           # until the next heartbeat: the last attempt failed, or is still on its way
        self.filling_seq = 0          # the Replicate that the driver has not answered with Sent; 0 for none
        self.in_flight: deque[tuple[int, int, int, int]] = deque()  # (seq, first index, last index, bytes)
        self.in_flight_bytes = 0
        self.rewound_seq = 0          # answers to requests up to this one do not move next_index
        self.acked_seq = 0            # newest request that was answered without error
        self.heard_seq = 0            # newest request that was answered in this term at all
        self.advanced = 0             # operations that the last answer added
        self.doubts = 0               # rejections in a row that deny what was acknowledged
        self.contact_us = now_us
        self.sent_us = now_us
        self.told_commit = 0
        self.peer_committed = 0
        self.time_floor = 0
        self.last_error: UpdateError | None = None

    def sent(self, seq: int, last: int, size_bytes: int) -> None:
        self.filling_seq = 0
        self.in_flight.append((seq, self.next_index, last, size_bytes))
        self.next_index = last + 1
        self.in_flight_bytes += size_bytes

    def accepted(self, response: UpdateResponse, agreed_index: int, newest_seq: int) -> None:
        """An answer without error; logs agree, durably there, up to `agreed_index`."""
        self.acked_seq = max(self.acked_seq, response.seq)
        self.last_error = None
        self.doubts = 0
        self.advanced = max(0, agreed_index - self.match_index)
        self.match_index += self.advanced
        in_flight = self.in_flight
        while in_flight and in_flight[0][2] <= self.match_index:
            self.in_flight_bytes -= in_flight.popleft()[3]
        if in_flight and in_flight[0][0] == response.seq:
            # The peer took less than it was given, as when memory is short. The rest must be sent again.
            self._restart(self.match_index + 1)
            self.rewound_seq = newest_seq
        if self.next_index <= self.match_index:
            self.next_index = self.match_index + 1
            self.filling_seq = 0
        self.sending = Sending.REPLICATE
        self.paused = False

    def rewind(self, response: UpdateResponse, terms: Terms, newest_seq: int) -> bool:
        """The preceding operation did not match. Moves back in one go. Whether there is reason to send again at
        once."""
        if response.seq <= self.rewound_seq or response.seq < self.acked_seq:
            return False
        self.rewound_seq = newest_seq
        self.last_error = response.error
        last, ours = response.last_received, response.last_received_current_leader
        if terms.holds(last):
            next_index = last.index + 1
        elif ours.index and terms.holds(ours):
            next_index = ours.index + 1
        else:
            next_index = response.last_committed_index + 1
        next_index = min(next_index, terms.last_index + 1)
        if next_index <= self.match_index:
            # Overtaken on the way, most likely. A peer that insists was wiped and copied anew: believe it, not the
            # memory of it.
            self.doubts += 1
            if self.doubts > 1:
                self.match_index = next_index - 1
            next_index = self.match_index + 1
        same = next_index == self.next_index and not self.in_flight
        self._restart(next_index)
        self.sending = Sending.PROBE
        self.paused = same
        return not same

    def failed(self) -> None:
        """A call failed or was refused. Wait for the heartbeat, and then ask before sending much."""
        if self.sending is not Sending.COPY:
            self.sending = Sending.PROBE
        first = self.in_flight[0][1] if self.in_flight else self.next_index
        self._restart(max(first, self.match_index + 1))
        self.paused = True

    def needs_copy(self) -> None:
        self.sending = Sending.COPY
        self._restart(self.next_index)

    def copied(self, next_index: int) -> None:
        self.sending = Sending.PROBE
        self.match_index = 0
        self._restart(next_index)
        self.paused = False

    def _restart(self, next_index: int) -> None:
        self.next_index = next_index
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self.filling_seq = 0
