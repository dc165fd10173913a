"""Batches that nobody waits for: they wait for company, and are written when somebody says so."""
from __future__ import annotations

import os
import select
from pathlib import Path

from kudu_storage import Log
from kudu_storage._native.operations import encode_commits

DEADLINE_S = 30.0


def commit_of(index: int) -> bytes:
    return encode_commits([(1, index, index, 0, 10, None)])


def test_a_lazy_batch_goes_with_the_next_one(tmp_path: Path) -> None:
    with Log.open(tmp_path / "log", create=True) as log:
        log.append(b"operation").wait()
        groups = log.stats()["groups"]
        lazy = log.writer.append_entries(commit_of(1), lazy=True)
        assert not lazy.done
        log.append(b"next").wait()
        assert lazy.done and log.stats()["groups"] == groups + 1


def test_a_lazy_batch_is_written_when_told_to_hurry(tmp_path: Path) -> None:
    fd = os.eventfd(0)
    try:
        with Log.open(tmp_path / "log", create=True) as log:
            log.append(b"operation").wait()
            log.writer.set_async(fd, None)
            lazy = log.writer.append_entries(commit_of(1), lazy=True)
            assert not log.writer.arm(lazy)
            log.writer.hurry()
            assert select.select([fd], [], [], DEADLINE_S)[0] and lazy.done
            log.writer.set_async(-1, None)
    finally:
        os.close(fd)


def test_a_log_that_closes_writes_what_is_lazy(tmp_path: Path) -> None:
    with Log.open(tmp_path / "log", create=True) as log:
        log.append(b"operation").wait()
        lazy = log.writer.append_entries(commit_of(1), lazy=True)
    assert lazy.done
