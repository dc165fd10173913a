"""One log segment as text, byte for byte what the real `kudu wal dump` prints (tools/tool_action_common.cc).

    false, 0, no            header and footer only
    true, 1, yes, decoded   a line an entry, with row operations spelled out
    pb                      the entries' messages
    id                      a line an entry

The entries before damage are printed before the typed error is raised. As in the real tool, the tablet's schema is the
header's until an ALTER_SCHEMA operation is read, whether or not that one was committed.
May not touch: anything but the segment, read-only, and `out`.
"""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, Literal, TextIO

from kudu_storage.common.schema import Schema
from kudu_storage.common.varint import encode_varint
from kudu_storage.errors import BadFormat, InvalidArgument
from kudu_storage.protos import enum_name
from kudu_storage.protos.text import debug_string, short_debug_string
from kudu_storage.wal.entries import (
    ALTER_SCHEMA_OP,
    COMMIT,
    REPLICATE,
    WRITE_OP,
    SchemaCache,
    decode_write,
    segment_entries,
)
from kudu_storage.wal.reader import open_segment

PrintType = Literal["none", "decoded", "pb", "id"]

_LEADING_WORD: Final = re.compile(r"\s*([A-Za-z0-9]+)")
_TRUE: Final = frozenset(("1", "y", "yes", "true"))
_FALSE: Final = frozenset(("0", "n", "no", "false"))
_TRUNCATED: Final = b"<truncated>"
_WRITE_BYTES: Final = 1 << 20       # text is handed to `out` in pieces of about this size
# google.protobuf.FieldDescriptor's cpp_type.
_CPP_STRING: Final = 9
_CPP_MESSAGE: Final = 10


def dump_segment(path: str | os.PathLike[str], out: TextIO | BinaryIO, *, print_entries: str = "decoded",
                 print_meta: bool = True, truncate_data: int = 100) -> None:
    """Print a segment file.

    out: a binary stream, or a text stream; of one with a `buffer`, such as sys.stdout, the buffer is used, for cells
    may hold bytes that are no text. truncate_data: with "pb", cut strings to so many bytes (0: never).

    Raises InvalidArgument for an unknown `print_entries`, and what open_segment() and reading can raise.
    """
    print_type = parse_print_type(print_entries)
    write = binary_or_text_writer(out)
    with open_segment(path) as segment:
        if print_meta:
            write("Header:\n" + debug_string(segment.header))
        if print_type != "none":
            tablet_schema = Schema.from_pb(segment.header.schema)
            printer = _printer(print_type, tablet_schema, truncate_data)
            _write_all((text for entry in segment_entries(segment) for text in printer(entry)), write)
        if print_meta and segment.footer is not None:
            write("Footer:\n" + debug_string(segment.footer))


def parse_print_type(text: str) -> PrintType:
    """The meaning of a `print_entries` value, as Kudu reads it: only the first word of a yes or no counts."""
    match = _LEADING_WORD.match(text)
    word = match[1].lower() if match else ""
    if word in _FALSE:
        return "none"
    if word in _TRUE or text == "decoded":
        return "decoded"
    if text == "pb":
        return "pb"
    if text == "id":
        return "id"
    raise InvalidArgument(f"unknown value for print_entries: {text!r}",
                          advice="true or decoded, false, pb, or id")


# -- output ------------------------------------------------------------------------------------------------------------
def binary_or_text_writer(out: TextIO | BinaryIO) -> Callable[[str], None]:
    """What writes text to a stream: as bytes where the stream takes them, so that any bytes of a log can be printed."""
    stream: Any = out
    binary = getattr(stream, "buffer", None)
    if binary is None and hasattr(stream, "encoding"):
        return lambda text: _ignore(stream.write(text))         # text only, such as io.StringIO
    if binary is not None:
        stream.flush()
        stream = binary
    return lambda text: _ignore(stream.write(text.encode("utf-8", "surrogateescape")))


def _ignore(_: object) -> None:
    return None


def _write_all(texts: Iterator[str], write: Callable[[str], None]) -> None:
    """Write in large pieces; what came before an error is written before it goes on."""
    parts: list[str] = []
    size = 0
    try:
        for text in texts:
            parts.append(text)
            size += len(text)
            if size >= _WRITE_BYTES:
                write("".join(parts))
                parts.clear()
                size = 0
    finally:
        write("".join(parts))


