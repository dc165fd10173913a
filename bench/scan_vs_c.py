"""Sequential scan with CRC check of an uncompressed log: the native reader against bench/c/walk_segment.c, interleaved.

    python bench/scan_vs_c.py [--mib 256] [--rounds 15] [--dir DIR]
Prints for small (real) and larger batches: MB/s of both; median, smallest and largest ratio of C to reader seconds.
"""
from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from logs import build_log, scan_all

from kudu_storage._native.crc32c import engine
from kudu_storage.wal.reader import open_segment

ROOT = Path(__file__).resolve().parents[1]


def build_c(folder: Path) -> ctypes.CDLL:
    """Compile the loop as a shared object."""
    target = folder / "walk_segment.so"
    subprocess.run([os.environ.get("CC", "cc"), "-O3", "-shared", "-fPIC", f"-I{ROOT / 'kudu_storage' / '_native'}",
                    "-o", str(target), str(ROOT / "bench" / "c" / "walk_segment.c")], check=True)
    library = ctypes.CDLL(str(target))
    library.walk.restype = ctypes.c_int64
    library.walk.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)]
    return library


def compare(library: ctypes.CDLL, path: Path, rounds: int) -> tuple[list[float], list[float], int]:
    """(seconds of the reader, seconds of C, bytes walked), after one warm-up of each."""
    ours: list[float] = []
    theirs: list[float] = []
    walked = ctypes.c_int64()
    with open_segment(path) as segment:
        for _ in range(rounds + 1):
            started = time.perf_counter()
            batches = scan_all(segment.scanner())
            middle = time.perf_counter()
            entries = library.walk(segment.fd, segment.first_offset, segment.file_size, ctypes.byref(walked))
            ended = time.perf_counter()
            assert entries == batches, (entries, batches)
            ours.append(middle - started)
            theirs.append(ended - middle)
    return ours[1:], theirs[1:], walked.value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dir", type=Path, default=None, help="where to put the log (default: the temporary folder)")
    options = parser.parse_args()
    print(f"CRC engine {engine()}, {options.mib} MiB, {options.rounds} rounds")
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = Path(name)
        library = build_c(folder)
        for label, batch_bytes in (("small batches", 0), ("4 KiB batches", 4096), ("64 KiB batches", 65536)):
            path = build_log(folder / "wal-000000001", options.mib << 20, "none", batch_bytes)
            ours, theirs, size = compare(library, path, options.rounds)
            ratios = [c / us for us, c in zip(ours, theirs, strict=True)]
            print(f"{label:<16} reader {size / statistics.median(ours) / 1e6:8.0f} MB/s   C "
                  f"{size / statistics.median(theirs) / 1e6:8.0f} MB/s   ratio {statistics.median(ratios):.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f})")
            path.unlink()


if __name__ == "__main__":
    main()
