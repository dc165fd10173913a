"""What a log is made of: entries by kind, sizes, compression, rate. Read-only; damage ends a segment and is named."""
from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kudu_storage._native.entry import EntryTally
from kudu_storage.common.hybrid_time import to_micros
from kudu_storage.wal.report import SegmentReport
from kudu_storage.wal.verify import check_file, log_files

Key = TypeVar("Key", str, int)


@dataclass(slots=True)
class LogStat:
    """Sums over all segments. batch_sizes: largest size of a bucket (2**n - 1 bytes, decompressed) -> batches.

    file_bytes are those of the files, stored_bytes those of the entries as stored, data_bytes after decompression.
    """

    segments: list[SegmentReport] = field(default_factory=list)
    file_bytes: int = 0
    stored_bytes: int = 0
    data_bytes: int = 0
    entries: int = 0
    replicates: int = 0
    commits: int = 0
    batches: int = 0
    single_entry_batches: int = 0
    mixed_batches: int = 0
    replaced: int = 0
    largest_batch_bytes: int = 0
    ops_by_type: dict[str, int] = field(default_factory=dict)
    batch_sizes: dict[int, int] = field(default_factory=dict)
    min_timestamp: int | None = None
    max_timestamp: int | None = None

    def add(self, report: SegmentReport, tally: EntryTally | None) -> None:
        """Count one segment."""
        self.segments.append(report)
        self.file_bytes += report.bytes
        if tally is None:
            return
        for name in ("stored_bytes", "data_bytes", "entries", "replicates", "commits", "batches",
                     "single_entry_batches", "mixed_batches"):
            setattr(self, name, getattr(self, name) + getattr(tally, name))
        self.replaced += tally.backward_jumps
        self.largest_batch_bytes = max(self.largest_batch_bytes, tally.largest_batch_bytes)
        _add_counts(self.ops_by_type, tally.ops_by_type)
        _add_counts(self.batch_sizes, tally.batch_sizes)
        if tally.min_timestamp is not None and tally.max_timestamp is not None:
            self.min_timestamp = min(self.min_timestamp or tally.min_timestamp, tally.min_timestamp)
            self.max_timestamp = max(self.max_timestamp or 0, tally.max_timestamp)

    @property
    def compression_ratio(self) -> float | None:
        """Decompressed bytes over stored bytes."""
        return self.data_bytes / self.stored_bytes if self.stored_bytes else None

    @property
    def ops_per_second(self) -> float | None:
        """REPLICATEs over the time between the smallest and the largest timestamp."""
        if self.min_timestamp is None or self.max_timestamp is None:
            return None
        micros = to_micros(self.max_timestamp) - to_micros(self.min_timestamp)
        return (self.replicates - 1) * 1e6 / micros if micros > 0 else None

    def to_json(self) -> dict[str, Any]:
        return {
            "segments": [s.to_json() for s in self.segments], "file_bytes": self.file_bytes,
            "stored_bytes": self.stored_bytes, "data_bytes": self.data_bytes,
            "compression_ratio": self.compression_ratio, "entries": self.entries, "replicates": self.replicates,
            "commits": self.commits, "ops_by_type": self.ops_by_type, "batches": self.batches,
            "single_entry_batches": self.single_entry_batches, "mixed_batches": self.mixed_batches,
            "largest_batch_bytes": self.largest_batch_bytes,
            "batch_sizes": {str(size): self.batch_sizes[size] for size in sorted(self.batch_sizes)},
            "index_steps_back": self.replaced, "ops_per_second": self.ops_per_second,
        }

    def lines(self) -> list[str]:
        """The text form."""
        ratio, rate = self.compression_ratio, self.ops_per_second
        out = [f"segments      {len(self.segments)}, {self.file_bytes} bytes",
               f"entries       {self.entries}: {self.replicates} REPLICATE, {self.commits} COMMIT",
               *(f"  {name:<18}{self.ops_by_type[name]}" for name in sorted(self.ops_by_type)),
               f"batches       {self.batches}: {self.single_entry_batches} with one entry, {self.mixed_batches} mixed",
               f"entry bytes   {self.stored_bytes} stored, {self.data_bytes} decompressed"
               + (f", ratio {ratio:.2f}" if ratio else ""),
               f"steps back    {self.replaced} (operations that replace older ones)"]
        if rate:
            out.append(f"rate          {rate:.1f} operations/s by their timestamps")
        out.append("batch sizes   decompressed bytes, up to")
        out += [f"  {size:>12}  {self.batch_sizes[size]}" for size in sorted(self.batch_sizes)]
        return out


def stat(path: str | os.PathLike[str]) -> LogStat:
    """Read a tablet's log folder or one segment file. Raises NotFound, DiskError; damage is in the reports."""
    result = LogStat()
    for file in log_files(path):
        segment, checked = check_file(file)
        if segment is not None:
            segment.close()
        result.add(checked.report, checked.tally)
    return result


def _add_counts(total: dict[Key, int], more: dict[Key, int]) -> None:
    for key, count in more.items():
        total[key] = total.get(key, 0) + count
