"""Kudu's flag spelling on top of click (pure): `-print_entries=pb` and `--print_entries pb` mean the same."""
from __future__ import annotations

import re

_GFLAG = re.compile(r"-([A-Za-z][A-Za-z0-9_]+)(=.*)?\Z", re.DOTALL)


def to_gnu_spelling(arguments: list[str]) -> list[str]:
    """Turn `-name` and `-name=value` into `--name` and `--name=value`; `-h` and everything after `--` stay."""
    result: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return result + arguments[position:]
        result.append("-" + argument if _GFLAG.match(argument) else argument)
    return result
