"""RaftReplica: one replica of a group for people who bring their own state machine. The public face of this package.

    async with RaftReplica("data/a", me="a", peers={"a": "127.0.0.1:9001", ...}, sm=Counter()) as replica:
        result = await replica.propose(b"...", timeout=2)

It puts the pieces together: files (recovery.py), core, driver, log port, rounds, applier, transport. Runs in the event
loop in which it was started; one loop may run many. Files are touched by executors and the log's own threads only.
"""
from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, TypeVar

from consensus.raft import effects as fx
from consensus.raft.configuration import Change, ChangeType, Config, MemberType
from consensus.raft.core import Raft
from consensus.raft.effects import Role
from consensus.raft.inputs import (
    ChangeConfig,
    CopyDone,
    Input,
    LogCut,
    LogDurable,
    StepDown,
    Transfer,
    UnsafeChangeConfig,
)
from consensus.raft.progress import Sending
from consensus.raft.refusals import Refusal
from consensus.raft.status import Status
from consensus.raft.timing import MS, Timing
from consensus.replica.admin import Admin
from consensus.replica.clock import HybridClock, SystemRandom
from consensus.replica.copies import CopySender
from consensus.replica.driver import Driver, Handlers
from consensus.replica.keeper import SnapshotKeeper
from consensus.replica.log_port import Events, LogPort
from consensus.replica.metadata import RETRY_S, MetadataFile
from consensus.replica.ports import Clock, Network, Random
from consensus.replica.reads import ReadGroup, Reads
from consensus.replica.recovery import Found, first_config, open_replica, tablet_id_of
from consensus.replica.rounds import Call, Rounds, fail_calls
from consensus.replica.snapshots import Snapshot, snapshot_path
from consensus.replica.snapshots import decode as decode_snapshot
from consensus.replica.state_machine import Applier, StateMachine
from consensus.replica.status import ReplicaStatus, lag
from consensus.replica.timeouts import Timeouts
from consensus.replica.trail import Trail
from consensus.transport import Endpoint
from consensus.transport.configs import config_from, config_record, config_to, record_config
from consensus.transport.copying import CopyingTransport
from kudu_storage import Log
from kudu_storage._native.disk import Disk
from kudu_storage.common.opid import MINIMUM_OPID, OpId
from kudu_storage.common.sizes import parse_bytes
from kudu_storage.errors import (
    Aborted,
    InvalidArgument,
    KuduStorageError,
    NotLeader,
    ProposalsFull,
    ReplicaClosed,
    ReplicaFailed,
    RequestDenied,
    Timeout,
    Unsupported,
)
from kudu_storage.protos import message_class

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_config_pb: Any = message_class("kudu.consensus.RaftConfigPB")
TIMEOUT_S: Final = 10.0
# Kudu's, but for a timeout that lets a group go on within 1.5 s when its leader hangs. One that dies is missed at once.
TIMING: Final = Timing(election_timeout_us=1300 * MS, commit_delay_us=2 * MS)
PAYLOAD_BYTES_MAX: Final = 16 << 20
# Proposals that are not committed yet. Above it propose() refuses: a group without a majority must not eat the memory.
UNCOMMITTED_BYTES_MAX: Final = 64 << 20


