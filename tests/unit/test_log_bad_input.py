"""What a log is given by mistake: each a typed error that names it, nothing half-done, and the log goes on."""
from __future__ import annotations

import asyncio
import contextlib
import decimal
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kudu_storage import Log
from kudu_storage.errors import (
    BadFormat,
    CorruptionError,
    DiskError,
    InvalidArgument,
    KuduStorageError,
    LogClosed,
    NotFound,
    WrongType,
)
from kudu_storage.protos import message_class

NO_NUMBERS: list[Any] = ["1", b"1", 1.0, 1.5, math.nan, [], decimal.Decimal(1), object()]


def run(script: str, *arguments: object) -> str:
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, text=True,
                          capture_output=True, timeout=120).stdout


@contextlib.contextmanager
def refused(kind: type[KuduStorageError] = WrongType) -> Any:
    """The error is one of ours, with words of ours: none that the interpreter made up on the way."""
    with pytest.raises(kind) as caught:
        yield
    assert "instances of" not in str(caught.value) and "attribute" not in str(caught.value)


# -- calls -------------------------------------------------------------------------------------------------------------
CALLS: dict[str, tuple[Callable[[Log, Any], Any], list[Any]]] = {
    "append": (lambda log, v: log.append(v), [None, "text", 5, 5.5, [b"x"], object(), True]),
    "append_many of": (lambda log, v: log.append_many([b"good", v]), [None, "text", 5, [b"x"], object()]),
    "append_many": (lambda log, v: log.append_many(v), [None, "text", b"bytes", bytearray(b"x"), 5]),
    "append_replicate": (lambda log, v: log.append_replicate(v), [None, "text", 5, [b"x"], object()]),
    "append_commit": (lambda log, v: log.append_commit(v), [None, "text", 5, [b"x"], object()]),
    "wait": (lambda log, v: log.append(b"waited for").wait(v), ["1", b"1", [], object()]),
    "flush": (lambda log, v: log.flush(v), ["1", b"1", [], object()]),
    "tail's timeout": (lambda log, v: list(log.tail(timeout=v)), ["1", b"1", [], object()]),
    "read": (lambda log, v: log.read(v), NO_NUMBERS),
    "payloads": (lambda log, v: log.payloads(v), NO_NUMBERS),
    "max_bytes": (lambda log, v: log.read(1, v), [1.5, b"1", [], True]),
    "get": (lambda log, v: log.get(v), [None, *NO_NUMBERS]),
    "tail": (lambda log, v: next(log.tail(v)), NO_NUMBERS),
    "truncate_after": (lambda log, v: log.truncate_after(v), [None, *NO_NUMBERS]),
    "anchor": (lambda log, v: log.anchor(v, "owner"), [None, *NO_NUMBERS]),
    "move_to": (lambda log, v: log.anchor(1, "owner").move_to(v), [None, *NO_NUMBERS]),
    "owner": (lambda log, v: log.anchor(1, v), [None, 5, b"owner"]),
    "term": (lambda log, v: setattr(log, "term", v), [None, *NO_NUMBERS]),
}


@pytest.mark.parametrize("cache_size", [0, 1 << 20])
@pytest.mark.parametrize("call", list(CALLS))
def test_arguments_of_wrong_types_are_refused_and_the_log_goes_on(call: str, cache_size: int, tmp_path: Path) -> None:
    """Before, truncate_after(1.5) poisoned the log, and read(1.5) read from 1."""
    made, values = CALLS[call]
    with Log.open(tmp_path, create=True, cache_size=cache_size) as log:
        log.append_many([b"1", b"2"]).wait()
        for value in values:
            with refused():
                made(log, value)
            with pytest.raises(TypeError):      # who does not know our errors catches Python's
                made(log, value)
        log.append(b"goes on").wait()
        assert [bytes(e) for e in log.read()][:2] == [b"1", b"2"]
        assert bytes(log.get(log.last.index)) == b"goes on"


def test_what_stands_for_a_number_or_a_batch_is_taken(tmp_path: Path) -> None:
    class Index:
        def __index__(self) -> int:
            return 2

    with Log.open(tmp_path, create=True) as log:
        log.append_many((b"1", b"2")).wait(decimal.Decimal(10))      # type: ignore[arg-type]
        log.append_many(b"%d" % i for i in (3, 4)).wait(10**400)
        log.append_many([memoryview(b"5")]).wait(math.inf)
        index: Any = Index()
        assert [bytes(e) for e in log.read(index)] == [b"2", b"3", b"4", b"5"]
        assert bytes(log.get(index)) == b"2"
        assert [e.index for e in log.read(True)] == [1, 2, 3, 4, 5]
        log.truncate_after(index)
        assert log.last.index == 2


def test_numbers_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        token = log.append(b"x")
        for call in (token.wait, log.flush):
            with refused(InvalidArgument):
                call(math.nan)
        for term in (0, -1, 2**62 + 1, 2**63, 2**200):
            with refused(InvalidArgument):
                log.term = term
        released = memoryview(b"gone")
        released.release()
        with refused():
            log.append(released)
        with refused(BadFormat):
            log.append_replicate(message_class("kudu.consensus.ReplicateMsg")())
        token.wait()


# -- opening -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("option", "values"), [
    ("durability", [None, 5, b"fsync", "FSYNC", "interval", "interval:", "interval:٣ms", "interval:0s"]),
    ("compression", [None, 5, ["lz4"], "LZ4", "zstd"]), ("segment_size", [None, 1e6, True, b"1MiB", "", "nan", -1]),
    ("queue_size", [None, -1, 1.5]), ("cache_size", [None, -1, "x"]), ("retention", [5, "x", {}]),
    ("tablet_id", [5, b"x", "", "é", "a\0b", "a\nb", "x" * 1000]), ("schema", [5, "x", {}]),
    ("schema_version", [None, "x", -1, 1.5, 1 << 32]), ("disk", [5, "x", object()])])
