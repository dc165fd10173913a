"""Real metadata files cut at every byte and with every bit flipped: a typed error, never another nor other content.

Then files whose checksums are right and whose contents are not: those get past the checksums, so it is the parsers'
turn to refuse them.
"""
from __future__ import annotations

import io
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from containers import CMETA, SUPERBLOCK, container, old_container, one_file, split

from kudu_storage.errors import CorruptionError, KuduStorageError, Truncated
from kudu_storage.fs import consensus_metadata, superblock
from kudu_storage.fs.pb_container import parse_container, read_single
from kudu_storage.fs.pb_dump import DumpFormat, dump_container
from kudu_storage.protos import message_class

TYPES = {CMETA: consensus_metadata.TYPE, SUPERBLOCK: superblock.TYPE}
FORMATS: list[DumpFormat] = ["default", "oneline", "debug", "json", "json_pretty"]
KINDS = pytest.mark.parametrize("kind", [CMETA, SUPERBLOCK])
MUTATIONS = 800


@cache
def real(kind: str) -> bytes:
    return one_file(kind, "s06").read_bytes()


def flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    changed = bytearray(data)
    for at in range(len(data)):
        for bit in range(8):
            changed[at] ^= 1 << bit
            yield at, bytes(changed)
            changed[at] ^= 1 << bit


@KINDS
def test_every_flipped_bit_is_found(kind: str) -> None:
    for at, data in flips(real(kind)):
        with pytest.raises(CorruptionError) as caught:
            parse_container(data, "file")
        error = caught.value
        assert error.path == "file" and error.advice
        assert error.offset is not None and error.offset <= at


@KINDS
def test_every_cut_is_found_and_said_to_be_one(kind: str) -> None:
    data = real(kind)
    described = 16 + 8 + len(split(data)[0]) + 4       # header and description alone are a container of no messages
    for end in range(len(data)):
        if end == described:
            assert parse_container(data[:end], "file").records == []
            continue
        with pytest.raises(Truncated) as caught:
            parse_container(data[:end], "file")
        assert caught.value.offset is not None and caught.value.offset <= end


@KINDS
def test_that_the_one_message_is_cut_away_whole_is_noticed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(container(split(real(kind))[0]))
    with pytest.raises(Truncated):
        read_single(path, message_class(TYPES[kind]))


def test_flips_and_cuts_of_the_old_version_are_found() -> None:
    data = old_container(*split(real(CMETA)))
    truth = parse_container(data, "file").records
    sample = random.Random(1)
    for at in [*range(64), *sample.sample(range(64, len(data)), 600), *range(len(data) - 120, len(data))]:
        changed = bytearray(data)
        changed[at] ^= 1 << sample.randrange(8)
        with pytest.raises(CorruptionError):
            parse_container(bytes(changed), "file")
        if at not in (0, len(data) - len(split(real(CMETA))[1]) - 8):
            with pytest.raises(CorruptionError):
                parse_container(data[:at], "file")
    assert truth == split(real(CMETA))[1:]


def mutated(data: bytes, seed: int) -> bytes:
    """Some bytes changed, removed, doubled or made large."""
    rng = random.Random(seed)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(out))
        match rng.randrange(5):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del out[at:at + rng.randrange(1, 9)]
            case 3:
                out[at:at] = out[at:at + rng.randrange(1, 40)]
            case _:
                out[at:at] = rng.randbytes(rng.randrange(1, 4))
    return bytes(out)


@KINDS
@pytest.mark.parametrize("position", [0, 1])
def test_nonsense_behind_right_checksums_prints_or_gives_a_typed_error(kind: str, position: int,
                                                                       tmp_path: Path) -> None:
    bodies = split(real(kind))
    path = tmp_path / "file"
    refused = 0
    for seed in range(MUTATIONS):
        changed = list(bodies)
        changed[position] = mutated(bodies[position], seed)
        path.write_bytes(container(*changed))
        try:
            dump_container(path, io.StringIO(), dump_format=FORMATS[seed % len(FORMATS)])
        except KuduStorageError as error:
            assert error.path == str(path)
            refused += 1
    assert 0 < refused < MUTATIONS


@pytest.mark.parametrize(("kind", "read"), [(CMETA, consensus_metadata.read_consensus_metadata),
                                            (SUPERBLOCK, superblock.read_superblock)])
def test_nonsense_behind_right_checksums_is_read_or_gives_a_typed_error(kind: str, read: object,
                                                                        tmp_path: Path) -> None:
    assert callable(read)
    bodies = split(real(kind))
    path = tmp_path / "file"
    refused = 0
    for seed in range(2 * MUTATIONS):
        path.write_bytes(container(bodies[0], mutated(bodies[1], seed)))
        try:
            found = read(path)
            if kind == SUPERBLOCK:
                found.partition_schema.describe(found.partition)
        except KuduStorageError as error:
            assert error.path == str(path)
            refused += 1
    assert 0 < refused < 2 * MUTATIONS
