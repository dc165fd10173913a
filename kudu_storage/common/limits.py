"""Limits that lengths from disk or network are compared with before anything is allocated. Unit last in the name."""
from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Kudu refuses segment headers and footers above this (consensus/log_util.cc, kLogSegmentMaxHeaderOrFooterSize).
SEGMENT_HEADER_BYTES_MAX: Final = 8 * MIB
# One entry batch, before or after compression. Kudu bounds a batch by rpc_max_message_size (50 MiB by default); five
# times that leaves room for servers started with a larger one.
ENTRY_BATCH_BYTES_MAX: Final = 256 * MIB
# One record of a protobuf container. A superblock of a tablet with 100,000 blocks is about 5 MiB.
PB_RECORD_BYTES_MAX: Final = 256 * MIB
# Kudu's --max_cell_size_bytes is 64 KiB by default; a server may have been started with more, so this only stops
# nonsense. One encoded key: Kudu refuses above 16 KiB (tablet.cc, kMaxEncodedKeySize).
CELL_BYTES_MAX: Final = 64 * MIB
ENCODED_KEY_BYTES_MAX: Final = 16 * KIB
# Kudu's --max_num_columns is 300 by default and documented as unsafe to raise; dropped columns use up ids.
COLUMN_COUNT_MAX: Final = 10_000
COLUMN_ID_MAX: Final = 2**31 - 1
# Operations held in memory while their COMMIT has not been read. Beyond it they are read again from the segment.
PENDING_BYTES_MAX: Final = 16 * MIB
# One container of a block store holds at most so many block records before it counts as full: reading it at start stays
# below some tenths of a second, and what it says of deleted blocks is dropped then.
CONTAINER_RECORDS_MAX: Final = 20_000
# Kudu's --log_container_max_size.
CONTAINER_BYTES_MAX: Final = 10 * 1024 * MIB
# A block's first bytes wait in memory until there are so many: small blocks then share a container, and take no turns.
BLOCK_BUFFER_BYTES: Final = 256 * KIB
# Data files grow in such steps. Kudu reserves 32 MiB at a time, for each column of a wide table.
CONTAINER_PREALLOCATE_BYTES: Final = 256 * KIB
