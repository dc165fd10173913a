"""A log against a list: random appends, waits, reads, cuts, collections and reopenings, with every codec."""
from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from typed_entries import commit, replicate

from kudu_storage import Log
from kudu_storage._native.log_writer import Append
from kudu_storage.common.opid import OpId
from kudu_storage.errors import BadFormat, Collected, InvalidArgument, LogBackpressure, NotYetWritten
from kudu_storage.wal.anchors import Anchor
from kudu_storage.wal.format import read_entries
from kudu_storage.wal.reader import list_segments
from kudu_storage.wal.verify import verify

PAYLOADS = st.one_of(st.binary(max_size=20), st.integers(0, 3000).map(bytes),
                     st.integers(0, 2**32).map(lambda n: n.to_bytes(5, "little") * 400))
# Taken modulo what there is: where segments end depends on the clock (compressed timestamps), and draws must not.
PLACES = st.integers(0, 2**20)
Entry = tuple[int, bytes]       # term and payload


class LogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="kudu-storage-machine-"))
        self.log: Log | None = None
        self.entries: list[Entry] = []      # entry i has index i + 1; those below `first` are collected
        self.first = 1
        self.tokens: list[Append] = []
        self.anchors: list[Anchor] = []
        self.commits = 0
        self.options: dict[str, Any] = {}

    @initialize(codec=st.sampled_from(["none", "lz4", "snappy", "zlib"]), cache=st.sampled_from([0, 3000, 1 << 20]),
                durability=st.sampled_from(["fsync", "os", "interval:1ms"]))
    def open(self, codec: str, cache: int, durability: str) -> None:
        self.options = {"compression": codec, "cache_size": cache, "durability": durability, "segment_size": "16KiB"}
        self.log = Log.open(self.folder, create=True, **self.options)

    @property
    def last(self) -> int:
        return len(self.entries)

    def place(self, number: int, first: int, end: int) -> int:
        """An index of first..end-1."""
        return first + number % (end - first)

    def held(self, start: int) -> list[tuple[OpId, bytes]]:
        return [(OpId(term, index), payload)
                for index, (term, payload) in enumerate(self.entries[start - 1:], start)]

    def read(self, start: int | None) -> list[tuple[OpId, bytes]]:
        assert self.log is not None
        found = [(entry.op_id, bytes(entry.payload)) for entry in self.log.read(start)]
        assert list(self.log.payloads(start)) == [data for _, data in found]
        for op_id, data in random.sample(found, min(3, len(found))):
            entry = self.log.get(op_id.index)
            assert (entry.op_id, bytes(entry)) == (op_id, data)
        return found

    # -- writing -------------------------------------------------------------------------------------------------------
    @rule(payload=PAYLOADS)
    def append(self, payload: bytes) -> None:
        assert self.log is not None
        try:
            token = self.log.append(payload)
        except LogBackpressure:
            self.log.flush()
            token = self.log.append(payload)
        self.entries.append((self.log.term, payload))
        assert token.first == token.last == OpId(self.log.term, self.last)
        self.tokens.append(token)

    @rule(payloads=st.lists(PAYLOADS, min_size=1, max_size=40))
    def append_many(self, payloads: list[bytes]) -> None:
        assert self.log is not None
        self.log.flush()
        token = self.log.append_many(payloads)
        self.entries += [(self.log.term, payload) for payload in payloads]
        assert token.last == OpId(self.log.term, self.last)
        self.tokens.append(token)

    @rule(steps=st.integers(1, 3))
    def raise_term(self, steps: int) -> None:
        assert self.log is not None
        self.log.term += steps

    @rule(payloads=st.lists(PAYLOADS, min_size=1, max_size=5), newer=st.booleans())
    def append_typed(self, payloads: list[bytes], newer: bool) -> None:
        assert self.log is not None
        self.log.flush()
        first, term = self.last + 1, self.log.term
        made = [replicate(term + (newer and i > 0), first + i, payload=p) for i, p in enumerate(payloads)]
        token = self.log.append_replicate(*made)
        self.entries += [(message.id.term, payload) for message, payload in zip(made, payloads, strict=True)]
        assert (token.first, token.last) == (OpId(term, first), OpId(made[-1].id.term, self.last))
        self.tokens.append(token)

    @rule(number=PLACES, payload=PAYLOADS, newer=st.booleans())
    def replace(self, number: int, payload: bytes, newer: bool) -> None:
        assert self.log is not None
        self.log.flush()
        if self.last <= self.first:
            return
        index = self.place(number, self.first, self.last + 1)
        message = replicate(self.log.term + newer, index, payload=payload)
        with pytest.raises(BadFormat):
            self.log.append_replicate(message)
        self.tokens.append(self.log.append_replicate(message, replace=True))
        del self.entries[index - 1:]
        self.entries.append((message.id.term, payload))
        # While it is queued, either history may be read; anchors may ask for an index that came and went.
        self.log.flush()

    @rule(number=PLACES)
    def append_commit(self, number: int) -> None:
        assert self.log is not None
        self.log.flush()
        if self.last < self.first:
            return
        index = self.place(number, self.first, self.last + 1)
        self.log.append_commit(commit(self.entries[index - 1][0], index)).wait(timeout=30)
        self.commits += 1

    @rule()
    def wait(self) -> None:
        for token in self.tokens:
            assert token.wait(timeout=30) is token
        self.tokens.clear()

    # -- reading -------------------------------------------------------------------------------------------------------
    @rule(number=PLACES)
    def read_from(self, number: int) -> None:
        assert self.log is not None
        self.log.flush()
        start = self.place(number, self.first, self.last + 2)
        assert self.read(start) == self.held(start)

    @rule(number=PLACES, limit=st.integers(0, 5000))
    def read_some(self, number: int, limit: int) -> None:
        assert self.log is not None
        self.log.flush()
        start = self.place(number, self.first, self.last + 2)
        some = [bytes(e.payload) for e in self.log.read(start, max_bytes=limit)]
        expected = [payload for _, payload in self.held(start)]
        assert some == expected[:len(some)]
        assert len(some) == len(expected) or sum(map(len, some)) >= limit
        assert sum(map(len, some[:-1])) < limit or len(some) <= 1

    @rule(beyond=st.integers(2, 2**40))
    def read_outside(self, beyond: int) -> None:
        assert self.log is not None
        self.log.flush()
        with pytest.raises(NotYetWritten):
            self.log.read(self.last + beyond)
        if self.first > 1:
            with pytest.raises(Collected):
                self.log.read(self.first - 1)
        else:
            assert self.read(0) == self.held(1)

    # -- shortening ----------------------------------------------------------------------------------------------------
    @rule(number=PLACES)
    def truncate(self, number: int) -> None:
        assert self.log is not None
        self.log.flush()
        index = self.place(number, self.first if self.first > 1 else 0, self.last + 2)
        if index == self.last + 1:
            with pytest.raises(NotYetWritten):
                self.log.truncate_after(index)
            return
        if index < self.first and self.first > 1:
            with pytest.raises(Collected):
                self.log.truncate_after(index)
            return
        self.log.truncate_after(index)
        del self.entries[index:]
        assert self.log.last.index == self.last

    @rule(number=PLACES)
    def anchor(self, number: int) -> None:
        assert self.log is not None
        self.log.flush()
        self.anchors.append(self.log.anchor(self.place(number, self.first, self.last + 2), owner="machine"))
        with pytest.raises(InvalidArgument):
            self.log.anchor(-1, owner="machine")

    @rule()
    def release(self) -> None:
        if self.anchors:
            self.anchors.pop(0).release()

    @rule()
    def gc(self) -> None:
        assert self.log is not None
        self.log.flush()
        result = self.log.gc()
        first = self.log.first_index
        assert first >= self.first and (result.segments > 0 or first == self.first)
        assert all(first <= a.index for a in self.anchors if a.index <= self.last)
        assert first <= max(self.last, 1) or not self.entries
        if any(a.index < self.last for a in self.anchors) and result.blocked_by is not None:
            assert "machine" in result.blocked_by
        self.first = first

    @rule(codec=st.sampled_from(["none", "lz4", "snappy", "zlib"]))
    def reopen(self, codec: str) -> None:
        assert self.log is not None
        self.log.close()
        self.anchors.clear()
        for token in self.tokens:
            assert token.done
        self.tokens.clear()
        self.options["compression"] = codec
        assert verify(self.folder).problems == ()
        self.log = Log.open(self.folder, **self.options)

    # -- always --------------------------------------------------------------------------------------------------------
    @invariant()
    def ends_agree(self) -> None:
        if self.log is None:
            return
        assert self.log.last == (OpId(self.entries[-1][0], self.last) if self.last >= self.first else OpId(0, 0))
        if self.options["durability"] == "fsync" and not self.tokens:
            assert self.log.durable == self.log.last
        self.log.anchors.check()

    def teardown(self) -> None:
        if self.log is not None:
            self.log.flush()
            assert self.read(None) == self.held(self.first)
            self.log.close()
            entries = [e for file in list_segments(self.folder) for e in read_entries(Path(file.path).read_bytes())[0]]
            assert sum(1 for e in entries if e.type == 2) <= self.commits
        shutil.rmtree(self.folder)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None,
                                   suppress_health_check=list(HealthCheck))
