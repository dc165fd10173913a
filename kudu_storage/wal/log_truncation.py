"""Cutting a log behind an index, durably. The log is closed for writing while this works.

A crash at any point leaves a log that ends at `index`, or at some later entry that it had: segments behind the cut are
removed newest first, each removal durable before the next; the segment that holds the cut becomes a shorter copy.
"""
from __future__ import annotations

import os
from typing import Any

from kudu_storage._native.codec import compress
from kudu_storage._native.crc32c import crc32c
from kudu_storage._native.disk import Disk
from kudu_storage.common.opid import OpId
from kudu_storage.protos import message_class
from kudu_storage.wal.log_recovery import TEMPORARY_PREFIX, footer_bytes
from kudu_storage.wal.reader import Segment, open_segment


def truncate_segments(directory: str, sequences: list[int], index: int, disk: Disk) -> OpId | None:
    """Remove every entry above `index` from the closed segments `sequences`.

    Returns the id of the last operation left, None if there is none.
    """
    for sequence in reversed(sequences):
        path = os.path.join(directory, f"wal-{sequence:09d}")
        with open_segment(path) as segment:
            keep_bytes, kept, part = _find_cut(segment, index)
            if keep_bytes is not None and kept.entries:
                _replace(segment, keep_bytes, kept, part, directory, disk)
        if keep_bytes is not None and not kept.entries:
            disk.unlink(path)
            disk.sync_dir(directory)
        elif kept.min_index is not None:
            # It ends at or below the index: so do all before it. COMMITs alone would not say where the log ends.
            return OpId(kept.last_term, kept.last_index)
    return None


class _Kept:
    """What stays of a segment."""

    def __init__(self) -> None:
        self.entries = 0
        self.min_index: int | None = None
        self.max_index: int | None = None
        self.last_term = 0
        self.last_index = 0

    def add(self, entry: object) -> None:
        self.entries += 1
        if entry.type == 1:  # type: ignore[attr-defined]
            opid = entry.replicate.id  # type: ignore[attr-defined]
            self.min_index = opid.index if self.min_index is None else min(self.min_index, opid.index)
            self.max_index = opid.index if self.max_index is None else max(self.max_index, opid.index)
            self.last_term, self.last_index = opid.term, opid.index


def _find_cut(segment: Segment, index: int) -> tuple[int | None, _Kept, bytes]:
    """(bytes of the file that stay as they are, what they hold and the part, the first batch cut to what stays of it).

    No bytes are named when nothing goes. COMMITs of operations that go, go with them.
    """
    kept = _Kept()
    scanner = segment.scanner()
    while (chunk := scanner.next_chunk()) is not None:
        for position, (offset, _, _) in enumerate(chunk.refs()):
            batch: Any = message_class("kudu.log.LogEntryBatchPB").FromString(chunk[position])
            stays = [e for e in batch.entry if _index_of(e) <= index]
            for entry in stays:
                kept.add(entry)
            if len(stays) < len(batch.entry):
                part = message_class("kudu.log.LogEntryBatchPB")(entry=stays).SerializeToString() if stays else b""
                return offset, kept, part
    return None, kept, b""


def _index_of(entry: object) -> int:
    opid = entry.replicate.id if entry.type == 1 else entry.commit.commited_op_id  # type: ignore[attr-defined]
    return int(opid.index)


def _replace(segment: Segment, keep_bytes: int, kept: _Kept, part: bytes, directory: str, disk: Disk) -> None:
    temporary = os.path.join(directory, f"{TEMPORARY_PREFIX}cut{segment.sequence:06d}")
    fd = disk.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        at = 0
        while at < keep_bytes:
            piece = os.pread(segment.fd, min(1 << 20, keep_bytes - at), at)
            disk.pwrite(fd, piece, at)
            at += len(piece)
        if part:
            entry = encode_entry(part, segment.codec)
            disk.pwrite(fd, entry, at)
            at += len(entry)
        disk.pwrite(fd, footer_bytes(kept.entries, kept.min_index, kept.max_index), at)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.rename(temporary, segment.path)
    disk.sync_dir(directory)


def encode_entry(body: bytes, codec: int) -> bytes:
    """One entry of a segment: header and stored bytes."""
    stored = compress(body, codec)
    head = len(stored).to_bytes(4, "little") + len(body).to_bytes(4, "little") + crc32c(stored).to_bytes(4, "little")
    return head + crc32c(head).to_bytes(4, "little") + stored
