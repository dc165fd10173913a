"""Single rows by key, at a snapshot, from all stores of a view. Blocks on disk.

The finders of the apply path belong to it alone; those here are shared by all readers, one at a time.
"""
from __future__ import annotations

import threading
import weakref
from typing import Any

from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.row_layout import RowLayout
from kudu_storage._native.row_lookup import RowLookup
from kudu_storage._native.rowset_scan import KeyFinder
from kudu_storage.tablet.disk_rowset import DiskRowSet
from kudu_storage.tablet.view import View


class PointReader:
    """Args:
        layout: the columns wanted.
    """

    def __init__(self, layout: RowLayout) -> None:
        self._layout = layout
        self._lookup = RowLookup(layout)
        self._lock = threading.Lock()
        self._finders: weakref.WeakKeyDictionary[DiskRowSet, KeyFinder] = weakref.WeakKeyDictionary()   # under _lock

    def get(self, view: View, snapshot: Snapshot, key: bytes) -> list[Any] | None:
        """The row with this encoded key as Python values, or None. Raises CorruptionError's kinds, DiskError."""
        for store in reversed(view.memory):
            found = self._lookup.get(store.rows, snapshot, key)
            if found is not None:
                return found
        for flushed in view.flushed:
            disk = flushed.disk
            if not disk.min_key <= key <= disk.max_key:
                continue
            row = self._find(disk, key)
            if row is None:
                continue
            for block in disk.batches(self._layout, snapshot, [(row, row + 1)]):
                return list(block.to_tuples()[0])
        return None

    def _find(self, disk: DiskRowSet, key: bytes) -> int | None:
        with self._lock:
            finder = self._finders.get(disk)
            if finder is None:
                finder = self._finders[disk] = disk.finder()
            return finder.find_row(key)
