"""Prints the dotted names of all native modules, for stubtest."""
from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def native_modules() -> list[str]:
    return sorted(".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (ROOT / "kudu_storage").rglob("*.pyx"))


if __name__ == "__main__":
    print(*native_modules())
