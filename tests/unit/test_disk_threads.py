"""Calls of a Disk that wait for the disk let other threads run."""
from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kudu_storage._native.disk import RecordingDisk


@pytest.mark.parametrize("kind", ["open", "write", "sync", "allocate", "punch_hole", "truncate", "rename", "unlink",
                                  "sync_dir", "make_dir"])
def test_other_threads_run_while_a_call_hangs(kind: str, tmp_path: Path) -> None:
    disk = RecordingDisk()
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    fd = disk.open(old, os.O_RDWR | os.O_CREAT)
    calls: dict[str, Callable[[], object]] = {
        "open": lambda: disk.close(disk.open(old, os.O_RDONLY)), "write": lambda: disk.pwrite(fd, b"x", 0),
        "sync": lambda: disk.sync(fd), "allocate": lambda: disk.allocate(fd, 0, 4096),
        "punch_hole": lambda: disk.punch_hole(fd, 0, 4096), "truncate": lambda: disk.truncate(fd, 5),
        "rename": lambda: disk.rename(old, new), "unlink": lambda: disk.unlink(old),
        "sync_dir": lambda: disk.sync_dir(str(tmp_path)), "make_dir": lambda: disk.make_dir(new),
    }
    disk.hold(kind, calls=1)
    caller = threading.Thread(target=calls[kind])
    caller.start()
    while not disk.waiting:
        os.sched_yield()
    disk.release()
    caller.join(60)
    assert not caller.is_alive()
    disk.close(fd)
