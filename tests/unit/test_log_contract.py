"""What scripts rely on: answers at the ends, bad input, waiting, durability, retention, the cache, the process."""
from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typed_entries import commit, replicate

from kudu_storage import Log, LogCache
from kudu_storage._native.build_info import build_info
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.log_core import pool_threads
from kudu_storage.common import types
from kudu_storage.common.opid import OpId
from kudu_storage.common.schema import ColumnSchema, Schema
from kudu_storage.errors import (
    BadFormat,
    Collected,
    CorruptionError,
    DiskError,
    InvalidArgument,
    LogBackpressure,
    LogClosed,
    LogLocked,
    LogPoisoned,
    NoSpace,
    NotFound,
    NotYetWritten,
    WaitTimeout,
)
from kudu_storage.wal.reader import open_segment
from kudu_storage.wal.retention import RetentionPolicy
from kudu_storage.wal.verify import verify


def payloads(log: Log, start: int | None = None) -> list[bytes]:
    return [bytes(e.payload) for e in log.read(start)]


def run(script: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True, text=True,
                          capture_output=True, timeout=120, **options)


def until(condition: Any, deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


@contextlib.contextmanager
def hanging_disk(log: Log, disk: RecordingDisk) -> Iterator[None]:
    """While it lasts a thread of the pool hangs in the write of one more entry, and nothing else is written."""
    disk.hold("write")
    try:
        log.append(b"hangs")
        until(lambda: disk.waiting)
        yield
    finally:
        disk.release()


# -- opening -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", ["16KiB", "16 KiB", "16k", 16384, "0.5MiB", "1g", 1 << 30, "16384"])
def test_segment_sizes_are_bytes_or_text(size: int | str, tmp_path: Path) -> None:
    Log.open(tmp_path, create=True, segment_size=size).close()


@pytest.mark.parametrize("options", [
    {"segment_size": "16KiBs"}, {"segment_size": 16383}, {"segment_size": "2GiB"}, {"segment_size": -1},
    {"segment_size": True}, {"segment_size": None}, {"segment_size": "lots"}, {"durability": "maybe"},
    {"durability": "interval:"}, {"durability": "interval:0ms"}, {"durability": "interval:-5ms"},
    {"durability": "interval:5"}, {"compression": "lzma"}, {"compression": ""}, {"queue_size": "x"},
    {"cache_size": -5},
], ids=str)
def test_options_that_make_no_sense_are_refused_and_leave_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument):
        Log.open(tmp_path / "log", create=True, **options)
    assert not (tmp_path / "log").exists()


def test_without_create_an_absent_log_is_not_found_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Log.open(tmp_path / "nowhere")
    with pytest.raises(NotFound):
        Log.open(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument):
        Log.open(tmp_path / "file", create=True)


def test_an_empty_log_that_was_made_opens_without_create(tmp_path: Path) -> None:
    Log.open(tmp_path, create=True).close()
    with Log.open(tmp_path) as log:
        assert (log.last, log.durable, log.first_index, payloads(log)) == (OpId(0, 0), OpId(0, 0), 1, [])


def test_the_log_of_another_tablet_is_refused(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, tablet_id="a" * 32) as log:
        log.append(b"x").wait()
    with pytest.raises(InvalidArgument, match="aaaa"):
        Log.open(tmp_path, tablet_id="b" * 32)
    with Log.open(tmp_path, tablet_id="a" * 32) as log:
        assert payloads(log) == [b"x"]


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_may_not_be_written_is_a_disk_error(tmp_path: Path) -> None:
    with Log.open(tmp_path / "log", create=True) as log:
        log.append(b"x").wait()
    (tmp_path / "log").chmod(0o500)
    try:
        with pytest.raises(DiskError):
            Log.open(tmp_path / "log")
    finally:
        (tmp_path / "log").chmod(0o700)


