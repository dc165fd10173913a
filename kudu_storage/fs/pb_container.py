"""Protobuf containers: the files that hold consensus metadata, superblocks, instance files and block records.

    version 2:  0   8  "kuducntr"                      version 1: no checksum over the header; a record is
                8   4  version                                    4 n | n body | 4 crc of the length and the body
                12  4  crc of bytes 0..11
                then records until the end of the file:
                    4 n | 4 crc of those 4 bytes | n body | 4 crc of the body

Integers are little-endian, checksums plain CRC-32C. Record 0 describes the type of all others (ContainerSupHeaderPB): a
container can be read without knowing its schema. Layout in prose: docs/formats/metadata.md.

 C1  A record is handed out only when its length, checksums and place inside the file are right.
 C2  No length from the file is used before it was compared with PB_RECORD_BYTES_MAX and with the bytes that are there.
 C3  A container under its own name is always whole: it is written under another name, made durable, then renamed.

Reads whole files and blocks on the disk. May not touch: sockets, tablets, logs.
"""
from __future__ import annotations

import contextlib
import os
import secrets
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from kudu_storage._native.crc32c import crc32c
from kudu_storage._native.disk import Disk
from kudu_storage.common.limits import PB_RECORD_BYTES_MAX
from kudu_storage.errors import (
    BadChecksum,
    BadFormat,
    CorruptionError,
    DiskError,
    ForeignFile,
    InvalidArgument,
    LimitExceeded,
    NewerVersion,
    NotFound,
    Truncated,
)
from kudu_storage.protos import file_descriptor_set, message_class

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["PbContainer", "read_container", "read_single", "write_container", "write_single"]

MAGIC: Final = b"kuducntr"
VERSION: Final = 2
# Kudu refuses files shorter than a version 2 header, version 1 files too: those have at least one record.
HEADER_BYTES: Final = 16
_TEMPORARY_INFIX: Final = ".kudutmp."
_OTHER_COPY: Final = "another replica's copy of the tablet, or a backup of this file"
_U32: Final = struct.Struct("<I")
_MessageT = TypeVar("_MessageT", bound="Message")


@dataclass(frozen=True)
class PbContainer:
    """A container in memory. `error` is set only by a tolerant read: what is wrong behind the last good record."""

    path: str
    version: int
    size_bytes: int
    type_name: str                   # such as "kudu.consensus.ConsensusMetadataPB"
    descriptor_set: Any              # google.protobuf.FileDescriptorSet: the schema the writer had
    records: list[bytes]             # serialized messages of that type, in file order
    offsets: list[int]               # where each record starts, then where the last one ends
    error: CorruptionError | None = None

    @cached_property
    def message_class(self) -> type[Message]:
        """The record type as the container's own descriptors define it. Raises BadFormat if they do not."""
        return _class_from_descriptors(self)

    def parse(self, record: bytes) -> Message:
        """One record by the container's own schema. Raises BadFormat."""
        return _parse(self.message_class, record, self.path)


# -- reading -----------------------------------------------------------------------------------------------------------
def read_container(path: str | os.PathLike[str], *, tolerant: bool = False) -> PbContainer:
    """Read and check a whole container.

    With `tolerant`, damage behind the type's description is kept in `error` and the records before it are returned.
    Raises NotFound, DiskError, ForeignFile, NewerVersion, BadChecksum, Truncated, LimitExceeded or BadFormat.
    """
    name = os.fspath(path)
    return parse_container(_read_file(name), name, tolerant=tolerant)


def read_single(path: str | os.PathLike[str], message_class: type[_MessageT]) -> _MessageT:
    """The one message of a container that must hold exactly one, of that type. Raises as `read_container` does."""
    container = read_container(path)
    expected = message_class.DESCRIPTOR.full_name
    if container.type_name != expected:
        raise BadFormat(f"the container holds {container.type_name}, not {expected}", path=container.path,
                        offset=HEADER_BYTES, advice="check that this is the file you meant")
    if not container.records:
        raise Truncated("the container ends before its message", path=container.path, offset=container.offsets[0],
                        intact="the description of its type is intact", advice=_OTHER_COPY)
    if len(container.records) > 1:
        raise BadFormat(f"the container holds {len(container.records)} messages where one belongs",
                        path=container.path, offset=container.offsets[1], advice="kudu-storage pbc dump shows them all")
    return _parse(message_class, container.records[0], container.path, container.offsets[0])


def parse_container(data: bytes, path: str, *, tolerant: bool = False) -> PbContainer:
    """`read_container` for bytes already in memory; `path` is only for the texts of errors."""
    reader = _Reader(data, path)
    start = reader.offset
    header: Any = _parse(message_class("kudu.ContainerSupHeaderPB"), reader.record(), path, start)
    records: list[bytes] = []
    offsets = [reader.offset]
    error: CorruptionError | None = None
    try:
        while reader.offset < len(data):
            records.append(reader.record())
            offsets.append(reader.offset)
    except CorruptionError as trouble:
        trouble.intact = _intact(len(records))
        if not tolerant:
            raise
        error = trouble
    return PbContainer(path, reader.version, len(data), as_text(header.pb_type), header.protos, records, offsets, error)


