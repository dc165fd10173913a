"""Apache Kudu's replicated tablet storage as a Python package.

Nothing heavy is imported here: no pyarrow, pandas, asyncio or ssl. Public names are loaded when first used.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kudu_storage._native.log_cache import LogCache
    from kudu_storage.bootstrap.embedded import Tablet
    from kudu_storage.wal.log import Log

__version__ = "0.1.0"
__all__ = ["Log", "LogCache", "Tablet", "__version__"]

_LAZY = {"Log": "kudu_storage.wal.log", "LogCache": "kudu_storage._native.log_cache",
         "Tablet": "kudu_storage.bootstrap.embedded"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
