"""Dumps of rowsets and column files are those of the real tool, byte for byte."""
from __future__ import annotations

import subprocess
from pathlib import Path

import click
import oracle
import pytest
import stopped
from click.testing import CliRunner

from kudu_storage.cli.fs import fs
from kudu_storage.cli.local_replica import local_replica
from kudu_storage.fs.block_references import live_references
from kudu_storage.fs.superblock import read_superblock

KINDS = {"many-rowsets-part": "log", "file-bm-clean": "file", "leader-pending-kill9": "log"}
WAYS: list[list[str]] = [
    [], ["--nrows=7"], ["--dump_all_columns=false", "--dump_metadata=false"],
    ["--dump_all_columns=false", "--use_readable_format", "--nrows=150"],
    ["--dump_all_columns=false", "--dump_primary_key_bounds_only", "--nrows=3"],
    ["--rowset_index=0", "--nrows=120"],
]


@pytest.fixture(scope="module", params=stopped.golden_servers(), ids=lambda s: s.name)
def flags(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = request.param.unpack(tmp_path_factory.mktemp(request.param.name))
    return [f"--fs_wal_dir={root / 'wal'}", f"--fs_data_dirs={root / 'data'}",
            f"--block_manager={KINDS[request.param.name]}"]


def superblocks(flags: list[str]) -> list[Path]:
    return sorted((Path(flags[0].partition("=")[2]) / "tablet-meta").iterdir())


def theirs(kudu: oracle.KuduBinaries, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([kudu.program("kudu"), *arguments, *oracle.CLOCK_FLAGS], env=kudu.environment(),
                          capture_output=True)


def ours(group: click.Group, *arguments: str) -> bytes:
    result = CliRunner().invoke(group, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout_bytes


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_rowsets_are_dumped_as_the_real_tool_does(kudu: oracle.KuduBinaries, flags: list[str], way: list[str]) -> None:
    for path in superblocks(flags):
        if "--rowset_index=0" in way and all(r.id for r in read_superblock(path).rowsets):
            continue
        told = theirs(kudu, "local_replica", "dump", "rowset", path.name, *flags, *way)
        assert told.returncode == 0, told.stderr
        assert ours(local_replica, "dump", "rowset", path.name, *flags[:2], *way) == told.stdout


def test_column_files_are_dumped_as_the_real_tool_does(kudu: oracle.KuduBinaries, flags: list[str]) -> None:
    blocks = [(r.kind, str(r.block_id)) for path in superblocks(flags)
              for r in live_references(read_superblock(path).message)]
    # All kinds of files, and one in ten of the many columns.
    chosen = [blocks[i] for i in range(len(blocks)) if blocks[i][0] != "column" or i % 10 == 0][:40]
    for kind, block_id in chosen:
        # It takes a bloom filter's blocks for values and fails there.
        more = ["--print_rows=false"] if kind == "bloom" else []
        told = theirs(kudu, "fs", "dump", "cfile", block_id, *flags, *more)
        assert told.returncode == 0, told.stderr
        assert ours(fs, "dump", "cfile", block_id, *flags, *more) == told.stdout