# -- entries -----------------------------------------------------------------------------------------------------------
def _printer(print_type: PrintType, tablet_schema: Schema, truncate_data: int) -> Callable[[Any], Iterator[str]]:
    if print_type == "id":
        return _id_lines
    if print_type == "pb":
        return lambda entry: _pb_lines(entry, truncate_data)
    return _DecodedPrinter(tablet_schema).lines


def _id_lines(entry: Any) -> Iterator[str]:
    if entry.type == REPLICATE:
        message = entry.replicate
        yield (f"{message.id.term}.{message.id.index}@{message.timestamp}\tREPLICATE "
               f"{enum_name('kudu.consensus.OperationType', message.op_type)}\n")
    elif entry.type == COMMIT:
        opid = entry.commit.commited_op_id
        yield f"COMMIT {opid.term}.{opid.index}\n"
    else:
        yield f"UNKNOWN: {short_debug_string(entry)}\n"


def _pb_lines(entry: Any, truncate_data: int) -> Iterator[str]:
    if truncate_data > 0:
        truncate_fields(entry, truncate_data)
    yield "Entry:\n" + debug_string(entry)


class _DecodedPrinter:
    """Knows the tablet's schema at the place of reading."""

    def __init__(self, tablet_schema: Schema) -> None:
        self.tablet_schema = tablet_schema
        self.schemas = SchemaCache()

    def lines(self, entry: Any) -> Iterator[str]:
        yield from _id_lines(entry)
        if entry.HasField("replicate"):
            message = entry.replicate
            if message.op_type == WRITE_OP:
                yield from self._write_lines(message)
                return
            if message.op_type == ALTER_SCHEMA_OP:
                if not message.HasField("alter_schema_request"):
                    raise BadFormat("ALTER_SCHEMA_OP log entry has no alter_schema_request")
                self.tablet_schema = Schema.from_pb(message.alter_schema_request.schema)
            yield f"\t{short_debug_string(message)}\n"
        elif entry.HasField("commit"):
            yield f"\t{short_debug_string(entry.commit)}\n"

    def _write_lines(self, message: Any) -> Iterator[str]:
        request = message.write_request
        operations = decode_write(request, self.tablet_schema, self.schemas)
        request_id = short_debug_string(message.request_id) if message.HasField("request_id") else "None"
        yield (f"\tTablet: {request.tablet_id.decode('utf-8', 'surrogateescape')}\n"
               f"\tRequestId: {request_id}\n"
               f"\tConsistency: {enum_name('kudu.ExternalConsistencyMode', request.external_consistency_mode)}\n")
        if request.HasField("propagated_timestamp"):
            yield f"\tPropagated TS: {request.propagated_timestamp}\n"
        if request.HasField("auto_incrementing_column"):
            yield f"\tAuto Incrementing Counter: {request.auto_incrementing_column.auto_incrementing_counter}\n"
        for i, operation in enumerate(operations):
            yield f"\top {i}: {operation.text(self.tablet_schema)}\n"


# -- truncation --------------------------------------------------------------------------------------------------------
def truncate_fields(message: Any, length_max: int) -> None:
    """Cut every string and bytes field, at any depth, to `length_max` bytes and say so (pb_util::TruncateFields)."""
    for field, value in message.ListFields():
        repeated = _is_repeated(field)
        if field.cpp_type == _CPP_MESSAGE:
            for inner in value if repeated else (value,):
                truncate_fields(inner, length_max)
        elif field.cpp_type == _CPP_STRING:
            values = [_as_bytes(v) for v in (value if repeated else (value,))]
            if any(len(v) > length_max for v in values):
                _set_strings(message, field, [v[:length_max] + _TRUNCATED if len(v) > length_max else v
                                              for v in values])


def _is_repeated(field: Any) -> bool:
    newer = getattr(field, "is_repeated", None)     # protobuf 6.31; `label` is deprecated since
    return bool(newer) if newer is not None else field.label == field.LABEL_REPEATED


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def _set_strings(message: Any, field: Any, values: list[bytes]) -> None:
    """Through the wire format, for a cut may go through a character, which a `string` field does not take as a str."""
    message.ClearField(field.name)
    tag = encode_varint(field.number << 3 | 2)
    message.MergeFromString(b"".join(tag + encode_varint(len(v)) + v for v in values))
