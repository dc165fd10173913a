"""The real Kudu, run as an oracle: its command line tool, small clusters, a tablet server on a given replica.

Nothing here was written from our formats; it only starts Kudu's own programs and reads what they print.

1  Nothing is downloaded here. `.ci/fetch-kudu` does that, outside of tests.
2  Servers listen on 127.0.0.1 only, on ports the kernel chose, and are stopped by pid.
3  A wait ends when its condition holds or its deadline passes; no fixed delay stands for readiness.
4  Logs of every server start are kept in files of their own until the owner removes the folder.
May not touch: the package under test.
"""
from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

VERSION = "1.18.1"
PROGRAMS = ("kudu", "kudu-master", "kudu-tserver")
REPLICA_PARTS = ("wals", "consensus-meta", "tablet-meta")
CLOCK_FLAGS = (
    "--unlock_unsafe_flags",
    "--unlock_experimental_flags",
    "--time_source=system_unsync",  # a test machine's clock need not be disciplined by NTP
    "--wall_clock_jump_detection=disabled",  # else the server asks cloud metadata services, off the loopback
)
SERVER_FLAGS = (
    *CLOCK_FLAGS,
    "--rpc_server_allow_ephemeral_ports",
    "--rpc_bind_addresses=127.0.0.1:0",
    "--webserver_interface=127.0.0.1",
    "--webserver_port=0",
    "--logtostderr",
    "--enable_minidumps=false",
)
READY_SECONDS = 60.0  # a loaded two-core machine starts a server in two to five
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02
HOW_TO_GET = "run .ci/fetch-kudu, or set KUDU_BIN_DIR to a folder that holds an executable bin/kudu"

_Value = TypeVar("_Value")


class OracleError(AssertionError):
    """The real Kudu did not do what the test needs; never a finding about our own code."""


