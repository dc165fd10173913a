"""All hot code, in Cython. Knows formats and rows; knows neither tablets nor peers, and holds no policy.

Every read of outside bytes goes through a checked cursor (`cursor.pxd`). Functions marked `nogil` never call Python.
"""
from __future__ import annotations

try:
    from kudu_storage._native import crc32c as _probe  # noqa: F401
except ImportError as error:  # pragma: no cover - only on a broken install
    raise ImportError(
        "kudu_storage was imported without its native modules. In a source checkout run `pip install .` and start "
        "Python outside the checkout (or `pip install -e .` to work inside it)."
    ) from error
