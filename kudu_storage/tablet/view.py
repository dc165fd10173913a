"""What a tablet consists of at one moment: one immutable value, replaced as a whole.

A reader takes the view once and keeps it to its end: that also keeps the blocks of its rowsets from being deleted.
A key is live in one of the stores at most, at any snapshot (V7 of docs/tablet.md).
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace

from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.row_layout import RowLayout
from kudu_storage._native.row_stores import RowStore
from kudu_storage.common.schema import Schema
from kudu_storage.tablet.disk_rowset import DiskRowSet


@dataclass(frozen=True, slots=True)
class MemStore:
    """A MemRowSet and what COMMITs name it by."""

    rows: MemRowSet
    id: int


@dataclass(frozen=True, slots=True, eq=False)
class FlushedRowSet:
    """A rowset on disk: for readers, and for the apply path. flushing_dms_id: of `disk.flushing`."""

    disk: DiskRowSet
    store: RowStore
    flushing_dms_id: int | None = None

    @property
    def id(self) -> int:
        return self.disk.id


@dataclass(frozen=True, slots=True)
class Heirs:
    """Rowsets that are written and not yet in the view: changes of their rows go there as well (A5 of the applier)."""

    of_memory: tuple[RowStore, ...] | None = None       # of the older MemRowSet
    of_rowsets: tuple[RowStore, ...] = ()
    inherited: frozenset[int] = frozenset()             # the rowsets that those come from


@dataclass(frozen=True, slots=True)
class View:
    """`memory`: oldest first; the last one takes inserts, the one before it is being flushed. At most two.

    flushed: by rowset id.
    """

    layout: RowLayout
    schema_version: int
    memory: tuple[MemStore, ...]
    flushed: tuple[FlushedRowSet, ...] = ()
    heirs: Heirs = field(default_factory=Heirs)

    @property
    def schema(self) -> Schema:
        return self.layout.schema

    @property
    def memrowset_id(self) -> int:
        """Of the MemRowSet that takes inserts."""
        return self.memory[-1].id

    @property
    def memrowsets(self) -> list[MemRowSet]:
        return [store.rows for store in self.memory]

    @property
    def rowsets(self) -> list[DiskRowSet]:
        return [flushed.disk for flushed in self.flushed]

    def rowset(self, rowset_id: int) -> FlushedRowSet | None:
        return next((flushed for flushed in self.flushed if flushed.id == rowset_id), None)

    def with_rowsets(self, new: tuple[FlushedRowSet, ...], removed: frozenset[int] = frozenset()) -> View:
        """Rowsets added, in place of those with their ids, and without the removed ones."""
        gone = removed | {flushed.id for flushed in new}
        kept = [flushed for flushed in self.flushed if flushed.id not in gone]
        return replace(self, flushed=tuple(sorted((*kept, *new), key=lambda flushed: flushed.id)))
