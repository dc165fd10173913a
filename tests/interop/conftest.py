"""Fixtures for tests that compare with the real Kudu. They skip, with the reason, where it is not installed."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import oracle
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).resolve().parent
    for item in items:
        if here in Path(item.path).parents:
            item.add_marker(pytest.mark.interop)


@pytest.fixture(scope="session")
def kudu() -> oracle.KuduBinaries:
    """The real Kudu's programs."""
    return oracle.require_kudu()


@pytest.fixture
def one_server_cluster(kudu: oracle.KuduBinaries, tmp_path: Path) -> Iterator[oracle.MiniCluster]:
    """A master and one tablet server that flushes nothing by itself."""
    with oracle.MiniCluster(kudu, tmp_path, tserver_flags=["--enable_maintenance_manager=false"]) as cluster:
        yield cluster
