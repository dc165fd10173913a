"""MemRowSets for tests, written through row operations as a client sends them."""
from __future__ import annotations

from collections.abc import Sequence

import delta_twin as twin

from kudu_storage._native.applier import Applier
from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.row_layout import Projection, RowLayout
from kudu_storage.common.row_codec import RowOp, encode_row_operations
from kudu_storage.common.schema import Schema

_REFUSALS = {1: "not_found", 4: "invalid", 6: "already_present", 20: "immutable"}
_CELL_BYTES_MAX = 1 << 31
OPS = {"INSERT": RowOp.INSERT, "REINSERT": RowOp.INSERT, "UPDATE": RowOp.UPDATE, "DELETE": RowOp.DELETE}


class MemRows:
    """A shared MemRowSet of a schema whose columns' ids are their positions."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.client_schema = Schema(tuple(_without_id(c) for c in schema))
        self.layout = RowLayout(schema)
        self.rows = MemRowSet()
        self.rows.add_layout(self.layout)
        self.rows.share()
        self._projection = Projection(self.client_schema, self.layout)
        self._applier = Applier(self.rows, self.layout, self._projection, store_id=0, cell_bytes_max=_CELL_BYTES_MAX)

    def write(self, timestamp: int, *operations: tuple[RowOp, twin.Cells], log_index: int | None = None) -> list[str]:
        """Apply one write; the effect of each row operation."""
        index = (1 << 62) if log_index is None else log_index
        return [self._apply(timestamp, operation, index) for operation in operations]

    def _apply(self, timestamp: int, operation: tuple[RowOp, twin.Cells], index: int) -> str:
        before, keys = self._applier.counts, self.rows.row_count
        data = encode_row_operations([operation], self.client_schema)
        self._applier.apply_logged(*data, self._projection, 1, index, timestamp)
        [effect] = [name for name, count in self._applier.counts.items() if count != before[name]]
        if effect == "failed":
            [refused] = self._applier.take_failures()
            return _REFUSALS[refused.code]
        if effect == "inserted" and self.rows.row_count == keys:
            return "reinserted"
        return "nothing" if effect == "ignored" and "IGNORE" not in operation[0].name else effect

    def replay(self, histories: Sequence[Sequence[twin.Op]]) -> None:
        """Histories of rows, interleaved by timestamp."""
        steps = sorted((op.timestamp, row, i) for row, ops in enumerate(histories) for i, op in enumerate(ops))
        for timestamp, row, i in steps:
            op = histories[row][i]
            [effect] = self.write(timestamp, (OPS[op.kind], {0: histories[row][0].cells[0], **op.cells}))
            assert effect == {"INSERT": "inserted", "REINSERT": "reinserted", "UPDATE": "updated",
                              "DELETE": "deleted"}[op.kind]


def _without_id(column: object) -> object:
    from dataclasses import replace
    return replace(column, id=None)     # type: ignore[type-var]
