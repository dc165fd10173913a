"""Tables described step by step, with the names that kudu-python uses. Pure.

    builder = schema_builder()
    builder.add_column("id").type("int64").nullable(False).primary_key()
    builder.add_column("note", string, nullable=True, encoding="dict", compression="lz4")
    schema = builder.build()

Every column is nullable unless it says otherwise or is part of the key. What build() cannot accept is an
InvalidArgument that names the column.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from kudu_storage.common import types
from kudu_storage.common.limits import COLUMN_COUNT_MAX
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.common.types import ColumnType
from kudu_storage.errors import InvalidArgument, KuduStorageError, Unsupported

# What a master refuses (master/catalog_manager.cc, --max_num_columns, --max_identifier_length; common/types.h).
COLUMN_COUNT_DEFAULT_MAX: Final = 300
NAME_BYTES_MAX: Final = 256
VARCHAR_LENGTH_MAX: Final = 65_535
COMMENT_BYTES_MAX: Final = 256
_DECIMAL_DIGITS_MAX: Final = {"DECIMAL32": 9, "DECIMAL64": 18, "DECIMAL128": 38}


@dataclass(frozen=True, slots=True)
class KuduType:
    """A type as users name it. `decimal` becomes one of three stored types by its precision."""

    name: str
    stored: ColumnType | None       # None: decided by the column's precision

    def __str__(self) -> str:
        return self.name


def _stored(name: str, kind: str) -> KuduType:
    return KuduType(name, types.BY_NAME[kind])


int8 = _stored("int8", "INT8")
int16 = _stored("int16", "INT16")
int32 = _stored("int32", "INT32")
int64 = _stored("int64", "INT64")
string = _stored("string", "STRING")
bool_ = _stored("bool", "BOOL")
float_ = _stored("float", "FLOAT")
double = _stored("double", "DOUBLE")
binary = _stored("binary", "BINARY")
unixtime_micros = _stored("unixtime_micros", "UNIXTIME_MICROS")
varchar = _stored("varchar", "VARCHAR")
date = _stored("date", "DATE")
decimal = KuduType("decimal", None)
TYPES: Final = {t.name: t for t in (int8, int16, int32, int64, string, bool_, float_, double, binary, unixtime_micros,
                                    varchar, date, decimal)}

ENCODING_AUTO, ENCODING_PLAIN, ENCODING_PREFIX = "auto", "plain", "prefix"
ENCODING_BIT_SHUFFLE, ENCODING_RLE, ENCODING_DICT = "bitshuffle", "rle", "dict"
ENCODINGS: Final = {"auto": 0, "plain": 1, "prefix": 2, "rle": 4, "dict": 5, "bitshuffle": 6}
COMPRESSION_DEFAULT, COMPRESSION_NONE = "default", "none"
COMPRESSION_SNAPPY, COMPRESSION_LZ4, COMPRESSION_ZLIB = "snappy", "lz4", "zlib"
COMPRESSIONS: Final = {"default": 0, "none": 1, "snappy": 2, "lz4": 3, "zlib": 4}
# The encodings that a type's column files can have (cfile/type_encodings.cc).
_BINARY_ENCODINGS: Final = frozenset({"auto", "plain", "prefix", "dict"})
_INTEGER_ENCODINGS: Final = frozenset({"auto", "plain", "rle", "bitshuffle"})
_REAL_ENCODINGS: Final = frozenset({"auto", "plain", "bitshuffle"})
_BOOL_ENCODINGS: Final = frozenset({"auto", "plain", "rle"})


class ColumnSpec:
    """One column being described. Each method returns it, so that calls can be chained."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._type: KuduType | None = None
        self._nullable: bool | None = None
        self._primary_key = False
        self._encoding = ENCODING_AUTO
        self._compression = COMPRESSION_DEFAULT
        self._block_size = 0
        self._default: Any = None
        self._precision = 0
        self._scale = 0
        self._length = 0
        self._comment = ""
        self._immutable = False

    def type(self, type_: KuduType | str) -> ColumnSpec:
        """One of the type constants, or its name."""
        found = TYPES.get(type_.lower()) if isinstance(type_, str) else type_
        if not isinstance(found, KuduType):
            raise InvalidArgument(f"column {self._name!r}: there is no type {type_!r}", advice=", ".join(TYPES))
        self._type = found
        return self

    def nullable(self, is_nullable: bool = True) -> ColumnSpec:
        self._nullable = bool(is_nullable)
        return self

    def primary_key(self) -> ColumnSpec:
        """This column alone is the key. Several: SchemaBuilder.set_primary_keys()."""
        self._primary_key = True
        return self

    def non_unique_primary_key(self) -> ColumnSpec:
        raise Unsupported("tables with an auto-incrementing key column cannot be made here")

    def encoding(self, encoding: str) -> ColumnSpec:
        self._encoding = named_setting("encoding", self._name, encoding, ENCODINGS)
        return self

    def compression(self, compression: str) -> ColumnSpec:
        self._compression = named_setting("compression", self._name, compression, COMPRESSIONS)
        return self

    def block_size(self, block_size: int) -> ColumnSpec:
        """Bytes of a block of the column's files before encoding; 0: the default."""
        if not 0 <= block_size < 2**31:
            raise InvalidArgument(f"column {self._name!r}: a block of {block_size} bytes")
        self._block_size = block_size
        return self

    def default(self, value: Any) -> ColumnSpec:
        """What rows have that do not set the column."""
        self._default = value
        return self

    def clear_default(self) -> ColumnSpec:
        self._default = None
        return self

    def precision(self, precision: int) -> ColumnSpec:
        self._precision = precision
        return self

    def scale(self, scale: int) -> ColumnSpec:
        self._scale = scale
        return self

    def length(self, length: int) -> ColumnSpec:
        self._length = length
        return self

    def comment(self, comment: str) -> ColumnSpec:
        self._comment = comment
        return self

    def immutable(self, is_immutable: bool = True) -> ColumnSpec:
        """Set once, by an insert; later changes are refused."""
        self._immutable = bool(is_immutable)
        return self

    def rename(self, new_name: str) -> ColumnSpec:
        self._name = new_name
        return self

    # -- what it comes to ----------------------------------------------------------------------------------------------
    def build(self) -> ColumnSchema:
        """A column that is no part of a key, without id. Raises InvalidArgument."""
        if self._primary_key:
            raise InvalidArgument(f"column {self._name!r}: a table's key is what it was made with")
        try:
            return self._build(is_key=False)
        except InvalidArgument:
            raise
        except KuduStorageError as error:
            raise InvalidArgument(error.detail) from error

    def _build(self, is_key: bool) -> ColumnSchema:
        name = self._name
        check_column_name(name)
        if self._type is None:
            raise InvalidArgument(f"column {name!r} has no type")
        kind = self._stored_type()
        self._check_key(kind, is_key)
        _check_encoding_of(name, kind, self._encoding)
        length = self._varchar_length(kind)
        check_comment(name, self._comment)
        column = ColumnSchema(
            name=name, type=kind, nullable=not is_key and self._nullable is not False, is_key=is_key,
            precision=self._precision, scale=self._scale, length=length, encoding=ENCODINGS[self._encoding],
            compression=COMPRESSIONS[self._compression], cfile_block_size=self._block_size, immutable=self._immutable,
            comment=self._comment)
        return column if self._default is None else self._with_default(column)

    def _stored_type(self) -> ColumnType:
        assert self._type is not None
        if self._type.stored is not None:
            if self._precision or self._scale:
                raise InvalidArgument(f"column {self._name!r}: only decimals have a precision and a scale")
            return self._type.stored
        for name, digits in _DECIMAL_DIGITS_MAX.items():
            if 0 < self._precision <= digits:
                if not 0 <= self._scale <= self._precision:
                    raise InvalidArgument(f"column {self._name!r}: scale {self._scale} is not within 0 and precision")
                return types.BY_NAME[name]
        raise InvalidArgument(f"column {self._name!r}: a decimal needs a precision of 1 to 38, not {self._precision}")

    def _check_key(self, kind: ColumnType, is_key: bool) -> None:
        if not is_key:
            return
        if not kind.is_key_type:
            raise InvalidArgument(f"column {self._name!r}: {self._type} cannot be part of a key")
        if self._nullable:
            raise InvalidArgument(f"column {self._name!r}: a key column cannot be nullable")
        if self._immutable:
            raise InvalidArgument(f"column {self._name!r}: a key column is never changed anyway")

    def _varchar_length(self, kind: ColumnType) -> int:
        if kind.name != "VARCHAR":
            if self._length:
                raise InvalidArgument(f"column {self._name!r}: only a varchar has a length")
            return 0
        if not 1 <= self._length <= VARCHAR_LENGTH_MAX:
            raise InvalidArgument(f"column {self._name!r}: a varchar needs a length of 1 to {VARCHAR_LENGTH_MAX}")
        return self._length

    def _with_default(self, column: ColumnSchema) -> ColumnSchema:
        from dataclasses import replace

        cell = cell_of(column, self._default)
        return replace(column, read_default=cell, write_default=cell)


