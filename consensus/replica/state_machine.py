"""What people bring: a state machine; and what applies committed operations to it, in order.

A1  Operations are applied once each, in the order of their indexes, from the first behind the snapshot. The same ones
    in the same order on every replica (R7): what apply() returns or raises must follow from them alone.
A2  Applying holds up nothing else: it runs in turns of the event loop of its own, TURN_S at most at a time (and one
    batch at least), and what the cache does not have is read by an executor.
A3  Each applied operation gets a COMMIT in the log, one append a batch; those that had one when the log was opened do
    not get another.
"""
from __future__ import annotations

import asyncio
import contextlib
import inspect
from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

from consensus.replica.log_port import Applicable, NativeRun
from consensus.replica.rounds import Failure
from kudu_storage._native.operations import Operation
from kudu_storage.errors import Collected, Unsupported

TURN_S: Final = 0.005


class StateMachine:
    """Derive from it. `apply` may be a coroutine function; then it is awaited for each operation before the next."""

    def apply(self, op: Operation) -> Any:
        """Do what `op.payload` (bytes) says. The result goes to whoever proposed it, and so does an exception.

        Besides the payload an operation has `index`, `term` and `timestamp` (hybrid time). Must be deterministic.
        """
        raise NotImplementedError

    def snapshot(self) -> bytes:
        """All of the state, as restore() takes it. Without it the log is kept for ever."""
        raise Unsupported("this state machine has no snapshots")

    def restore(self, data: bytes) -> None:
        """Replace the state by that of a snapshot."""
        raise Unsupported("this state machine has no snapshots")

    @classmethod
    def has_snapshots(cls) -> bool:
        return cls.snapshot is not StateMachine.snapshot and cls.restore is not StateMachine.restore


class ApplyLog(Protocol):
    """What the applier needs of a log (log_port.py)."""

    def applicable(self, first: int, last: int) -> Applicable | None: ...

    def fetch_applicable(self, first: int, last: int) -> asyncio.Future[list[Applicable]]: ...

    def append_commits(self, runs: list[NativeRun]) -> None: ...


class Applier:
    """Applies what is committed. All methods run in the loop's thread.

    Args:
        applied: the last operation that the state machine has already (of its snapshot).
        commits_until: COMMITs up to it are in the log.
        on_applied: (term, first index, results) of each row of operations of one term.
        on_failed: the state machine cannot go on.
    """

    def __init__(self, machine: StateMachine, log: ApplyLog, loop: AbstractEventLoop, *, applied: int,
                 commits_until: int, on_applied: Callable[[int, int, list[Any]], None],
                 on_failed: Callable[[BaseException], None]) -> None:
        self.machine = machine
        self.applied = applied
        self.applied_term = 0
        self.committed = applied
        self.commits_until = commits_until
        self._log = log
        self._loop = loop
        self._on_applied = on_applied
        self._on_failed = on_failed
        self._busy = False              # a turn is due, or something is awaited
        self._closed = False
        self._held = False              # somebody looks at the state
        self._rested: asyncio.Future[None] | None = None    # done when not busy
        self._task: asyncio.Task[None] | None = None
        self._is_async = inspect.iscoroutinefunction(machine.apply)

    def commit(self, index: int) -> None:
        """Operations up to `index` may be applied."""
        if index > self.committed:
            self.committed = index
            if not self._busy and not self._held:
                self._busy = True
                self._loop.call_soon(self._turn)

    async def quiet(self) -> None:
        """Until no operation is half applied: between two turns, or two batches of an asynchronous machine."""
        while self._task is not None:
            await asyncio.wait([self._task])

    @contextlib.asynccontextmanager
    async def still(self) -> AsyncIterator[int]:
        """The state does not change within; gives the last operation that is in it."""
        self._held = True
        try:
            while self._busy and not self._closed:
                self._rested = self._loop.create_future()
                await self._rested
            yield self.applied
        finally:
            self._held = False
            if not self._closed:
                self._go_on()

    def _rest(self) -> None:
        self._busy = False
        if self._rested is not None and not self._rested.done():
            self._rested.set_result(None)

    def close(self) -> None:
        self._closed = True
        self._rest()
        if self._task is not None:
            self._task.cancel()

    # -- turns ---------------------------------------------------------------------------------------------------------
    def _turn(self) -> None:
        self._rest()
        if self._closed or self._held:
            return
        try:
            until = self._loop.time() + TURN_S
            while self.applied < self.committed:
                found = self._log.applicable(self.applied + 1, self.committed)
                if found is None:
                    self._fetch()
                    return
                if self._is_async:
                    self._await([found])
                    return
                self._apply(found)
                if self._loop.time() > until and self.applied < self.committed:
                    self._busy = True
                    self._loop.call_soon(self._turn)
                    return
        except Exception as error:
            self._on_failed(error)

    def _fetch(self) -> None:
        self._busy = True
        self._log.fetch_applicable(self.applied + 1, self.committed).add_done_callback(self._fetched)

    def _fetched(self, done: asyncio.Future[list[Applicable]]) -> None:
        self._rest()
        if self._closed or done.cancelled():
            return
        error = done.exception()
        if error is not None:
            self._on_failed(error)
            return
        found = done.result()
        if self._held:
            return                      # fetched again afterwards
        if not found:
            self._on_failed(Collected(f"operation {self.applied + 1} is to be applied and not in the log"))
        elif self._is_async:
            self._await(found)
        else:
            try:
                for piece in found:
                    self._apply(piece)
            except Exception as failed:
                self._on_failed(failed)
                return
            self._go_on()

    def _go_on(self) -> None:
        if self.applied < self.committed and not self._busy:
            self._busy = True
            self._loop.call_soon(self._turn)

    # -- applying ------------------------------------------------------------------------------------------------------
    def _apply(self, found: Applicable) -> None:
        self._finish(found, _results(self.machine.apply, found.operations))

    def _await(self, found: list[Applicable]) -> None:
        self._busy = True
        self._task = self._loop.create_task(self._apply_async(found))

    async def _apply_async(self, found: list[Applicable]) -> None:
        try:
            for piece in found:
                self._finish(piece, await _results_async(self.machine.apply, piece.operations))
        except Exception as error:
            self._on_failed(error)
            return
        finally:
            self._task = None
            self._rest()
        if not self._closed and not self._held:
            self._go_on()

    def _finish(self, found: Applicable, results: list[Any]) -> None:
        runs = found.runs
        last = runs[-1][2]
        if last > self.commits_until:
            self._log.append_commits([run for run in runs if run[2] > self.commits_until])
        self.applied, self.applied_term = last, runs[-1][0]
        if len(runs) == 1:
            self._on_applied(runs[0][0], runs[0][1], results)
            return
        at = 0
        for run in runs:
            count = run[2] - run[1] + 1
            self._on_applied(run[0], run[1], results[at:at + count])
            at += count


def _results(apply: Callable[[Operation], Any], ops: list[Operation]) -> list[Any]:
    """The one place where Python runs for each operation: it is the user's."""
    results: list[Any] = []
    for op in ops:
        if op.payload is None:
            results.append(None)
            continue
        try:
            results.append(apply(op))
        except Exception as error:
            results.append(Failure(error))
    return results


async def _results_async(apply: Callable[[Operation], Any], ops: list[Operation]) -> list[Any]:
    results: list[Any] = []
    for op in ops:
        if op.payload is None:
            results.append(None)
            continue
        try:
            results.append(await apply(op))
        except Exception as error:
            results.append(Failure(error))
    return results