def as_text(value: str | bytes) -> str:
    """A `string` field as str. protobuf hands out the bytes of one that is not UTF-8, which proto2 lets through."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _intact(count: int) -> str | None:
    return None if count == 0 else "the message before it is intact" if count == 1 else \
        f"the {count} messages before it are intact"


class _Reader:
    """Walks the records of one container. `offset` is where the next one starts; it moves over whole records only."""

    def __init__(self, data: bytes, path: str) -> None:
        self.data = data
        self.path = path
        self.version = self._header()
        self.offset = HEADER_BYTES if self.version >= 2 else HEADER_BYTES - _U32.size

    def _header(self) -> int:
        data = self.data
        if not any(data[:HEADER_BYTES]):
            raise Truncated("the container was never written: it is empty or all zeros", path=self.path, offset=0,
                            advice=_OTHER_COPY)
        if not data.startswith(MAGIC) and not (len(data) < len(MAGIC) and MAGIC.startswith(data)):
            raise ForeignFile(f"not a protobuf container: it starts with {data[:len(MAGIC)]!r} instead of {MAGIC!r}",
                              path=self.path, offset=0, advice="check that this is the file you meant")
        if len(data) < HEADER_BYTES:
            raise Truncated(f"the container has {len(data)} bytes, its header alone has {HEADER_BYTES}",
                            path=self.path, offset=len(data), advice=_OTHER_COPY)
        version: int = _U32.unpack_from(data, len(MAGIC))[0]
        # Before the checksum: a later version may have moved or dropped it.
        if version > VERSION:
            raise NewerVersion(f"container version {version} is newer than {VERSION}", path=self.path,
                               offset=len(MAGIC), advice="a newer version of kudu-storage, or check the disk: "
                                                         "a damaged version field looks the same")
        if version < 1:
            raise BadFormat(f"container version {version} does not exist", path=self.path, offset=len(MAGIC),
                            advice=_OTHER_COPY)
        if version >= 2:
            self._compare(crc32c(data[:12]), 12, "header")
        return version

    def record(self) -> bytes:
        """The next record's body. Raises Truncated, BadChecksum or LimitExceeded; the offset stays then."""
        start = self.offset
        prefix = 8 if self.version >= 2 else 4
        self._require(start, prefix, "the length of the next message")
        if self.version >= 2:
            # The eight bytes first: looking to the end of the file at each record would take quadratic time.
            if not any(self.data[start:start + 8]) and self.data.count(0, start) == len(self.data) - start:
                raise Truncated("only zeros follow: the message was never written", path=self.path, offset=start,
                                advice=_OTHER_COPY)
            self._compare(crc32c(self.data[start:start + 4]), start + 4, "message length", start)
        size: int = _U32.unpack_from(self.data, start)[0]
        if size > PB_RECORD_BYTES_MAX:
            raise LimitExceeded(f"a message of {size} bytes is above the limit of {PB_RECORD_BYTES_MAX}",
                                path=self.path, offset=start, advice=_OTHER_COPY)
        body, end = start + prefix, start + prefix + size
        self._require(body, size + 4, f"a message of {size} bytes and its checksum", start)
        covered = self.data[body:end]
        seed = 0 if self.version >= 2 else crc32c(self.data[start:body])
        self._compare(crc32c(covered, seed), end, "message", start)
        self.offset = end + 4
        return covered

    def _require(self, offset: int, size: int, what: str, start: int | None = None) -> None:
        left = len(self.data) - offset
        if left < size:
            raise Truncated(f"the file ends {size - left} bytes before the end of {what}", path=self.path,
                            offset=offset if start is None else start, advice=_OTHER_COPY)

    def _compare(self, actual: int, offset: int, what: str, start: int | None = None) -> None:
        stored: int = _U32.unpack_from(self.data, offset)[0]
        if stored != actual:
            raise BadChecksum(f"{what} checksum mismatch (stored {stored:#010x}, computed {actual:#010x})",
                              path=self.path, offset=0 if start is None else start,
                              advice=_OTHER_COPY)


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise NotFound("no such file", path=path) from None
    except OSError as error:
        raise DiskError(f"cannot read: {error.strerror}", path=path) from error


def _parse(cls: type[_MessageT], data: bytes, path: str, offset: int | None = None) -> _MessageT:
    from google.protobuf.message import DecodeError

    message: _MessageT = cls()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise BadFormat(f"not a {cls.DESCRIPTOR.full_name}: {error}", path=path, offset=offset,
                        advice=_OTHER_COPY) from None
    if not message.IsInitialized():
        missing = ", ".join(message.FindInitializationErrors())
        raise BadFormat(f"a {cls.DESCRIPTOR.full_name} without required fields: {missing}", path=path, offset=offset,
                        advice=_OTHER_COPY)
    return message


