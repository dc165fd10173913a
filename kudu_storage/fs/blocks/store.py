"""What both kinds of block store have: data directories, an end, and the refusals that come with them."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from kudu_storage.errors import DiskError, InvalidArgument, KuduStorageError
from kudu_storage.fs.blocks.directories import DataDirectories


class BlockStore(ABC):
    """See BlockManager for what each call promises. `_closed` belongs to the kind: it knows under which lock."""

    def __init__(self, directories: DataDirectories) -> None:
        self.directories = directories
        self._closed = False

    @property
    def read_only(self) -> bool:
        return self.directories.read_only

    def create_group(self, size: int = 3) -> tuple[str, ...]:
        return self.directories.create_group(size)

    def check_group(self, group: Sequence[str]) -> None:
        self.directories.check_group(group)

    def fail_directory(self, uuid: str, error: DiskError) -> KuduStorageError:
        return self.directories.by_uuid(uuid).judge(error)

    @abstractmethod
    def close(self) -> None:
        """See BlockManager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidArgument("the block manager is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise InvalidArgument("the block manager was opened read-only")