@dataclass(frozen=True, slots=True)
class KuduBinaries:
    """An unpacked release: `bin/` with the programs, `lib/` with all they link to."""

    home: Path

    @property
    def java_dir(self) -> Path:
        """Where `.ci/fetch-kudu` puts the Java client's jars; may be absent."""
        return self.home / "java"

    def program(self, name: str) -> str:
        return str(self.home / "bin" / name)

    def environment(self) -> dict[str, str]:
        library = str(self.home / "lib")
        inherited = os.environ.get("LD_LIBRARY_PATH")
        return {
            **os.environ,
            "LD_LIBRARY_PATH": f"{library}:{inherited}" if inherited else library,
            "SASL_PATH": str(self.home / "lib" / "sasl2"),
        }

    def run(self, *arguments: str | os.PathLike[str], timeout_s: float = 120.0,
            check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run the `kudu` tool; with `check`, a failure is an OracleError that carries what the tool said."""
        command = [self.program("kudu"), *(os.fspath(argument) for argument in arguments)]
        done = subprocess.run(command, env=self.environment(), timeout=timeout_s, check=False,
                              stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="surrogateescape")
        if check and done.returncode != 0:
            raise OracleError(f"kudu {' '.join(command[1:])} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done


def cache_dir() -> Path:
    """Where `.ci/fetch-kudu` leaves the release when it is given no other place."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "kudu-storage" / f"kudu-binary-{VERSION}"


def unusable_because(home: Path) -> str | None:
    """Why this folder cannot serve as the oracle; None if it can."""
    for name in PROGRAMS:
        program = home / "bin" / name
        if not program.is_file():
            return f"{program} is missing"
        if not os.access(program, os.X_OK):
            return f"{program} is not executable"
    return None


def _candidate() -> Path:
    named = os.environ.get("KUDU_BIN_DIR")
    return Path(named) if named else cache_dir()


def find_kudu() -> KuduBinaries | None:
    """The binaries named by KUDU_BIN_DIR, else those in the cache. A KUDU_BIN_DIR that is wrong hides the cache."""
    home = _candidate()
    return None if unusable_because(home) else KuduBinaries(home.resolve())


def require_kudu() -> KuduBinaries:
    """For tests: the binaries, or a skip that says what was missing and how to get it."""
    import pytest

    home = _candidate()
    reason = unusable_because(home)
    if reason:
        pytest.skip(f"needs the real Kudu {VERSION}: {reason}; {HOW_TO_GET}")
    return KuduBinaries(home.resolve())


def wait_for(what: str, condition: Callable[[], _Value | None], deadline_s: float = READY_SECONDS) -> _Value:
    """Poll until the condition gives something other than None or False."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value is not None and value is not False:
            return value
        if time.monotonic() >= end:
            raise OracleError(f"waited {deadline_s:g} s for {what}")
        time.sleep(POLL_SECONDS)


class Server:
    """One server process and the folder it lives in. A stopped one can be started again, on the same port."""

    def __init__(self, binaries: KuduBinaries, program: str, folder: Path, flags: Sequence[str] = ()) -> None:
        self.binaries, self.name, self.folder, self.flags = binaries, program, folder, list(flags)
        self.root = folder / "fs"
        self.process: subprocess.Popen[bytes] | None = None
        self.address: str | None = None  # host:port, from the first start on
        self.uuid: str | None = None
        self.log_paths: list[Path] = []

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was never started"
        return self.process.pid

    def start(self, *extra_flags: str, wait_ready: bool = True) -> None:
        assert self.process is None, f"{self.name} is running"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._info_path.unlink(missing_ok=True)
        log_path = self.folder / f"{self.name}.{len(self.log_paths) + 1}.log"
        self.log_paths.append(log_path)
        command = [self.binaries.program(self.name), *SERVER_FLAGS, f"--fs_wal_dir={self.root}",
                   f"--fs_data_dirs={self.root}", f"--server_dump_info_path={self._info_path}", *self.flags]
        if self.address:
            command.append(f"--rpc_bind_addresses={self.address}")
        with log_path.open("wb") as log:
            self.process = subprocess.Popen([*command, *extra_flags], env=self.binaries.environment(),
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        if wait_ready:
            try:
                self.wait_ready()
            except BaseException:
                self.kill()
                raise

    @property
    def _info_path(self) -> Path:
        return self.folder / f"{self.name}.info.json"

    def wait_ready(self, deadline_s: float = READY_SECONDS) -> None:
        info = wait_for(f"{self.name} to report its address", self._read_info, deadline_s)
        address = info["bound_rpc_addresses"][0]
        self.address = f"127.0.0.1:{address['port']}"
        self.uuid = info["node_instance"]["permanent_uuid"]

    def _read_info(self) -> dict[str, Any] | None:
        self.raise_if_ended()
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # the file is not written in one step
            info: dict[str, Any] = json.loads(self._info_path.read_text())
            return info
        return None

    def raise_if_ended(self) -> None:
        if self.process is not None and self.process.poll() is not None:
            raise OracleError(f"{self.name} ended with {self.process.returncode}:\n{self.log_text()[-4000:]}")

    def log_text(self) -> str:
        """What the latest start has logged so far."""
        return self.log_paths[-1].read_text(encoding="utf-8", errors="replace") if self.log_paths else ""

    def cpu_seconds(self) -> float:
        """User and system time of the process so far, from the kernel."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_rss_bytes(self) -> int:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def stop(self, deadline_s: float = STOP_SECONDS) -> None:
        """SIGTERM, then SIGKILL when the deadline has passed."""
        self._end(signal.SIGTERM, deadline_s)

    def kill(self) -> None:
        """SIGKILL: files stay as a crash would leave them (the machine itself does not crash)."""
        self._end(signal.SIGKILL, STOP_SECONDS)

    def _end(self, signal_number: signal.Signals, deadline_s: float) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal_number)
            try:
                process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


