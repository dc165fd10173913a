"""Deltas in the plainest way: dictionaries and sorting. The oracle of what does it natively.

Shares nothing with the native code. A change is (row, timestamp, type, {column id: cell or None}).
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Cell = bytes | None
Cells = dict[int, Cell]
Change = tuple[int, int, str, Cells]
Applied = Callable[[int], bool]     # is the operation of that timestamp applied?

TYPES = {"UPDATE": 1, "DELETE": 2, "REINSERT": 3}


# -- bytes -------------------------------------------------------------------------------------------------------------
def mvarint(value: int) -> bytes:
    """sqlite4's varint: memcmp order is the order of the numbers."""
    if value <= 240:
        return bytes([value])
    if value <= 2287:
        return bytes([241 + (value - 240) // 256, (value - 240) % 256])
    if value <= 67823:
        return bytes([249, (value - 2288) // 256, (value - 2288) % 256])
    size = max(3, (value.bit_length() + 7) // 8)
    return bytes([247 + size]) + value.to_bytes(size, "big")


def varint(value: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def change_list(kind: str, cells: Mapping[int, Cell]) -> bytes:
    out = bytes([TYPES[kind]])
    for column_id, cell in cells.items():
        out += varint(column_id) + (b"\0" if cell is None else varint(len(cell) + 1) + cell)
    return out


def delta_cell(change: Change) -> bytes:
    row, timestamp, kind, cells = change
    return mvarint(row) + mvarint(timestamp) + change_list(kind, cells)


# -- application -------------------------------------------------------------------------------------------------------
@dataclass
class RowState:
    cells: Cells
    live: bool = True


def apply_deltas(base: Sequence[Cells], first_row: int, undos: Sequence[Sequence[Change]],
                 redos: Sequence[Sequence[Change]], applied: Applied) -> list[RowState]:
    """Rows [first_row, first_row + len(base)) at a snapshot, as docs/tablet.md has it (V1 to V4).

    `undos` and `redos` are stores, each in its file order. Equal timestamps keep the order of stores and cells.
    """
    states = [RowState(dict(cells)) for cells in base]
    for i, state in enumerate(states):
        row = first_row + i
        back = [c for store in undos for c in store if c[0] == row and not applied(c[1])]
        forth = [c for store in redos for c in store if c[0] == row and applied(c[1])]
        for _, _, kind, cells in [*sorted(back, key=lambda c: -c[1]), *sorted(forth, key=lambda c: c[1])]:
            state.cells.update({column: cell for column, cell in cells.items() if column in state.cells})
            if kind != "UPDATE":
                state.live = kind == "REINSERT"
    return states


# -- a row's history ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Op:
    """What happened to a row: INSERT, UPDATE, DELETE or REINSERT, with the cells that it sets."""

    timestamp: int
    kind: str
    cells: Cells = field(default_factory=dict)


def state_at(ops: Sequence[Op], applied: Applied) -> RowState | None:
    """The row after the operations applied; None before its insert. Cells are kept through a deletion."""
    state = None
    for op in ops:
        if not applied(op.timestamp):
            continue
        if state is None:
            state = RowState({})
        state.cells.update(op.cells)
        state.live = op.kind != "DELETE"
    return state


def shown_in_diff(ops: Sequence[Op], since: Applied, until: Applied) -> bool:
    """V6: something happened in between, and the row is not dead at both ends."""
    if not any(until(op.timestamp) and not since(op.timestamp) for op in ops):
        return False
    ends = [state_at(ops, end) for end in (since, until)]
    return any(state is not None and state.live for state in ends)


@dataclass
class Flushed:
    """A row as it is written: base cells, UNDOs newest first, and the REDO that stays, if any."""

    cells: Cells
    undos: list[tuple[int, str, Cells]]
    redos: list[tuple[int, str, Cells]]


def flush_row(ops: Sequence[Op], applied: Applied, history_mark: int = 0) -> Flushed | None:
    """The row flushed at a snapshot that has its insert, by the table in docs/tablet.md. None: it is left out."""
    insert = ops[0]
    if ops[-1].kind == "DELETE" and ops[-1].timestamp == insert.timestamp:
        return None
    cells = dict(insert.cells)
    undos: list[tuple[int, str, Cells]] = [(insert.timestamp, "DELETE", {})]
    deleted: int | None = None
    for op in ops[1:]:
        if not applied(op.timestamp):
            break
        old = {column: cells[column] for column in op.cells if column in cells}
        if op.kind == "UPDATE" and old:
            undos.append((op.timestamp, "UPDATE", old))
        elif op.kind == "DELETE":
            deleted = op.timestamp
        elif op.kind == "REINSERT":
            assert deleted is not None
            undos += [(deleted, "REINSERT", old), (op.timestamp, "DELETE", {})]
            deleted = None
        cells.update({column: op.cells[column] for column in old})
    if deleted is not None and deleted < history_mark:
        return None
    return Flushed(cells, [undo for undo in reversed(undos) if undo[0] >= history_mark],
                   [] if deleted is None else [(deleted, "DELETE", {})])


def before(timestamp: int) -> Applied:
    return lambda t: t < timestamp


def one_of(timestamps: Iterable[int], below: int) -> Applied:
    known = set(timestamps)
    return lambda t: t < below or t in known
