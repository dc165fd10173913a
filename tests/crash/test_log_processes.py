"""What other processes see and do: SIGKILL, the order of system calls, forks, second openers; and folders that are not
as they should be."""
from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kudu_storage import Log
from kudu_storage.errors import DiskError, InvalidArgument, LogClosed, LogLocked, LogPoisoned, NotFound

APPENDER = """
import asyncio, os, sys
from kudu_storage import Log

async def main():
    log = await Log.aopen(sys.argv[1], create=True, segment_size="64KiB")
    async def task(number):
        step = 0
        while True:
            payload = b"%d-%d." % (number, step) * (1 + step % 40)
            token = await log.append(payload)
            os.write(1, b"%d %d %d\\n" % (token.last_index, number, step))
            step += 1
    await asyncio.gather(*(task(i) for i in range(64)))

asyncio.run(main())
"""


def contents(log: Log) -> list[bytes]:
    return [bytes(e.payload) for e in log.read()]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "kudu_storage", *arguments)


def test_sigkill_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """One log, killed ten times; each round finds what all rounds before were told."""
    rng = random.Random(7)
    path, told = tmp_path / "log", {}
    for number in range(10):
        child = subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        # Killed behind a random acknowledgement: the child is anywhere in its next groups by then.
        lines = [child.stdout.readline() for _ in range(rng.randint(1, 800))]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines(keepends=True)
        child.wait()
        child.stdout.close()
        for line in lines:
            if line.endswith(b"\n"):
                index, task, step = map(int, line.split())
                assert index not in told, "an index was given out twice"
                told[index] = b"%d-%d." % (task, step) * (1 + step % 40)
        with Log.open(path) as log:
            kept = contents(log)
            assert [e.index for e in log.read()] == list(range(1, len(kept) + 1))
        assert {index: kept[index - 1] for index in told if index <= len(kept)} == told, f"round {number}"
    verified = command("wal", "verify", str(path))
    assert verified.returncode == 0 and "0 problems" in verified.stdout, verified.stdout + verified.stderr


