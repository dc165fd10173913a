"""What opening or checking the data directories found, in the words of the real `kudu fs check`. Pure.

Entries that may be repaired say whether they were. Fatal are missing blocks and malformed records.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kudu_storage.errors import CorruptionError
from kudu_storage.fs.blocks.manager import block_name


@dataclass(slots=True)
class OrphanedBlock:
    """A block that no tablet names."""

    id: int
    length: int
    repaired: bool = False


@dataclass(slots=True)
class ExtraSpace:
    """A full container that takes more of the disk than its live blocks."""

    container: str
    excess_bytes: int
    repaired: bool = False


@dataclass(slots=True)
class IncompleteContainer:
    """Files of a container that never held a block, or none any more."""

    container: str
    repaired: bool = False


@dataclass(slots=True)
class MalformedRecord:
    """A block record that contradicts its file or other records. `record` is the BlockRecordPB."""

    container: str
    record: Any


@dataclass(slots=True)
class PartialRecord:
    """A torn record at the end of a container's metadata, from `offset` on."""

    container: str
    offset: int
    repaired: bool = False


@dataclass(slots=True)
class FsReport:
    """Kudu's report of a file system. A list that is None was not checked for."""

    wal_dir: str = ""
    metadata_dir: str = ""
    data_dirs: list[str] = field(default_factory=list)
    live_block_count: int = 0
    live_block_bytes: int = 0
    live_block_bytes_aligned: int = 0
    container_count: int = 0
    full_container_count: int = 0
    missing: list[tuple[int, str]] | None = None                # (block id, tablet id)
    orphaned: list[OrphanedBlock] | None = None
    extra_space: list[ExtraSpace] | None = None
    incomplete: list[IncompleteContainer] | None = None
    malformed: list[MalformedRecord] | None = None
    misaligned: list[tuple[str, int]] | None = None             # (container, block id)
    partial: list[PartialRecord] | None = None
    rocksdb_checked: bool = False                               # nothing to find: that kind is not supported

    @property
    def has_fatal_errors(self) -> bool:
        return bool(self.missing or self.malformed)

    def raise_if_fatal(self) -> None:
        """Raises CorruptionError for what cannot be repaired."""
        if not self.has_fatal_errors:
            return
        place = self.malformed[0].container if self.malformed else None
        raise CorruptionError(
            "found at least one fatal error in block manager on-disk state: "
            f"{len(self.missing or ())} missing blocks, {len(self.malformed or ())} malformed records", path=place,
            advice="kudu-storage fs check lists them; then another replica's copy of the tablets concerned")

    def text(self) -> str:
        """As the real tool prints it."""
        return "".join((
            "FS layout report\n--------------------\n",
            f"wal directory: {self.wal_dir}\nmetadata directory: {self.metadata_dir}\n",
            f"{len(self.data_dirs)} data directories: {', '.join(self.data_dirs)}\n",
            f"Total live blocks: {self.live_block_count}\nTotal live bytes: {self.live_block_bytes}\n",
            f"Total live bytes (after alignment): {self.live_block_bytes_aligned}\n",
            f"Total number of LBM containers: {self.container_count} ({self.full_container_count} full)\n",
            self._missing_text(), self._orphaned_text(), self._extra_space_text(),
            _count_text(self.incomplete, "Total incomplete LBM containers", "incomplete LBM containers"),
            self._malformed_text(), self._misaligned_text(),
            _count_text(self.partial, "Total LBM partial records", "partial LBM records"),
            "Total corrupted LBM metadata records in RocksDB: 0 (0 repaired)\n" if self.rocksdb_checked
            else _unchecked("corrupted LBM rdb records"),
        ))

    def _missing_text(self) -> str:
        if self.missing is None:
            return _unchecked("missing blocks")
        by_tablet: dict[str, list[str]] = {}
        for block_id, tablet in self.missing:
            by_tablet.setdefault(tablet, []).append(block_name(block_id))
        return f"Total missing blocks: {len(self.missing)}\n" + "".join(
            f"Fatal error: tablet {tablet} missing blocks: [ {', '.join(names)} ]\n"
            for tablet, names in by_tablet.items())

    def _orphaned_text(self) -> str:
        if self.orphaned is None:
            return _unchecked("orphaned blocks")
        repaired = [block for block in self.orphaned if block.repaired]
        return (f"Total orphaned blocks: {len(self.orphaned)} ({len(repaired)} repaired)\n"
                f"Total orphaned block bytes: {sum(block.length for block in self.orphaned)} "
                f"({sum(block.length for block in repaired)} repaired)\n")

    def _extra_space_text(self) -> str:
        if self.extra_space is None:
            return _unchecked("full LBM containers with extra space")
        repaired = [entry for entry in self.extra_space if entry.repaired]
        return (f"Total full LBM containers with extra space: {len(self.extra_space)} ({len(repaired)} repaired)\n"
                "Total full LBM container extra space in bytes: "
                f"{sum(entry.excess_bytes for entry in self.extra_space)} "
                f"({sum(entry.excess_bytes for entry in repaired)} repaired)\n")

    def _malformed_text(self) -> str:
        if self.malformed is None:
            return _unchecked("malformed LBM records")
        from kudu_storage.protos.text import debug_string

        return "".join(f"Fatal error: malformed record in container {entry.container}: {debug_string(entry.record)}\n"
                       for entry in self.malformed)

    def _misaligned_text(self) -> str:
        if self.misaligned is None:
            return _unchecked("misaligned LBM blocks")
        return "".join(f"Misaligned block in container {container}: {block_name(block_id)}\n"
                       for container, block_id in self.misaligned)


def _unchecked(what: str) -> str:
    return f"Did not check for {what}\n"


def _count_text(entries: list[Any] | None, title: str, what: str) -> str:
    if entries is None:
        return _unchecked(what)
    return f"{title}: {len(entries)} ({sum(entry.repaired for entry in entries)} repaired)\n"
