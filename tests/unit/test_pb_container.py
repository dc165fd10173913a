from __future__ import annotations

import errno
import io
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from containers import CMETA, SUPERBLOCK, container, crc32c, old_container, one_file, record, split

from kudu_storage._native.disk import RecordingDisk
from kudu_storage.cli.pbc import pbc
from kudu_storage.common.limits import PB_RECORD_BYTES_MAX
from kudu_storage.errors import (
    BadChecksum,
    BadFormat,
    DiskError,
    ForeignFile,
    InvalidArgument,
    LimitExceeded,
    NewerVersion,
    NotFound,
    Truncated,
)
from kudu_storage.fs.pb_container import (
    container_bytes,
    parse_container,
    read_container,
    read_single,
    write_container,
    write_single,
)
from kudu_storage.fs.pb_dump import dump_container
from kudu_storage.protos import file_descriptor_set, message_class

BLOCK = "kudu.BlockRecordPB"


def block(number: int) -> Any:
    message: Any = message_class(BLOCK)(op_type=1, timestamp_us=number, offset=4096 * number, length=10)
    message.block_id.id = number
    return message


def blocks(count: int) -> list[bytes]:
    return [block(number).SerializeToString() for number in range(count)]


def description(type_name: str, files: Any = None) -> bytes:
    header: Any = message_class("kudu.ContainerSupHeaderPB")(pb_type=type_name)
    header.protos.CopyFrom(files if files is not None else file_descriptor_set(type_name))
    return bytes(header.SerializeToString())


def dump(path: Path, *options: str) -> Result:
    return CliRunner().invoke(pbc, ["dump", *options, str(path)])


# -- reading -----------------------------------------------------------------------------------------------------------
def test_records_come_in_file_order_with_their_places() -> None:
    found = parse_container(container(description(BLOCK), *blocks(5)), "f")
    assert (found.version, found.type_name, found.records) == (2, BLOCK, blocks(5))
    assert [found.parse(r).timestamp_us for r in found.records] == [0, 1, 2, 3, 4]      # type: ignore[attr-defined]
    assert found.offsets[-1] == found.size_bytes
    assert [b - a for a, b in zip(found.offsets, found.offsets[1:], strict=False)] == [len(r) + 12 for r in blocks(5)]


def test_old_version_is_read_with_one_checksum_over_length_and_body() -> None:
    found = parse_container(old_container(description(BLOCK), *blocks(3)), "f")
    assert (found.version, found.records) == (1, blocks(3))


def test_a_container_of_no_messages_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_container(path, BLOCK, [])
    assert read_container(path).records == []
    with pytest.raises(Truncated):
        read_single(path, message_class(BLOCK))


@pytest.mark.parametrize(("data", "error", "offset"), [
    (b"", Truncated, 0),
    (bytes(4096), Truncated, 0),
    (b"kuduc", Truncated, 5),
    (b"\x89PNG\r\n\x1a\n" + bytes(20), ForeignFile, 0),
    (b"kuducntr" + struct.pack("<I", 3) + bytes(40), NewerVersion, 8),
    (b"kuducntr" + struct.pack("<I", 0) + bytes(40), BadFormat, 8),
    (b"kuducntr" + struct.pack("<I", 2) + bytes(40), BadChecksum, 0),
    (container(), Truncated, 16),
    (container(b"\xff\xff"), BadFormat, 16),
], ids=["empty", "zeros", "five bytes", "picture", "version 3", "version 0", "header checksum", "header alone",
        "description that is none"])
def test_each_kind_of_bad_file_has_its_own_error(data: bytes, error: type[Exception], offset: int) -> None:
    with pytest.raises(error) as caught:
        parse_container(data, "some/file")
    assert type(caught.value) is error
    assert getattr(caught.value, "offset", None) == offset
    assert "some/file" in str(caught.value) and "; try: " in str(caught.value)


def test_a_length_above_the_limit_is_refused_before_anything_is_read() -> None:
    length = struct.pack("<I", PB_RECORD_BYTES_MAX + 1)
    data = container(description(BLOCK)) + length + struct.pack("<I", crc32c(length))
    with pytest.raises(LimitExceeded):
        parse_container(data, "f")


def test_damage_keeps_the_messages_before_it_when_the_reader_is_tolerant() -> None:
    whole = container(description(BLOCK), *blocks(4))
    for tail, error in ((record(b"x" * 20)[:-1], Truncated), (bytes(100), Truncated), (b"\x01" * 100, BadChecksum)):
        found = parse_container(whole + tail, "f", tolerant=True)
        assert found.records == blocks(4)
        assert type(found.error) is error and found.error.offset == len(whole) == found.offsets[-1]
        assert found.error.intact == "the 4 messages before it are intact"
        with pytest.raises(error):
            parse_container(whole + tail, "f")


def test_zeros_with_something_after_them_are_no_torn_write() -> None:
    with pytest.raises(BadChecksum):
        parse_container(container(description(BLOCK)) + bytes(100) + b"\x01", "f")


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_container(tmp_path / "nowhere")
    with pytest.raises(DiskError):
        read_container(tmp_path)


def test_single_message_of_another_type_or_of_two_is_refused(tmp_path: Path) -> None:
    write_container(tmp_path / "two", BLOCK, blocks(2))
    with pytest.raises(BadFormat, match="2 messages"):
        read_single(tmp_path / "two", message_class(BLOCK))
    write_container(tmp_path / "one", BLOCK, blocks(1))
    with pytest.raises(BadFormat, match=r"holds kudu\.BlockRecordPB, not kudu\.InstanceMetadataPB"):
        read_single(tmp_path / "one", message_class("kudu.InstanceMetadataPB"))