class SchemaBuilder:
    """Describes a table. Columns come in the order of add_column(), but that key columns go first."""

    def __init__(self) -> None:
        self._columns: list[ColumnSpec] = []
        self._keys: list[str] | None = None

    def add_column(self, name: str, type_: KuduType | str | None = None, nullable: bool | None = None,
                   compression: str | None = None, encoding: str | None = None, primary_key: bool = False,
                   block_size: int | None = None, default: Any = None, precision: int | None = None,
                   scale: int | None = None, length: int | None = None, comment: str | None = None,
                   immutable: bool = False) -> ColumnSpec:
        """Add a column; what is not given here can be said on what this returns."""
        spec = column_spec(name, type_, nullable=nullable, compression=compression, encoding=encoding,
                           block_size=block_size, default=default, precision=precision, scale=scale, length=length,
                           comment=comment)
        if primary_key:
            spec.primary_key()
        if immutable:
            spec.immutable()
        self._columns.append(spec)
        return spec

    def set_primary_keys(self, key_names: Sequence[str]) -> SchemaBuilder:
        """The columns of the key, most significant first."""
        self._keys = [key_names] if isinstance(key_names, str) else list(key_names)
        return self

    def build(self) -> Schema:
        """The schema, without column ids. Raises InvalidArgument."""
        names = [spec._name for spec in self._columns]
        if len(names) > COLUMN_COUNT_DEFAULT_MAX:
            raise InvalidArgument(f"{len(names)} columns, a table has at most {COLUMN_COUNT_DEFAULT_MAX}")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidArgument(f"two columns are named {twice!r}")
        keys = self._key_names()
        missing = next((key for key in keys if key not in names), None)
        if missing is not None:
            raise InvalidArgument(f"the key names a column {missing!r} that is not there", advice=", ".join(names))
        specs = {spec._name: spec for spec in self._columns}
        ordered = [*keys, *(name for name in names if name not in keys)]
        try:
            return Schema(tuple(specs[name]._build(name in keys) for name in ordered))
        except InvalidArgument:
            raise
        except KuduStorageError as error:
            raise InvalidArgument(error.detail) from error

    def _key_names(self) -> list[str]:
        marked = [spec._name for spec in self._columns if spec._primary_key]
        if self._keys is not None and marked and self._keys != marked:
            raise InvalidArgument("the key is given twice: by primary_key() and by set_primary_keys()")
        keys = self._keys if self._keys is not None else marked
        if not keys:
            raise InvalidArgument("the table has no key", advice="primary_key() on a column, or set_primary_keys()")
        if len(set(keys)) != len(keys):
            raise InvalidArgument("the key names a column twice")
        if self._keys is None and len(marked) > 1:
            raise InvalidArgument("several columns are marked as the key", advice="set_primary_keys([...])")
        return keys


