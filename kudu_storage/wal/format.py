"""The segment format, slow and obvious: the executable specification. Pure functions of bytes.

Only tests import this module: they hold the native reader and writer against it. It is never a fallback at run time,
and it is the only place that uses crcmod. Source: consensus/log_util.cc, consensus/log.proto; the story:
docs/formats/wal.md.

    segment   "kudulogf" | u32 header length | LogSegmentHeaderPB | entries | [zeros or torn bytes | footer]
    entry v2  u32 stored length | u32 length | u32 crc of the stored bytes | u32 crc of those 12 bytes | stored bytes
          v1  u32 length | u32 crc of the bytes | u32 crc of those 8 bytes | bytes      (Kudu 1.2 and older)
    footer    LogSegmentFooterPB | "closedls" | u32 footer length, at the very end of the file

Integers are little-endian; a crc is plain CRC-32C; the bytes of an entry are one LogEntryBatchPB, compressed by the
header's codec: LZ4 as a raw block, snappy raw, zlib with its 2-byte header.
"""
from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Final

import cramjam
import crcmod.predefined
import lz4.block

from kudu_storage.common.limits import ENTRY_BATCH_BYTES_MAX, SEGMENT_HEADER_BYTES_MAX
from kudu_storage.errors import (
    BadChecksum,
    BadFormat,
    CorruptionError,
    ForeignFile,
    LimitExceeded,
    NewerVersion,
    TornTail,
    Truncated,
)
from kudu_storage.protos import message_class

HEADER_MAGIC: Final = b"kudulogf"
FOOTER_MAGIC: Final = b"closedls"
MAGIC_AND_LENGTH_BYTES: Final = 12
_U32: Final = struct.Struct("<I")
_ENTRY_V1: Final = struct.Struct("<III")
_ENTRY_V2: Final = struct.Struct("<IIII")

crc32c = crcmod.predefined.mkPredefinedCrcFun("crc-32c")


class Codec(IntEnum):
    """kudu.CompressionType, those that a log may use."""

    NONE = 1
    SNAPPY = 2
    LZ4 = 3
    ZLIB = 4


class Ending(Enum):
    """Why reading stopped without an error."""

    FOOTER = "footer"           # all entries before the footer were read
    END_OF_FILE = "end"         # no footer, and the file ends after an entry
    ZEROS = "zeros"             # no footer, and zeros follow the last entry: preallocated space
    TORN = "torn"               # no footer, and no valid entry header follows the bytes after the last entry


@dataclass(frozen=True, slots=True)
class Segment:
    """What is known of a segment before its entries are read."""

    header: Any                 # LogSegmentHeaderPB
    entries_offset: int
    footer: Any | None          # LogSegmentFooterPB
    entries_end: int            # where the footer begins, or the size of the file

    @property
    def entry_header_bytes(self) -> int:
        return _ENTRY_V1.size if self.header.HasField("DEPRECATED_major_version") else _ENTRY_V2.size

    @property
    def codec(self) -> Codec:
        return codec_of(self.header)


