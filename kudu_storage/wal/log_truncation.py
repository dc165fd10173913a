"""Cutting a log behind an index, durably. The log is closed for writing while this works.

A crash at any point leaves a log that ends at `index`, or at some later entry that it had: segments are cut newest
first, each cut durable before the next. A segment of which something stays becomes a shorter copy: COMMITs of
operations that stay can come after operations that go, also in later segments.
"""
from __future__ import annotations

import os
from typing import Any

from kudu_storage._native.codec import compress
from kudu_storage._native.crc32c import crc32c
from kudu_storage._native.disk import Disk
from kudu_storage.protos import message_class
from kudu_storage.wal.log_recovery import TEMPORARY_PREFIX, footer_bytes
from kudu_storage.wal.reader import Segment, list_segments, open_segment


def truncate_segments(directory: str, index: int, disk: Disk) -> None:
    """Remove every entry above `index`. Raises the typed error of a damaged segment, DiskError."""
    followed = False                # by a segment that stays: then its number must stay too, if with nothing in it
    for file in reversed(list_segments(directory)):
        with open_segment(file.path) as segment:
            rest = _rest_of(segment, index)
            if not rest.cut:
                if rest.max_index is not None:
                    return          # its operations are at or below the index, so all that count before it are
            elif rest.entries or followed:
                _replace(segment, rest, directory, disk)
            else:
                disk.unlink(file.path)
                disk.sync_dir(directory)
                continue
        followed = True


class _Rest:
    """What stays of a segment: its first bytes as they are, then batches to be encoded again."""

    def __init__(self) -> None:
        self.cut = False
        self.keep_bytes = 0
        self.batches: list[bytes] = []
        self.entries = 0
        self.min_index: int | None = None
        self.max_index: int | None = None

    def count(self, entry: Any) -> None:
        self.entries += 1
        if entry.type == 1:
            index = entry.replicate.id.index
            self.min_index = index if self.min_index is None else min(self.min_index, index)
            self.max_index = index if self.max_index is None else max(self.max_index, index)


def _rest_of(segment: Segment, index: int) -> _Rest:
    rest = _Rest()
    make = message_class("kudu.log.LogEntryBatchPB")
    scanner = segment.scanner()
    while (chunk := scanner.next_chunk()) is not None:
        for body, (offset, _, _) in zip(chunk, chunk.refs(), strict=True):
            batch: Any = make.FromString(body)
            stays = [entry for entry in batch.entry if _index_of(entry) <= index]
            for entry in stays:
                rest.count(entry)
            if len(stays) < len(batch.entry):
                if not rest.cut:
                    rest.cut, rest.keep_bytes = True, offset
                body = make(entry=stays).SerializeToString()
            if rest.cut and stays:
                rest.batches.append(body)
    error = segment.error_of(scanner)
    if error is not None:
        raise error
    return rest


def _index_of(entry: Any) -> int:
    opid = entry.replicate.id if entry.type == 1 else entry.commit.commited_op_id
    return int(opid.index)


def _replace(segment: Segment, rest: _Rest, directory: str, disk: Disk) -> None:
    temporary = os.path.join(directory, f"{TEMPORARY_PREFIX}cut{segment.sequence:06d}")
    fd = disk.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        at = 0
        while at < rest.keep_bytes:
            piece = os.pread(segment.fd, min(1 << 20, rest.keep_bytes - at), at)
            disk.pwrite(fd, piece, at)
            at += len(piece)
        for body in rest.batches:
            entry = encode_entry(body, segment.codec, v1=segment.v1)
            disk.pwrite(fd, entry, at)
            at += len(entry)
        disk.pwrite(fd, footer_bytes(rest.entries, rest.min_index, rest.max_index), at)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.rename(temporary, segment.path)
    disk.sync_dir(directory)


def encode_entry(body: bytes, codec: int, *, v1: bool = False) -> bytes:
    """One entry of a segment: header and stored bytes. v1: as servers before 1.3 wrote it."""
    stored = body if v1 else compress(body, codec)
    lengths = [len(body)] if v1 else [len(stored), len(body)]
    head = b"".join(n.to_bytes(4, "little") for n in (*lengths, crc32c(stored)))
    return head + crc32c(head).to_bytes(4, "little") + stored
