"""Apache Kudu's replicated tablet storage as a Python package.

Nothing heavy is imported here: no pyarrow, pandas, asyncio or ssl. Public names are loaded when first used.
"""
from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
