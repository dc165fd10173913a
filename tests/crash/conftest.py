"""Counts of what the crash and fault tests went through, printed at the end of the run."""
from __future__ import annotations

from dataclasses import dataclass, field

import pytest


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash.get(_COUNTS, None)
    if counts is not None:
        terminalreporter.write_line(f"crash states tried: {counts.tried} ({len(counts.states)} distinct), "
                                    f"faults injected: {counts.faults}")
