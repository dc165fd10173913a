"""The snapshot's file: whole or refused."""
from __future__ import annotations

from pathlib import Path

import pytest

from consensus.replica.snapshots import CONFIG_BYTES_MAX, Snapshot, decode, encode, read_snapshot, write_snapshot
from kudu_storage._native.disk import Disk
from kudu_storage.common.opid import OpId
from kudu_storage.errors import CorruptionError, ForeignFile, LimitExceeded, NewerVersion, Truncated

SNAPSHOT = Snapshot(OpId(3, 77), b"config", b"the state" * 20)


def test_a_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    assert read_snapshot(path) is None
    write_snapshot(path, SNAPSHOT, Disk())
    write_snapshot(path, SNAPSHOT._replace(data=b""), Disk())
    assert read_snapshot(path) == SNAPSHOT._replace(data=b"")
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_snapshot_cut_anywhere_is_refused() -> None:
    data = encode(SNAPSHOT)
    for end in range(len(data)):
        with pytest.raises(Truncated):
            decode(data[:end])
    with pytest.raises(Truncated):
        decode(data + b"x")


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    data = encode(SNAPSHOT)
    for at in range(len(data)):
        with pytest.raises(CorruptionError):
            decode(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1:])


def test_files_of_other_kinds_and_versions_are_named() -> None:
    data = encode(SNAPSHOT)
    with pytest.raises(ForeignFile):
        decode(b"kuducntr" + data[8:])
    with pytest.raises(NewerVersion):
        decode(data[:8] + b"\x02" + data[9:])


def test_a_configuration_is_no_larger_than_one_can_be() -> None:
    largest = SNAPSHOT._replace(config=bytes(CONFIG_BYTES_MAX))
    assert decode(encode(largest)) == largest
    with pytest.raises(LimitExceeded):
        decode(encode(SNAPSHOT._replace(config=bytes(CONFIG_BYTES_MAX + 1))))
