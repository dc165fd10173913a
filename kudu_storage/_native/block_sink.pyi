from kudu_storage._native.disk import Disk

class BlockSink:
    """A block being written at `offset` of an open file; the file's owner syncs it. Raises DiskError through its
    writer."""

    disk: Disk
    fd: int
    name: str | None
    def __init__(self, disk: Disk, fd: int, offset: int = 0, *, name: str | None = None) -> None: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def offset(self) -> int: ...
