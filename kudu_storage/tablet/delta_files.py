"""A rowset's delta files, read as far as a batch of rows needs them: memory is bounded by the batch, not by the file.

 R1  For rows [first, end) the runs handed out hold all deltas of these rows, in file order.
 R2  A file is passed over only when its footer's statistics, which decoded deltas are held against, say that none of
     its deltas could matter to the snapshot.
May not touch: blocks, superblocks. A DeltaFile is shared by threads; each scan has its own DeltaWindow.
"""
from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

from kudu_storage._native.cfile_reader import CFileReader
from kudu_storage._native.delta import DeltaRun, DeltaStats, decode_mvarint
from kudu_storage._native.mvcc import Snapshot
from kudu_storage._native.rowset_scan import read_delta_leaf
from kudu_storage.errors import BadFormat, CorruptionError
from kudu_storage.protos import message_class

STATS_KEY = "deltafilestats"


class DeltaFile:
    """One delta file of a rowset.

    Args:
        reader: its column file.
        undo: it leads back in time.
        row_count: rows of its rowset.
    Raises:
        BadFormat: not a delta file.
    """

    def __init__(self, reader: CFileReader, *, undo: bool, row_count: int) -> None:
        if reader.type.name != "BINARY" or not reader.has_value_index:
            raise BadFormat("a column file that holds no deltas", path=reader.name)
        self.reader = reader
        self.undo = undo
        self.row_count = row_count
        self.stats = _stats_of(reader)
        self._leaf_rows: list[int] | None = None

    @property
    def delta_count(self) -> int:
        return self.reader.num_values

    def matters(self, snapshot: Snapshot, since: Snapshot | None = None) -> bool:
        """Whether some delta could change what is seen at the snapshot (or between the two)."""
        if self.stats is None or since is not None:
            return True
        if self.undo:
            return self.stats.max_timestamp >= snapshot.all_before
        return not snapshot.is_clean or self.stats.min_timestamp < snapshot.all_before

    def leaf_rows(self) -> list[int]:
        """The row of the first delta in each block."""
        if self._leaf_rows is None:
            rows = [decode_mvarint(key)[0] for key in self.reader.index_keys()]
            if any(a > b for a, b in pairwise(rows)) or (rows and rows[-1] >= self.row_count):
                raise BadFormat("the index of a delta file names rows out of order or outside its rowset",
                                path=self.reader.name)
            self._leaf_rows = rows
        return self._leaf_rows

    def window(self) -> DeltaWindow:
        return DeltaWindow(self)


class DeltaWindow:
    """A scan's place in one delta file: it keeps the decoded blocks of the batch in hand. One thread."""

    def __init__(self, file: DeltaFile) -> None:
        self._file = file
        self._cursor = file.reader.cursor()
        self._runs: dict[int, DeltaRun] = {}

    def runs(self, first: int, end: int) -> list[DeltaRun]:
        """The decoded blocks that hold all deltas of rows [first, end) (R1). Raises CorruptionError's kinds."""
        rows = self._file.leaf_rows()
        begin = max(bisect_left(rows, first) - 1, 0)        # the block before may end with deltas of `first`
        wanted = range(begin, max(bisect_left(rows, end), begin))
        self._runs = {leaf: self._runs.get(leaf) or self._decode(leaf) for leaf in wanted}
        return list(self._runs.values())

    def _decode(self, leaf: int) -> DeltaRun:
        file = self._file
        cells = read_delta_leaf(self._cursor, leaf)
        try:
            run = DeltaRun.decode(cells, undo=file.undo, rows=file.row_count)
        except CorruptionError as error:
            error.path = error.path or file.reader.name
            raise
        stats = file.stats
        if stats is not None and run.count and not (stats.min_timestamp <= run.stats.min_timestamp
                                                    and run.stats.max_timestamp <= stats.max_timestamp):
            raise BadFormat("a delta outside the timestamps that the footer tells", path=file.reader.name)
        return run


def _stats_of(reader: CFileReader) -> DeltaStats | None:
    from google.protobuf.message import DecodeError

    data = reader.metadata.get(STATS_KEY)
    if data is None:
        return None
    message = message_class("kudu.tablet.DeltaStatsPB")()
    try:
        message.ParseFromString(data)
        return DeltaStats.from_pb(message)
    except DecodeError as error:
        raise BadFormat(f"delta statistics cannot be parsed: {error}", path=reader.name) from None
