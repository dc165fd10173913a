"""What a tablet consists of at one moment: one immutable value, replaced as a whole.

A reader takes the view once and keeps it to its end. Rowsets on disk join here: a tuple of them and their interval
tree.
"""
from __future__ import annotations

from dataclasses import dataclass

from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.row_layout import RowLayout
from kudu_storage.common.schema import Schema


@dataclass(frozen=True, slots=True)
class View:
    """`memrowsets`: oldest first; the last one takes inserts, those before it are being flushed."""

    layout: RowLayout
    schema_version: int
    memrowsets: tuple[MemRowSet, ...]
    memrowset_id: int                   # of the last one

    @property
    def schema(self) -> Schema:
        return self.layout.schema
