"""Cells as values and as text for people. Pure functions.

Three forms of one cell (raw bytes as in types.py, None for NULL):
    python_value   int, bool, float, str, bytes, Decimal; DATE as days and UNIXTIME_MICROS as microseconds since 1970
    json_value     the same as JSON has it: decimals as strings with their full scale, binary in base64
    debug_text     what Kudu's own tools print (common/types.h, AppendDebugStringForValue)

Text is `str` in which bytes that are not UTF-8 are surrogate escapes; encode it with errors="surrogateescape".
"""
from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import BadFormat

PythonValue = int | bool | float | str | bytes | Decimal | None

_DATE_MIN: Final = -719162      # 0001-01-01
_DATE_MAX: Final = 2932896      # 9999-12-31
_MICROS_PER_SECOND: Final = 1_000_000
_SECONDS_PER_DAY: Final = 86_400
_NAMED_ESCAPES: Final = {b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t", b'"': b'\\"', b"'": b"\\'", b"\\": b"\\\\"}
# A hexadecimal digit right after \xNN would be read as part of it, so it is escaped too, and so is the one after that.
_TO_ESCAPE_HEX: Final = re.compile(rb"[\n\r\t\"'\\]|[^\n\r\t\x20-\x7e][0-9A-Fa-f]*")
_TO_ESCAPE_UTF8: Final = re.compile(rb"[\x00-\x1f\x7f\"'\\]")


# -- values ------------------------------------------------------------------------------------------------------------
def python_value(column: ColumnSchema, cell: bytes | None) -> PythonValue:
    """A cell as a plain Python value. Raises BadFormat for a cell of the wrong size or text that is not UTF-8."""
    if cell is None:
        return None
    kind = column.type
    if kind.width_bytes and len(cell) != kind.width_bytes:
        raise BadFormat(f"column {column.name!r}: a cell of {kind.name} has {kind.width_bytes} bytes, got {len(cell)}")
    if kind.name == "BINARY":
        return cell
    if kind.is_binary:
        try:
            return cell.decode()
        except UnicodeDecodeError as error:
            raise BadFormat(f"column {column.name!r}: {kind.name} cell is not UTF-8: {error.reason}") from None
    if kind.name == "BOOL":
        return cell[0] != 0
    if kind.name == "FLOAT":
        return float(struct.unpack("<f", cell)[0])
    if kind.name == "DOUBLE":
        return float(struct.unpack("<d", cell)[0])
    number = int.from_bytes(cell, "little", signed=True)
    return _decimal(number, column.scale) if kind.is_decimal else number


def _decimal(number: int, scale: int) -> Decimal:
    """Exact, whatever the context's precision."""
    return Decimal((int(number < 0), tuple(int(d) for d in str(abs(number))), -scale))


def json_value(column: ColumnSchema, cell: bytes | None) -> int | bool | float | str | None:
    """A cell as a value for json.dumps: NaN and infinities by name, decimals in full, binary in base64."""
    value = python_value(column, cell)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, float):
        return _json_float(value, single=column.type.name == "FLOAT")
    return value


def _json_float(value: float, *, single: bool) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    # The shortest decimal that gives the same 32 bits back; a double's own repr would show noise digits.
    return next(float(text) for text in (f"{value:.{digits}g}" for digits in range(6, 10))
                if _to_single(text) == value) if single else value


# -- the text of Kudu's tools ------------------------------------------------------------------------------------------
def debug_text(column: ColumnSchema, cell: bytes | None) -> str:
    """A cell as Kudu's tools print it: quoted and escaped strings, decimals as integers with their width."""
    if cell is None:
        return "NULL"
    kind = column.type.name
    if kind == "BINARY":
        return '"' + escape_hex(cell).decode("ascii") + '"'
    if column.type.is_binary:
        return '"' + escape_utf8(cell).decode("utf-8", "surrogateescape") + '"'
    if kind == "BOOL":
        return "true" if cell[0] else "false"
    if kind == "FLOAT":
        return _float_text(struct.unpack("<f", cell)[0])
    if kind == "DOUBLE":
        return _double_text(struct.unpack("<d", cell)[0])
    number = int.from_bytes(cell, "little", signed=True)
    if kind == "UNIXTIME_MICROS":
        return _unixtime_text(number)
    if kind == "DATE":
        return _date_text(number)
    if column.type.is_decimal:
        return f"{_int128_text(number)}_D{8 * column.type.width_bytes}"
    return str(number)