def column_spec(name: str, type_: KuduType | str | None, **settings: Any) -> ColumnSpec:
    """A column with those of ColumnSpec's settings that are not None."""
    spec = ColumnSpec(name)
    if type_ is not None:
        spec.type(type_)
    for setting, value in settings.items():
        if value is not None:
            getattr(spec, setting)(value)
    return spec


def schema_builder() -> SchemaBuilder:
    """A new description of a table."""
    return SchemaBuilder()


def with_column_ids(schema: Schema, first_id: int = 10) -> Schema:
    """The schema as a tablet stores it: each column with an id. Ids that are there already stay."""
    from dataclasses import replace

    if len(schema) == 0 or schema.columns[0].id is not None:
        return schema
    return Schema(tuple(replace(column, id=first_id + i) for i, column in enumerate(schema)))


def without_column_ids(schema: Schema) -> Schema:
    """The schema as a client sends it."""
    from dataclasses import replace

    return Schema(tuple(replace(column, id=None) for column in schema))


def cell_of(column: ColumnSchema, value: Any) -> bytes:
    """A Python value as the column's raw cell, for defaults and predicates. Raises InvalidArgument."""
    kind = column.type.name
    if kind == "BINARY":
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
    elif column.type.is_binary:
        if isinstance(value, str):
            if column.length and len(value) > column.length:
                raise InvalidArgument(f"column {column.name!r}: {value!r} is longer than {column.length} characters")
            return value.encode("utf-8", "surrogateescape")
    elif kind in ("FLOAT", "DOUBLE"):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _real_cell(column, value)
    elif kind == "BOOL":
        if isinstance(value, bool):
            return bytes([value])
    else:
        return _integer_cell(column, _number(column, value))
    raise InvalidArgument(f"column {column.name!r} ({kind}) cannot hold {value!r}")


