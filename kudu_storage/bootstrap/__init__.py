"""Log and tablet files in, running state out. Replay decisions are pure functions (rules.pxd, schema_evidence.py)."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kudu_storage.bootstrap.log_replay import Replay, replay, replay_files

__all__ = ["Replay", "replay", "replay_files"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from kudu_storage.bootstrap import log_replay

        return getattr(log_replay, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