def type_name(column: ColumnSchema) -> str:
    """The column's type as in a printed row: `int32`, `unixtime_micros`, `decimal`."""
    return "decimal" if column.type.is_decimal else column.type.name.lower()


def row_text(schema: Schema, cells: Mapping[int, bytes | None], column_count: int | None = None) -> str:
    """The first columns of a row as Kudu prints rows: `(int32 id=1, string name="x")`. A missing cell is NULL."""
    columns = schema.columns if column_count is None else schema.columns[:column_count]
    return "(" + ", ".join(f"{type_name(c)} {c.name}={debug_text(c, cells.get(i))}"
                           for i, c in enumerate(columns)) + ")"


def column_text(column: ColumnSchema) -> str:
    """A column as Kudu's messages name it: `name VARCHAR(17) NOT NULL`."""
    attributes = ""
    if column.type.is_decimal:
        attributes = f"({column.precision}, {column.scale})"
    elif column.type.name == "VARCHAR":
        attributes = f"({column.length})"
    return (f"{column.name} {type_name(column).upper()}{attributes} {'NULLABLE' if column.nullable else 'NOT NULL'}"
            f"{' IMMUTABLE' if column.immutable else ''}")


def schema_text(schema: Schema) -> str:
    """A table's schema over several lines, as Kudu's tools print it: columns with their ids, then the primary key."""
    if not schema.columns:
        return "()"
    columns = [column_text(c) if c.id is None else f"{c.id}:{column_text(c)}" for c in schema.columns]
    key = ", ".join(c.name for c in schema.key_columns)
    return "(\n    " + ",\n    ".join([*columns, f"PRIMARY KEY ({key})"]) + "\n)"


def escape_hex(data: bytes) -> bytes:
    """C escapes with two hexadecimal digits for everything outside printable ASCII (gutil CHexEscape)."""
    return _TO_ESCAPE_HEX.sub(_hex_escape, data)


def _hex_escape(match: re.Match[bytes]) -> bytes:
    found = match[0]
    return _NAMED_ESCAPES.get(found) or b"".join(b"\\x%02x" % byte for byte in found)


def escape_utf8(data: bytes) -> bytes:
    """C escapes with three octal digits for control characters; bytes above 7f stay (gutil Utf8SafeCEscape)."""
    return _TO_ESCAPE_UTF8.sub(lambda m: _NAMED_ESCAPES.get(m[0]) or b"\\%03o" % m[0][0], data)


def _float_text(value: float) -> str:
    """Six digits when they give the same 32 bits back, else eight (gutil FloatToBuffer; nine would be exact)."""
    text = f"{value:.6g}"
    return _signed_nan(value) if math.isnan(value) else text if _to_single(text) == value else f"{value:.8g}"


def _to_single(text: str) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", float(text)))[0])
    except OverflowError:
        return math.inf


def _double_text(value: float) -> str:
    """Fifteen digits when they give the same value back, else seventeen (gutil DoubleToBuffer)."""
    text = f"{value:.15g}"
    return _signed_nan(value) if math.isnan(value) else text if float(text) == value else f"{value:.17g}"


def _signed_nan(value: float) -> str:
    return "-nan" if math.copysign(1.0, value) < 0 else "nan"


def _int128_text(number: int) -> str:
    """As Kudu prints it: above 64 bits in three groups of digits, whose leading zeros it forgets (gutil numbers.cc).

    The value cannot be told from this text then; python_value and json_value give it right.
    """
    size = abs(number)
    if size < 1 << 64:
        return str(number)
    top, rest = divmod(size, 10**20)
    return f"{'-' if number < 0 else ''}{top}{rest // 10}{rest % 10}"


def _unixtime_text(micros: int) -> str:
    seconds, fraction = divmod(micros, _MICROS_PER_SECOND)
    days, second = divmod(seconds, _SECONDS_PER_DAY)
    return (f"{_ymd_text(days)}T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.{fraction:06d}Z")


def _date_text(days: int) -> str:
    if not _DATE_MIN <= days <= _DATE_MAX:
        return f"value {days} out of range for DATE type"
    return _ymd_text(days)


def _ymd_text(days: int) -> str:
    year, month, day = _civil(days)
    return f"{year}-{month:02d}-{day:02d}"      # the C library does not pad the year


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month and day of a day number since 1970, for any year of the proleptic Gregorian calendar.

    Counted in eras of 400 years that begin on the first of March, so that the leap day is the last of its year.
    """
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    year = year_of_era + era * 400 + (month <= 2)
    return year, month, day_of_year - (153 * shifted_month + 2) // 5 + 1
