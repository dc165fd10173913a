"""Where the stored tablets of real Kudu servers are. They are not part of the repository."""
from __future__ import annotations

import os
from pathlib import Path


def fixtures_root() -> Path | None:
    """The directory `shared`: KUDU_STORAGE_SHARED, else beside the repository checkout; None where there is none."""
    named = os.environ.get("KUDU_STORAGE_SHARED")
    root = Path(named) if named else Path(__file__).resolve().parents[3] / "shared"
    return root if root.is_dir() else None
