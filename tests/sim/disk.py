"""A model of what one replica keeps on disk: a log with an unsynced tail, and metadata that is synced before it counts.

The log is a sequence of records, as Kudu's is: an operation voids all before it with its index or a higher one, and a
truncation leaves no record of its own. A crash keeps what was synced and any number of the records behind it.
"""
from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from consensus.raft.configuration import Config
from consensus.raft.messages import Kind, Run
from consensus.raft.state import Recovered
from consensus.replica.ports import Slice
from kudu_storage.common.opid import MINIMUM_OPID, OpId


class Op(NamedTuple):
    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index
    kind: Kind
    timestamp: int
    value: object
    config: Config | None


class ModelDisk:
    """One replica's disk; outlives its process."""

    def __init__(self, config: Config) -> None:
        self.term = 0
        self.voted_for: str | None = None
        self.config = config
        self.records: list[Op] = []
        self.synced_count = 0
        self.ops: list[Op] = []            # the log as its reader sees it: ops[i] has index i + 1
        self.batches: list[tuple[int, int]] = []  # (batch, number of records when it was queued), not yet reported
        self.commit_index = 0              # of the COMMIT entries; they are synced with whatever follows them
        self._commit_synced = 0
        self.writes = 0

    # -- Metadata ------------------------------------------------------------------------------------------------------
    def persist_vote(self, term: int, voted_for: str | None) -> None:
        self.term, self.voted_for = term, voted_for

    def persist_config(self, config: Config) -> None:
        self.config = config

    # -- Log -----------------------------------------------------------------------------------------------------------
    def append(self, batch: int, runs: Sequence[Run], payload: object, timestamp: int) -> None:
        assert isinstance(payload, list)
        first = runs[0].first
        new = [op for op in payload if op.index >= first]
        assert [op.index for op in new] == list(range(first, runs[-1].last + 1)), f"{runs} do not describe {new}"
        self.records += new
        self.ops += new
        self.batches.append((batch, len(self.records)))

    def truncate(self, batch: int, after: int) -> None:
        del self.ops[after:]
        self.batches.append((batch, len(self.records)))

    def read(self, first: int, last: int, max_bytes: int) -> Slice | None:
        ops = self.ops[first - 1:last][:max_bytes]
        return Slice(runs_of(ops), ops, len(ops)) if ops else None

    # -- syncs and crashes ---------------------------------------------------------------------------------------------
    def begin_sync(self) -> tuple[int, int] | None:
        """The newest batch and how many records it ends with: what a sync that starts now makes durable."""
        if not self.batches:
            return None
        newest = self.batches[-1]
        self.batches.clear()
        self._commit_synced = self.commit_index
        return newest

    def synced(self, record_count: int) -> None:
        self.synced_count = max(self.synced_count, record_count)

    def no_space(self) -> int:
        """What was not synced is gone. The last index that is left."""
        lost = self.records[self.synced_count:]
        del self.records[self.synced_count:]
        self.batches.clear()
        if lost:
            del self.ops[min(op.index for op in lost) - 1:]
        return len(self.ops)

    def crash(self, random: Random) -> None:
        keep = random.randint(self.synced_count, len(self.records))
        del self.records[keep:]
        self.synced_count = keep
        self.batches.clear()
        self.ops = log_of(self.records)
        self.commit_index = min(self._commit_synced, len(self.ops))

    def recovered(self, unsure_until: int) -> Recovered:
        runs = runs_of(self.ops)
        configs = tuple(op.config for op in self.ops if op.config is not None)
        return Recovered(self.config, self.term, self.voted_for, MINIMUM_OPID, tuple((r.term, r.first) for r in runs),
                         len(self.ops), configs, self.commit_index, unsure_until)

    def durably_holds(self, op: OpId) -> bool:
        """Whether this operation would be in the log after a crash that keeps nothing unsynced."""
        if len(self.records) == self.synced_count:
            return op.index <= len(self.ops) and self.ops[op.index - 1].term == op.term
        for record in reversed(self.records[:self.synced_count]):
            if record.index <= op.index:
                return record.index == op.index and record.term == op.term
        return False


def log_of(records: Sequence[Op]) -> list[Op]:
    ops: list[Op] = []
    for op in records:
        del ops[op.index - 1:]
        ops.append(op)
    return ops


def runs_of(ops: Sequence[Op]) -> tuple[Run, ...]:
    runs: list[Run] = []
    start = 0
    count = len(ops)
    for i in range(1, count + 1):
        op = ops[start]
        if i == count or op.kind is not Kind.DATA or ops[i].kind is not Kind.DATA or ops[i].term != op.term:
            runs.append(Run(op.term, op.index, ops[i - 1].index, op.kind, i - start, op.config))
            start = i
    return tuple(runs)
