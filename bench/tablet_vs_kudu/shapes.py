"""Tables of several shapes, as a schema and Arrow columns: what is flushed, compacted and measured on both sides."""
from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow

import kudu_storage.client as kudu

LOADGEN_MODULUS = (1 << 31) - 1
LOADGEN_STRING = 32
SEED = 1


@dataclass(frozen=True)
class Shape:
    name: str
    rows: int
    schema: kudu.Schema
    table: Any


class Randoms:
    """The numbers of `kudu perf loadgen --use_random*` (util/random.h), so that both sides get the same rows."""

    def __init__(self, seed: int = 0) -> None:
        self.state = seed or 1

    def next64(self) -> int:
        first = self.state * 16807 % LOADGEN_MODULUS
        second = first * 16807 % LOADGEN_MODULUS
        self.state = third = second * 16807 % LOADGEN_MODULUS
        return (first << 31 | second | third << 62) & (1 << 64) - 1


def loadgen_keys(count: int, seed: int = 0) -> list[int]:
    """INT64 keys in the order in which `--use_random_pk --seq_start=SEED` with one thread writes them."""
    randoms = Randoms(seed)
    return [randoms.next64() & (1 << 63) - 1 for _ in range(count)]


def loadgen_schema(columns: int = 3) -> kudu.Schema:
    """What loadgen makes itself, with more columns behind: every fourth a STRING."""
    builder = kudu.schema_builder()
    builder.add_column("key", kudu.int64, nullable=False, primary_key=True)
    builder.add_column("int_val", kudu.int32, nullable=False)
    builder.add_column("string_val", kudu.string, nullable=True)
    for i in range(columns - 3):
        builder.add_column(f"more_{i}", kudu.string if i % 4 == 3 else kudu.int64)
    return builder.build()


def loadgen_table(keys: list[int], seed: int = 0, columns: int = 3) -> Any:
    """Rows with these keys and loadgen's random cells."""
    randoms = Randoms(seed)
    numbers, texts = [], []
    more: list[list[Any]] = [[] for _ in range(columns - 3)]
    for _ in keys:
        numbers.append(randoms.next64() & (1 << 31) - 1)
        texts.append(loadgen_text(randoms))
        for i, cells in enumerate(more):
            cells.append(loadgen_text(randoms) if i % 4 == 3 else randoms.next64() & (1 << 63) - 1)
    found = {"key": pyarrow.array(keys, pyarrow.int64()), "int_val": pyarrow.array(numbers, pyarrow.int32()),
             "string_val": pyarrow.array(texts)}
    found |= {f"more_{i}": pyarrow.array(cells) for i, cells in enumerate(more)}
    return pyarrow.table(found)


def loadgen_text(randoms: Randoms) -> str:
    return f"{randoms.next64()}.".ljust(LOADGEN_STRING, "x")[:LOADGEN_STRING]


def loadgen(rows: int, columns: int = 3) -> Shape:
    return Shape(f"loadgen, {columns} columns", rows, loadgen_schema(columns),
                 loadgen_table(list(range(rows)), columns=columns))


# -- one column besides the key, in all its encodings -----------------------------------------------------------------
Cells = Callable[[random.Random, int], Any]
WORDS = ["".join(random.Random(i).choices(string.ascii_lowercase, k=12)) for i in range(200)]


def random_text(rng: random.Random, i: int) -> str:
    return "".join(rng.choices(string.ascii_letters, k=rng.randrange(4, 40)))


def one_column(name: str, rows: int, column: kudu.KuduType, cells: Cells, arrow: Any, *, encoding: str = "auto",
               compression: str = "default", null_share: float = 0.0) -> Shape:
    builder = kudu.schema_builder()
    builder.add_column("key", kudu.int64, nullable=False, primary_key=True)
    more: dict[str, Any] = {"precision": 18, "scale": 4} if column is kudu.decimal else {}
    if column is kudu.varchar:
        more = {"length": 64}
    builder.add_column("value", column, nullable=null_share > 0, encoding=encoding, compression=compression, **more)
    rng = random.Random(SEED)
    values = [None if null_share and rng.random() < null_share else cells(rng, i) for i in range(rows)]
    table = pyarrow.table({"key": pyarrow.array(range(rows), pyarrow.int64()), "value": pyarrow.array(values, arrow)})
    return Shape(name, rows, builder.build(), table)


