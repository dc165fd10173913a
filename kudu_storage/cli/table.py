"""Tables as text, as the real tool prints them. Pure."""
from __future__ import annotations

import json
from collections.abc import Sequence

FORMATS = ("pretty", "space", "tsv", "csv", "json")
_SEPARATORS = {"space": " ", "tsv": "\t", "csv": ","}


def table_text(headers: Sequence[str], rows: Sequence[Sequence[str]], form: str) -> str:
    """A table in one of FORMATS. Only `pretty` and `json` have the headers in it."""
    if form == "pretty":
        return _pretty(headers, rows)
    if form == "json":
        objects = ("{" + ",".join(f"{_quoted(name)}:{_quoted(cell)}" for name, cell in zip(headers, row, strict=True))
                   + "}" for row in rows)
        return f"[{','.join(objects)}]\n"
    return "".join(_SEPARATORS[form].join(row) + "\n" for row in rows)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _pretty(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not headers:
        return ""
    widths = [max(_size(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    last = len(headers) - 1
    lines = ["".join(_heading(name, width, column == last)
                     for column, (name, width) in enumerate(zip(headers, widths, strict=True))),
             "+".join("-" * (width + 2) for width in widths)]
    lines += ("".join(f" {cell}" if column == last else f" {cell}{' ' * (width - _size(cell))} |"
                      for column, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _heading(name: str, width: int, is_last: bool) -> str:
    padding = width - _size(name)
    text = f"{' ' * (padding // 2)} {name}"
    return text if is_last else f"{text}{' ' * ((padding + 1) // 2)} |"


def _size(text: str) -> int:
    """In bytes: the real tool does not know of wide characters."""
    return len(text.encode("utf-8", "surrogateescape"))


def human_bytes(count: int) -> str:
    """A size as the real tool shows it: 359B, 1.4K, 2.00M."""
    if count < 1024:
        return f"{count}B"
    units = iter("KMGTPE")
    unit = next(units)
    while count >= 1024 * 1024:
        count //= 1024
        unit = next(units)
    return f"{count / 1024:.{1 if unit == 'K' else 2}f}{unit}"
