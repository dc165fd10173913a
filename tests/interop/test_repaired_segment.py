"""The real tool reads what `wal repair` leaves."""
from __future__ import annotations

import shutil
from pathlib import Path

from oracle import KuduBinaries
from segments import golden

from kudu_storage.wal.repair import repair


def test_cut_segment_is_read_by_the_real_tool_to_its_end(kudu: KuduBinaries, tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    log.mkdir()
    shutil.copyfile(golden("lz4-unclosed"), log / "wal-000000002")
    damaged = bytearray(golden("lz4-closed").read_bytes())
    damaged[20_000] ^= 1
    (log / "wal-000000001").write_bytes(damaged)
    refused = kudu.run("wal", "dump", "-print_entries=id", "-print_meta=false", log / "wal-000000001")
    assert refused.returncode != 0 and "Corruption" in refused.stderr
    cut, dropped = repair(log, out).pieces
    assert (cut.action, dropped.action) == ("cut", "left out")
    done = kudu.run("wal", "dump", "-print_entries=id", "-print_meta=false", out / "wal-000000001", check=True)
    assert len(done.stdout.splitlines()) == cut.entries > 0
    assert done.stdout == refused.stdout