WAITER = """
import os, sys
from kudu_storage import Log
log = Log.open(sys.argv[1], create=True, segment_size="16KiB")
for i in range(40):
    index = log.append(b"%d" % i * 700).wait().last_index
    os.write(1, b"acknowledged %d\\n" % index)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_kernel_is_asked_to_sync_between_each_write_and_its_acknowledgement(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    traced = subprocess.run(["strace", "-f", "-o", str(trace), "-e",
                             "trace=openat,close,pwrite64,pwritev,fsync,fdatasync,write,rename", sys.executable, "-c",
                             WAITER, str(tmp_path / "log")], capture_output=True, text=True, timeout=120)
    if traced.returncode and "ptrace" in traced.stderr.lower():
        pytest.skip("this system does not allow tracing")
    assert traced.returncode == 0, traced.stderr
    assert acknowledgements_behind_syncs(trace.read_text()) == 40


def acknowledgements_behind_syncs(trace: str) -> int:
    """Counts them; fails at one that comes while bytes or names of a segment are not synced."""
    segments: set[str] = set()
    folders: set[str] = set()
    unsynced: set[str] = set()
    written = count = 0
    for line in trace.splitlines():
        call = re.sub(r"^\d+\s+", "", line)
        if match := re.match(r'openat\(.*"([^"]*)".*\) = (\d+)', call):
            (folders if "O_DIRECTORY" in call else segments).discard(match[2])
            if "newsegment" in match[1]:
                segments.add(match[2])
            elif "O_DIRECTORY" in call:
                folders.add(match[2])
        elif match := re.match(r"pwritev?(?:64)?\((\d+),.*\) = (\d+)", call):
            if match[1] in segments:
                unsynced.add(match[1])
                written += 1
        elif match := re.match(r"f(?:data)?sync\((\d+)\) += 0", call):
            unsynced.discard(match[1])
            if match[1] in folders:
                unsynced.discard("names")
        elif call.startswith("rename(") and "newsegment" in call:
            unsynced.add("names")
        elif match := re.match(r"close\((\d+)\)", call):
            segments.discard(match[1])
            folders.discard(match[1])
        elif 'write(1, "acknowledged' in call:
            assert written, "acknowledged before anything was written"
            assert not unsynced, f"acknowledged before a sync: {call}"
            written, count = 0, count + 1
    return count


def test_the_child_of_a_fork_is_told_and_the_parent_goes_on(tmp_path: Path) -> None:
    log = Log.open(tmp_path, create=True)
    token = log.append(b"before").wait()
    log.append(b"queued")
    child = os.fork()
    if child == 0:
        told = 0
        for attempt in (lambda: log.append(b"child"), token.wait, log.flush, log.read, log.stats, lambda: log.last,
                        lambda: log.truncate_after(0), log.gc, lambda: token.done):
            try:
                attempt()
            except LogClosed:
                told += 1
        log.close()
        os._exit(told)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    with pytest.raises(LogLocked):
        Log.open(tmp_path)          # the child's close() did not let go of it
    log.append(b"after").wait()
    log.close()
    with Log.open(tmp_path) as again:
        assert contents(again) == [b"before", b"queued", b"after"]


def test_a_second_opener_is_refused_here_and_elsewhere(tmp_path: Path) -> None:
    script = ("import sys; from kudu_storage import Log\ntry: Log.open(sys.argv[1])\n"
              "except OSError as error: print(type(error).__name__)")
    with Log.open(tmp_path, create=True) as log:
        log.append(b"mine").wait()
        before = {path.name: path.read_bytes() for path in tmp_path.glob("wal-*")}
        with pytest.raises(LogLocked):
            Log.open(tmp_path)
        other = python("-c", script, str(tmp_path))
        assert other.stdout == "LogLocked\n", other.stderr
        assert {path.name: path.read_bytes() for path in tmp_path.glob("wal-*")} == before
        log.append(b"still mine").wait()


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_without_permission_is_a_disk_error(mode: int) -> None:
    """In a child without root's rights, because root may write anywhere."""
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)            # pytest's own folders are closed to others altogether
        path = Path(top, "log")
        with Log.open(path, create=True) as log:
            log.append(b"kept").wait()
        before = {p.name: p.read_bytes() for p in path.iterdir()}
        path.chmod(mode)
        child = os.fork()
        if child == 0:
            seen = 1
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                assert path.is_dir()
                try:
                    Log.open(path, create=True)
                except DiskError as error:
                    seen = 0 if error.path == str(path) and "Permission" in str(error) else 2
            finally:
                os._exit(seen)
        _, status = os.waitpid(child, 0)
        path.chmod(0o755)
        assert os.waitstatus_to_exitcode(status) == 0
        assert {p.name: p.read_bytes() for p in path.iterdir()} == before


def test_a_folder_that_vanished_poisons_the_log_at_the_next_segment(tmp_path: Path) -> None:
    log = Log.open(tmp_path / "log", create=True, segment_size="16KiB", compression="none")
    log.append(b"gone").wait()
    shutil.rmtree(tmp_path / "log")
    with pytest.raises(LogPoisoned):
        for _ in range(10):
            log.append(bytes(4000)).wait()
    with pytest.raises(LogPoisoned):
        log.close()
    with pytest.raises(NotFound):
        Log.open(tmp_path / "log")


def test_the_log_of_another_tablet_is_refused_unchanged(tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, tablet_id="a" * 32) as log:
        log.append(b"a's").wait()
        shutil.copytree(tmp_path, tmp_path / "killed")
    segment = tmp_path / "killed" / "wal-000000001"
    before = segment.read_bytes()
    with pytest.raises(InvalidArgument, match=r"tablet a{32}"):
        Log.open(tmp_path / "killed", tablet_id="b" * 32)
    assert segment.read_bytes() == before
    with Log.open(tmp_path / "killed", tablet_id="a" * 32) as log:
        assert contents(log) == [b"a's"]


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises((InvalidArgument, DiskError)):
        Log.open(tmp_path / "file", create=True)
    with pytest.raises((InvalidArgument, DiskError, NotFound)):
        Log.open(tmp_path / "file" / "below", create=True)
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", APPENDER, str(tmp_path / "log")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(LogLocked):
        Log.open(tmp_path / "log")
    child.kill()
    child.wait()
    child.stdout.close()
    Log.open(tmp_path / "log").close()