class RaftReplica:
    """One replica of a group. Use it with `async with`, or start() and close()."""

    def __init__(self, dir: str | os.PathLike[str], *, me: str, peers: Mapping[str, str], sm: StateMachine,
                 group: str = "default", join: bool = False, transport: Network | None = None,
                 durability: str = "fsync", timing: Timing | None = None, segment_size: int | str = "8MiB",
                 cache_size: int | str = "32MiB", snapshot_every: int | str = "64MiB", disk: Disk | None = None,
                 clock: Clock | None = None, random: Random | None = None) -> None:
        """
        Args:
            dir: its folder, made if need be: `wals/`, `consensus-meta/` and so on in Kudu's layout.
            me: its name.
            peers: the first members' names and addresses, its own among them. Who belongs to the group is known from
                the files once there are some; where these are is believed before what is stored.
            sm: the state machine, fresh: what was applied before is restored and applied again.
            group: replicas of one group have the same; it gives the tablet's id.
            join: the group is there already and will add this replica by change_config().
            transport: default: krpc at the address of `me`.
            timing: of heartbeats and elections; the same for all replicas of a group.
            durability: of the log: "fsync", "os" or "interval:50ms". Weaker than "fsync", a replica that lost its
                machine's memory may break the group's promises.
            snapshot_every: bytes of log after which the state machine's snapshot is taken, if it has one.
        """
        self.name = me
        self.folder = os.path.abspath(os.fspath(dir))
        self.tablet_id = tablet_id_of(group)
        self.machine = sm
        self._has_snapshots = sm.has_snapshots()
        self._first = first_config(me, peers, join)
        self._peers = dict(peers)
        self._timing = timing or TIMING
        self._disk = Disk() if disk is None else disk
        self._log_options: dict[str, Any] = {
            "durability": durability, "segment_size": segment_size, "cache_size": cache_size, "queue_size": "64MiB",
            "create": True, "tablet_id": self.tablet_id, "disk": self._disk}
        self._keeper = SnapshotKeeper(snapshot_path(self.folder, self.tablet_id), parse_bytes(snapshot_every),
                                      self._disk, self._capture)
        self._given_transport = transport
        self._clock = clock
        self._random = random
        self.failure: BaseException | None = None
        self._state = "new"
        self._trail = Trail()
        self._rounds = Rounds()
        self._watchers: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._installing: asyncio.Future[None] | None = None
        self._committed_total = 0           # bytes of the log, by the trail, up to what is applied

    # -- life ----------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Open the files and take part. Committed operations of before are applied meanwhile; see status().

        Raises:
            CorruptionError, LogLocked, DiskError, InvalidArgument; ConnectionLost: it cannot listen.
        """
        if self._state != "new":
            raise ReplicaClosed("a replica is started once")
        self._state = "starting"
        self._loop = loop = asyncio.get_running_loop()
        self._timeouts = Timeouts(loop)
        try:
            self._transport = self._given_transport or _krpc(self.name, self._peers, self.tablet_id, self)
            self._names = self._transport.names
            for name in self._peers:
                self._names.add(name)
            found = await loop.run_in_executor(None, self._open)
        except BaseException:
            self._state = "closed"
            raise
        try:
            self._use(found)
            self._transport.on_copy = self._install
            await self._transport.start(self._received, self._connection)
        except BaseException:
            await self._close_files()
            raise
        self._run()

    def _open(self) -> Found:
        return open_replica(self.folder, self.name, self.tablet_id, self._first, self._names, self._disk,
                            self._open_log)

    def _open_log(self, path: str, begin: OpId) -> Log:
        return Log.open(path, begin=begin, **self._log_options)

    def _use(self, found: Found) -> None:
        self._log = found.log
        if found.snapshot is not None:
            self.machine.restore(found.snapshot.data)
        self._keeper.use(found.log, self._loop, found.snapshot, found.first_index)
        self._assemble(found)

    def _run(self) -> None:
        self._state = "running"
        self._config_changed(self._raft.state.configs.active)
        self._applier.commit(self._raft.state.commit_index)
        self._driver.start()

    def _received(self, sender: str, message: Any, call: object) -> None:
        """ports.Deliver. While a snapshot is being installed nobody is at home."""
        if self._state in ("starting", "running"):
            self._driver.received(sender, message, call)

    def _connection(self, peer: str, up: bool) -> None:
        if self._state in ("starting", "running"):
            self._driver.connection(peer, up)

    def _assemble(self, found: Found) -> None:
        loop = self._loop
        found.metadata.attach(loop)
        clock = self._clock or HybridClock(loop)
        clock.observe(found.timestamp)
        self._clock = clock
        self._raft = Raft(self.name, found.recovered, self._timing)
        self._port = LogPort(found.log, loop, Events(self._durable, self._cut, self._fail), self._trail,
                             self._encode_config, self._decode_config)
        self._applier = Applier(self.machine, self._port, loop, applied=self._keeper.index,
                                commits_until=found.recovered.commit_index, on_applied=self._applied,
                                on_failed=self._fail)
        handlers = Handlers()
        handlers.appended = self._appended
        handlers.config_appended = self._config_changed
        handlers.committed = self._committed
        handlers.role_changed = self._role_changed
        handlers.needs_copy = lambda effect: self._copies.needs(effect.peer_id)
        handlers.done = self._done
        handlers.refused = self._refused
        handlers.failed = self._fail
        self._driver = Driver(self._raft, loop, clock=clock, random=self._random or SystemRandom(), log=self._port,
                              metadata=found.metadata, transport=self._transport, handlers=handlers)
        self._reads = Reads(loop, self._driver.feed)
        self._copies = CopySender(
            read=self._keeper.read, send=self._transport.copy, wanted=self._needs_copy,
            done=lambda peer: self._driver.feed(CopyDone(peer)), start=self._look_after,
            retry_s=self._timing.election_timeout_us / 1e6)
        handlers.read_ready = lambda effect: self._reads.ready(effect, self._applier.applied)
        handlers.read_failed = lambda effect: self._reads.failed(effect.token, self._not_leader())

    async def close(self) -> None:
        """Leave the group's network, write what is queued, close the files. Once is enough."""
        if self._state in ("new", "closed"):
            self._state = "closed"
            return
        failed = self._state == "failed"
        self._state = "closed"
        await self._transport.stop()
        if self._installing is not None:
            await self._installing
        self._end("the replica was closed")
        for task in self._tasks:
            task.cancel()
        await self._keeper.quiet()
        await self._close_files(quietly=failed)

    async def _close_files(self, quietly: bool = False) -> None:
        self._state = "failed" if quietly else "closed"
        if hasattr(self, "_port"):
            self._port.close()
        try:
            await self._loop.run_in_executor(None, self._log.close)
        except KuduStorageError:
            if not quietly:
                raise
        finally:
            self._state = "closed"

    def _end(self, why: str) -> None:
        """Nothing is done any more; whoever waits is told."""
        self._driver.close()
        self._applier.close()
        self._timeouts.close()
        fail_calls(self._driver.unstepped(), ReplicaClosed(why))
        self._rounds.fail_all(why)
        self._reads.fail_all(ReplicaClosed(why))
        self._wake()

    async def __aenter__(self) -> RaftReplica:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    def _fail(self, error: BaseException) -> None:
        """The disk or this program failed: this replica stops, alone, and says why (D3)."""
        if self._state in ("failed", "closed"):
            return
        self._state = "failed"
        self.failure = error
        _log.error("replica %s of %s stopped: %s", self.name, self.tablet_id, error, exc_info=error)
        self._end(f"the replica failed: {error}")
        self._look_after(self._transport.stop())

    # -- proposals -----------------------------------------------------------------------------------------------------
    async def propose(self, payload: bytes, timeout: float | None = TIMEOUT_S) -> Any:
        """Replicate an operation, apply it, and return what apply() returned; raises what apply() raised.

        Raises:
            NotLeader, Aborted, ProposalsFull: certainly not applied. Timeout: may be applied, or may still be.
            ReplicaFailed, ReplicaClosed, InvalidArgument.
        """
        return await self.submit(payload, timeout)

    async def propose_many(self, payloads: Iterable[bytes], timeout: float | None = TIMEOUT_S) -> list[Any]:
        """propose() of each, in one batch: next to each other in the log, in this order. All results, or the first
        exception that apply() raised."""
        return await self.submit_many(payloads, timeout)

    def submit(self, payload: bytes, timeout: float | None = TIMEOUT_S) -> asyncio.Future[Any]:
        """propose() that gives a future at once: for servers, which can answer from its callback without a task a call.

        Raises what is known at once (NotLeader, ProposalsFull and so on); the rest comes by the future. Cancelling that
        takes nothing back. From the loop's thread.
        """
        data = payload if type(payload) is bytes else bytes(payload)
        return self._submit([data], len(data), False, timeout)

    def submit_many(self, payloads: Iterable[bytes], timeout: float | None = TIMEOUT_S) -> asyncio.Future[list[Any]]:
        """propose_many(), as submit()."""
        data = [p if type(p) is bytes else bytes(p) for p in payloads]
        if data:
            return self._submit(data, sum(map(len, data)), True, timeout)
        nothing: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        nothing.set_result([])
        return nothing

    def _submit(self, payloads: list[bytes], size_bytes: int, many: bool, timeout: float | None) -> asyncio.Future[Any]:
        self._require_running()
        raft = self._raft
        if raft.state.leadership is None:
            raise self._not_leader()
        if size_bytes > PAYLOAD_BYTES_MAX:
            raise InvalidArgument(f"a proposal of {size_bytes} bytes; {PAYLOAD_BYTES_MAX} is the limit")
        waiting = self._trail.total_bytes - self._committed_total + self._driver.unstepped_bytes
        if waiting + size_bytes > UNCOMMITTED_BYTES_MAX:
            raise ProposalsFull(f"{waiting} bytes of operations wait to be committed", advice="wait for some of them")
        future: asyncio.Future[Any] = self._loop.create_future()
        call = Call(future, len(payloads), many)
        if timeout is not None:
            self._timeouts.add(call, timeout)
        self._driver.propose(payloads, size_bytes, call)
        return future

    async def _until(self, future: asyncio.Future[_T], timeout: float | None, maybe_applied: bool) -> _T:
        if timeout is None:
            return await future
        handle = self._loop.call_later(timeout, _expire, future, timeout, maybe_applied)
        try:
            return await future
        finally:
            handle.cancel()

    def _appended(self, effect: fx.Append) -> None:
        """The leader's own operations have their place in the log."""
        run = effect.runs[0]
        if isinstance(effect.token, list):
            self._rounds.appended(run.term, run.first, run.last, effect.token)
        elif isinstance(effect.token, asyncio.Future):
            self._rounds.appended(run.term, run.first, run.last, [Call(effect.token, 1, False)])

    def _committed(self, index: int) -> None:
        self._applier.commit(index)
        self._reads.retry()

    def _applied(self, term: int, first: int, results: list[Any]) -> None:
        self._rounds.applied(term, first, results)
        last = first + len(results) - 1
        self._committed_total = self._trail.total_at(last)
        self._reads.applied(last)
        if self._has_snapshots and self._state == "running":
            self._keeper.grown(self._trail.total_bytes)

    # -- reads ---------------------------------------------------------------------------------------------------------
    async def read_barrier(self, timeout: float | None = TIMEOUT_S) -> int:
        """Until this replica's state machine has all that was acknowledged before this call: then a read of it is
        linearizable. The leader confirms with a majority that it still leads; no clock is trusted.

        Returns: the index that was waited for. Raises: NotLeader; Timeout (nothing was changed).
        """
        self._require_running()
        if self._raft.state.leadership is None:
            raise self._not_leader()
        return await self._until(self._reads.ask(), timeout, False)

    # -- leadership and configuration ----------------------------------------------------------------------------------
    async def transfer_leadership(self, to: str | None = None, timeout: float | None = TIMEOUT_S) -> None:
        """Give leadership to `to`, or to whoever is level first; until this replica leads no longer.

        No operation is lost; proposals are refused meanwhile (Aborted). Raises: NotLeader, RequestDenied, Timeout.
        """
        term = self._term
        self._raise_denied(await self.ask(lambda token: Transfer(to, token), timeout))
        if to != self.name:
            await self._wait(lambda: not self.is_leader or self._term != term, timeout)

    async def step_down(self, timeout: float | None = TIMEOUT_S) -> None:
        """Stop leading at once, whoever may follow. Raises: NotLeader."""
        self._raise_denied(await self.ask(StepDown, timeout))

    async def change_config(self, *, add: Mapping[str, str] | None = None, remove: Iterable[str] = (),
                            changes: Iterable[Change] = (), cas: int | None = None, learner: bool = False,
                            timeout: float | None = TIMEOUT_S) -> None:
        """Change who belongs to the group; until the change is committed. At most one voter at a time.

        Args:
            add: names and addresses. They join as learners and become voters once they are level; with `learner`, not.
            remove: names; not the leader's own.
            changes: in the core's words, for all else (promote, demote, replace).
            cas: opid_index that the committed configuration must have.
        Raises: NotLeader, RequestDenied, Aborted, Timeout.
        """
        wanted = [Change(ChangeType.ADD, name, MemberType.NON_VOTER, address, promote=not learner)
                  for name, address in (add or {}).items()]
        wanted += [Change(ChangeType.REMOVE, name) for name in remove]
        wanted += changes
        self._raise_denied(await self.ask_change(tuple(wanted), cas, timeout))

    async def unsafe_change_config(self, retained: Iterable[str], timeout: float | None = TIMEOUT_S) -> None:
        """For disasters: go on with `retained` only, this replica among them. Not agreed with anybody."""
        names = frozenset(retained)
        self._raise_denied(await self.ask(lambda token: UnsafeChangeConfig(names, token), timeout))

    async def ask(self, make: Callable[[object], Input], timeout: float | None) -> Refusal | None:
        """Feed the core a request, made for a token; None: it was done."""
        self._require_running()
        future: asyncio.Future[Refusal | None] = self._loop.create_future()
        self._driver.feed(make(_Ask(future)))
        return await self._until(future, timeout, True)

    async def ask_change(self, changes: tuple[Change, ...], cas: int | None, timeout: float | None) -> Refusal | None:
        """ask() for a change of configuration, until it is committed."""
        self._require_running()
        for change in changes:
            self._names.add(change.peer_id)
        future: asyncio.Future[Refusal | None] = self._loop.create_future()
        self._driver.feed(ChangeConfig(changes, cas, future))
        return await self._until(future, timeout, True)

    def _raise_denied(self, refusal: Refusal | None) -> None:
        if refusal is Refusal.NOT_LEADER:
            raise self._not_leader()
        if refusal is not None:
            raise RequestDenied(refusal.value, reason=refusal.name)

    # -- where it stands -----------------------------------------------------------------------------------------------
    @property
    def is_leader(self) -> bool:
        return self._state == "running" and self._raft.state.leadership is not None

    @property
    def leader(self) -> str | None:
        """Who leads, as far as this replica knows."""
        return self._raft.state.leader_id if self._state == "running" else None

    @property
    def state(self) -> str:
        """See ReplicaStatus."""
        if self._state == "running" and self._applier.applied < self._applier.commits_until:
            return "replaying"
        return self._state

    @property
    def _term(self) -> int:
        self._require_running()
        return self._raft.state.term

    def core_status(self) -> Status | None:
        """The core's own; None: it does not take part."""
        return self._raft.status() if self._state == "running" else None

    def last_op_id(self, committed: bool) -> OpId | None:
        """The last operation received, or committed; None: it does not take part."""
        if self._state != "running":
            return None
        state = self._raft.state
        return state.terms.opid_at(state.commit_index) if committed else state.last_received

    async def wait_for_leader(self, timeout: float | None = TIMEOUT_S) -> str:
        """Until this replica knows who leads. Raises Timeout."""
        self._require_running()
        await self._wait(lambda: self.leader is not None, timeout)
        return self.leader or ""

    async def _wait(self, condition: Callable[[], bool], timeout: float | None) -> None:
        """Until a condition holds that changes with the role."""
        until = None if timeout is None else self._loop.time() + timeout
        while not condition():
            self._require_running()
            future: asyncio.Future[None] = self._loop.create_future()
            self._watchers.append(future)
            await self._until(future, None if until is None else until - self._loop.time(), True)

    def status(self) -> ReplicaStatus:
        """A copy of values, as of now. Raises ReplicaClosed before it was started."""
        if self._state in ("new", "starting") or not hasattr(self, "_raft"):
            raise ReplicaClosed("the replica is not started yet")
        s = self._raft.status()
        now = self._loop.time()
        peers = tuple(lag(peer, self._trail, now) for peer in s.peers)
        return ReplicaStatus(
            self.name, self.state, s.role, s.term, s.leader_id, s.committed_config, s.pending_config, s.last,
            s.durable_index, s.commit_index, self._applier.applied, s.all_replicated_index, self._keeper.index,
            self._keeper.first_index, s.failed_elections, peers,
            None if self.failure is None else str(self.failure))

    def __repr__(self) -> str:
        if not hasattr(self, "_raft"):
            return f"<RaftReplica {self.name} {self._state}>"
        s = self._raft.state
        return f"<RaftReplica {self.name} {self.state} {s.role.value} term {s.term}, {s.terms.last} applied " \
               f"{self._applier.applied}>"

    # -- snapshots -----------------------------------------------------------------------------------------------------
    async def snapshot(self) -> OpId:
        """Take the state machine's snapshot now, durably, and let go of the log that only the one before it needed.

        Returns: the last operation in it. Raises Unsupported, DiskError.
        """
        self._require_running()
        return await self._keeper.take()

    async def _capture(self) -> Snapshot:
        """The state machine's state as of now, between two operations."""
        configured = self._raft.state.configs.committed.opid_index
        if configured > self._applier.applied:
            await self._reads.until_applied(configured)
        async with self._applier.still() as index:
            config = config_to(self._raft.state.configs.committed, self._names).SerializeToString()
            last = self._raft.state.terms.opid_at(index) if index else MINIMUM_OPID
            data: Any = self.machine.snapshot()
            if inspect.isawaitable(data):
                data = await data
        return Snapshot(last, config, bytes(data))

    # -- copies --------------------------------------------------------------------------------------------------------
    def _needs_copy(self, peer: str) -> bool:
        lead = self._raft.state.leadership
        return self._state == "running" and lead is not None and peer in lead.progress \
            and lead.progress[peer].sending is Sending.COPY

    async def _install(self, data: bytes) -> None:
        """The leader sent its snapshot: take it in the place of log and state, unless the log has all that is in it.

        The snapshot is on the disk first: whatever else is there is found to be older at the next start (recovery.py).
        Raises CorruptionError, DiskError: nothing was changed. ReplicaClosed, ReplicaFailed.
        """
        self._require_running()
        snapshot = decode_snapshot(data)
        config = config_from(_config_pb.FromString(snapshot.config), self._names)
        if not self._wants(snapshot):
            return
        if not self._has_snapshots:
            raise Unsupported("this replica's state machine has no snapshots")
        await self._keeper.quiet()
        await self._keeper.write(snapshot)
        self._require_running()
        if self._wants(snapshot):
            await self._start_again(snapshot, config)

    def _wants(self, snapshot: Snapshot) -> bool:
        state = self._raft.state
        return snapshot.last.index > state.commit_index and not state.terms.holds(snapshot.last)

    async def _start_again(self, snapshot: Snapshot, config: Config) -> None:
        """Close all and open it again, with the snapshot."""
        self._state = "copying"
        self._installing = self._loop.create_future()
        self._end("a snapshot of the leader takes the place of this replica's log")
        try:
            await self._driver.quiet()
            await self._applier.quiet()
            await self._keeper.quiet()
            self._port.close()
            found = await self._reopened(snapshot, config)
            if self._state != "copying":
                self._log = found.log       # close() waits for it
                return
            self._trail = Trail()
            self._committed_total = 0
            self._use(found)
        except BaseException as error:
            if self._state == "copying":
                self._state = "running"
                self._fail(error)
            raise
        finally:
            self._installing.set_result(None)
        self._run()

    async def _reopened(self, snapshot: Snapshot, config: Config) -> Found:
        while True:
            try:
                return await self._loop.run_in_executor(None, self._replace_files, snapshot, config)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or self._state != "copying":
                    raise
                _log.warning("replica %s waits for space: %s", self.name, error)
                await asyncio.sleep(RETRY_S)

    def _replace_files(self, snapshot: Snapshot, config: Config) -> Found:
        """In an executor; may be done again."""
        self._keeper.let_go()
        with contextlib.suppress(KuduStorageError):
            self._log.close()           # what it could not write goes anyway
        path = os.path.join(self.folder, "consensus-meta", self.tablet_id)
        MetadataFile.open(path, self._first, self._names, self._disk).adopt(snapshot.last.term, config)
        return self._open()

    def _look_after(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what the driver and the log tell ------------------------------------------------------------------------------
    def _durable(self, batch: int) -> None:
        self._driver.feed(LogDurable(batch))

    def _cut(self, after: int) -> None:
        self._driver.feed(LogCut(after))

    def _role_changed(self, effect: fx.RoleChanged) -> None:
        if effect.role is not Role.LEADER:
            self._reads.fail_unready(self._not_leader())
        self._wake()

    def _wake(self) -> None:
        watchers, self._watchers = self._watchers, []
        for future in watchers:
            if not future.done():
                future.set_result(None)

    def _config_changed(self, config: Config) -> None:
        for peer in config.peers:
            address = self._peers.get(peer.peer_id) or peer.address
            if address:
                self._transport.set_address(peer.peer_id, address)

    def _done(self, effect: fx.Done) -> None:
        if isinstance(effect.token, _Ask):
            effect.token.answer(None)

    def _refused(self, effect: fx.Refused) -> None:
        token, refusal = effect.token, effect.refusal
        if isinstance(token, ReadGroup):
            if refusal is Refusal.NOT_READY:
                self._reads.not_ready(token)
            else:
                self._reads.failed(token, self._not_leader())
        elif isinstance(token, list):
            fail_calls(token, self._not_leader() if refusal is Refusal.NOT_LEADER else Aborted(refusal.value))
        elif isinstance(token, _Ask):
            token.answer(refusal)
        elif isinstance(token, asyncio.Future) and not token.done():
            token.set_result(refusal)

    def _encode_config(self, config: Config) -> bytes:
        return config_record(self.tablet_id, self._raft.state.configs.committed, config, self._names)

    def _decode_config(self, record: bytes, index: int) -> Config:
        return record_config(record, index, self._names)

    def _not_leader(self) -> NotLeader:
        leader = self._raft.state.leader_id
        if leader is None or leader == self.name:
            return NotLeader()
        peer = self._raft.state.configs.active.peer(leader)
        return NotLeader(leader=leader, address=self._peers.get(leader) or ("" if peer is None else peer.address))

    def _require_running(self) -> None:
        if self._state != "running":
            if self._state == "failed":
                raise ReplicaFailed(f"the replica stopped: {self.failure}", advice="repair the disk and open it again")
            if self._state == "copying":
                raise self._not_leader()
            raise ReplicaClosed(f"the replica is {'not started' if self._state in ('new', 'starting') else 'closed'}")


class _Ask:
    """A request to the core that is answered at once, or soon."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[Refusal | None]) -> None:
        self._future = future

    def answer(self, refusal: Refusal | None) -> None:
        if not self._future.done():
            self._future.set_result(refusal)


def _expire(future: asyncio.Future[Any], timeout: float, maybe_applied: bool) -> None:
    if not future.done():
        future.set_exception(Timeout(f"no answer within {timeout} s", maybe_applied=maybe_applied))


def _krpc(me: str, peers: Mapping[str, str], tablet_id: str, replica: RaftReplica) -> Network:
    """The transport over the wire, which listens at the address of `me`."""
    transport: Any = CopyingTransport(Endpoint(me, peers[me], peers=peers), tablet_id, Admin(replica))
    return transport  # type: ignore[no-any-return]  # its calls are its own; all else is as Network says
