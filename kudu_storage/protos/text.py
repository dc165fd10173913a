"""Messages as text, as the C++ protobuf library inside the real `kudu` tool prints them, byte for byte. Pure.

    debug_string         several lines, two blanks of indent (C++ Message::DebugString)
    short_debug_string   one line
    json_string          protobuf's JSON mapping: lowerCamelCase names; 64-bit numbers, enums as strings; base64 bytes

Fields come in the order of their numbers, then what the schema does not know. A `bytes` field marked (kudu.REDACT) is
printed twice in a row, like two C strings side by side: the real tool does that when redaction is off, and whoever
compares outputs sees it. Works for messages of any pool.
"""
from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from kudu_storage.protos import message_class

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

__all__ = ["debug_string", "escape_bytes", "json_string", "short_debug_string"]

# Numbers of google.protobuf.FieldDescriptorProto.Type.
_DOUBLE, _FLOAT, _BOOL, _STRING, _GROUP, _MESSAGE, _BYTES, _ENUM = 1, 2, 8, 9, 10, 11, 12, 14
_LONG_TYPES = frozenset((3, 4, 6, 16, 18))
# Unknown bytes are tried as a message to this depth, then printed as a string (C++: kUnknownFieldRecursionLimit).
_UNKNOWN_DEPTH_MAX = 10
# Formatters of fields are kept for reuse; foreign containers bring pools of their own, so the store is bounded.
_FIELDS_MAX = 20_000

_NAMED = {7: None, 9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 39: "\\'", 92: "\\\\"}
_ESCAPES = {byte: _NAMED.get(byte) or f"\\{byte:03o}" for byte in range(256)
            if not 32 <= byte < 127 or byte in (34, 39, 92)}


def debug_string(message: Message) -> str:
    """Several lines, each ended by a newline; "" for an empty message."""
    out: list[str] = []
    _print_message(message, "", out)
    return "".join(out)


def short_debug_string(message: Message) -> str:
    """One line, no newline at its end."""
    out: list[str] = []
    _print_message(message, None, out)
    return "".join(out).removesuffix(" ")


def json_string(message: Message, pretty: bool = False) -> str:
    """JSON without whitespace, or one field a line with an indent of one blank and a newline at the end."""
    return _json_message(message, "\n" if pretty else "") + ("\n" if pretty else "")


def escape_bytes(data: bytes) -> str:
    """The inside of a C string: newline, return, tab, quotes, backslash by name, else \\ooo outside printable ASCII."""
    return data.decode("latin-1").translate(_ESCAPES)


# -- what is known about a field, worked out once ----------------------------------------------------------------------
class _Field:
    """How one field prints: its name in both forms and the function for one value of it."""

    __slots__ = ("is_map", "is_message", "is_repeated", "json_name", "json_value", "map_value", "name", "text_value")

    def __init__(self, field: FieldDescriptor) -> None:
        self.name = f"[{field.full_name}]" if field.is_extension else field.name
        self.json_name = _json_quote(f"[{field.full_name}]" if field.is_extension else field.json_name)
        self.is_message = field.type in (_MESSAGE, _GROUP)
        self.is_repeated = _is_repeated(field)
        self.is_map = self.is_message and field.message_type.GetOptions().map_entry
        if field.type == _GROUP and not field.is_extension:
            self.name = field.message_type.name
        self.text_value = _text_printer(field)
        self.json_value = _json_printer(field)
        self.map_value = _field(field.message_type.fields_by_name["value"]) if self.is_map else None


_fields: dict[FieldDescriptor, _Field] = {}


def _field(field: FieldDescriptor) -> _Field:
    found = _fields.get(field)
    if found is None:
        if len(_fields) >= _FIELDS_MAX:
            _fields.clear()
        found = _fields[field] = _Field(field)
    return found


def _is_repeated(field: FieldDescriptor) -> bool:
    # `label` is gone from newer protobuf releases, `is_repeated` is not in older ones.
    found = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if found is None else found)


def _is_redacted(field: FieldDescriptor) -> bool:
    options = field.GetOptions().SerializeToString()
    if not options:
        return False
    known: Any = message_class("google.protobuf.FieldOptions").FromString(options)
    return any(found.full_name == "kudu.REDACT" and value for found, value in known.ListFields())


