"""`kudu-storage info`: what is installed and which engines are in use, for bug reports. Reads no user file."""
from __future__ import annotations

import json
import platform
import re
import sys
from importlib import metadata
from typing import Any

import click

# What decides the choice of engines; a processor has a hundred others.
_CPU_FEATURES = ("sse4_2", "pclmulqdq", "vpclmulqdq", "avx2", "avx512f", "crc32", "pmull")
_NEEDED = ("click", "cramjam", "lz4", "protobuf")
_OPTIONAL = ("numpy", "pandas", "polars", "pyarrow", "rich")


@click.command()
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="Form of the output.")
def info(form: str) -> None:
    """Print version, build, CPU features and engines in use."""
    found = collect()
    if form == "json":
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"{name.replace('_', ' ') + ':':<18} {_text(value)}")


def collect() -> dict[str, Any]:
    """The facts by name, in the order of printing."""
    from google.protobuf.internal import api_implementation

    from kudu_storage import __version__
    from kudu_storage._native import crc32c, lz4
    from kudu_storage._native.build_info import build_info

    return {
        "version": __version__,
        "build": build_info(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpu": _cpu(),
        "byte_order": sys.byteorder,
        "crc32c_engine": crc32c.engine(),
        "lz4_engine": lz4.engine(),
        "protobuf_engine": api_implementation.Type(),
        "packages": {name: _version(name) for name in _NEEDED},
        "optional_packages": {name: _version(name) for name in _OPTIONAL},
    }


def _version(package: str) -> str | None:
    """The installed version, from its metadata: nothing heavy is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    """Model and features, as Linux tells them; the architecture alone elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return {"architecture": platform.machine(), "model": model[1] if model else None,
            "features": [name for name in _CPU_FEATURES if name in present]}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " ".join(value) or "none"
    if value is None:
        return "none"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
