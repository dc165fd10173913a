"""CPU time that the Raft core takes for one replicated batch, on the leader and on a follower: `python
bench/raft_core.py`.

Three replicas' cores, messages handed over at once. The operations of a batch do not matter, which the second row
shows.
"""
from __future__ import annotations

import time

from consensus.raft import Raft, Recovered, voters
from consensus.raft import effects as fx
from consensus.raft.inputs import Input, LogDurable, Propose, Sent, Start
from consensus.raft.messages import Run, RunElection, UpdateRequest


class Group:
    """Cores joined by lists. Time stands still."""

    def __init__(self, names: str) -> None:
        self.cores = {n: Raft(n, Recovered(voters(*names))) for n in names}
        self.cpu_s = dict.fromkeys(names, 0.0)
        self.steps = dict.fromkeys(names, 0)
        self.clock = 1
        self.queue: list[tuple[str, Input]] = [(n, Start()) for n in names]

    def run(self) -> None:
        queue = self.queue
        while queue:
            name, event = queue.pop(0)
            core = self.cores[name]
            began = time.perf_counter()
            effects = core.step(event, 1_000_000, 0.5, self.clock)
            self.cpu_s[name] += time.perf_counter() - began
            self.steps[name] += 1
            for effect in effects:
                self._perform(name, effect)

    def _perform(self, name: str, effect: fx.Effect) -> None:
        match effect:
            case fx.Append(batch=batch):
                self.queue.append((name, LogDurable(batch)))
            case fx.Replicate(to=to, request=r, last=last):
                term = self.cores[name].state.terms.term_at(last)
                run = Run(term, r.preceding.index + 1, last, size_bytes=1024)
                self.queue.append((to, UpdateRequest(
                    r.leader_id, r.term, r.preceding, r.committed_index, (run,), r.all_replicated_index, r.safe_time,
                    r.time_floor, r.last_index, r.seq, None, name)))
                self.queue.append((name, Sent(to, r.seq, last, 1024)))
            case fx.Send(to=to, message=message):
                object.__setattr__(message, "call", name) if hasattr(message, "call") else None
                self.queue.append((to, message))
            case fx.Reply(call=str(call), message=message):
                self.queue.append((call, message))
            case _:
                pass


def measure(operations: int, batches: int = 5000) -> tuple[float, float, float]:
    """Microseconds a batch on the leader and on one follower, and steps a batch on the leader."""
    group = Group("abc")
    group.run()
    group.queue.append(("a", RunElection()))
    group.run()
    group.cpu_s = dict.fromkeys("abc", 0.0)
    group.steps = dict.fromkeys("abc", 0)
    for _ in range(batches):
        group.clock += operations + 1
        group.queue.append(("a", Propose(operations, 1024, group.clock - operations + 1, group.clock)))
        group.run()
    assert group.cores["c"].state.terms.last_index == batches * operations + 1
    return group.cpu_s["a"] / batches * 1e6, group.cpu_s["b"] / batches * 1e6, group.steps["a"] / batches


if __name__ == "__main__":
    print("| operations a batch | leader us | follower us | steps of the leader |\n| ---: | ---: | ---: | ---: |")
    for count in (1, 64, 10_000):
        best = min(measure(count) for _ in range(3))
        print(f"| {count} | {best[0]:.1f} | {best[1]:.1f} | {best[2]:.1f} |")
