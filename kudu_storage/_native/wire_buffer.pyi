from collections.abc import Sequence

from kudu_storage.common.schema import Schema

class WireBuffer:
    """Bytes of a sidecar; memoryview() reads them."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class WireColumns:
    def __init__(self, schema: Schema, places: Sequence[int] | None = None) -> None: ...
    @property
    def schema(self) -> Schema: ...