def several(rows: int) -> list[Callable[[], Shape]]:
    """All shapes that sizes are compared for; each made when it is its turn."""
    def add(name: str, *arguments: Any, **more: Any) -> None:
        found.append(lambda: one_column(name, rows, *arguments, **more))

    found: list[Callable[[], Shape]] = [lambda: loadgen(rows), lambda: loadgen(rows // 4, 20)]
    for encoding in ("auto", "plain", "dict", "prefix"):
        add(f"random strings, {encoding}", kudu.string, random_text, pyarrow.string(), encoding=encoding)
        add(f"200 words, {encoding}", kudu.string, lambda rng, i: rng.choice(WORDS), pyarrow.string(),
            encoding=encoding)
        add(f"growing strings, {encoding}", kudu.string, lambda rng, i: f"user/{i:012d}/name", pyarrow.string(),
            encoding=encoding)
    for encoding in ("auto", "plain", "rle", "bitshuffle"):
        add(f"growing int64, {encoding}", kudu.int64, lambda rng, i: 10_000 + 3 * i, pyarrow.int64(),
            encoding=encoding)
        add(f"runs of int32, {encoding}", kudu.int32, lambda rng, i: i // 100 % 7, pyarrow.int32(), encoding=encoding)
        add(f"random int32, {encoding}", kudu.int32, lambda rng, i: rng.randrange(1 << 31), pyarrow.int32(),
            encoding=encoding)
    for compression in ("lz4", "snappy", "zlib"):
        add(f"200 words, plain, {compression}", kudu.string, lambda rng, i: rng.choice(WORDS), pyarrow.string(),
            encoding="plain", compression=compression)
        add(f"random int64, {compression}", kudu.int64, lambda rng, i: rng.randrange(1 << 40), pyarrow.int64(),
            compression=compression)
    add("nullable int32, 10 % NULL", kudu.int32, lambda rng, i: i, pyarrow.int32(), null_share=0.1)
    add("nullable string, 90 % NULL", kudu.string, random_text, pyarrow.string(), null_share=0.9)
    add("int8", kudu.int8, lambda rng, i: rng.randrange(100), pyarrow.int8())
    add("int16", kudu.int16, lambda rng, i: rng.randrange(1000), pyarrow.int16())
    add("bool", kudu.bool_, lambda rng, i: rng.random() < 0.5, pyarrow.bool_())
    add("bool, runs", kudu.bool_, lambda rng, i: i // 1000 % 2 == 0, pyarrow.bool_())
    add("float", kudu.float_, lambda rng, i: rng.random(), pyarrow.float32())
    add("double", kudu.double, lambda rng, i: rng.gauss(0, 1), pyarrow.float64())
    add("double, plain", kudu.double, lambda rng, i: rng.gauss(0, 1), pyarrow.float64(), encoding="plain")
    add("binary", kudu.binary, lambda rng, i: rng.randbytes(rng.randrange(40)), pyarrow.binary())
    add("varchar", kudu.varchar, random_text, pyarrow.string())
    add("unixtime_micros", kudu.unixtime_micros, lambda rng, i: 1_700_000_000_000_000 + i * 1_000 + rng.randrange(900),
        pyarrow.timestamp("us", "UTC"))
    add("date", kudu.date, lambda rng, i: i // 50, pyarrow.date32())
    add("decimal(18, 4)", kudu.decimal, lambda rng, i: Decimal(rng.randrange(10**9)).scaleb(-4),
        pyarrow.decimal128(18, 4))
    found.append(lambda: composite_key(rows))
    return found


def composite_key(rows: int) -> Shape:
    """A key of two columns has an index of its own."""
    builder = kudu.schema_builder()
    builder.add_column("host", kudu.string, nullable=False)
    builder.add_column("at", kudu.int64, nullable=False)
    builder.add_column("value", kudu.double)
    rng = random.Random(SEED)
    hosts = [f"host-{i * 50 // rows:04d}.example.org" for i in range(rows)]
    table = pyarrow.table({"host": hosts, "at": pyarrow.array(range(rows), pyarrow.int64()),
                           "value": [rng.random() for _ in range(rows)]})
    return Shape("a key of two columns", rows, builder.set_primary_keys(["host", "at"]).build(), table)