def test_a_second_opener_is_refused_in_this_and_another_process(tmp_path: Path) -> None:
    script = ("import sys\nfrom kudu_storage import Log\nfrom kudu_storage.errors import LogLocked\n"
              "try:\n    Log.open(sys.argv[1])\nexcept LogLocked:\n    print('locked')")
    with Log.open(tmp_path, create=True) as log:
        log.append(b"x").wait()
        with pytest.raises(LogLocked):
            Log.open(tmp_path)
        assert run(script, tmp_path).stdout == "locked\n"
    assert run(script, tmp_path).stdout == ""


def test_segments_carry_the_schema_that_they_were_given_and_later_ones_inherit_it(tmp_path: Path) -> None:
    schema = Schema((ColumnSchema("k", types.BY_NAME["STRING"], is_key=True, id=3),
                     ColumnSchema("v", types.BY_NAME["INT8"], nullable=True, id=9)))
    with Log.open(tmp_path, create=True, schema=schema, schema_version=7) as log:
        log.append(b"x").wait()
    with Log.open(tmp_path) as log:
        log.append(b"y").wait()
    for number in (1, 2):
        with open_segment(tmp_path / f"wal-{number:09d}") as segment:
            assert Schema.from_pb(segment.header.schema) == schema
            assert segment.header.schema_version == 7


# -- appending ---------------------------------------------------------------------------------------------------------
def test_payloads_may_be_any_buffer_and_empty_ones_are_user_entries(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, cache_size=0) as log:
        log.append_many([b"", bytearray(b"array"), memoryview(b"view")[1:3]])  # type: ignore[list-item]
        log.append_replicate(replicate(1, 4), replicate(1, 5, payload=b""), replicate(1, 6, payload=b"own")).wait()
        assert [(bytes(e), e.is_user) for e in log.read()] == [
            (b"", True), (b"array", True), (b"ie", True), (b"", False), (b"", True), (b"own", True)]
        for nonsense in (None, "text", 5):
            with pytest.raises(TypeError):
                log.append(nonsense)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument):
            log.append_many([])
        with pytest.raises(InvalidArgument):
            log.append_replicate()
        assert log.append(b"still whole").wait().last == OpId(1, 7)


def test_payloads_above_the_limit_are_refused_and_change_nothing(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, compression="none") as log:
        big = bytes(129 << 20)
        with pytest.raises(InvalidArgument):
            log.append_many([big, big])
        del big
        assert log.last == OpId(0, 0)
        assert log.append(b"x").wait().first.index == 1


