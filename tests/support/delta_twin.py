"""Deltas in the plainest way: dictionaries and sorting. The oracle of the native codec, application, stores and flushes.

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


# -- a tablet's history ------------------------------------------------------------------------------------------------
@dataclass
class Version:
    """What a row is from `timestamp` on; cells are kept through a deletion."""

    timestamp: int
    cells: Cells
    live: bool


@dataclass
class History:
    """All versions of all rows by encoded key, each oldest first."""

    rows: dict[bytes, list[Version]] = field(default_factory=dict)

    def live(self, key: bytes) -> bool:
        return bool(self.rows.get(key)) and self.rows[key][-1].live

    def insert(self, key: bytes, timestamp: int, cells: Cells) -> None:
        self.rows.setdefault(key, []).append(Version(timestamp, dict(cells), True))

    def update(self, key: bytes, timestamp: int, cells: Cells) -> None:
        self.rows[key].append(Version(timestamp, {**self.rows[key][-1].cells, **cells}, True))

    def delete(self, key: bytes, timestamp: int) -> None:
        self.rows[key].append(Version(timestamp, dict(self.rows[key][-1].cells), False))

    def at(self, key: bytes, applied: Applied) -> Version | None:
        """The last version applied, or None before the first."""
        seen = [v for v in self.rows[key] if applied(v.timestamp)]
        return seen[-1] if seen else None

    def rows_at(self, applied: Applied) -> dict[bytes, Cells]:
        """The live rows, by key in key order."""
        found = {key: self.at(key, applied) for key in sorted(self.rows)}
        return {key: version.cells for key, version in found.items() if version is not None and version.live}

    def diff(self, since: Applied, until: Applied) -> dict[bytes, tuple[Cells, bool]]:
        """By key: (cells at `until`, deleted there) of the rows that a diff scan shows."""
        shown = {}
        for key in sorted(self.rows):
            before, after = self.at(key, since), self.at(key, until)
            touched = any(until(v.timestamp) and not since(v.timestamp) for v in self.rows[key])
            if touched and after is not None and (after.live or (before is not None and before.live)):
                shown[key] = (after.cells, not after.live)
        return shown


def before(timestamp: int) -> Applied:
    return lambda t: t < timestamp


def one_of(timestamps: Iterable[int], below: int) -> Applied:
    known = set(timestamps)
    return lambda t: t < below or t in known