class MiniCluster:
    """One master and some tablet servers in one folder; a context manager that leaves no process behind.

    The folder is the caller's (`tmp_path`), files and logs stay in it.
    """

    def __init__(self, binaries: KuduBinaries, folder: Path, tservers: int = 1, *,
                 master_flags: Sequence[str] = (), tserver_flags: Sequence[str] = ()) -> None:
        self.binaries, self.folder = binaries, folder
        self.master = Server(binaries, "kudu-master", folder / "master", master_flags)
        self._tserver_flags = list(tserver_flags)
        self.tservers = [self._new_tserver(number) for number in range(1, tservers + 1)]

    def _new_tserver(self, number: int) -> Server:
        return Server(self.binaries, "kudu-tserver", self.folder / f"t{number}", self._tserver_flags)

    def __enter__(self) -> MiniCluster:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def servers(self) -> list[Server]:
        return [self.master, *self.tservers]

    @property
    def master_address(self) -> str:
        assert self.master.address is not None, "the master has not started"
        return self.master.address

    def start(self) -> None:
        """Start what is not running; return when the master counts every tablet server as live."""
        if self.master.process is None:
            self.master.start()
        idle = [server for server in self.tservers if server.process is None]
        for server in idle:
            server.start(f"--tserver_master_addrs={self.master_address}", wait_ready=False)
        for server in idle:
            server.wait_ready()
        wanted = {server.uuid for server in self.tservers}
        wait_for("the tablet servers to register", lambda: wanted <= self._live_uuids())

    def _live_uuids(self) -> set[str]:
        for server in self.servers:
            server.raise_if_ended()
        listed = self.binaries.run("tserver", "list", self.master_address, "-format=json", "-columns=uuid,state")
        return {row["uuid"] for row in json.loads(listed.stdout)} if listed.returncode == 0 else set()

    def stop(self) -> None:
        for server in reversed(self.servers):
            server.stop()

    def kill(self) -> None:
        for server in reversed(self.servers):
            server.kill()

    def create_table(self, name: str, columns: Sequence[Mapping[str, Any]], keys: Sequence[str], *,
                     replicas: int = 1, partition: Mapping[str, Any] | None = None) -> None:
        """`kudu table create`; without `partition` one range holds all, so the table has one tablet."""
        request = {
            "table_name": name,
            "schema": {"columns": list(columns), "key_column_names": list(keys)},
            "partition": partition or {"range_partition": {"columns": []}},
            "num_replicas": replicas,
        }
        self.binaries.run("table", "create", self.master_address, json.dumps(request), check=True)

    def loadgen(self, *flags: str, timeout_s: float = 3600.0) -> str:
        """`kudu perf loadgen`: creates its own table unless a flag names one. Returns what it printed."""
        return self.binaries.run("perf", "loadgen", self.master_address, *flags, timeout_s=timeout_s, check=True).stdout

    def table_names(self) -> list[str]:
        return self.binaries.run("table", "list", self.master_address, check=True).stdout.split()

    def describe(self, table: str) -> str:
        return self.binaries.run("table", "describe", self.master_address, table, check=True).stdout

    def tablet_ids(self, table: str) -> list[str]:
        listed = self.binaries.run("table", "list", self.master_address, f"-tables={table}", "-list_tablets",
                                   check=True)
        return re.findall(r"^\s*T ([0-9a-f]{32})", listed.stdout, re.MULTILINE)

    def wait_healthy(self, deadline_s: float = READY_SECONDS) -> None:
        """Until `ksck` finds nothing wrong: after a start, tablets report to the master and elect leaders first."""
        wait_for("a healthy cluster",
                 lambda: self.binaries.run("cluster", "ksck", self.master_address).returncode == 0, deadline_s)

    def checksums(self, timeout_s: float = 600.0) -> dict[str, int]:
        """Tablet id -> checksum over all rows, by `ksck --checksum_scan`. Replicas that differ are an OracleError."""
        self.wait_healthy()
        done = self.binaries.run("cluster", "ksck", self.master_address, "--checksum_scan", "-ksck_format=json_compact",
                                 f"--checksum_timeout_sec={int(timeout_s)}", timeout_s=timeout_s + 60, check=True)
        return parse_checksums(done.stdout)


def parse_checksums(ksck_json: str) -> dict[str, int]:
    """Tablet id -> checksum from ksck's JSON report; every replica must agree."""
    report = json.loads(ksck_json[ksck_json.index("{"):])
    result: dict[str, int] = {}
    for table in report.get("checksum_results", {}).get("tables", []):
        for tablet in table.get("tablets", []):
            sums = {int(replica["checksum"]) for replica in tablet["replica_checksums"]}
            if len(sums) != 1 or tablet.get("mismatch"):
                raise OracleError(f"replicas of tablet {tablet['tablet_id']} differ: {sorted(sums)}")
            result[tablet["tablet_id"]] = sums.pop()
    return result


_LINE = re.compile(r"^[IWEF](\d{8} \d\d:\d\d:\d\d\.\d{6})\s+\d+ ([\w.]+:\d+)\] (.*)$")
_STATS = re.compile(r"Bootstrap replayed (\d+)/(\d+) log segments\. Stats: ops\{([^}]*)\} inserts\{([^}]*)\} "
                    r"mutations\{([^}]*)\} orphaned_commits=(\d+)\. Pending: (\d+) replicates")
_SPENT = re.compile(r"Time spent bootstrapping tablet: real ([\d.]+)s\s+user ([\d.]+)s\s+sys ([\d.]+)s")


@dataclass(slots=True)
class BootstrapLog:
    """What a tablet server's own log says about one tablet's bootstrap. Times are seconds."""

    tablet_id: str
    lines: list[str] = field(default_factory=list)
    complete: bool = False
    failure: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    real_s: float | None = None  # "Time spent bootstrapping tablet": the bootstrap alone, on its one thread
    user_s: float | None = None
    sys_s: float | None = None
    segments: int = 0
    stats: dict[str, int] = field(default_factory=dict)  # of the last line: read, overwritten, applied, ...

    @property
    def ended(self) -> bool:
        return self.failure is not None or self.real_s is not None

    @property
    def wall_s(self) -> float:
        """From "Bootstrap starting." to "Bootstrap complete." by the log's own time stamps."""
        assert self.started_at is not None and self.completed_at is not None, "the bootstrap is not complete"
        return (self.completed_at - self.started_at).total_seconds()