# -- text --------------------------------------------------------------------------------------------------------------
def _text_printer(field: FieldDescriptor) -> Callable[[Any], str]:
    if field.type == _STRING:
        return _print_string
    if field.type == _BYTES:
        return _print_bytes_twice if _is_redacted(field) else _print_bytes
    if field.type == _BOOL:
        return _print_bool
    if field.type == _FLOAT:
        return _print_float
    if field.type == _DOUBLE:
        return _print_double
    if field.type == _ENUM:
        return _enum_printer(field)
    return str


def _print_string(value: str | bytes) -> str:
    if isinstance(value, bytes):    # a string that is not UTF-8: proto2 lets it through, protobuf hands out its bytes
        return _print_bytes(value)
    return '"' + (value.translate(_ESCAPES) if value.isascii() else escape_bytes(value.encode())) + '"'


def _print_bytes(value: bytes) -> str:
    return '"' + value.decode("latin-1").translate(_ESCAPES) + '"'


def _print_bytes_twice(value: bytes) -> str:
    return _print_bytes(value) * 2


def _print_bool(value: bool) -> str:
    return "true" if value else "false"


def _print_float(value: float) -> str:
    if not math.isfinite(value):
        return _print_not_finite(value)
    text = f"{value:.6g}"
    return text if struct.pack("<f", float(text)) == struct.pack("<f", value) else f"{value:.9g}"


def _print_double(value: float) -> str:
    if not math.isfinite(value):
        return _print_not_finite(value)
    text = f"{value:.15g}"
    return text if float(text) == value else f"{value:.17g}"


def _print_not_finite(value: float) -> str:
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _enum_printer(field: FieldDescriptor) -> Callable[[Any], str]:
    names: dict[int, str] = {}
    for value in field.enum_type.values:
        names.setdefault(value.number, value.name)
    return lambda number: names.get(number) or str(number)


def _print_message(message: Message, indent: str | None, out: list[str]) -> None:
    """Append the fields of a message. `indent` is what each line starts with, or None for one line."""
    inner = None if indent is None else indent + "  "
    start, end = (indent, "\n") if indent is not None else ("", " ")
    for field, value in message.ListFields():
        info = _field(field)
        if info.is_map:
            for key in sorted(value):
                _print_map_entry(field, key, value[key], indent, out)
        elif info.is_message:
            for one in value if info.is_repeated else (value,):
                out.append(f"{start}{info.name} {{{end}")
                _print_message(one, inner, out)
                out.append(f"{start}}}{end}")
        elif info.is_repeated:
            text = info.text_value
            out.extend(f"{start}{info.name}: {text(one)}{end}" for one in value)
        else:
            out.append(f"{start}{info.name}: {info.text_value(value)}{end}")
    _print_unknown(message, indent, _UNKNOWN_DEPTH_MAX, out)


def _print_map_entry(field: FieldDescriptor, key: Any, value: Any, indent: str | None, out: list[str]) -> None:
    inner = None if indent is None else indent + "  "
    start, end = (indent, "\n") if indent is not None else ("", " ")
    entry = field.message_type.fields_by_name
    inner_start = "" if inner is None else inner
    out.append(f"{start}{field.name} {{{end}{inner_start}key: {_field(entry['key']).text_value(key)}{end}")
    info = _field(entry["value"])
    if info.is_message:
        out.append(f"{inner_start}value {{{end}")
        _print_message(value, None if inner is None else inner + "  ", out)
        out.append(f"{inner_start}}}{end}")
    else:
        out.append(f"{inner_start}value: {info.text_value(value)}{end}")
    out.append(f"{start}}}{end}")


@cache
def _unknown_field_set() -> Callable[[Message], Any]:
    from google.protobuf.unknown_fields import UnknownFieldSet

    found: Callable[[Message], Any] = UnknownFieldSet
    return found


def _print_unknown(message: Message, indent: str | None, depth: int, out: list[str]) -> None:
    found = _unknown_field_set()(message)
    if len(found):
        _print_unknown_set(found, indent, depth, out)