def test_a_message_without_its_required_fields_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(container(description(BLOCK), b""))
    with pytest.raises(BadFormat, match="block_id"):
        read_single(tmp_path / "f", message_class(BLOCK))


# -- the container's own schema ----------------------------------------------------------------------------------------
def test_a_type_unknown_to_this_package_is_read_by_the_containers_own_schema() -> None:
    files: Any = message_class("google.protobuf.FileDescriptorSet")()
    file = files.file.add(name="other.proto", package="other")
    message = file.message_type.add(name="ThingPB")
    message.field.add(name="size", number=1, type=4, label=1)
    found = parse_container(container(description("other.ThingPB", files), b"\x08\x2a"), "f")
    assert found.parse(found.records[0]).size == 42        # type: ignore[attr-defined]


@pytest.mark.parametrize("turned", [False, True])
def test_imports_may_come_in_any_order_and_be_as_deep_as_they_like(turned: bool) -> None:
    files: Any = message_class("google.protobuf.FileDescriptorSet")()
    count = 3000        # deeper than Python's own stack
    for i in reversed(range(count)) if turned else range(count):
        file = files.file.add(name=f"{i}.proto", package=f"p{i}")
        if i:
            file.dependency.append(f"{i - 1}.proto")
        file.message_type.add(name="MPB")
    found = parse_container(container(description(f"p{count - 1}.MPB", files)), "f")
    assert found.message_class.DESCRIPTOR.full_name == f"p{count - 1}.MPB"


def test_files_that_import_each_other_and_missing_types_are_bad_format() -> None:
    files: Any = message_class("google.protobuf.FileDescriptorSet")()
    files.file.add(name="a", dependency=["b"])
    files.file.add(name="b", dependency=["a"])
    for broken in (description("x.Y", files), description("kudu.NoSuchPB", file_descriptor_set(BLOCK))):
        with pytest.raises(BadFormat):
            _ = parse_container(container(broken), "f").message_class


# -- writing -----------------------------------------------------------------------------------------------------------
def test_written_bytes_are_those_of_another_implementation() -> None:
    assert container_bytes(BLOCK, blocks(3)) == container(description(BLOCK), *blocks(3))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_single(path, block(7))
    assert read_single(path, message_class(BLOCK)) == block(7)
    write_single(os.fspath(path), block(8), durable=False)
    assert read_single(path, message_class(BLOCK)) == block(8)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_message_without_its_required_fields_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="block_id"):
        write_single(tmp_path / "f", message_class(BLOCK)())
    assert list(tmp_path.iterdir()) == []


def test_the_bytes_are_durable_before_the_name_and_the_name_before_the_return(tmp_path: Path) -> None:
    disk = RecordingDisk()
    write_single(tmp_path / "f", block(1), disk=disk)
    kinds = [call[0] for call in disk.calls()]
    assert kinds == ["open", "write", "sync", "close", "rename", "sync_dir"]
    assert disk.calls()[-2][6].endswith(bytes(tmp_path / "f")) and disk.calls()[-1][6] == bytes(tmp_path)


@pytest.mark.parametrize("failing", ["open", "write", "sync", "rename"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, failing: str) -> None:
    path, disk = tmp_path / "f", RecordingDisk()
    write_single(path, block(1))
    disk.fail(failing, 1, errno.ENOSPC)
    with pytest.raises(DiskError):
        write_single(path, block(2), disk=disk)
    assert read_single(path, message_class(BLOCK)) == block(1)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_missing_folder_is_a_disk_error(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        write_single(tmp_path / "nowhere" / "f", block(1))


# -- dump --------------------------------------------------------------------------------------------------------------
def test_messages_before_damage_are_printed_before_the_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    whole = container(description(BLOCK), *blocks(2))
    path.write_bytes(whole + b"\x01" * 30)
    out = io.StringIO()
    with pytest.raises(BadChecksum):
        dump_container(path, out, dump_format="oneline")
    assert [line.split("\t")[0] for line in out.getvalue().splitlines()] == ["0", "1"]
    out = io.StringIO()
    with pytest.raises(BadChecksum):
        dump_container(path, out, dump_format="debug")
    assert out.getvalue().endswith(f"Message 2\nerror: failed to parse protobuf message\noffset: {len(whole)}\n"
                                   "remaining file length: 30\n-------\n")


def test_a_message_that_does_not_parse_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "f"
    first = container(description(BLOCK), *blocks(1))
    path.write_bytes(first + record(b"\xff\xff\xff"))
    out = io.StringIO()
    with pytest.raises(BadFormat) as caught:
        dump_container(path, out, dump_format="json")
    assert caught.value.offset == len(first) and len(out.getvalue().splitlines()) == 1


def test_command_takes_one_format_only() -> None:
    result = dump(one_file(CMETA, "s01"), "--json", "--debug")
    assert result.exit_code == 2 and "only one of" in result.stderr


def test_command_needs_a_file_that_is_there(tmp_path: Path) -> None:
    assert dump(tmp_path / "nowhere").exit_code == 2
    assert dump(tmp_path).exit_code == 2


def test_command_prints_json_that_parses() -> None:
    import json

    found = json.loads(dump(one_file(SUPERBLOCK, "s01"), "--json").stdout)
    assert found["tableName"] and found["schema"]["columns"][0]["isKey"] is True


def test_description_of_a_real_file_and_ours_have_the_same_message(tmp_path: Path) -> None:
    data = one_file(CMETA, "s01").read_bytes()
    ours = container_bytes(parse_container(data, "f").type_name, split(data)[1:])
    (tmp_path / "ours").write_bytes(ours)
    assert dump(tmp_path / "ours", "--oneline").stdout == dump(one_file(CMETA, "s01"), "--oneline").stdout