def _real_cell(column: ColumnSchema, value: float) -> bytes:
    import struct

    try:
        return struct.pack("<f" if column.type.width_bytes == 4 else "<d", value)
    except OverflowError:
        raise InvalidArgument(f"column {column.name!r} ({column.type.name}): {value!r} is out of range") from None


def _number(column: ColumnSchema, value: Any) -> int:
    import datetime

    if column.type.is_decimal and isinstance(value, int | Decimal) and not isinstance(value, bool):
        return _unscaled(column, Decimal(value))
    if column.type.name == "UNIXTIME_MICROS" and isinstance(value, datetime.datetime) and value.utcoffset() is not None:
        return (value - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1)
    if column.type.name == "DATE" and isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.toordinal() - datetime.date(1970, 1, 1).toordinal()
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InvalidArgument(f"column {column.name!r} ({column.type.name}) cannot hold {value!r}")


def _unscaled(column: ColumnSchema, value: Decimal) -> int:
    from decimal import Context, DecimalException, Inexact, InvalidOperation

    exact = Context(prec=200, traps=[Inexact, InvalidOperation])
    try:
        number = int(value.scaleb(column.scale, context=exact).to_integral_exact(context=exact))
    except DecimalException:
        raise InvalidArgument(f"column {column.name!r}: {value} does not fit scale {column.scale}") from None
    if column.precision and abs(number) >= 10 ** column.precision:
        raise InvalidArgument(f"column {column.name!r}: {value} has more than {column.precision} digits")
    return number


def _integer_cell(column: ColumnSchema, number: int) -> bytes:
    try:
        return number.to_bytes(column.type.width_bytes, "little", signed=True)
    except OverflowError:
        raise InvalidArgument(f"column {column.name!r} ({column.type.name}): {number} is out of range") from None


def named_setting(what: str, column: str, value: str, known: dict[str, int]) -> str:
    """The known name that `value` is, in any case of letters. Raises InvalidArgument."""
    found = str(value).lower()
    if found not in known:
        raise InvalidArgument(f"column {column!r}: there is no {what} {value!r}", advice=", ".join(known))
    return found


def check_column_name(name: object) -> None:
    """Raises InvalidArgument for what a master does not take."""
    if not isinstance(name, str) or not name or "\0" in name \
            or len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX:
        raise InvalidArgument(f"{name!r} is no name of a column", advice=f"1 to {NAME_BYTES_MAX} bytes of text")


def check_comment(column: str, comment: str) -> None:
    if len(comment.encode("utf-8", "replace")) > COMMENT_BYTES_MAX:
        raise InvalidArgument(f"column {column!r}: a comment of more than {COMMENT_BYTES_MAX} bytes")


def check_encoding(column: ColumnSchema, encoding: str) -> ColumnSchema:
    """The column, if its files can have that encoding. Raises InvalidArgument."""
    _check_encoding_of(column.name, column.type, encoding.lower())
    return column


def _check_encoding_of(name: str, kind: ColumnType, encoding: str) -> None:
    if encoding not in _encodings_of(kind):
        raise InvalidArgument(f"column {name!r}: encoding {encoding!r} does not fit {kind.name.lower()}",
                              advice=", ".join(sorted(_encodings_of(kind))))


def _encodings_of(kind: ColumnType) -> frozenset[str]:
    if kind.is_binary:
        return _BINARY_ENCODINGS
    if kind.name == "BOOL":
        return _BOOL_ENCODINGS
    return _REAL_ENCODINGS if kind.name in ("FLOAT", "DOUBLE", "DECIMAL128") else _INTEGER_ENCODINGS


assert COLUMN_COUNT_DEFAULT_MAX <= COLUMN_COUNT_MAX
