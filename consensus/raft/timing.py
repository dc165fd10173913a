"""How long things take, and how long to wait. Pure: time is a number of microseconds that the driver reads."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Timing:
    """Defaults are Kudu's: three missed heartbeats of 500 ms, back-off by half as much again, at most 20 s."""

    heartbeat_us: int = 500 * MS
    election_timeout_us: int = 1500 * MS
    backoff_factor: float = 1.5
    backoff_us_max: int = 20_000 * MS
    # How much later than asked for a tick may come before it says more of this process than of the leader.
    late_us: int = 250 * MS
    # Those who lost the same leader's connection stand within this time: some spread, so that they do not split the
    # votes.
    leader_lost_spread_us: int = 50 * MS
    # So long a leader lets a commit index wait for operations to travel with, before it tells it by itself. A client
    # that waits for each of its operations would else cost each peer another request for each.
    commit_delay_us: int = 0
    requests_in_flight_max: int = 8
    bytes_in_flight_max: int = 8 << 20


def election_wait_us(timing: Timing, failures: int, luck: float) -> int:
    """From one attempt to the next: at least the timeout, and randomly up to a bound that grows with each failure.

    The bound is cut before luck has its say: cut after, everybody would wait exactly the longest time after some
    failures.
    """
    # The exponent is cut too: a replica alone for a week must not overflow a float.
    bound = min(timing.election_timeout_us * timing.backoff_factor ** min(failures + 1, 64), timing.backoff_us_max)
    return timing.election_timeout_us + int(max(0.0, bound - timing.election_timeout_us) * luck)
