"""Consensus metadata, superblocks and instance files: what is read, what is refused, what is written."""
from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from containers import CMETA, SUPERBLOCK, metadata_files, one_file

from kudu_storage.errors import BadFormat, CorruptionError, InvalidArgument, NotFound, Unsupported
from kudu_storage.fs import consensus_metadata, superblock
from kudu_storage.fs.consensus_metadata import OPID_INDEX_NONE, read_consensus_metadata, write_consensus_metadata
from kudu_storage.fs.instance import Instance, read_instance, write_instance
from kudu_storage.fs.pb_container import read_single, write_single
from kudu_storage.fs.superblock import NOTHING_DURABLE, read_superblock, write_superblock
from kudu_storage.protos import message_class

UUID = "0123456789abcdef0123456789abcdef"


def cmeta(**fields: Any) -> Any:
    message: Any = message_class(consensus_metadata.TYPE)(current_term=3, **fields)
    message.committed_config.SetInParent()
    return message


# -- consensus metadata ------------------------------------------------------------------------------------------------
def test_configuration_with_a_learner_counts_voters_alone(tmp_path: Path) -> None:
    message = cmeta(voted_for=UUID)
    message.committed_config.opid_index = 17
    for number, kind in enumerate((1, 0, 1)):
        peer = message.committed_config.peers.add(permanent_uuid=b"%032x" % number, member_type=kind)
        if number:
            peer.last_known_addr.host, peer.last_known_addr.port = "h", 7000 + number
    write_consensus_metadata(tmp_path / "f", message)
    found = read_consensus_metadata(tmp_path / "f")
    assert (found.current_term, found.voted_for, found.opid_index) == (3, UUID, 17)
    assert [(p.uuid[-1], p.member_type, p.host, p.port) for p in found.peers] == [
        ("0", "VOTER", None, None), ("1", "NON_VOTER", "h", 7001), ("2", "VOTER", "h", 7002)]
    assert [p.uuid[-1] for p in found.voters] == ["0", "2"]
    assert found.message == message


def test_no_vote_and_no_configuration_change_yet_are_told() -> None:
    found = consensus_metadata.from_message(cmeta())
    assert (found.voted_for, found.opid_index, found.peers) == (None, OPID_INDEX_NONE, ())


def test_states_that_no_replica_can_be_in_are_refused() -> None:
    for message in (cmeta(voted_for=""), cmeta()):
        if not message.HasField("voted_for"):
            message.current_term = -1
        with pytest.raises(BadFormat) as caught:
            consensus_metadata.from_message(message, "the/file")
        assert caught.value.path == "the/file"


def test_a_name_that_is_not_utf8_is_kept_as_it_is() -> None:
    message = message_class(consensus_metadata.TYPE).FromString(b"\x0a\x00\x10\x01\x1a\x02\xff\xfe")
    found = consensus_metadata.from_message(message)
    assert found.voted_for is not None and found.voted_for.encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_real_configurations_of_a_replicated_tablet_agree_on_its_voters() -> None:
    found = [read_consensus_metadata(p) for p in metadata_files(CMETA) if p.parts[-4].startswith("r06")]
    assert len(found) == 5 and len({tuple(sorted(p.uuid for p in f.voters)) for f in found}) == 1
    assert len(found[0].voters) == 5
    assert read_consensus_metadata(one_file(CMETA, "r05")).opid_index > 0


# -- superblocks -------------------------------------------------------------------------------------------------------
def test_superblock_of_a_real_tablet_is_read_and_written_again(tmp_path: Path) -> None:
    found = read_superblock(one_file(SUPERBLOCK, "s01"))
    assert found.schema.key_column_count >= 1 and found.schema.columns[0].id is not None
    assert found.last_durable_mrs_id == NOTHING_DURABLE and found.rowsets == ()
    write_superblock(tmp_path / "f", found.message)
    assert read_superblock(tmp_path / "f") == found