def _class_from_descriptors(container: PbContainer) -> type[Message]:
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    pool = DescriptorPool()
    try:
        for file in _imports_first(container.descriptor_set.file):
            pool.AddSerializedFile(file.SerializeToString())
        return cast("type[Message]", GetMessageClass(pool.FindMessageTypeByName(container.type_name)))
    except (TypeError, KeyError, ValueError) as error:
        raise BadFormat(f"the container's own description of {container.type_name} is not usable: {error}",
                        path=container.path, advice=_OTHER_COPY) from None


def _imports_first(files: Iterable[Any]) -> list[Any]:
    """Descriptors of files in an order in which the pool takes them. Kudu writes them in no such order.

    Without recursion: how deep the imports go is up to the file. Those that import each other come in some order; the
    pool then says what is wrong.
    """
    waiting = {file.name: file for file in files}
    ordered: list[str] = []
    started: set[str] = set()
    for name in waiting:
        stack = [name]
        while stack:
            top = stack[-1]
            if top in started:      # and all that it needs is done
                ordered.append(stack.pop())
            else:
                started.add(top)
                stack += [needed for needed in waiting[top].dependency if needed in waiting and needed not in started]
    return [waiting[name] for name in dict.fromkeys(ordered)]


# -- writing -----------------------------------------------------------------------------------------------------------
def write_single(path: str | os.PathLike[str], message: Message, *, durable: bool = True,
                 disk: Disk | None = None) -> None:
    """Put a container with this one message in place of `path`; readers see the old file or the new one, never a part.

    With `durable` both bytes and name have reached the disk on return. Raises DiskError; the old file then stays.
    """
    write_container(path, message.DESCRIPTOR.full_name, [serialize(message)], durable=durable, disk=disk)


def write_container(path: str | os.PathLike[str], type_name: str, records: Iterable[bytes], *,
                    durable: bool = True, disk: Disk | None = None) -> None:
    """`write_single` for any number of serialized messages of one of our own types."""
    name = os.fspath(path)
    replace_file(name, container_bytes(type_name, records), durable=durable, disk=disk)


def container_bytes(type_name: str, records: Iterable[bytes]) -> bytes:
    """A whole version 2 container. Raises LimitExceeded for a message that no reader would take."""
    header = MAGIC + _U32.pack(VERSION)
    description: Any = message_class("kudu.ContainerSupHeaderPB")()
    description.protos.CopyFrom(file_descriptor_set(type_name))
    description.pb_type = type_name
    return b"".join([header, _U32.pack(crc32c(header)),
                     *(record_bytes(body) for body in (serialize(description), *records))])


def record_bytes(body: bytes) -> bytes:
    """A serialized message as a version 2 container stores it. Raises LimitExceeded."""
    if len(body) > PB_RECORD_BYTES_MAX:
        raise LimitExceeded(f"a message of {len(body)} bytes is above the limit of {PB_RECORD_BYTES_MAX}")
    length = _U32.pack(len(body))
    return b"".join((length, _U32.pack(crc32c(length)), body, _U32.pack(crc32c(body))))


def serialize(message: Message) -> bytes:
    """The bytes of a message. Raises InvalidArgument, naming them, when required fields are not set."""
    if not message.IsInitialized():
        raise InvalidArgument(f"a {message.DESCRIPTOR.full_name} without required fields: "
                              + ", ".join(message.FindInitializationErrors()))
    return bytes(message.SerializeToString())


def replace_file(path: str, data: bytes, *, durable: bool = True, disk: Disk | None = None) -> None:
    """Put a file in place of `path` in one step: written beside it as `NAME.kudutmp.XXXXXX`, synced, renamed.

    Raises DiskError, with the system's `errno`. `disk` is what all of it goes through; tests record it.
    """
    disk = Disk() if disk is None else disk
    folder, base = os.path.split(path)
    folder = folder or "."
    temporary = os.path.join(folder, base + _TEMPORARY_INFIX + secrets.token_hex(4))
    descriptor = disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            disk.write(descriptor, data, 0, path)
            if durable:
                disk.sync(descriptor, path)
        finally:
            disk.close(descriptor)
        disk.rename(temporary, path)
    except BaseException:
        _remove_quietly(disk, temporary)
        raise
    if durable:
        disk.sync_dir(folder)


def sync_directory(folder: str) -> None:
    """Make the names in a folder durable. Raises DiskError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DiskError(f"cannot sync the folder: {error.strerror}", path=folder) from error


def _remove_quietly(disk: Disk, path: str) -> None:
    # The error that brought us here is the one to report.
    with contextlib.suppress(DiskError):
        disk.unlink(path)
