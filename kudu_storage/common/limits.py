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
# Column files. Kudu refuses headers and footers above 64 KiB (cfile_reader.cc) and, by default, compressed blocks that
# expand above 16 MiB (--max_cfile_block_size); blocks are 256 KiB unless told otherwise and may overrun by one value.
CFILE_FOOTER_BYTES_MAX: Final = 64 * KIB
CFILE_BLOCK_BYTES_MAX: Final = 64 * MIB
# Row numbers in a column file are 32-bit.
CFILE_ROWS_MAX: Final = 2**32 - 1
# Nodes hold at least two entries, so a deeper index than this would need more blocks than a file has rows.
CFILE_INDEX_DEPTH_MAX: Final = 33
# Verified blocks kept by one process, as Kudu's --block_cache_capacity_mb has it by default.
BLOCK_CACHE_BYTES: Final = 512 * MIB
# One krpc frame, its length word included: Kudu's --rpc_max_message_size.
RPC_FRAME_BYTES_MAX: Final = 50 * MIB
# A frame before the peer has said who it is. Real ones are below 4 KiB (TLS certificates are the largest part).
RPC_NEGOTIATION_FRAME_BYTES_MAX: Final = 64 * KIB
# Header of a frame. One with 10,000 sidecar offsets, the most there may be, takes at most 60 KB.
RPC_HEADER_BYTES_MAX: Final = 128 * KIB
RPC_SIDECARS_MAX: Final = 10_000
# Memory for a frame grows in steps while its bytes come in, so that a peer that announces much and sends little holds
# no more than this.
RPC_RECEIVE_STEP_BYTES: Final = 1 * MIB