def test_flushed_rowsets_and_orphaned_blocks_are_told() -> None:
    message: Any = read_superblock(one_file(SUPERBLOCK, "s01")).message.__deepcopy__()
    message.last_durable_mrs_id = 4
    for number in (7, 9):
        rowset = message.rowsets.add(id=number, last_durable_dms_id=number - 8)
        rowset.bloom_block.id = number
    message.rowsets[1].live_row_count = 5
    message.orphaned_blocks.add(id=77)
    found = superblock.from_message(message)
    assert [(r.id, r.last_durable_dms_id, r.live_row_count) for r in found.rowsets] == [(7, -1, None), (9, 1, 5)]
    assert (found.last_durable_mrs_id, found.orphaned_blocks) == (4, (77,))


def test_a_tombstone_is_not_ready() -> None:
    message: Any = read_superblock(one_file(SUPERBLOCK, "s01")).message.__deepcopy__()
    message.tablet_data_state = 3
    found = superblock.from_message(message)
    assert (found.tablet_data_state, found.is_ready) == ("TABLET_DATA_TOMBSTONED", False)


def test_array_columns_and_schemas_that_are_none_are_refused_by_name() -> None:
    real = read_superblock(one_file(SUPERBLOCK, "s01")).message
    message: Any = real.__deepcopy__()
    message.schema.columns[-1].nested_type.SetInParent()
    with pytest.raises(Unsupported, match="array") as caught:
        superblock.from_message(message, "the/file")
    assert caught.value.path == "the/file"
    message = real.__deepcopy__()
    message.schema.columns[1].name = message.schema.columns[0].name
    with pytest.raises(CorruptionError, match="same name") as corrupt:
        superblock.from_message(message, "the/file")
    assert corrupt.value.path == "the/file"


def test_the_two_kinds_are_not_taken_for_each_other() -> None:
    with pytest.raises(BadFormat, match="TabletSuperBlockPB, not"):
        read_consensus_metadata(one_file(SUPERBLOCK, "s01"))
    with pytest.raises(BadFormat, match="ConsensusMetadataPB, not"):
        read_superblock(one_file(CMETA, "s01"))


# -- instance ----------------------------------------------------------------------------------------------------------
def test_instance_is_written_and_read_again(tmp_path: Path) -> None:
    instance = Instance(UUID, "Formatted at 2026-01-01 00:00:00 on host")
    write_instance(tmp_path / "instance", instance)
    assert read_instance(tmp_path / "instance") == instance


@pytest.mark.parametrize("field", ["server_key", "server_key_iv", "server_key_version", "tenants"])
def test_a_server_with_encrypted_files_is_refused_by_name(tmp_path: Path, field: str) -> None:
    message: Any = message_class("kudu.InstanceMetadataPB")(uuid=UUID.encode(), format_stamp="x")
    if field == "tenants":
        message.tenants.add(tenant_name="t", tenant_id=b"1", tenant_key=b"k", tenant_key_iv=b"i",
                            tenant_key_version=b"v")
    else:
        setattr(message, field, b"k")
    write_single(tmp_path / "instance", message)
    with pytest.raises(Unsupported, match=f"encrypted.*{field}"):
        read_instance(tmp_path / "instance")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_instance, read_superblock, read_consensus_metadata):
        with pytest.raises(NotFound) as caught:
            read(tmp_path / "nowhere")
        assert str(tmp_path / "nowhere") in str(caught.value)


def test_an_incomplete_message_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="committed_config"):
        write_consensus_metadata(tmp_path / "f", message_class(consensus_metadata.TYPE)(current_term=1))


def test_errors_survive_pickling(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(one_file(CMETA, "s01").read_bytes()[:-1])
    with pytest.raises(CorruptionError) as caught:
        read_single(tmp_path / "f", message_class(consensus_metadata.TYPE))
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is type(caught.value) and str(again) == str(caught.value)