def _print_unknown_set(fields: Any, indent: str | None, depth: int, out: list[str]) -> None:
    inner = None if indent is None else indent + "  "
    start, end = (indent, "\n") if indent is not None else ("", " ")
    for one in fields:
        number, wire_type, data = one.field_number, one.wire_type, one.data
        if wire_type == 0:
            out.append(f"{start}{number}: {data}{end}")
        elif wire_type == 5:
            out.append(f"{start}{number}: 0x{data:08x}{end}")
        elif wire_type == 1:
            out.append(f"{start}{number}: 0x{data:016x}{end}")
        elif wire_type == 3:
            out.append(f"{start}{number} {{{end}")
            _print_unknown_set(data, inner, depth - 1, out)
            out.append(f"{start}}}{end}")
        else:
            nested = _as_message(data) if depth > 0 else None
            if nested is None:
                out.append(f'{start}{number}: "{escape_bytes(data)}"{end}')
            else:
                out.append(f"{start}{number} {{{end}")
                _print_unknown(nested, inner, depth - 1, out)
                out.append(f"{start}}}{end}")


def _as_message(data: bytes) -> Message | None:
    """Bytes read as a message without known fields, or None if they cannot be one."""
    from google.protobuf.message import DecodeError

    if not data:
        return None
    empty = message_class("kudu.tserver.PingRequestPB")()
    try:
        empty.ParseFromString(data)
    except DecodeError:
        return None
    return empty


# -- JSON --------------------------------------------------------------------------------------------------------------
# The C++ writer escapes for embedding in HTML too, and characters that do not show.
_JSON_NAMED = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
_JSON_INVISIBLE = (
    (0x00, 0x1F), (0x22, 0x22), (0x3C, 0x3C), (0x3E, 0x3E), (0x5C, 0x5C), (0x7F, 0x9F), (0xAD, 0xAD), (0x600, 0x603),
    (0x6DD, 0x6DD), (0x70F, 0x70F), (0x17B4, 0x17B5), (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x2064),
    (0x206A, 0x206F), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB), (0x1D173, 0x1D17A), (0xE0001, 0xE0001), (0xE0020, 0xE007F),
)


def _json_escape(code: int) -> str:
    if code in _JSON_NAMED:
        return _JSON_NAMED[code]
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


_JSON_ESCAPES = {code: _json_escape(code) for first, last in _JSON_INVISIBLE for code in range(first, last + 1)}


def _json_quote(value: str | bytes) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return '"' + value.translate(_JSON_ESCAPES) + '"'


def _json_printer(field: FieldDescriptor) -> Callable[[Any], str]:
    if field.type == _STRING:
        return _json_quote
    if field.type == _BYTES:
        return lambda value: '"' + base64.b64encode(value).decode() + '"'
    if field.type == _BOOL:
        return _print_bool
    if field.type == _FLOAT:
        return lambda value: _print_float(value) if math.isfinite(value) else _json_not_finite(value)
    if field.type == _DOUBLE:
        return lambda value: _print_double(value) if math.isfinite(value) else _json_not_finite(value)
    if field.type == _ENUM:
        name = _enum_printer(field)
        return lambda value: text if (text := name(value)).lstrip("-").isdecimal() else f'"{text}"'
    if field.type in _LONG_TYPES:
        return lambda value: f'"{value}"'
    return str


def _json_not_finite(value: float) -> str:
    return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'


def _json_message(message: Message, newline: str) -> str:
    """An object. `newline` is a newline and the indent of the object's own line, or "" for no whitespace."""
    inner = newline and newline + " "
    colon = ": " if newline else ":"
    return _json_bracket("{}", [
        info.json_name + colon + _json_member(info, value, inner)
        for info, value in ((_field(field), value) for field, value in message.ListFields())
    ], newline)


def _json_member(info: _Field, value: Any, newline: str) -> str:
    inner = newline and newline + " "
    if info.map_value is not None:
        colon = ": " if newline else ":"
        return _json_bracket("{}", [
            _json_key(key) + colon + _json_value(info.map_value, value[key], inner) for key in sorted(value)
        ], newline)
    if info.is_repeated:
        return _json_bracket("[]", [_json_value(info, one, inner) for one in value], newline)
    return _json_value(info, value, newline)


def _json_key(key: Any) -> str:
    return _json_quote(_print_bool(key) if isinstance(key, bool) else str(key))


def _json_value(info: _Field, value: Any, newline: str) -> str:
    return _json_message(value, newline) if info.is_message else info.json_value(value)


def _json_bracket(brackets: str, members: list[str], newline: str) -> str:
    if not members:
        return brackets
    inner = newline and newline + " "
    return brackets[0] + inner + ("," + inner).join(members) + newline + brackets[1]