def test_options_that_mean_nothing_make_nothing(option: str, values: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "log"
    for value in values:
        with refused(InvalidArgument):
            Log.open(folder, create=True, **{option: value})
        assert not folder.exists()


@pytest.mark.parametrize("path", [None, 5, [], "", b"", "a\0b", "/" + "long/" * 2000])
@pytest.mark.parametrize("create", [False, True])
def test_paths_that_are_none_are_refused(path: Any, create: bool, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with refused(InvalidArgument):
        Log.open(path, create=create)
    assert os.listdir(tmp_path) == []       # "" is not the current folder


def test_paths_may_be_bytes_and_of_no_encoding(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff"
    with Log.open(path, create=True) as log:  # type: ignore[arg-type]
        log.append(b"x").wait()
    with Log.open(os.fsdecode(path)) as log:
        assert log.last.index == 1


@pytest.mark.parametrize("first", [False, True])
def test_what_has_a_segments_name_and_is_no_file_is_told_and_stays(first: bool, tmp_path: Path) -> None:
    """Opening a pipe would wait for ever."""
    for kind in ("pipe", "folder", "dangling link"):
        folder = tmp_path / kind
        with Log.open(folder, create=True, segment_size="16KiB") as log:
            for _ in range(20):
                log.append(bytes(2000)).wait()
        path = folder / ("wal-000000001" if first else "wal-000000009")
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("nowhere")
        with pytest.raises((DiskError, CorruptionError, NotFound)) as caught:
            Log.open(folder)
        assert path.name in str(caught.value)
        assert os.path.lexists(path)


def test_a_pipe_in_the_place_of_the_index_holds_nobody_up(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        log.append_many([b"1", b"2", b"3"]).wait()
    (tmp_path / "index.000000000").unlink()
    os.mkfifo(tmp_path / "index.000000000")
    with Log.open(tmp_path, cache_size=0) as log:
        assert bytes(log.get(2)) == b"2"
        assert [bytes(e) for e in log.read(2)] == [b"2", b"3"]


# -- afterwards --------------------------------------------------------------------------------------------------------
def test_a_closed_log_anchors_nothing(tmp_path: Path) -> None:
    log = Log.open(tmp_path, create=True)
    log.append(b"x").wait()
    log.close()
    for call in (lambda: log.anchor(1, "owner"), lambda: setattr(log, "term", 9), lambda: log.get(1),
                 lambda: log.append_commit(b"x")):
        with pytest.raises(LogClosed):
            call()


def test_a_child_of_a_fork_does_not_wait_for_what_another_thread_held(tmp_path: Path) -> None:
    """A collection hangs on the disk, with the log's locks, when the process forks."""
    script = """
import os, sys, threading
from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.log_core import pool_threads
from kudu_storage.errors import LogClosed
disk = RecordingDisk()
log = Log.open(sys.argv[1], create=True, segment_size="16KiB", compression="none", cache_size=0, disk=disk)
for _ in range(60):
    token = log.append(bytes(1000)).wait()
reader, follower = log.read(1), log.tail(1)
next(reader), next(follower)
held = log.anchor(60, "held")
disk.hold("sync_dir")
collector = threading.Thread(target=log.gc)
collector.start()
while not disk.waiting or pool_threads()[0] != pool_threads()[1]:
    os.sched_yield()
child = os.fork()
if child == 0:
    refused = 0
    for call in (log.stats, log.gc, lambda: log.first_index, lambda: log.read(1), lambda: log.payloads(1),
                 lambda: log.get(60), lambda: log.truncate_after(59), lambda: next(log.tail(60)), log.flush,
                 lambda: log.anchor(60, "x"), lambda: log.append(b"x"), lambda: setattr(log, "term", 7)):
        try:
            call()
        except LogClosed:
            refused += 1
    for iterator in (reader, follower):
        try:
            for _ in iterator:
                pass
        except LogClosed:
            refused += 1
    held.release()
    "not usable" in repr(log) or os._exit(99)
    log.close()
    os._exit(refused)
disk.release()
collector.join()
log.append(b"goes on").wait()
log.close()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(script, tmp_path / "log") == "14\n"


def test_a_child_of_a_fork_that_exits_leaves_the_parents_event_loop_alone(tmp_path: Path) -> None:
    """They share the selector: what the child removes there is removed for the parent, which then waits for ever."""
    script = """
import asyncio, os, sys
from kudu_storage import Log
from kudu_storage._native.log_core import pool_threads

log = Log.open(sys.argv[1], create=True)

async def main():
    await asyncio.wait_for(wait(log.append(b"x")), 30)

async def wait(token):
    return await token

def rest():
    while pool_threads()[0] != pool_threads()[1]:
        os.sched_yield()

async def fork_within():
    await main()
    rest()
    if os.fork() == 0:
        log.close()
        os._exit(0)
    os.wait()
    await main()

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
rest()
if os.fork() == 0:
    sys.exit(0)             # the log is closed on the way
os.wait()
loop.run_until_complete(main())
loop.run_until_complete(fork_within())
print(log.last.index)
"""
    assert run(script, tmp_path / "log") == "4\n"


def test_a_token_is_awaited_after_the_log_was_closed(tmp_path: Path) -> None:
    log = Log.open(tmp_path, create=True)
    token = log.append(b"x")
    log.close()

    async def main() -> None:
        assert await token is token

    asyncio.run(main())
