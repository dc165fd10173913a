"""A small tablet with rows wherever rows can lie, its files as a value, and every state that it was in."""
from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from crash_disk import scratch_root

import kudu_storage.client as kudu
from kudu_storage import Tablet
from kudu_storage.common.schema import Schema

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OPTIONS: dict[str, Any] = {"durability": "os", "segment_size": "16KiB", "maintenance": "manual"}
Rows = list[tuple[Any, ...]]
State = tuple[int, Rows]            # at a hybrid time


def simple_schema() -> Schema:
    """One integer is the key."""
    builder = kudu.schema_builder()
    builder.add_column("id", kudu.int64, nullable=False, primary_key=True, compression="none")
    builder.add_column("word", kudu.string, encoding="dict")
    builder.add_column("count", kudu.int32, encoding="rle", compression="zlib")
    builder.add_column("flag", kudu.bool_, nullable=False, encoding="plain")
    builder.add_column("real", kudu.double, encoding="bitshuffle", compression="lz4")
    return builder.build()


def composite_schema() -> Schema:
    builder = kudu.schema_builder()
    builder.add_column("name", kudu.string, nullable=False, encoding="prefix")
    builder.add_column("part", kudu.int16, nullable=False)
    builder.add_column("bytes", kudu.binary, encoding="plain", compression="snappy")
    builder.add_column("price", kudu.decimal, precision=20, scale=2)
    builder.add_column("at", kudu.unixtime_micros, nullable=False, encoding="bitshuffle", default=0)
    builder.add_column("tiny", kudu.int8, encoding="rle")
    return builder.set_primary_keys(["name", "part"]).build()


SCHEMAS = {"simple": simple_schema, "composite": composite_schema}


def _value(kind: str, rng: random.Random) -> Any:
    return {
        "STRING": lambda: rng.choice(["", "word", "ab" * rng.randrange(20), "é"]),
        "BINARY": lambda: rng.randbytes(rng.randrange(40)),
        "BOOL": lambda: rng.random() < 0.5, "DOUBLE": lambda: rng.choice([0.0, -1.5, rng.random()]),
        "INT8": lambda: rng.randrange(-128, 128), "INT32": lambda: rng.choice([0, rng.randrange(-2**31, 2**31)]),
        "DECIMAL128": lambda: Decimal(rng.randrange(-10**10, 10**10)).scaleb(-2),
        "UNIXTIME_MICROS": lambda: EPOCH + timedelta(microseconds=rng.randrange(2**50)),
    }[kind]()


class SmallTablet:
    """A tablet and all states that it was in. `killed`: its files as the process leaves them that dies at the end."""

    def __init__(self, folder: Path, schema: Schema, seed: int) -> None:
        self.rng = random.Random(seed)
        self.schema = schema
        self.folder = folder
        self.rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self.states: list[State] = []
        self.tablet = Tablet.create(folder, schema, compression="lz4", **OPTIONS)

    def key(self, number: int) -> tuple[Any, ...]:
        if self.schema.key_column_count == 1:
            return (number * 1000 - 20_000,)
        return f"key {number // 4:03d}", number % 4

    def _values(self) -> tuple[Any, ...]:
        return tuple(None if column.nullable and self.rng.random() < 0.2 else _value(column.type.name, self.rng)
                     for column in self.schema.columns[self.schema.key_column_count:])

    def write(self, verb: str, *numbers: int) -> None:
        """One batch, and the state after it."""
        names, session = self.schema.names, self.tablet.new_session()
        for key in map(self.key, numbers):
            if verb == "delete":
                session.apply(session.new_delete(list(key)))
                del self.rows[key]
                continue
            row = key + self._values()
            if verb == "update":            # of one column or two
                changed = self.rng.sample(range(len(key), len(row)), self.rng.choice([1, 2]))
                row = tuple(row[i] if i in changed or i < len(key) else old for i, old in enumerate(self.rows[key]))
                session.apply(session.new_update({names[i]: row[i] for i in (*range(len(key)), *changed)}))
            else:
                session.apply(session.new_insert(row))
            self.rows[key] = row
        session.flush()
        self.states.append((self.tablet.now(), self.in_order()))

    def in_order(self) -> Rows:
        return [self.rows[key] for key in sorted(self.rows, key=lambda key: tuple(
            part.encode() if isinstance(part, str) else part for part in key))]

    def live(self, *, killed: bool) -> None:
        """Base cells, REDO, UNDO, ghosts, both kinds of rows in memory; one reopening, so two segments at least."""
        self.write("insert", *range(0, 60, 2))
        self.tablet.flush()
        first = self._rowset_ids()[0]
        for numbers in ((0, 2, 8, 20), (4, 8, 40)):
            self.write("update", *numbers)
            self.write("delete", numbers[-1])
            self.tablet.maintenance.flush_deltas(first)
        self.tablet.maintenance.compact_columns(first, [self.tablet.schema.columns[-1].id])
        self.write("insert", 1, 3, 20, 31)
        self.tablet.flush()
        second = self._rowset_ids()[-1]
        self.write("update", 1, 3, 10, 12, 14)
        self.tablet.maintenance.flush_deltas(second)
        self.tablet.close()
        self.tablet = Tablet.open(self.folder, **OPTIONS)
        self.write("update", 3, 12, 50)
        self.write("delete", 31)
        self.write("insert", 5, 7, 40, 61)
        self.write("update", 5, 20, 58)
        self.write("delete", 7)
        if not killed:
            self.tablet.close()

    def _rowset_ids(self) -> list[int]:
        return [rowset["id"] for rowset in self.tablet.stats()["layout"]]