def parse_bootstrap_log(text: str, tablet_id: str) -> BootstrapLog:
    """Read one tablet's bootstrap out of a tablet server's log."""
    result = BootstrapLog(tablet_id)
    for line in text.splitlines():
        matched = _LINE.match(line)
        if matched is None or f"T {tablet_id} " not in matched[3]:
            continue
        at = datetime.strptime(matched[1], "%Y%m%d %H:%M:%S.%f")
        result.lines.append(f"{matched[2]}] {matched[3]}")
        _note_bootstrap_line(result, at, matched[3])
    return result


def _note_bootstrap_line(result: BootstrapLog, at: datetime, message: str) -> None:
    if "Bootstrap starting." in message:
        result.started_at = at
    elif "Bootstrap complete." in message or "No bootstrap required" in message:
        result.complete, result.completed_at = True, at
    elif spent := _SPENT.search(message):
        result.real_s, result.user_s, result.sys_s = (float(value) for value in spent.groups())
    elif "Tablet failed to bootstrap" in message or "Failed to load consensus metadata" in message:
        result.failure = message
    elif stats := _STATS.search(message):
        result.segments = int(stats[2])
        result.stats = _named_numbers(stats)


def _named_numbers(matched: re.Match[str]) -> dict[str, int]:
    """`ops{read=1 ...}` as `{"read": 1}`, with `inserts_`, `mutations_` before the names of the other groups."""
    numbers: dict[str, int] = {}
    for prefix, body in (("", matched[3]), ("inserts_", matched[4]), ("mutations_", matched[5])):
        for pair in body.split():
            name, _, value = pair.partition("=")
            numbers[prefix + name] = int(value)
    return {**numbers, "orphaned_commits": int(matched[6]), "pending": int(matched[7])}


@dataclass(slots=True)
class ReplicaServer:
    """A tablet server that opened a copy of some replicas, without a master."""

    binaries: KuduBinaries
    server: Server

    def bootstrap(self, tablet_id: str, deadline_s: float = 600.0) -> BootstrapLog:
        """Wait until the bootstrap of this tablet has ended, well or badly."""
        def ended() -> BootstrapLog | None:
            self.server.raise_if_ended()
            log = parse_bootstrap_log(self.server.log_text(), tablet_id)
            return log if log.ended else None
        return wait_for(f"the bootstrap of tablet {tablet_id}", ended, deadline_s)

    def list_replicas(self) -> str:
        assert self.server.address is not None
        return self.binaries.run("remote_replica", "list", self.server.address, check=True).stdout

    def dump_rows(self, tablet_id: str) -> list[str]:
        """The rows as `kudu remote_replica dump` prints them; waits until the replica answers scans."""
        assert self.server.address is not None
        address = self.server.address

        def rows() -> list[str] | None:
            done = self.binaries.run("remote_replica", "dump", address, tablet_id)
            return done.stdout.splitlines() if done.returncode == 0 else None
        return wait_for(f"a scan of tablet {tablet_id}", rows)


@contextlib.contextmanager
def start_tserver_on_replica(binaries: KuduBinaries, replica_dir: Path, folder: Path, *, uuid: str | None = None,
                             flags: Sequence[str] = ()) -> Iterator[ReplicaServer]:
    """Run a tablet server in `folder` on a copy of the replicas in `replica_dir` (`wals/`, `consensus-meta/`, ...).

    `uuid` is the server the replicas belong to; by default the one that the first consensus metadata names as a
    single peer. The given files are not changed: the server gets copies, and rewrites those.
    """
    server = Server(binaries, "kudu-tserver", folder, ["--tserver_master_addrs=127.0.0.1:1", *flags])
    format_for_replicas(binaries, server.root, replica_dir, uuid)
    copy_replicas(replica_dir, server.root)
    try:
        server.start()
        yield ReplicaServer(binaries, server)
    finally:
        server.stop()


