"""Tables described with kudu-python's names, and what is refused, by column."""
from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

import kudu_storage.client as kudu
from kudu_storage.common.schema_builder import SchemaBuilder, with_column_ids
from kudu_storage.errors import InvalidArgument, Unsupported


def test_columns_are_described_in_one_call_or_in_a_chain() -> None:
    builder = kudu.schema_builder()
    builder.add_column("v", kudu.varchar, nullable=True, length=7, comment="words")
    builder.add_column("k2").type("int32").nullable(False)
    builder.add_column("k1").type(kudu.string).nullable(False).encoding("prefix").compression("lz4").block_size(4096)
    builder.add_column("price", kudu.decimal, precision=12, scale=2, default=Decimal("1.5"), immutable=True)
    schema = builder.set_primary_keys(["k1", "k2"]).build()
    assert schema.names == ["k1", "k2", "v", "price"]
    k1, k2, v, price = schema.columns
    assert (k1.is_key, k1.nullable, k1.encoding, k1.compression, k1.cfile_block_size) == (True, False, 3 - 1, 3, 4096)
    assert (k2.type.name, k2.is_key, k2.nullable) == ("INT32", True, False)
    assert (v.length, v.nullable, v.comment, v.id) == (7, True, "words", None)
    assert (price.type.name, price.precision, price.scale, price.immutable) == ("DECIMAL64", 12, 2, True)
    assert price.read_default == price.write_default == (150).to_bytes(8, "little")


def test_columns_can_be_null_unless_they_are_keys_or_say_no() -> None:
    builder = kudu.schema_builder()
    builder.add_column("id", kudu.int64).primary_key()
    builder.add_column("a", kudu.bool)
    builder.add_column("b", kudu.float).nullable(False)
    assert [column.nullable for column in builder.build()] == [False, True, False]


@pytest.mark.parametrize(("precision", "name"), [
    (1, "DECIMAL32"), (9, "DECIMAL32"), (10, "DECIMAL64"), (18, "DECIMAL64"), (19, "DECIMAL128"), (38, "DECIMAL128")])
def test_a_decimal_takes_the_least_type_that_holds_its_precision(precision: int, name: str) -> None:
    builder = kudu.schema_builder()
    builder.add_column("d", kudu.decimal, precision=precision).primary_key()
    assert builder.build().columns[0].type.name == name


def test_stored_schemas_have_column_ids() -> None:
    builder = kudu.schema_builder()
    builder.add_column("a", kudu.int8).primary_key()
    builder.add_column("b", kudu.date)
    stored = with_column_ids(builder.build())
    assert [column.id for column in stored] == [10, 11]
    assert with_column_ids(stored) is stored


def _key_twice(b: SchemaBuilder) -> None:
    b.add_column("x", kudu.int8).primary_key()
    b.set_primary_keys(["id"])


@pytest.mark.parametrize(("describe", "words"), [
    (lambda b: b.add_column("id", kudu.int8), "two columns are named 'id'"),
    (lambda b: b.set_primary_keys([]), "no key"), (lambda b: b.set_primary_keys(["nope"]), "'nope' that is not there"),
    (lambda b: b.set_primary_keys(["id", "id"]), "twice"), (_key_twice, "given twice"),
    (lambda b: b.add_column("x"), "'x' has no type"), (lambda b: b.add_column("", kudu.int8), "no name"),
    (lambda b: b.add_column("x" * 257, kudu.int8), "no name"), (lambda b: b.add_column("x", "int7"), "no type 'int7'"),
    (lambda b: b.add_column("x", kudu.int8, encoding="dict"), "'dict' does not fit int8"),
    (lambda b: b.add_column("x", kudu.int8, encoding="zip"), "no encoding 'zip'"),
    (lambda b: b.add_column("x", kudu.int8, compression="zip"), "no compression 'zip'"),
    (lambda b: b.add_column("x", kudu.decimal), "precision of 1 to 38"),
    (lambda b: b.add_column("x", kudu.decimal, precision=5, scale=6), "scale 6"),
    (lambda b: b.add_column("x", kudu.int8, precision=5), "only decimals"),
    (lambda b: b.add_column("x", kudu.varchar), "needs a length"),
    (lambda b: b.add_column("x", kudu.string, length=3), "varchar"),
    (lambda b: b.add_column("x", kudu.int8, default=128), "out of range"),
    (lambda b: b.add_column("x", kudu.string, default=b"x"), "cannot hold"),
    (lambda b: b.add_column("x", kudu.float, default="1"), "cannot hold"),
    (lambda b: b.add_column("x", kudu.int8, block_size=-1), "block of -1"),
    (lambda b: [b.add_column(f"x{i}", kudu.int8) for i in range(300)], "301 columns"),
])
def test_what_no_table_can_be_is_refused_by_name(describe: Callable[[SchemaBuilder], object], words: str) -> None:
    builder = kudu.schema_builder()
    builder.add_column("id", kudu.int64)
    if words not in ("no key",):
        builder.set_primary_keys(["id"])
    with pytest.raises(InvalidArgument, match=words):
        describe(builder)
        builder.build()


@pytest.mark.parametrize(("kind", "words"), [(kudu.double, "cannot be part of a key"), (kudu.bool, "cannot be part")])
def test_types_that_cannot_be_keys_are_refused(kind: kudu.KuduType, words: str) -> None:
    builder = kudu.schema_builder()
    builder.add_column("x", kind).primary_key()
    with pytest.raises(InvalidArgument, match=words):
        builder.build()


def test_nullable_keys_and_auto_increment_are_refused() -> None:
    builder = kudu.schema_builder()
    builder.add_column("x", kudu.int8).nullable().primary_key()
    with pytest.raises(InvalidArgument, match="nullable"):
        builder.build()
    with pytest.raises(Unsupported):
        builder.add_column("y", kudu.int8).non_unique_primary_key()
