"""A tablet of ours and the real Kudu on the same rows, in turn: python bench/tablet_vs_kudu/run.py PART [PART ...]"""
from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

import maintenance
import real_kudu
import restart
import sizes
import writes

PARTS = {"inserts": writes.inserts, "upserts": writes.upserts, "maintenance": maintenance.run, "restart": restart.run,
         "sizes": sizes.run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS, metavar="PART")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    binaries = real_kudu.programs()
    for part in given.parts:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            PARTS[part](binaries, Path(folder), given.rows, given.rounds)


if __name__ == "__main__":
    main()