def format_for_replicas(binaries: KuduBinaries, root: Path, replica_dir: Path, uuid: str | None = None) -> None:
    """Make an empty server root with the server uuid, and the data directory uuid, that the replicas expect."""
    tablet_id = next(iter(sorted(path.name for path in (replica_dir / "tablet-meta").iterdir())))
    uuid = uuid or _only_peer(binaries, replica_dir / "consensus-meta" / tablet_id)
    root.parent.mkdir(parents=True, exist_ok=True)
    place = [f"--fs_wal_dir={root}", f"--fs_data_dirs={root}"]
    binaries.run("fs", "format", f"-uuid={uuid}", *place, check=True)
    wanted = _data_dir_uuid(binaries, replica_dir / "tablet-meta" / tablet_id)
    if wanted is not None:
        _set_data_dir_uuid(binaries, root / "data" / "block_manager_instance", wanted)


def _only_peer(binaries: KuduBinaries, cmeta_path: Path) -> str:
    text = binaries.run("pbc", "dump", "-debug", cmeta_path, check=True).stdout
    peers: set[str] = set(re.findall(r'permanent_uuid: "([0-9a-f]{32})"', text))
    if len(peers) != 1:
        raise OracleError(f"{cmeta_path} names {len(peers)} peers; say which server the replica belongs to")
    return peers.pop()


def _data_dir_uuid(binaries: KuduBinaries, superblock_path: Path) -> str | None:
    text = binaries.run("pbc", "dump", "-debug", superblock_path, check=True).stdout
    found = re.search(r'data_dir_group \{\s*uuids: "([0-9a-f]{32})"', text)
    return found[1] if found else None


def _set_data_dir_uuid(binaries: KuduBinaries, instance_path: Path, uuid: str) -> None:
    """Rewrite the instance through Kudu's own `pbc edit`, with a script in place of a person's editor."""
    text = binaries.run("pbc", "dump", "-debug", instance_path, check=True).stdout
    found = re.search(r'uuid: "([0-9a-f]{32})"', text)
    assert found is not None, text
    script = instance_path.parent.parent.parent / "set-uuid.sh"
    old_shown, new_shown = (base64.b64encode(text.encode()).decode() for text in (found[1], uuid))  # bytes, in JSON
    script.write_text(f'#!/bin/sh\nexec sed -i "s|{old_shown}|{new_shown}|g" "$1"\n')
    script.chmod(0o755)
    done = subprocess.run([binaries.program("kudu"), "pbc", "edit", str(instance_path), "-nobackup"],
                          env={**binaries.environment(), "EDITOR": str(script)}, stdin=subprocess.DEVNULL,
                          check=False, capture_output=True, text=True, timeout=60)
    after = binaries.run("pbc", "dump", "-debug", instance_path, check=True).stdout
    if done.returncode != 0 or after.count(uuid) != 2 or found[1] in after:
        raise OracleError(f"could not set the uuid in {instance_path}: {done.stderr}\n{after}")


def copy_replicas(source: Path, root: Path) -> None:
    """Copy segments, metadata and, where there are any, data blocks; `.recovery` folders stay behind."""
    for part in REPLICA_PARTS:
        shutil.copytree(source / part, root / part, dirs_exist_ok=True, copy_function=_copy_synced,
                        ignore=shutil.ignore_patterns("*.recovery*"))
    if (source / "data").is_dir():
        shutil.copytree(source / "data", root / "data", dirs_exist_ok=True, copy_function=_copy_synced,
                        ignore=shutil.ignore_patterns("block_manager_instance"))


def _copy_synced(source: str, target: str) -> str:
    """A copy that is on disk already, so that its write-back does not slow down the server that is measured on it."""
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    return target


@contextlib.contextmanager
def cluster_on_replica(binaries: KuduBinaries, replica_dir: Path, folder: Path, *, uuid: str | None = None,
                       flags: Sequence[str] = ()) -> Iterator[MiniCluster]:
    """A whole cluster on a copy of single-replica tablets: gives their `ksck` checksums without their old master.

    The master's catalogue is rebuilt by Kudu from what the tablet server holds. Tables keep their names, not their ids.
    """
    cluster = MiniCluster(binaries, folder, tservers=1, tserver_flags=flags)
    (tserver,) = cluster.tservers
    with start_tserver_on_replica(binaries, replica_dir, tserver.folder, uuid=uuid, flags=flags) as replica:
        assert replica.server.address is not None
        for tablet in sorted((replica_dir / "tablet-meta").iterdir()):
            replica.bootstrap(tablet.name)
        place = [f"--fs_wal_dir={cluster.master.root}", f"--fs_data_dirs={cluster.master.root}"]
        cluster.master.folder.mkdir(parents=True)
        binaries.run("master", "unsafe_rebuild", replica.server.address, "-default_num_replicas=1", *place,
                     *CLOCK_FLAGS, check=True)
        tserver.address = replica.server.address  # the rebuilt catalogue knows it there
    with cluster:
        yield cluster
