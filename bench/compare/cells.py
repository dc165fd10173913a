"""What is measured: the cells, as data. Pure: opens nothing.

A cell names its work, the programs that do it and the C loop that its ratios are formed with. Sizes come in two scales,
quick (to see that all works, and where things stand) and full (for figures).
"""
from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

ENTRY_BYTES = (128, 1024, 16384)
BATCHES = (1, 16, 128)
PRODUCERS = (1, 8, 64)
GROUPED_CALLS = 1000
DURABLE_ENTRY_BYTES = 1024
READ_ENTRY_BYTES = 256
ALL_PEERS = ("driver", "kudu", "naive", "rocksdict", "lmdb", "sqlite")
DURABLE_C = ("c", "c-one-thread", "c-zeroed", "c-direct", "c-zeroed-direct")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work a cell is. Append cells end at the bytes or the calls, whichever comes first."""

    rounds: int
    append_bytes: int
    append_calls: int
    durable_seconds: float
    read_bytes: int
    random_reads: int
    open_bytes: int
    cache_messages: int
    memory_bytes: int


QUICK = Scale(rounds=3, append_bytes=16 << 20, append_calls=20_000, durable_seconds=0.5, read_bytes=32 << 20,
              random_reads=5_000, open_bytes=64 << 20, cache_messages=200_000, memory_bytes=64 << 20)
FULL = Scale(rounds=7, append_bytes=128 << 20, append_calls=200_000, durable_seconds=3, read_bytes=256 << 20,
             random_reads=50_000, open_bytes=1 << 30, cache_messages=2_000_000, memory_bytes=512 << 20)


@dataclass(frozen=True, slots=True)
class Cell:
    """kind: the function of work.py and the table it is printed in. base: the program that ratios are formed with."""

    name: str
    kind: str
    systems: tuple[str, ...]
    base: str = "c"
    batch: int = 1
    entry_bytes: int = 0
    mode: str = ""              # append: each, grouped; durable: threads, asyncio; open: clean, killed
    compression: str = "none"
    producers: int = 1


def size_text(size_bytes: int) -> str:
    return f"{size_bytes // 1024}KiB" if size_bytes >= 1024 else f"{size_bytes}B"


def _append_cells() -> list[Cell]:
    cells = []
    for compression in ("none", "lz4"):
        for mode in ("each", "grouped"):
            peers = ALL_PEERS if compression == "none" else ("driver", "kudu", "naive")
            systems = ("c", "c-grouped") if mode == "grouped" else ("c", "c-bare")
            for entry_bytes in ENTRY_BYTES:
                for batch in BATCHES:
                    kind = mode if compression == "none" else f"{mode}-{compression}"
                    cells.append(Cell(f"append/{kind}/{size_text(entry_bytes)}x{batch}", "append", systems + peers,
                                      batch=batch, entry_bytes=entry_bytes, mode=mode, compression=compression))
    return cells


def _durable_cells() -> list[Cell]:
    return [Cell(f"durable/{mode}/{producers}", "durable",
                 (DURABLE_C if mode == "threads" else DURABLE_C[:2]) + ALL_PEERS[1:],
                 entry_bytes=DURABLE_ENTRY_BYTES, mode=mode, producers=producers)
            for mode in ("threads", "asyncio") for producers in PRODUCERS]


def _read_cells() -> list[Cell]:
    cells = [Cell(f"read/sequential/{size_text(READ_ENTRY_BYTES)}x{batch}", "scan",
                  ("c", "kudu-native", "kudu-objects", "kudu", "naive", "rocksdict", "lmdb", "sqlite"),
                  batch=batch, entry_bytes=READ_ENTRY_BYTES) for batch in BATCHES]
    cells += [Cell(f"read/sequential-lz4/{size_text(READ_ENTRY_BYTES)}x{batch}", "scan",
                   ("c", "kudu-native", "kudu-objects", "kudu"), batch=batch, entry_bytes=READ_ENTRY_BYTES,
                   compression="lz4") for batch in BATCHES[1:]]
    cells += [Cell(f"read/random/{size_text(READ_ENTRY_BYTES)}x1", "random",
                   ("c", "c-two-step", "kudu", "rocksdict", "lmdb", "sqlite"), entry_bytes=READ_ENTRY_BYTES)]
    return cells


def all_cells() -> list[Cell]:
    return [
        *_append_cells(),
        *_durable_cells(),
        *_read_cells(),
        Cell("open/clean", "open", ("scan", "kudu"), base="scan", batch=128, entry_bytes=1024, mode="clean"),
        Cell("open/killed", "open", ("scan", "kudu"), base="scan", batch=128, entry_bytes=1024, mode="killed"),
        Cell("cache/insert-evict/1KiBx128", "cache", ("c", "driver", "kudu", "dict"), batch=128, entry_bytes=1024),
        Cell("memory/append-and-read", "memory", ("kudu",), base="kudu", batch=16, entry_bytes=1024),
    ]


def chosen(patterns: list[str]) -> list[Cell]:
    """The cells whose name matches one of the patterns, or starts with it; all without patterns."""
    return [cell for cell in all_cells()
            if not patterns or any(fnmatchcase(cell.name, p) or cell.name.startswith(p) for p in patterns)]


def call_count(cell: Cell, scale: Scale) -> int:
    """Append calls of a cell; at least a few."""
    return max(4, min(scale.append_calls, scale.append_bytes // (cell.entry_bytes * cell.batch)))


def envelope_bytes(entry_bytes: int, last_index: int) -> int:
    """What stands before a payload in a LogEntryBatchPB: entry, type, ReplicateMsg (OpId, timestamp, type, NO_OP)."""
    payload = 1 + _varint_bytes(entry_bytes) + entry_bytes
    noop = 2 + _varint_bytes(payload) + payload                         # field 999
    op_id = 2 + (1 + 1) + (1 + _varint_bytes(max(1, last_index // 2)))  # the term is below 128
    replicate = op_id + 9 + 2 + noop
    entry = 2 + 1 + _varint_bytes(replicate) + replicate
    return 1 + _varint_bytes(entry) + entry - entry_bytes


def _varint_bytes(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)
