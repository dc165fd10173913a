from collections.abc import Iterable

from kudu_storage._native.block_cache import BlockCache
from kudu_storage._native.column_block import ColumnBlock
from kudu_storage.common.schema import ColumnSchema
from kudu_storage.common.types import ColumnType

ENCODINGS: dict[int, str]
COMPRESSIONS: dict[int, str]

class CFileReader:
    """One column file, read-only; safe to share between threads (each takes a cursor of its own)."""

    name: str | None
    type: ColumnType
    metadata: dict[str, bytes]
    def __init__(self, fd: int, offset: int, length: int, *, name: str | None = None, owner: object = None,
                 cache: BlockCache | None = None, file_id: int | None = None, allow_unchecked: bool = False) -> None:
        """Open the file that is `length` bytes at `offset` of `fd`; `owner` is kept alive, and with it the descriptor.

        `file_id` names the file in the cache (a new number if None). Raises ForeignFile, Truncated, BadChecksum,
        BadFormat, LimitExceeded, NewerVersion, or Unsupported (format version 1, arrays, no checksums unless
        `allow_unchecked`).
        """
    def prepare_rows(self) -> int: ...
    def prepare_keys(self) -> int: ...
    @property
    def num_values(self) -> int: ...
    @property
    def is_nullable(self) -> bool: ...
    @property
    def encoding(self) -> str: ...
    @property
    def compression(self) -> str: ...
    @property
    def has_value_index(self) -> bool: ...
    @property
    def has_positional_index(self) -> bool: ...
    @property
    def block_cache_id(self) -> int: ...
    @property
    def block_count(self) -> int: ...
    def block_rows(self) -> list[int]: ...
    def block_pointers(self) -> list[tuple[int, int]]: ...
    def index_keys(self) -> list[bytes]: ...
    def dictionary_values(self) -> list[bytes]: ...
    def cursor(self) -> ColumnCursor: ...

class ValueFilter:
    """Byte strings in [lower, upper), or equal to `equal`, judged once for each dictionary entry of a file."""

    reader: CFileReader
    match_count: int
    def __init__(self, reader: CFileReader, *, lower: bytes | None = None, upper: bytes | None = None,
                 equal: bytes | None = None) -> None: ...

class ColumnCursor:
    """A position in one column file, for one thread at a time."""

    reader: CFileReader
    def __init__(self, reader: CFileReader) -> None: ...
    def read_block(self, first: int = 0, count: int | None = None, *,
                   column: ColumnSchema | None = None) -> ColumnBlock:
        """Rows first .. first + count (all) as a block of one column. `column` names it and gives a decimal's scale."""
    def read_block_ranges(self, ranges: Iterable[tuple[int, int]], *,
                          column: ColumnSchema | None = None) -> ColumnBlock:
        """The rows of several ranges (first, end), one behind the other."""
    def read_block_selected(self, first: int, count: int, selection: bytes, *,
                            column: ColumnSchema | None = None) -> ColumnBlock:
        """The rows first + i whose bit i of `selection` (least significant first) is set."""
    def find(self, key: bytes) -> tuple[int, bool]:
        """(first row whose encoded key is >= `key`, whether it is equal)."""
    def codewords(self, first: int, count: int) -> list[int | None]: ...
    def matching(self, filter: ValueFilter, first: int = 0, count: int | None = None) -> list[int]: ...