def test_one_entry_larger_than_segment_and_queue_passes(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB", queue_size=1000, cache_size=1000) as log:
        data = os.urandom(300_000)
        log.append(b"a").wait()
        log.append(data).wait()
        log.append(b"b").wait()
        assert payloads(log) == [b"a", data, b"b"]
    assert verify(tmp_path).problems == ()


@pytest.mark.parametrize(("messages", "what"), [
    ([replicate(1, 1)], "index 1"), ([replicate(1, 4)], "index 4"), ([replicate(1, 3), replicate(1, 5)], "index 5"),
    ([replicate(0, 3)], "term 0"), ([replicate(5, 3), replicate(4, 4)], "term 4"), ([b"\xff\xff"], "parse"),
    ([replicate(1, 3), replicate(1, 3)], "index 3"),
])
def test_typed_entries_that_do_not_follow_are_refused(messages: list[Any], what: str, tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        log.append_many([b"1", b"2"]).wait()
        with pytest.raises((BadFormat, InvalidArgument), match=what):
            log.append_replicate(*messages)
        assert log.append(b"3").wait().last == OpId(1, 3)


def test_kinds_are_not_mixed_in_a_batch(tmp_path: Path) -> None:
    from kudu_storage.protos import message_class

    batch: Any = message_class("kudu.log.LogEntryBatchPB")()
    batch.entry.add(type=1).replicate.CopyFrom(replicate(1, 1))
    batch.entry.add(type=2).commit.CopyFrom(commit(1, 1))
    with Log.open(tmp_path, create=True) as log:
        with pytest.raises(BadFormat, match="kind"):
            log._writer.append_entries(batch.SerializeToString())
        assert log.last == OpId(0, 0)


def test_terms_only_rise(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        assert log.append(b"x").first == OpId(1, 1)
        log.term = 7
        with pytest.raises(InvalidArgument):
            log.term = 6
        assert log.append(b"y").wait().first == OpId(7, 2)
        log.append_replicate(replicate(9, 3)).wait()
        assert (log.term, log.append(b"z").wait().last) == (9, OpId(9, 4))
    with Log.open(tmp_path) as log:
        assert (log.term, log.last) == (9, OpId(9, 4))


def test_hybrid_times_rise_past_those_of_typed_entries_and_of_the_log(tmp_path: Path) -> None:
    far = 8 * 10**18                # some centuries ahead
    with Log.open(tmp_path, create=True) as log:
        log.append_replicate(replicate(1, 1, timestamp=far)).wait()
        log.append(b"x").wait()
    with Log.open(tmp_path) as log:
        log.append(b"y").wait()
        assert [e.timestamp for e in log.read()] == [far, far + 1, far + 2]


def test_a_full_queue_refuses_the_append_and_takes_it_later(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with Log.open(tmp_path, create=True, queue_size=100_000, compression="none", disk=disk) as log:
        accepted = 1
        with hanging_disk(log, disk):
            with pytest.raises(LogBackpressure, match="queued"):
                while True:
                    log.append(bytes(10_000))
                    accepted += 1
            assert 5 <= accepted <= 10      # with what each costs in memory
            assert log.last.index == accepted
        log.flush()
        assert log.append(b"x").wait().last.index == accepted + 1
        assert len(payloads(log)) == accepted + 1


# -- waiting -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("timeout", [0, -1, 0.01])
def test_a_wait_that_is_too_short_says_so_and_can_be_repeated(timeout: float, tmp_path: Path) -> None:
    disk = RecordingDisk()
    with Log.open(tmp_path, create=True, disk=disk) as log:
        with hanging_disk(log, disk):
            token = log.append(b"x")
            assert not token.done
            with pytest.raises(WaitTimeout):
                token.wait(timeout=timeout)
            with pytest.raises(WaitTimeout):
                log.flush(timeout)
        for forever in (None, 1e30, float("inf")):
            assert token.wait(timeout=forever).done


def test_ctrl_c_ends_a_wait(tmp_path: Path) -> None:
    script = """
import sys, os, signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)     # a shell's background jobs ignore it
from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
disk = RecordingDisk()
log = Log.open(sys.argv[1], create=True, disk=disk)
log.append(b"before").wait()
disk.hold("write")
token = log.append(b"x")
while not disk.waiting:
    os.sched_yield()
try:
    threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    token.wait()
except KeyboardInterrupt:
    print("interrupted")
disk.release()
token.wait()
log.close()
"""
    assert run(script, tmp_path / "log").stdout == "interrupted\n"
    with Log.open(tmp_path / "log") as log:
        assert payloads(log) == [b"before", b"x"]


def test_closing_settles_what_is_pending(tmp_path: Path) -> None:
    log = Log.open(tmp_path, create=True)
    tokens = [log.append(b"%d" % i) for i in range(100)]
    log.close()
    log.close()
    assert all(token.done and token.wait() is token for token in tokens)
    for call in (lambda: log.append(b"x"), lambda: log.read(), lambda: log.gc(), lambda: log.truncate_after(1),
                 lambda: log.flush(), lambda: list(log.tail())):
        with pytest.raises(LogClosed):
            call()
    assert "closed" in repr(log)


def test_a_log_that_nobody_holds_any_more_is_closed(tmp_path: Path) -> None:
    log = Log.open(tmp_path, create=True)
    token = log.append(b"kept")
    del log
    gc.collect()
    assert token.done
    with Log.open(tmp_path) as again:
        assert payloads(again) == [b"kept"]


def test_an_exit_with_an_open_log_keeps_all_that_was_appended(tmp_path: Path) -> None:
    script = """
import sys
from kudu_storage import Log
from kudu_storage.errors import LogBackpressure
log = Log.open(sys.argv[1], create=True, segment_size="16KiB", durability=sys.argv[2])
for i in range(2000):
    while True:
        try:
            log.append(b"%d" % i)
            break
        except LogBackpressure:
            log.flush()
"""
    for durability in ("fsync", "os", "interval:3600s"):
        folder = tmp_path / durability[:2]
        run(script, folder, durability)
        with Log.open(folder) as log:
            assert payloads(log) == [b"%d" % i for i in range(2000)]


# How the parent's threads stand when it forks. MID_FLIGHT: the first append has just called for a thread of the pool,
# which may be anywhere, in malloc too. glibc's fork sees to malloc's locks and pthread's; the run-time of the address
# sanitizer (of GCC 12 at least) does not see to those of its own allocator and list of threads: the child, whose copy
# of such a lock nobody will ever let go, then hangs in its next malloc or free. So builds with it fork only while the
# pool's thread is known to be in none of them: when it rests, and (which is harder for us) held up in a write.
AT_REST = """
log = Log.open(sys.argv[1], create=True)
token = log.append(b"parent").wait()
log.append(b"rests")                    # nobody waits: a thread of the pool writes it
while log.durable.index < 2 or pool_threads()[0] != pool_threads()[1]:
    os.sched_yield()
go_on = lambda: None
"""
IN_A_WRITE = """
disk = RecordingDisk()
log = Log.open(sys.argv[1], create=True, disk=disk)
disk.hold("write")
token = log.append(b"parent")
log.append(b"rests")
while not disk.waiting:
    os.sched_yield()
go_on = disk.release
"""
MID_FLIGHT = """
log = Log.open(sys.argv[1], create=True)
token = log.append(b"parent")
log.append(b"rests")
go_on = lambda: None
"""


@pytest.mark.parametrize("prepare", [
    pytest.param(AT_REST, id="at rest"),
    pytest.param(IN_A_WRITE, id="in a write"),
    pytest.param(MID_FLIGHT, id="mid-flight", marks=pytest.mark.skipif(
        build_info()["sanitizer"] is not None, reason="the sanitizer's own locks are not safe across a fork")),
])
def test_a_child_of_a_fork_can_do_no_harm_and_does_not_keep_the_lock(prepare: str, tmp_path: Path) -> None:
    script = """
import os, sys
from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.log_core import pool_threads
from kudu_storage.errors import LogClosed
""" + prepare + """
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    refused = 0
    for call in (lambda: log.append(b"child"), token.wait, log.flush, lambda: list(log.read()), lambda: log.last,
                 log.stats, log.gc, lambda: log.truncate_after(0)):
        try:
            call()
        except LogClosed:
            refused += 1
    own = Log.open(sys.argv[1] + "-child", create=True)
    own.append(b"x").wait()
    own.close()
    os.close(writer)
    os.read(reader, 1)
    os._exit(refused)
go_on()
token.wait()
log.close()
with Log.open(sys.argv[1]) as again:        # while the child lives
    again.append(b"again").wait()
os.close(writer)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
"""
    assert int(run(script, tmp_path / "log").stdout) >= 6
    with Log.open(tmp_path / "log") as log:
        assert payloads(log) == [b"parent", b"rests", b"again"]
    with Log.open(tmp_path / "log-child") as log:
        assert payloads(log) == [b"x"]


# -- durability --------------------------------------------------------------------------------------------------------
def test_os_acknowledges_without_a_sync(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with Log.open(tmp_path, create=True, durability="os", disk=disk) as log:
        for _ in range(20):
            log.append(b"x").wait()
        assert disk.attempts("sync") == 0
        assert log.durable == OpId(0, 0)


def test_interval_acknowledges_first_and_syncs_by_itself(tmp_path: Path) -> None:
    disk = RecordingDisk()
    with Log.open(tmp_path, create=True, durability="interval:20ms", disk=disk) as log:
        before = disk.attempts("sync")
        token = log.append(b"x").wait()
        until(lambda: log.durable == token.last)
        assert disk.attempts("sync") > before
        for _ in range(5):
            log.append(b"y")
        until(lambda: log.durable == log.last)


def test_many_interval_logs_catch_up_with_few_threads(tmp_path: Path) -> None:
    logs = [Log.open(tmp_path / str(i), create=True, durability="interval:5ms") for i in range(40)]
    for _ in range(3):
        for log in logs:
            log.append(b"x").wait()
    until(lambda: all(log.durable == log.last for log in logs))
    assert pool_threads()[0] <= 4
    for log in logs:
        log.close()


def test_long_intervals_hold_no_thread_up(tmp_path: Path) -> None:
    logs = [Log.open(tmp_path / str(i), create=True, durability="interval:3600s") for i in range(20)]
    for log in logs:
        log.append(b"x")
    # Without a waiting caller: the pool writes all of them, though none is due to be synced for an hour.
    until(lambda: all(log.stats()["written_index"] == 1 for log in logs))
    for log in logs:
        log.close()


def test_a_thousand_open_logs_cost_no_thread_each(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 6000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} descriptors, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        before = len(os.listdir("/proc/self/task"))
        logs = [Log.open(tmp_path / str(i), create=True, durability="os") for i in range(1000)]
        tokens = [log.append(b"x") for log in logs]
        for token in tokens:
            token.wait()
        assert len(os.listdir("/proc/self/task")) <= before + 4
        assert pool_threads()[0] <= 4
        assert all((tmp_path / str(i) / "wal-000000001").stat().st_blocks * 512 <= 64 << 10 for i in range(1000))
        for log in logs:
            log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("call", ["open", "rename", "write", "allocate"])
def test_without_space_for_the_next_segment_the_log_reads_on_and_goes_on(call: str, tmp_path: Path) -> None:
    disk = RecordingDisk()
    with Log.open(tmp_path, create=True, segment_size="16KiB", compression="none", cache_size=0, disk=disk) as log:
        for index in range(1, 16):
            log.append(b"%d" % index * 500).wait()
        expected = payloads(log)
        disk.fail(call, 2 if call == "write" else 1, errno.ENOSPC, onwards=True)      # the first write is the footer
        failed = 0
        while failed < 3:
            try:
                log.append(bytes(1000)).wait()
                expected.append(bytes(1000))
            except NoSpace:
                failed += 1
            assert payloads(log) == expected and log.last.index == len(expected)
            assert log.first_index == 1 and log.gc().segments == 0
        disk.fail(call, 0, 0)
        assert log.append(b"space").wait().last.index == len(expected) + 1
        log.truncate_after(len(expected))
        log.append(b"again").wait()
        assert payloads(log) == [*expected, b"again"]
    assert verify(tmp_path).problems == ()
    with Log.open(tmp_path) as log:
        assert payloads(log) == [*expected, b"again"]


@pytest.mark.parametrize("attempt", range(1, 8))
@pytest.mark.parametrize("call", ["sync", "sync_dir"])
def test_a_sync_that_fails_for_want_of_space_poisons_all_the_same(call: str, attempt: int, tmp_path: Path) -> None:
    disk = RecordingDisk()
    log = Log.open(tmp_path, create=True, segment_size="16KiB", compression="none", disk=disk)
    acknowledged = 0
    disk.fail(call, attempt, errno.ENOSPC)
    try:
        for _ in range(200):
            log.append(bytes(5000)).wait()
            acknowledged += 1
    except LogPoisoned:
        pass
    assert acknowledged < 200
    with pytest.raises(LogPoisoned):
        log.append(b"x")
    assert len(payloads(log)) == acknowledged
    with pytest.raises(LogPoisoned):
        log.close()
    with Log.open(tmp_path, create=True) as again:
        assert again.last.index >= acknowledged


# -- reading -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cache", [0, 500, 1 << 24])
def test_each_index_is_an_entrance_while_the_segment_is_written(cache: int, tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, cache_size=cache, segment_size="16KiB", compression="none") as log:
        expected: list[bytes] = []
        for step in range(60):
            more = [b"%d-%d" % (step, i) * 20 for i in range(step % 7 + 1)]
            log.append_many(more).wait()
            expected += more
            assert payloads(log, len(expected) - len(more) + 1) == more
        for start in range(1, len(expected) + 2, 3):
            assert payloads(log, start) == expected[start - 1:]
        assert log.stats()["segments"] > 1


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "zeros", "ones", "directory", "unreadable"])
def test_the_index_is_only_a_hint(damage: str, tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB") as log:
        for i in range(300):
            log.append(b"%d" % i * 30).wait()
        expected = payloads(log)
    chunk = tmp_path / "index.000000000"
    data = chunk.read_bytes()[:24 * 301]
    chunk.unlink()
    if damage == "directory":
        chunk.mkdir()
    elif damage != "missing":
        chunk.write_bytes({"empty": b"", "short": data[:999], "zeros": bytes(len(data)), "ones": b"\xff" * len(data),
                           "unreadable": data}[damage])
        if damage == "unreadable":
            chunk.chmod(0)
    with Log.open(tmp_path, cache_size=0) as log:
        assert [payloads(log, i)[0] for i in range(1, 301, 17)] == expected[::17]
        log.append(b"more").wait()
        assert payloads(log)[-1] == b"more"
    if damage == "directory":
        chunk.rmdir()


def test_slots_of_another_segment_or_operation_are_not_followed(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB") as log:
        for i in range(200):
            log.append(b"%d" % i * 30).wait()
        expected = payloads(log)
    chunk = tmp_path / "index.000000000"
    data = chunk.read_bytes()[:24 * 201]
    for shift in (1, 50):
        chunk.write_bytes(data[24 * shift:] + data[:24 * shift])
        with Log.open(tmp_path, cache_size=0) as log:
            assert [payloads(log, i)[0] for i in range(1, 201)] == expected


def test_reading_ends_where_the_log_ended_when_it_began(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        log.append_many([b"1", b"2"]).wait()
        reader = log.read()
        assert bytes(next(reader)) == b"1"
        log.append(b"3").wait()
        assert [bytes(e) for e in reader] == [b"2"]


@pytest.mark.parametrize("limit", [0, 1, 99, 100, 101, "1KiB"])
def test_max_bytes_is_about_kept_and_gives_at_least_one(limit: int | str, tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, cache_size=0) as log:
        log.append_many([bytes(100)] * 20).wait()
        number = 1024 if limit == "1KiB" else int(limit)
        assert len(list(log.read(1, max_bytes=limit))) == max(1, -(-number // 100))
        with pytest.raises(InvalidArgument):
            log.read(1, max_bytes=-1)


@pytest.mark.parametrize("index", [-1, -2**70])
def test_negative_indexes_are_refused(index: int, tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        log.append(b"x").wait()
        for call in (log.read, log.truncate_after, lambda i: log.anchor(i, owner="o")):
            with pytest.raises(InvalidArgument):
                call(index)


def test_absurd_indexes_are_not_yet_written(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        for index in (2, 2**63, 2**80):
            with pytest.raises(NotYetWritten):
                log.read(index)
            with pytest.raises(NotYetWritten):
                log.truncate_after(index)


@pytest.mark.parametrize("codec", ["none", "lz4", "snappy", "zlib"])
@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_payloads_outlive_the_log_and_are_read_only(codec: str, cache: int, tmp_path: Path) -> None:
    log = Log.open(tmp_path, create=True, compression=codec, cache_size=cache)
    log.append_many([b"%d" % i * 100 for i in range(1000)]).wait()
    views = [entry.payload for entry in log.read()]
    entry = next(log.read(500))
    log.close()
    del log
    gc.collect()
    assert [bytes(view) for view in views] == [b"%d" % i * 100 for i in range(1000)]
    assert (entry.op_id, len(entry), entry.payload.readonly) == (OpId(1, 500), 300, True)
    with pytest.raises(TypeError):
        views[0][0] = 1
    assert "1.500" in repr(entry)


def test_tail_follows_and_ends_when_told(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB", cache_size=0) as log:
        assert list(log.tail(timeout=0)) == []
        seen: list[bytes] = []
        follower = threading.Thread(target=lambda: seen.extend(bytes(e) for e in log.tail()))
        follower.start()
        expected = [b"%d" % i * 50 for i in range(500)]
        for payload in expected:
            log.append(payload)
        log.flush()
        until(lambda: len(seen) == 500)
        log.close()
        follower.join(timeout=30)
        assert not follower.is_alive()
        assert seen == expected


def test_tail_goes_on_behind_a_truncation_ahead_of_it(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True) as log:
        log.append_many([b"1", b"2", b"3", b"4"]).wait()
        tail = log.tail(timeout=30)
        assert [bytes(next(tail)) for _ in range(4)] == [b"1", b"2", b"3", b"4"]
        log.append(b"5").wait()
        log.truncate_after(4)
        log.append(b"five").wait()
        assert bytes(next(tail)) == b"five"
        log.truncate_after(2)
        with pytest.raises(NotYetWritten, match="truncated"):
            next(tail)


def test_damage_on_disk_is_told_to_the_reader(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, compression="none", cache_size=0) as log:
        log.append(b"first").wait()
        log.append(b"second").wait()
        path = tmp_path / "wal-000000001"
        data = bytearray(path.read_bytes())
        data[data.index(b"second")] ^= 1
        path.write_bytes(data)
        reader = log.read()
        assert bytes(next(reader)) == b"first"
        with pytest.raises(CorruptionError, match="wal-000000001"):
            next(reader)


# -- keeping -----------------------------------------------------------------------------------------------------------
def fill(log: Log, count: int = 100) -> None:
    for _ in range(count):
        log.append(bytes(1000))
    log.flush()


def test_collected_entries_say_so_and_anchors_keep_what_they_name(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB", compression="none", cache_size=0) as log:
        fill(log)
        anchor = log.anchor(50, owner="rowset 7")
        result = log.gc()
        assert result.blocked_by is not None and "rowset 7" in result.blocked_by and "50" in result.blocked_by
        assert 1 < log.first_index <= 50
        assert next(log.read(50)).index == 50
        with pytest.raises(Collected):
            log.anchor(log.first_index - 1, owner="late")
        with pytest.raises(Collected):
            log.read(log.first_index - 1)
        reader = log.read(log.first_index)
        anchor.release()
        assert log.gc().segments > 0
        with pytest.raises(Collected, match="collected or truncated"):
            list(reader)


@pytest.mark.parametrize(("policy", "word"), [(RetentionPolicy(segments_min=4), "minimum"),
                                              (RetentionPolicy(seconds_min=3600), "age")])
def test_the_policy_keeps_segments_and_is_named(policy: RetentionPolicy, word: str, tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB", compression="none", retention=policy) as log:
        fill(log)
        result = log.gc()
        assert result.blocked_by is not None and word in result.blocked_by
        assert len(result.kept) >= 4
        assert result.to_json()["kept"][0]["reasons"]
    with Log.open(tmp_path, retention=policy) as log:
        assert word in (log.gc().blocked_by or "")


def test_truncate_append_reopen(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, segment_size="16KiB") as log:
        log.append_many([b"%d" % i for i in range(1, 101)]).wait()
        token = log.append(b"101").wait()
        log.truncate_after(40)
        assert (log.last, log.durable, token.done) == (OpId(1, 40), OpId(1, 40), True)
        assert log.append(b"new 41").wait().first == OpId(1, 41)
        log.truncate_after(41)
        log.truncate_after(0)
        assert log.append(b"again").wait().first == OpId(1, 1)
    with Log.open(tmp_path) as log:
        assert payloads(log) == [b"again"]
    assert verify(tmp_path).problems == ()


def test_stats_and_repr_are_one_line_each(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, compression="none") as log:
        assert repr(log) == f"<Log {str(tmp_path)!r} 1..0, fsync, none>"
        log.append_many([b"abc"] * 3).wait()
        stats = log.stats()
        assert {"last": "1.3", "durable": "1.3", "first_index": 1, "segments": 1, "anchors": 0, "queued_bytes": 0,
                "poisoned": False, "open": True}.items() <= stats.items()
        assert stats["cache_bytes"] > 0 and stats["bytes_written"] == stats["offset"] - header_bytes(tmp_path)
        assert repr(log) == f"<Log {str(tmp_path)!r} 1..3, fsync, none>"
        assert repr(log.append(b"x")) == "<Append 1.4..1.4>"


def header_bytes(folder: Path) -> int:
    with open_segment(folder / "wal-000000001") as segment:
        return segment.first_offset


# -- the cache ---------------------------------------------------------------------------------------------------------
def test_pinned_messages_stay_until_they_are_unpinned() -> None:
    cache = LogCache(5000)
    cache.pin_from(3)
    cache.put_many(1, [bytes(1000)] * 20)
    cache.check()
    assert cache.stats()["first_index"] == 3 and len(cache) == 18
    cache.pin_from(21)
    cache.put(21, b"x")
    cache.check()
    assert cache.stats()["bytes"] <= 5000 + 1000 and cache.stats()["last_index"] == 21
    with pytest.raises(InvalidArgument):
        cache.pin_from(0)


def test_holes_are_collected_and_slices_end_before_them() -> None:
    cache = LogCache(1 << 20)
    cache.put(5, b"five")
    cache.put(6, b"six")
    cache.put(9, b"nine")
    assert cache.read(5) == [(5, b"five"), (6, b"six")]
    assert cache.read(5, max_bytes=0) == [(5, b"five")]
    assert cache.read(6, max_bytes=1) == [(6, b"six")]
    for index in (4, 7, 8):
        with pytest.raises(Collected):
            cache.read(index)
    with pytest.raises(NotYetWritten):
        cache.read(10)
    for index in (0, -1):
        with pytest.raises(InvalidArgument):
            cache.put(index, b"")
    with pytest.raises(TypeError):
        cache.put(10, "text")  # type: ignore[arg-type]
    assert cache.stats()["messages"] == 3


def test_putting_replaces_what_is_at_and_above() -> None:
    cache = LogCache(1 << 20)
    cache.put_many(1, [b"%d" % i for i in range(1, 200)])
    cache.put(50, b"fifty")
    assert (len(cache), cache.stats()["last_index"], cache.read(50)) == (50, 50, [(50, b"fifty")])
    cache.evict(20)
    assert cache.stats()["first_index"] == 21
    cache.evict(10_000)
    assert len(cache) == 0 and cache.stats()["bytes"] == 0
    with pytest.raises(NotYetWritten):
        cache.read(1)
    cache.check()


def test_a_message_above_the_bound_is_not_kept() -> None:
    cache = LogCache(100)
    cache.put(1, bytes(1000))
    assert len(cache) == 0
    cache.check()


# -- the process around ------------------------------------------------------------------------------------------------
def test_nothing_of_asyncio_is_loaded_by_synchronous_use(tmp_path: Path) -> None:
    run("import sys, kudu_storage\nassert not {'asyncio', 'kudu_storage.wal.log'} & set(sys.modules)")
    run("import sys\nfrom kudu_storage import Log, LogCache\nwith Log.open(sys.argv[1], create=True) as log:\n"
        "    log.append(b'x').wait(timeout=5); list(log.read()); log.truncate_after(0); log.gc(); log.stats()\n"
        "assert not {'asyncio', 'ssl', 'socket'} & set(sys.modules)", tmp_path / "log")


def test_signals_reach_the_main_thread_while_the_pool_works(tmp_path: Path) -> None:
    script = """
import os, signal, sys, time
from kudu_storage import Log
log = Log.open(sys.argv[1], create=True)
for _ in range(100):
    log.append(b"x")
blocked = [line.split()[1] for task in os.listdir("/proc/self/task") if task != str(os.getpid())
           for line in open(f"/proc/self/task/{task}/status") if line.startswith("SigBlk")]
assert blocked and all(int(mask, 16) & (1 << (signal.SIGINT - 1)) for mask in blocked), blocked
"""
    run(script, tmp_path / "log")
