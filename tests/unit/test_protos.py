"""Our message schemas against those that real containers carry (each describes its type and all that it imports)."""
from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from containers import CMETA, SUPERBLOCK, metadata_files

from kudu_storage.fs.pb_container import read_container
from kudu_storage.protos import enum_name, file_descriptor_set, message_class, pool

# A field as the format and the texts depend on it.
Field = tuple[str, int, int, int, str, str, str]


def real_files() -> dict[str, Any]:
    """Descriptors of the files that the golden containers carry, by name."""
    found: dict[str, Any] = {}
    for kind in (CMETA, SUPERBLOCK):
        for path in metadata_files(kind):
            for file in read_container(path).descriptor_set.file:
                found.setdefault(file.name, file)
    return found


def messages(file: Any) -> dict[str, Any]:
    """All message types of a file by full name, nested ones too."""
    result: dict[str, Any] = {}

    def visit(scope: str, found: Any) -> None:
        for message in found:
            result[f"{scope}.{message.name}"] = message
            visit(f"{scope}.{message.name}", message.nested_type)

    visit(file.package, file.message_type)
    return result


def enums(file: Any) -> dict[str, list[tuple[str, int]]]:
    result = {f"{file.package}.{e.name}": e for e in file.enum_type}
    for name, message in messages(file).items():
        result |= {f"{name}.{e.name}": e for e in message.enum_type}
    return {name: [(value.name, value.number) for value in e.value] for name, e in result.items()}


def fields(message: Any) -> list[Field]:
    return sorted((f.name, f.number, f.label, f.type, f.type_name, f.default_value, f.options.SerializeToString().hex())
                  for f in message.field)


def ours(name: str) -> Any:
    file: Any = message_class("google.protobuf.FileDescriptorProto")()
    file.ParseFromString(pool().FindFileByName(name).serialized_pb)
    return file


# Not described here: descriptor.proto comes with whatever protobuf compiled ours.
FILES = {name: file for name, file in real_files().items() if not name.startswith("google/")}
# Array columns came after 1.18: known so that they are refused by name.
NEWER_MESSAGES = {"kudu.NestedDataTypePB", "kudu.NestedDataTypePB.ArrayTypeDescriptor"}
NEWER_FIELDS = {"kudu.ColumnSchemaPB": {"nested_type"}}
NEWER_VALUES = {"kudu.DataType": {"NESTED"}}


def test_real_containers_describe_the_types_that_matter() -> None:
    assert {"kudu/consensus/metadata.proto", "kudu/tablet/metadata.proto", "kudu/common/common.proto"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_messages_have_the_fields_of_the_real_ones(name: str) -> None:
    real, own = messages(FILES[name]), messages(ours(name))
    assert set(own) - NEWER_MESSAGES == set(real)
    for full_name, message in real.items():
        newer = NEWER_FIELDS.get(full_name, set())
        assert [f for f in fields(own[full_name]) if f[0] not in newer] == fields(message), full_name
        assert [e.SerializeToString() for e in own[full_name].oneof_decl] == \
            [e.SerializeToString() for e in message.oneof_decl]


@pytest.mark.parametrize("name", FILES)
def test_enums_have_the_values_of_the_real_ones(name: str) -> None:
    own = {full_name: [v for v in values if v[0] not in NEWER_VALUES.get(full_name, set())]
           for full_name, values in enums(ours(name)).items()}
    assert own == enums(FILES[name])


@pytest.mark.parametrize("name", FILES)
def test_files_have_the_package_and_extensions_of_the_real_ones(name: str) -> None:
    real, own = FILES[name], ours(name)
    assert own.package == real.package
    assert [(e.name, e.number, e.type, e.extendee) for e in own.extension] == \
        [(e.name, e.number, e.type, e.extendee) for e in real.extension]


def test_a_description_is_complete_and_lists_imports_first() -> None:
    for type_name in ("kudu.consensus.ConsensusMetadataPB", "kudu.tablet.TabletSuperBlockPB", "kudu.BlockRecordPB"):
        seen: set[str] = set()
        for file in file_descriptor_set(type_name).file:
            assert set(file.dependency) <= seen
            seen.add(file.name)
    described = {f.name for f in file_descriptor_set("kudu.tablet.TabletSuperBlockPB").file}
    assert described == {f.name for f in read_container(metadata_files(SUPERBLOCK)[0]).descriptor_set.file}


def test_the_first_name_of_a_number_is_its_name_and_unknown_numbers_are_told() -> None:
    assert enum_name("kudu.DataType", 5) == "INT32"
    assert enum_name("kudu.DataType", 12345) == "number 12345"


def test_unknown_type_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        message_class("kudu.NoSuchPB")


def test_the_pool_is_private_and_importing_loads_nothing() -> None:
    code = ("import sys, kudu_storage.protos as p; assert not [m for m in sys.modules if m.startswith('google')]\n"
            "p.message_class('kudu.log.LogEntryPB')\n"
            "from google.protobuf import descriptor_pool\n"
            "try: descriptor_pool.Default().FindMessageTypeByName('kudu.log.LogEntryPB')\n"
            "except KeyError: print('private')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "private\n"
