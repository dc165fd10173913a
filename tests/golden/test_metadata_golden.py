"""Metadata files of real servers: what `pbc dump` prints for them, and what is read from them."""
from __future__ import annotations

import io
import json
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner
from containers import CMETA, METADATA, REPLAY, SUPERBLOCK, metadata_files
from fixtures import fixtures_root

from kudu_storage.cli.pbc import pbc
from kudu_storage.errors import BadChecksum, ForeignFile, KuduStorageError, NewerVersion, Truncated
from kudu_storage.fs.consensus_metadata import read_consensus_metadata
from kudu_storage.fs.pb_container import container_bytes, read_container
from kudu_storage.fs.pb_dump import DumpFormat, dump_container
from kudu_storage.fs.superblock import read_superblock

DUMPS = sorted(path for path in METADATA.glob("*/*-meta.*"))
ROOT = fixtures_root()
STORED = sorted((ROOT / "kudu-fixtures").glob("*/truth/dumps/*/*/*-meta.*")) if ROOT is not None else []
DAMAGED = {d["name"]: d for d in json.loads((REPLAY / "damaged" / "damage.json").read_text())["damages"]
           if "/cmeta_" in f"/{d['name']}" and d["replaced"]}


def short_name(path: Path) -> str:
    return "-".join(path.parts[-2:])


def dumped(path: Path, dump_format: DumpFormat) -> bytes:
    out = io.StringIO()
    dump_container(path, out, dump_format=dump_format)
    return out.getvalue().encode()


def format_of(dump: Path) -> DumpFormat:
    name = dump.name.split(".")[1]
    return next(f for f in get_args(DumpFormat) if f == name)


def source_of(dump: Path) -> Path:
    """The container that a dump in the repository was made of."""
    case, server, tablet = dump.parent.name.split("-")
    (root,) = REPLAY.glob(f"{case}_*")
    return root / server / dump.name.split(".")[0] / tablet


def test_every_format_of_both_kinds_is_held() -> None:
    assert {(d.name.split(".")[0], format_of(d)) for d in DUMPS} == {
        (kind, f) for kind in (CMETA, SUPERBLOCK) for f in get_args(DumpFormat)}


@pytest.mark.parametrize("dump", DUMPS, ids=short_name)
def test_dump_is_the_real_tools_byte_for_byte(dump: Path) -> None:
    assert dumped(source_of(dump), format_of(dump)) == dump.read_bytes()


@pytest.mark.skipif(not STORED, reason="no stored tablets of real servers (KUDU_STORAGE_SHARED)")
def test_all_stored_dumps_are_the_real_tools_byte_for_byte() -> None:
    different = []
    for dump in STORED:
        case = dump.parents[4]
        source = case / dump.parts[-3] / dump.name.split(".")[0] / dump.parts[-2]
        if source.exists() and dumped(source, format_of(dump)) != dump.read_bytes():
            different.append(dump)
    assert different == []
    assert len(STORED) > 100


@pytest.mark.parametrize("dump", [d for d in DUMPS if d.name == "consensus-meta.oneline.txt"], ids=short_name)
def test_command_prints_the_bytes_that_the_real_tool_prints(dump: Path) -> None:
    result = CliRunner().invoke(pbc, ["dump", "--oneline", str(source_of(dump))])
    assert (result.exit_code, result.stdout_bytes) == (0, dump.read_bytes())


@pytest.mark.parametrize(("name", "expected"), [
    ("cmeta_bad_magic", ForeignFile), ("cmeta_data_bit_flip", BadChecksum), ("cmeta_truncated", Truncated),
    ("cmeta_version_bit_flip", NewerVersion)])
def test_a_damaged_copy_prints_nothing_as_in_the_real_tool_and_gives_its_own_error(
        name: str, expected: type[KuduStorageError]) -> None:
    ((file, verdict),) = DAMAGED[name]["tool"].items()
    out = io.StringIO()
    with pytest.raises(KuduStorageError) as caught:
        dump_container(REPLAY / "damaged" / name / file, out, dump_format="oneline")
    assert type(caught.value) is expected
    assert (verdict["rc"], out.getvalue()) == (1, "")
    assert caught.value.path and caught.value.advice


@pytest.mark.parametrize("kind", [CMETA, SUPERBLOCK])
def test_messages_written_again_are_the_same_bytes(kind: str) -> None:
    for path in metadata_files(kind):
        found = read_container(path)
        again = container_bytes(found.type_name, found.records)
        # The description of the type may list its files in another order; the message may not change.
        assert again.endswith(path.read_bytes()[found.offsets[0]:])


def test_terms_votes_and_peers_are_those_of_the_servers() -> None:
    checked = 0
    for case in sorted(REPLAY.glob("*/case.json")):
        for facts in json.loads(case.read_text())["replicas"]:
            found = read_consensus_metadata(case.parent / facts["server"] / CMETA / facts["tablet"])
            assert (found.current_term, found.voted_for) == (facts["current_term"], facts["voted_for"])
            assert len(found.voters) >= 1 and all(peer.host and peer.port for peer in found.peers)
            checked += 1
    assert checked > 20


def test_superblocks_say_what_the_servers_said() -> None:
    checked = 0
    for case in sorted(REPLAY.glob("*/case.json")):
        for facts in json.loads(case.read_text())["replicas"]:
            found = read_superblock(case.parent / facts["server"] / SUPERBLOCK / facts["tablet"])
            assert (found.tablet_id, found.table_name) == (facts["tablet"], facts["table"])
            assert found.tablet_data_state == facts["tablet_data_state"]
            assert found.is_ready == (facts["tablet_data_state"] == "TABLET_DATA_READY")
            assert str(found.last_durable_mrs_id) == facts["last_durable_mrs_id"]
            assert bool(found.rowsets) == facts["has_flushed_rowsets"]
            checked += 1
    assert checked > 20
