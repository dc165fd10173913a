"""Files of the same rows, flushed by both from copies of one log: bytes by column."""
from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import oracle
from real_kudu import FLUSH, quiet
from replicas import copied, file_bytes, logged, serving
from shapes import Shape, several

from kudu_storage import Tablet


def flushed_by_us(source: Path, folder: Path) -> Counter[str]:
    root = copied(source, folder)
    with Tablet.open(root) as tablet:
        tablet.flush()
    return file_bytes(root)


def flushed_by_kudu(binaries: oracle.KuduBinaries, source: Path, folder: Path) -> Counter[str]:
    root = copied(source, folder)
    with serving(binaries, folder, FLUSH) as server:
        quiet(server, "FlushMRSOp", 1)
    return file_bytes(root)


def compare(binaries: oracle.KuduBinaries, shape: Shape, folder: Path) -> float:
    """Prints, and returns our bytes over Kudu's."""
    folder.mkdir()
    source = logged(shape, folder / "source")
    ours = flushed_by_us(source, folder / "ours")
    kudu = flushed_by_kudu(binaries, source, folder / "kudu")
    ratio = ours.total() / kudu.total()
    parts = ", ".join(f"{name} {ours[name]:,}/{kudu[name]:,} {ours[name] / kudu[name] - 1:+.1%}" if kudu[name] else
                      f"{name} {ours[name]:,}/0" for name in sorted(ours | kudu))
    print(f"{shape.name:28} {ours.total():12,} {kudu.total():12,} {ratio - 1:+7.2%}   {parts}", flush=True)
    shutil.rmtree(folder)
    return ratio


def run(binaries: oracle.KuduBinaries, folder: Path, rows: int, rounds: int) -> None:
    """Sizes do not vary: one round."""
    found = [compare(binaries, make(), folder / str(i)) for i, make in enumerate(several(rows // 4))]
    print(f"largest {max(found) - 1:+.2%}, smallest {min(found) - 1:+.2%}")
