"""Any protobuf container as text, byte for byte what the real `kudu pbc dump` prints (util/pb_util.cc, Dump).

    default      "Message N", dashes, the message over several lines, an empty line
    oneline      N, a tab, the message on one line
    debug        as default, with a header of the file and offset and length of each message
    json         a message a line
    json_pretty  a message over several lines, an empty line

Messages are printed by the schema that the container carries, so types that this package does not know print as well.
The messages before damage are printed before the typed error is raised, as in the real tool.
May not touch: anything but the container, read-only, and `out`.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, Protocol, get_args

from kudu_storage.errors import CorruptionError, InvalidArgument
from kudu_storage.fs.pb_container import PbContainer, read_container
from kudu_storage.protos.text import debug_string, json_string, short_debug_string

if TYPE_CHECKING:
    from google.protobuf.message import Message

DumpFormat = Literal["default", "oneline", "debug", "json", "json_pretty"]

_DASHES: Final = "-------\n"


class TextSink(Protocol):
    """What text goes to. It may hold surrogate escapes where a container's strings are not UTF-8."""

    def write(self, text: str, /) -> object: ...


def dump_container(path: str | os.PathLike[str], out: TextSink, *, dump_format: DumpFormat = "default") -> None:
    """Print a container. Raises InvalidArgument for an unknown format, else what read_container can raise."""
    if dump_format not in get_args(DumpFormat):
        raise InvalidArgument(f"unknown format {dump_format!r}", advice="one of " + ", ".join(get_args(DumpFormat)))
    container = read_container(path, tolerant=True)
    debug = dump_format == "debug"
    if debug:
        out.write(_file_header(container))
    text = _printer(container, dump_format)
    container.message_class     # raises for an unusable schema, whether or not there are messages  # noqa: B018
    error = container.error
    count = 0
    for count, record in enumerate(container.records):
        try:
            message = container.parse(record)
        except CorruptionError as unparsable:
            unparsable.offset = container.offsets[count]
            error = unparsable
            break
        out.write(text(count, message))
    else:
        count = len(container.records)
    if error is None:
        return
    if debug:
        out.write(_failure(container, count))
    raise error


def _file_header(container: PbContainer) -> str:
    return (f"File header\n{_DASHES}Protobuf container version: {container.version}\n"
            f"Total container file size: {container.size_bytes}\nEntry PB type: {container.type_name}\n\n")


def _failure(container: PbContainer, count: int) -> str:
    offset = container.offsets[count]
    return (f"Message {count}\nerror: failed to parse protobuf message\noffset: {offset}\n"
            f"remaining file length: {container.size_bytes - offset}\n{_DASHES}")


def _printer(container: PbContainer, dump_format: DumpFormat) -> Callable[[int, Message], str]:
    if dump_format == "oneline":
        return lambda number, message: f"{number}\t{short_debug_string(message)}\n"
    if dump_format == "json":
        return lambda number, message: json_string(message) + "\n"
    if dump_format == "json_pretty":
        return lambda number, message: json_string(message, pretty=True) + "\n"
    if dump_format == "default":
        return lambda number, message: f"Message {number}\n{_DASHES}{debug_string(message)}\n"

    def with_place(number: int, message: Message) -> str:
        offset, end = container.offsets[number], container.offsets[number + 1]
        return (f"Message {number}\noffset: {offset}\nlength: {end - offset}\n"
                f"{_DASHES}{debug_string(message)}\n")

    return with_place
