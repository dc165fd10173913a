"""Runs a log through a script and remembers, per disk call, what was promised: then what a crash left can be judged.

A moment is what was true once so many disk calls were made. After a crash behind call k the log must be one that the
last moment at or before k allows:
 H1  Every entry acknowledged is there.
 H2  What is there is a prefix of what was appended, from the first index on, each with its payload.
 H3  Nothing that was truncated comes back once truncate_after has returned; before, all or a part may be there.
 H4  Collected entries may be there or not; no others are missing at the front.
"""
from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage.common.opid import OpId
from kudu_storage.errors import NoSpace
from kudu_storage.protos import message_class
from kudu_storage.wal.verify import verify


@dataclass(frozen=True, slots=True)
class Moment:
    """entries: payloads of indexes 1 and up. certain: so many of them must be there. acknowledged: so many must be
    there when the machine did not stop, only the process. first: the first index kept may be this at most."""

    calls: int
    entries: tuple[bytes, ...]
    certain: int
    acknowledged: int
    first: int

    def after_kill(self) -> Moment:
        """What holds when only the process ended."""
        return replace(self, certain=self.acknowledged)


NOTHING = Moment(0, (), 0, 0, 1)


class LogScript:
    """A log, and its moments."""

    def __init__(self, path: Path, disk: RecordingDisk, before: Moment = NOTHING, **options: Any) -> None:
        """before: what holds for the folder as it is."""
        self.path = path
        self.disk = disk
        self.options = options
        self.moments = [replace(before, calls=len(disk))]
        self._made = 1000 * len(before.entries)
        self.log = Log.open(path, create=True, disk=disk, **options)
        # What opening found is durable from here on.
        kept = self.log.last.index
        self._note(entries=before.entries[:kept], certain=kept, acknowledged=kept, first=self.log.first_index)

    # -- steps ---------------------------------------------------------------------------------------------------------
    def append(self, *sizes: int, wait: bool = True) -> Any:
        """One batch of entries of these sizes."""
        payloads = [self._payload(size) for size in sizes]
        self._note(entries=self._last.entries + tuple(payloads))
        token = self.log.append_many(payloads)
        assert token.last.index == len(self._last.entries)
        if wait:
            self.wait(token)
        return token

    def wait(self, token: Any) -> None:
        token.wait(timeout=60)
        self._acknowledged(token.last.index)

    def refused(self, kind: str, partial: int, *sizes: int) -> None:
        """A batch that finds the disk full: in doubt until the waiter is told, and never there afterwards."""
        before = self._last.entries
        self.disk.fail(kind, 1, errno.ENOSPC, partial=partial)
        token = self.append(*sizes, wait=False)
        try:
            token.wait(timeout=60)
        except NoSpace:
            self._note(entries=before)
        else:
            raise AssertionError("an entry without room was acknowledged")

    def prepare(self) -> None:
        """The next segment is made ahead of need, here and now."""
        assert self.log._writer.prepare()

    def cannot_prepare(self, kind: str) -> None:
        """Nor is it said that it cannot."""
        self.disk.fail(kind, 1, errno.ENOSPC)
        assert not self.log._writer.prepare()

    def commit(self, index: int) -> None:
        """A COMMIT of an entry, queued and not waited for."""
        self.log.append_commit(message_class("kudu.consensus.CommitMsg")(
            op_type=4, commited_op_id={"term": 1, "index": index}))

    def truncate_after(self, index: int) -> None:
        entries = self._last.entries
        self._note(certain=min(self._last.certain, index), acknowledged=min(self._last.acknowledged, index))
        self.log.truncate_after(index)
        self._note(entries=entries[:index])
        assert self.log.last.index == index

    def gc(self) -> int:
        before = len(self.disk)
        removed = self.log.gc().segments
        self.moments.append(replace(self._last, calls=before, first=self.log.first_index))
        return removed

    def reopen(self, **options: Any) -> None:
        self.close()
        self.options |= options
        self.log = Log.open(self.path, disk=self.disk, **self.options)
        assert self.log.last.index == len(self._last.entries)
        self._acknowledged(self.log.last.index)

    def close(self) -> None:
        self.log.close()
        self._acknowledged(len(self._last.entries))

    # -- the account ---------------------------------------------------------------------------------------------------
    @property
    def _last(self) -> Moment:
        return self.moments[-1]

    def _payload(self, size: int) -> bytes:
        """Never the same twice; not compressible, so that each codec fills as many segments."""
        self._made += 1
        return b"<%d>" % self._made + random.Random(self._made).randbytes(size)

    def _note(self, **changes: Any) -> None:
        self.moments.append(replace(self._last, calls=len(self.disk), **changes))

    def _acknowledged(self, index: int) -> None:
        durable = self.log.durable.index
        self._note(certain=max(self._last.certain, durable), acknowledged=max(self._last.acknowledged, index))

    def at(self, calls: int) -> Moment:
        """What holds for a crash behind so many calls."""
        return [moment for moment in self.moments if moment.calls <= calls][-1]


def check_reopens(path: Path, moment: Moment, **options: Any) -> None:
    """Open what a crash left, judge it, go on, and open it again."""
    kept, first = _judge(path, moment, options)
    with Log.open(path, **options) as log:
        assert _entries(log) == (kept, first), "opening twice gives two logs"
        token = log.append(b"after the crash").wait(timeout=60)
        assert token.last == OpId(token.term, first + len(kept))
        assert _entries(log) == ([*kept, b"after the crash"], first)
    with Log.open(path, **options) as log:
        assert _entries(log) == ([*kept, b"after the crash"], first)
    assert verify(path).problems == ()


def _judge(path: Path, moment: Moment, options: dict[str, Any]) -> tuple[list[bytes], int]:
    with Log.open(path, create=True, **options) as log:
        assert log.last == log.durable
        kept, first = _entries(log)
    last = first + len(kept) - 1
    assert last >= moment.certain, f"entries up to {moment.certain} were acknowledged, {last} is the last one left"
    assert last <= len(moment.entries), f"{len(moment.entries)} entries were appended, there are {last}"
    assert first <= moment.first or not kept, f"the first entry is {first}, all from {moment.first} on are kept"
    assert kept == list(moment.entries[first - 1:last]), "an entry is not what was appended"
    return kept, first


def _entries(log: Log) -> tuple[list[bytes], int]:
    """Payloads, and the first one's index."""
    found = list(log.read())
    first = log.first_index
    assert [e.index for e in found] == list(range(first, log.last.index + 1))
    return [bytes(e.payload) for e in found], first


@contextmanager
def scripted(path: Path, **options: Any) -> Iterator[LogScript]:
    """A script on a folder of its own, closed at the end unless it failed."""
    script = LogScript(path, RecordingDisk(), **options)
    yield script
    script.close()
