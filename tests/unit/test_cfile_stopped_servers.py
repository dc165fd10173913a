"""Every column file of the stopped servers, read by ours and by the slow twin."""
from __future__ import annotations

from pathlib import Path

import cfiles
import pytest

from kudu_storage.cfile.block_source import open_column_file

SERVERS = ["file-bm-clean", "leader-pending-kill9", "many-rowsets-kill9"]


@pytest.fixture(params=SERVERS)
def data_root(request: pytest.FixtureRequest) -> Path:
    servers = cfiles.stopped_servers()
    if servers is None:
        pytest.skip("no archives of stopped servers beside this checkout, or no zstd")
    return servers / request.param / "data"


def test_every_cell_equals_the_slow_twins(data_root: Path) -> None:
    blocks = list(cfiles.stored_blocks(data_root))
    assert blocks
    for block in blocks:
        reader = open_column_file(cfiles.source_of(block.path, block.offset, block.length))
        expected = cfiles.read_slowly(block.read())
        assert reader.num_values == len(expected)
        if expected:
            cells = reader.cursor().read_block()
            assert [cells.cells(row)[0] for row in range(len(cells))] == expected, block


def test_min_and_max_keys_are_the_first_and_last_row(data_root: Path) -> None:
    found = 0
    for block in cfiles.stored_blocks(data_root):
        reader = open_column_file(cfiles.source_of(block.path, block.offset, block.length))
        if "min_key" not in reader.metadata:
            continue
        cursor = reader.cursor()
        assert cursor.find(reader.metadata["min_key"]) == (0, True)
        assert cursor.find(reader.metadata["max_key"]) == (reader.num_values - 1, True)
        assert cursor.find(reader.metadata["max_key"] + b"\0") == (reader.num_values, False)
        found += 1
    assert found