@dataclass(frozen=True, slots=True)
class Batch:
    """One entry of a segment: a LogEntryBatchPB, decompressed."""

    offset: int                 # of its entry header in the file
    data: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How reading a segment ended. `error` is what Kudu calls corruption; without it, `ending` says why it stopped."""

    ending: Ending | None
    error: CorruptionError | None
    offset: int                 # after the last whole entry


# -- compression -------------------------------------------------------------------------------------------------------
def codec_of(header: Any) -> Codec:
    """The codec of a segment. A header without one, or with "no compression", means none."""
    number = header.compression_codec if header.HasField("compression_codec") else Codec.NONE
    try:
        return Codec(number)
    except ValueError:
        raise BadFormat(f"log segment uses compression codec {number}, which a log cannot have") from None


def compress(data: bytes, codec: Codec) -> bytes:
    if codec is Codec.LZ4:
        return bytes(lz4.block.compress(data, store_size=False))
    if codec is Codec.SNAPPY:
        return bytes(cramjam.snappy.compress_raw(data))
    return zlib.compress(data) if codec is Codec.ZLIB else data


def decompress(stored: bytes, length: int, codec: Codec) -> bytes:
    """The `length` bytes that `stored` stands for. Raises BadFormat when it stands for anything else."""
    try:
        if codec is Codec.LZ4:
            data = bytes(lz4.block.decompress(stored, uncompressed_size=length))
        elif codec is Codec.SNAPPY:
            data = bytes(cramjam.snappy.decompress_raw(stored))
        else:
            data = zlib.decompress(stored) if codec is Codec.ZLIB else stored
    except (lz4.block.LZ4BlockError, cramjam.DecompressionError, zlib.error) as error:
        raise BadFormat(f"failed to uncompress entry: {error}") from None
    if len(data) != length:
        raise BadFormat(f"entry has {len(data)} bytes after decompression, its header says {length}")
    return data


# -- header and footer -------------------------------------------------------------------------------------------------
def parse_segment(data: bytes) -> Segment:
    """Header and footer. Raises ForeignFile, Truncated, LimitExceeded, NewerVersion or BadFormat."""
    header, entries_offset = parse_header(data)
    codec_of(header)
    footer, entries_end = parse_footer(data, entries_offset)
    return Segment(header, entries_offset, footer, entries_end)


def parse_header(data: bytes) -> tuple[Any, int]:
    """The header, and the offset of the first entry."""
    if len(data) < MAGIC_AND_LENGTH_BYTES:
        raise Truncated(f"log segment of {len(data)} bytes ends before its magic number and header length", offset=0)
    if not data.startswith(HEADER_MAGIC):
        if not any(data[:MAGIC_AND_LENGTH_BYTES]):
            raise Truncated("log segment begins with zeros: preallocated, and its header was never written", offset=0)
        raise ForeignFile(f"not a log segment: bad magic {data[:8]!r}", offset=0)
    length = _U32.unpack_from(data, len(HEADER_MAGIC))[0]
    if length > SEGMENT_HEADER_BYTES_MAX:
        raise LimitExceeded(f"segment header of {length} bytes, the limit is {SEGMENT_HEADER_BYTES_MAX}", offset=8)
    end = MAGIC_AND_LENGTH_BYTES + length
    if len(data) < end:
        raise Truncated(f"log segment ends inside its header of {length} bytes", offset=len(data))
    header = _parse("kudu.log.LogSegmentHeaderPB", data[MAGIC_AND_LENGTH_BYTES:end], "segment header")
    if header.incompatible_features:
        raise NewerVersion(f"log segment uses incompatible features {list(header.incompatible_features)}")
    return header, end


def parse_footer(data: bytes, entries_offset: int) -> tuple[Any | None, int]:
    """The footer, or None when the segment was not closed, and where the entries end."""
    magic_at = len(data) - MAGIC_AND_LENGTH_BYTES
    if magic_at < 0 or data[magic_at:magic_at + len(FOOTER_MAGIC)] != FOOTER_MAGIC:
        return None, len(data)
    length = _U32.unpack_from(data, magic_at + len(FOOTER_MAGIC))[0]
    if not 0 < length <= SEGMENT_HEADER_BYTES_MAX:
        raise LimitExceeded(f"segment footer of {length} bytes, the limit is {SEGMENT_HEADER_BYTES_MAX}",
                            offset=magic_at)
    begin = magic_at - length
    if length > len(data) - entries_offset or begin < 0:
        raise BadFormat("segment footer begins before the first entry", offset=magic_at)
    return _parse("kudu.log.LogSegmentFooterPB", data[begin:magic_at], "segment footer"), begin


def _parse(name: str, data: bytes, what: str) -> Any:
    from google.protobuf.message import DecodeError

    message = message_class(name)()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise BadFormat(f"{what} cannot be parsed: {error}") from None
    if not message.IsInitialized():
        raise BadFormat(f"{what} lacks required fields: {', '.join(message.FindInitializationErrors())}")
    return message


# -- entries -----------------------------------------------------------------------------------------------------------
def read_entries(data: bytes) -> tuple[list[Any], Outcome]:
    """All LogEntryPB messages of a segment up to its end or its first corruption, by Kudu's rules.

    Raises, as parse_segment does, when the header or the footer cannot be read: then there is no segment.
    """
    segment = parse_segment(data)
    batches, outcome = read_batches(data, segment)
    entries = [entry for batch in batches for entry in _parse("kudu.log.LogEntryBatchPB", batch.data, "entry").entry]
    if outcome.error is None and segment.footer is not None and segment.footer.num_entries != len(entries):
        error = BadFormat(f"segment has {len(entries)} entries, its footer says {segment.footer.num_entries}")
        outcome = Outcome(None, error, outcome.offset)
    return entries, outcome


def read_batches(data: bytes, segment: Segment) -> tuple[list[Batch], Outcome]:
    """All entries of a segment, and how it ended.

    The number of entries that a footer promises is not compared here: it counts LogEntryPBs, see read_entries.
    """
    batches: list[Batch] = []
    at = segment.entries_offset
    while at < segment.entries_end:
        try:
            batch, at_next = read_batch(data, at, segment)
            _parse("kudu.log.LogEntryBatchPB", batch.data, "entry")
        except CorruptionError as error:
            return batches, _judge(data, at, segment, error)
        batches.append(batch)
        at = at_next
    return batches, Outcome(Ending.FOOTER if segment.footer is not None else Ending.END_OF_FILE, None, at)


def _judge(data: bytes, at: int, segment: Segment, error: CorruptionError) -> Outcome:
    """A bad entry at `at`: the clean end of an unclosed segment, or corruption."""
    header_bytes = segment.entry_header_bytes
    if segment.footer is not None or any_entry_header(data, at + header_bytes, header_bytes):
        return Outcome(None, error, at)
    if not any(data[at:]):
        return Outcome(Ending.ZEROS, None, at)
    return Outcome(Ending.TORN, None, at)


def any_entry_header(data: bytes, first: int, header_bytes: int) -> bool:
    """Is there an entry header with a right checksum at any byte from `first` on?

    As in Kudu, a header in the very last bytes of the file, with nothing after it, does not count.
    """
    at = first
    while at < len(data) - header_bytes:
        if not any(data[at:at + 4096]):     # zeros; 16 of them are no header, for the crc of zeros is not zero
            at += max(1, min(4096, len(data) - at) - header_bytes + 1)
            continue
        if header_is_valid(data[at:at + header_bytes]):
            return True
        at += 1
    return False


def header_is_valid(header: bytes) -> bool:
    """Is the checksum at the end of an entry header right?"""
    return bool(crc32c(header[:-4]) == _U32.unpack(header[-4:])[0])


def read_batch(data: bytes, at: int, segment: Segment) -> tuple[Batch, int]:
    """The entry at `at` and the offset after it. Raises TornTail, BadChecksum, BadFormat or LimitExceeded."""
    header_bytes = segment.entry_header_bytes
    # "<", as in Kudu: an entry header that ends where the entries end is a truncated entry, and so is an empty entry.
    if at + header_bytes >= segment.entries_end:
        raise TornTail(f"truncated log entry: {segment.entries_end - at} bytes are left", offset=at)
    header = data[at:at + header_bytes]
    if not header_is_valid(header):
        raise BadChecksum("entry header checksum mismatch" if any(header) else "preallocated space", offset=at)
    if header_bytes == _ENTRY_V1.size:
        length, crc, _ = _ENTRY_V1.unpack(header)
        stored_length = length
    else:
        stored_length, length, crc, _ = _ENTRY_V2.unpack(header)
    begin = at + header_bytes
    _check_lengths(stored_length, length, begin, len(data), at)
    stored = data[begin:begin + stored_length]
    if crc32c(stored) != crc:
        raise BadChecksum("entry checksum mismatch", offset=at)
    return Batch(at, decompress(stored, length, segment.codec)), begin + stored_length


def _check_lengths(stored_length: int, length: int, begin: int, data_bytes: int, at: int) -> None:
    if length == 0:
        raise BadFormat("entry of length 0", offset=at)
    if begin + stored_length > data_bytes:
        raise TornTail(f"entry of {stored_length} bytes, {data_bytes - begin} are left", offset=at)
    if length > ENTRY_BATCH_BYTES_MAX:
        raise LimitExceeded(f"entry of {length} bytes after decompression, the limit is {ENTRY_BATCH_BYTES_MAX}",
                            offset=at)


# -- writing -----------------------------------------------------------------------------------------------------------
def build_segment(header: Any, batches: Iterable[Sequence[Any]], codec: Codec = Codec.NONE, *,
                  footer: Any | None = None) -> bytes:
    """A segment with the given header, batches of LogEntryPB messages and, for a closed segment, footer.

    The codec is written into a copy of the header; a header with the deprecated version fields gives v1 entries, which
    cannot be compressed.
    """
    written = type(header)()
    written.CopyFrom(header)
    written.ClearField("compression_codec")
    if codec is not Codec.NONE:
        written.compression_codec = codec
    v1 = written.HasField("DEPRECATED_major_version")
    parts = [build_header(written)]
    for entries in batches:
        batch = message_class("kudu.log.LogEntryBatchPB")(entry=entries)
        parts.append(build_entry_v1(batch.SerializeToString()) if v1 else build_entry(batch.SerializeToString(), codec))
    if footer is not None:
        parts.append(build_footer(footer))
    return b"".join(parts)


def build_header(header: Any) -> bytes:
    data: bytes = header.SerializeToString()
    return HEADER_MAGIC + _U32.pack(len(data)) + data


def build_entry(batch: bytes, codec: Codec) -> bytes:
    """A v2 entry around a serialized LogEntryBatchPB. Everything goes through the codec, also what it makes longer."""
    stored = compress(batch, codec)
    fields = struct.pack("<III", len(stored), len(batch), crc32c(stored))
    return fields + _U32.pack(crc32c(fields)) + stored


def build_entry_v1(batch: bytes) -> bytes:
    fields = struct.pack("<II", len(batch), crc32c(batch))
    return fields + _U32.pack(crc32c(fields)) + batch


def build_footer(footer: Any) -> bytes:
    data: bytes = footer.SerializeToString()
    return data + FOOTER_MAGIC + _U32.pack(len(data))


def footer_of(batches: Iterable[Sequence[Any]], close_timestamp_micros: int | None = None) -> Any:
    """The footer that Kudu writes for these batches of LogEntryPB messages."""
    footer: Any = message_class("kudu.log.LogSegmentFooterPB")(num_entries=0)
    for entries in batches:
        for entry in entries:
            footer.num_entries += 1
            if entry.HasField("replicate"):
                index = entry.replicate.id.index
                if not footer.HasField("min_replicate_index") or index < footer.min_replicate_index:
                    footer.min_replicate_index = index
                if not footer.HasField("max_replicate_index") or index > footer.max_replicate_index:
                    footer.max_replicate_index = index
    if close_timestamp_micros is not None:
        footer.close_timestamp_micros = close_timestamp_micros
    return footer
