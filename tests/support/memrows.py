"""MemRowSets for tests, written through row operations as a client sends them."""
from __future__ import annotations

from collections.abc import Sequence

import delta_twin as twin

from kudu_storage._native.memrow_writer import EFFECTS, MemRowWriter
from kudu_storage._native.memrowset import MemRowSet
from kudu_storage._native.row_layout import Projection, RowLayout
from kudu_storage.common.row_codec import RowOp, encode_row_operations
from kudu_storage.common.schema import Schema

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
        self._writer = MemRowWriter(self.rows, Projection(self.client_schema, self.layout))

    def write(self, timestamp: int, *operations: tuple[RowOp, twin.Cells], log_index: int | None = None) -> list[str]:
        """Apply one write; the effect of each row operation."""
        data = encode_row_operations(operations, self.client_schema)
        return [EFFECTS[effect] for effect in self._writer.apply(*data, timestamp, log_index=log_index)]

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
