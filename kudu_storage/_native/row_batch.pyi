from collections.abc import Mapping, Sequence

from kudu_storage.common.schema import Schema

class RowBatch:
    """Operations of one write request.

    Args:
        schema: the tablet's columns without ids.
        cell_bytes_max: what a server takes; a longer cell is refused here.
    """

    def __init__(self, schema: Schema, *, cell_bytes_max: int = ...) -> None: ...
    @property
    def client_schema(self) -> Schema: ...
    @property
    def count(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    def __len__(self) -> int: ...
    def add(self, op: int, cells: Sequence[object]) -> None:
        """One operation. `cells`: a value, None for NULL or UNSET, by column; as many as wanted, the rest is unset.

        Raises InvalidArgument naming the column; then nothing was added.
        """
    def add_named(self, op: int, cells: Mapping[str, object]) -> None:
        """As add(), by the columns' names."""
    def replicate(self, tablet_id: bytes, schema: bytes, term: int, index: int, timestamp: int) -> bytes:
        """A kudu.consensus.ReplicateMsg with all operations. `schema`: the client's SchemaPB, serialised."""
    def truncate(self, mark: tuple[int, int, int]) -> None:
        """Take back what was added since mark()."""
    def mark(self) -> tuple[int, int, int]: ...

UNSET: object
