"""How a block store uses the disk. Pure."""
from __future__ import annotations

from dataclasses import dataclass

from kudu_storage.common.limits import (
    BLOCK_BUFFER_BYTES,
    CONTAINER_BYTES_MAX,
    CONTAINER_PREALLOCATE_BYTES,
    CONTAINER_RECORDS_MAX,
)


@dataclass(frozen=True, slots=True)
class BlockOptions:
    """Settings of the log kind; the file kind uses `idle_files_max` alone.

    preallocate_bytes: data files grow in such steps; 0 for no preallocation.
    buffer_bytes: of a block that wait in memory before it takes a container for itself.
    container_bytes_max, container_records_max: a container with as much takes no more blocks.
    idle_files_max: files kept open for readers to come.
    """

    preallocate_bytes: int = CONTAINER_PREALLOCATE_BYTES
    buffer_bytes: int = BLOCK_BUFFER_BYTES
    container_bytes_max: int = CONTAINER_BYTES_MAX
    container_records_max: int = CONTAINER_RECORDS_MAX
    idle_files_max: int = 256