@dataclass(frozen=True, slots=True)
class Files:
    """Relative names and contents. Chunks of the log's index are nearly all holes: they are kept without their tail."""

    content: dict[str, bytes]
    sizes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Files:
        found, sizes = {}, {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = str(path.relative_to(folder))
            found[name], sizes[name] = _read(path), path.stat().st_size
        return cls(found, sizes)

    def write(self, folder: Path) -> None:
        """All of them, and nothing else."""
        shutil.rmtree(folder, ignore_errors=True)
        for name in self.content:
            self.put_back(folder, name)

    def put_back(self, folder: Path, name: str) -> None:
        self.put(folder, name, self.content[name])

    def put(self, folder: Path, name: str, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
            if data is self.content[name] or len(data) == len(self.content[name]):
                file.truncate(max(len(data), self.sizes[name]))


@dataclass(frozen=True, slots=True)
class Sound:
    """An undamaged tablet: its files, every state it was in, and the last one's number."""

    files: Files
    states: tuple[State, ...]
    schema: Schema
    tablet_id: str

    @property
    def rows(self) -> Rows:
        return self.states[-1][1]

    @property
    def last_segment(self) -> str:
        return max(name for name in self.files.content if Path(name).name.startswith("wal-"))


def _read(path: Path) -> bytes:
    if not path.name.startswith("index."):
        return path.read_bytes()
    with open(path, "rb") as file:
        written = os.lseek(file.fileno(), 0, os.SEEK_HOLE) if os.fstat(file.fileno()).st_size else 0
        file.seek(0)
        return file.read(written).rstrip(b"\0")


def make(kind: str, seed: int, *, killed: bool) -> Sound:
    with tempfile.TemporaryDirectory(prefix="tablet-", dir=scratch_root()) as scratch:
        small = SmallTablet(Path(scratch) / "t", SCHEMAS[kind](), seed)
        small.live(killed=killed)
        files = Files.of(small.folder)
        small.tablet.close()
        return Sound(files, tuple(small.states), small.tablet.schema, small.tablet.tablet_id)


def bits(files: Files, rng: random.Random, *, each_byte: bool) -> Iterator[tuple[str, int, int]]:
    """(name, offset, bit): one random place after the other, in each file as often; or a random bit of each byte, but
    of pieces of zeros of few, and of files that are one message with one checksum of each eighth."""
    names = [name for name, data in files.content.items() if data]
    if not each_byte:
        while True:
            name = rng.choice(names)
            offset = rng.choice(_pages(files.content[name]) or [0]) * 64 + rng.randrange(64)
            yield name, min(offset, len(files.content[name]) - 1), rng.randrange(8)
    for name in names:
        data = files.content[name]
        written, step = set(_pages(data)), 1 if name.startswith(("data/", "wals/")) else 8
        for offset in range(0, len(data), step):
            if offset // 64 in written or rng.random() < 0.002:
                yield name, offset, rng.randrange(8)


def _pages(data: bytes) -> list[int]:
    """Pieces of 64 bytes that are not all zeros, or follow one."""
    written = [i for i in range(0, -(-len(data) // 64)) if data[i * 64:i * 64 + 64].strip(b"\0")]
    return sorted({*written, *(i + 1 for i in written if (i + 1) * 64 < len(data))})
