"""Counts of what the crash and fault tests went through, printed at the end of the run; folders in memory."""
from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from crash_disk import scratch_root


@dataclass
class Counts:
    """states: digests of the folders that a crash left. faults: calls that were made to fail. runs: scripts."""

    tried: int = 0
    states: set[bytes] = field(default_factory=set)
    faults: int = 0
    runs: set[str] = field(default_factory=set)


_COUNTS = pytest.StashKey[Counts]()


@pytest.fixture(scope="session")
def counts(pytestconfig: pytest.Config) -> Counts:
    return pytestconfig.stash.setdefault(_COUNTS, Counts())


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory if possible: what the disk would do is computed here, and a real one only makes the tests slow."""
    with tempfile.TemporaryDirectory(prefix="crash-", dir=scratch_root()) as path:
        yield Path(path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash.get(_COUNTS, None)
    if counts is not None:
        terminalreporter.write_line(f"crash states tried: {counts.tried} ({len(counts.states)} distinct), "
                                    f"faults injected: {counts.faults}")
