"""Does the maintenance of all tablets of a process: one action after the other, each chosen of all that could be done.

 S1  No thread while no tablet is registered; as many as asked for otherwise, one by default. They sleep when nothing is
     worth doing, until the interval is over, which grows meanwhile, or somebody calls wake().
 S2  Facts are asked for and an action is chosen by one thread at a time. What it works on is claimed before the next
     choice (P1 of maintenance_policy), so that several threads never rewrite the same.
 S3  An action that fails, or finds nothing to do, is not chosen again for a while: a second at first, twice as long
     each time it fails again. The same on other rowsets goes on. No failure ends a thread; stats() tells of each.
 S4  unregister() and stop() return once nothing of the tablet, or nothing at all, runs any more. Call them without
     holding a lock that facts() or run() take.
 S5  A tablet is held weakly: one that nobody closed can still be collected.
 S6  What tablets hold in memory is counted whenever one tells it (weighed()) or is asked for its facts. At the budget
     writers wait, until flushes have made room or one of theirs fails (Kudu's memory_limit_hard_bytes; a server
     answers instead that it is short of memory, and its clients wait).
 S7  In the child of a fork there are neither threads nor tablets: what was opened before it belongs to the parent.
Locks: `_choosing`, then `_condition`'s; neither is held while an action runs. May not touch: files, tablets but through
Maintained.
"""
from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from kudu_storage.errors import InternalError, InvalidArgument, KuduStorageError, MemoryBackpressure
from kudu_storage.tablet.maintenance_facts import MemoryFacts, TabletFacts
from kudu_storage.tablet.maintenance_plan import Plan
from kudu_storage.tablet.maintenance_policy import (
    Action,
    Policy,
    Withheld,
    next_action,
    withheld_while_running,
)
from kudu_storage.tablet.scoring import Kind

INTERVAL_S: Final = 0.25            # Kudu's --maintenance_manager_polling_interval_ms
# Looks that find nothing to do are twice as far apart each time, up to this: what is urgent wakes the thread.
INTERVAL_MAX_S: Final = 2.0
HISTORY_COUNT: Final = 8            # Kudu's --maintenance_manager_history_size
RETRY_AFTER_S: Final = 1.0
RETRY_AFTER_MAX_S: Final = 300.0
_FORGET_AFTER_S: Final = 2 * RETRY_AFTER_MAX_S
_DEFAULT_MEMORY_SHARE: Final = 0.5  # of the machine's
_LEAST_BUDGET_BYTES: Final = 64 << 20
_GROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

_log = logging.getLogger(__name__)


class Maintained(Protocol):
    """A tablet, as the scheduler needs it. Called from its threads; must allow weak references."""

    @property
    def tablet_id(self) -> str: ...

    def facts(self) -> TabletFacts | None:
        """As of now. None: nothing can be done, now or ever. Quick: it is asked several times a second."""

    def plan(self, action: Action) -> Plan:
        """What the action will do. Once, before it runs."""

    def run(self, action: Action) -> bool:
        """Do it, to the end. False: there was nothing to do any more. What it raises is reported, and tried again."""


class Clock(Protocol):
    """Seconds that only go forward, and how to let them pass."""

    def now(self) -> float: ...

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        """Until notified or so long; the condition's lock is held."""


class SystemClock:
    """The machine's."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        condition.wait(seconds)


@dataclass(slots=True, eq=False)
class _Running:
    member: _Member
    action: Action
    started: float
    thread: int
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    action: Action
    plan: Plan | None
    seconds: float
    ended: float
    outcome: str                    # "done", "nothing", "failed"
    error: str                      # of a failure


@dataclass(slots=True)
class _Failure:
    """Of one kind of action on one rowset, or on none. Withheld until then, remembered a while longer."""

    error: str
    attempts: int
    until: float
    failed: bool = True         # False: there was nothing to do


@dataclass(slots=True)
class _Total:
    done: int = 0
    nothing: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class _Member:
    """eq=False: a replica is itself, whatever its tablet's id."""

    tablet_id: str
    tablet: weakref.ref[Maintained]
    failures: dict[tuple[Kind, int | None], _Failure] = field(default_factory=dict)
    facts_failure: _Failure | None = None
    memory_bytes: int = 0

    def flush_failure(self, now: float) -> _Failure | None:
        """Why nothing makes room, if that is so: a flush that failed and is not tried again yet."""
        return next((failure for (kind, _), failure in self.failures.items()
                     if kind in ("flush_memrowset", "flush_deltas") and failure.failed and failure.until > now), None)

    def withheld(self, now: float) -> Withheld:
        """What failed lately. See withheld_while_running for what runs."""
        late = [key for key, failure in self.failures.items() if failure.until > now]
        return Withheld(frozenset(kind for kind, rowset_id in late if rowset_id is None), frozenset(),
                        frozenset((kind, rowset_id) for kind, rowset_id in late if rowset_id is not None))

    def all_failures(self) -> Iterator[tuple[Kind | None, int | None, _Failure]]:
        if self.facts_failure is not None:
            yield None, None, self.facts_failure
        for (kind, rowset_id), failure in self.failures.items():
            yield kind, rowset_id, failure


class Scheduler:
    """See above.

    Args:
        memory_budget_bytes: for what all tablets hold in memory. Default: half of the machine's.
        used_bytes: what they hold; default: as their facts say.
        thread_count, interval_s: see S1.
        clock, dice: tests have their own.
    """

    def __init__(self, policy: Policy | None = None, *, memory_budget_bytes: int | None = None,
                 used_bytes: Callable[[], int] | None = None, thread_count: int = 1, interval_s: float = INTERVAL_S,
                 clock: Clock | None = None, dice: Callable[[], float] = random.random) -> None:
        if thread_count < 1 or not interval_s > 0:
            raise InvalidArgument("maintenance needs a thread and an interval above 0")
        self.policy = policy or Policy()
        self._budget_bytes = default_budget_bytes() if memory_budget_bytes is None else memory_budget_bytes
        MemoryFacts(0, self._budget_bytes)              # refuses a budget that is none
        self._used_bytes = used_bytes
        self._thread_count = thread_count
        self._interval_s = interval_s
        self._clock = clock or SystemClock()
        self._dice = dice
        self._stopped = False
        self._reset()
        _schedulers.add(self)

    def _reset(self) -> None:
        self._choosing = threading.Lock()
        self._condition = threading.Condition()
        # All below are read and written under the condition's lock.
        self._members: list[_Member] = []
        self._running: list[_Running] = []
        self._threads: set[threading.Thread] = set()
        self._ended: deque[_Ended] = deque(maxlen=HISTORY_COUNT)
        self._totals: dict[Kind, _Total] = {}
        self._memory: MemoryFacts | None = None
        self._trouble: str | None = None        # why the last choice could not be made
        self._woken = False
        self._idle_s = self._interval_s
        self._full = False                      # S6
        self._counted_bytes = 0                 # by used_bytes(), last
        self._waiting_count = 0                 # writers

    # -- tablets -------------------------------------------------------------------------------------------------------
    def register(self, tablet: Maintained) -> None:
        """Take care of a tablet from now on. Raises InvalidArgument: it is registered, or stop() was called."""
        with self._condition:
            self._forget_collected()
            if self._stopped:
                raise InvalidArgument("maintenance was stopped")
            if self._member_of(tablet) is not None:
                raise InvalidArgument(f"tablet {tablet.tablet_id} is registered")
            self._members.append(_Member(tablet.tablet_id, weakref.ref(tablet)))
            self._start_threads()
            self._wake()

    def unregister(self, tablet: Maintained) -> None:
        """Until nothing of the tablet runs, and nothing is begun any more (S4). A second time nothing happens.

        From within one of its own actions it does not wait for that.
        """
        with self._condition:
            member = self._member_of(tablet)
            if member is not None:
                self._members.remove(member)
                self._count_memory()
                self._condition.notify_all()            # its writers
            if not self._members:
                self._wake()                            # the threads go
        own = self._own_action() is not None
        if not own:
            with self._choosing:                        # nobody asks it for facts any more
                pass
        me = threading.get_ident()
        with self._condition:
            self._condition.wait_for(lambda: not any(
                r.member.tablet() is tablet and r.thread != me for r in self._running))

    def wake(self) -> None:
        """Look again now: something changed that cannot wait for the interval, such as memory running short."""
        if not self._woken:             # a hint; whoever reads it too late looks after the interval
            with self._condition:
                self._wake()

    # -- memory (S6) ---------------------------------------------------------------------------------------------------
    @property
    def memory_budget_bytes(self) -> int:
        return self._budget_bytes

    @memory_budget_bytes.setter
    def memory_budget_bytes(self, size: int) -> None:
        MemoryFacts(0, size)
        with self._condition:
            self._budget_bytes = size
            self._count_memory()
            self._wake()

    def weighed(self, tablet: Maintained, memory_bytes: int, log_bytes: int) -> None:
        """What a tablet weighs now. When that calls for a flush, it begins at once, not after the interval."""
        counted = self._used_bytes() if self._used_bytes else None
        bounds = self.policy.maintenance
        with self._condition:
            member = self._member_of(tablet)
            if member is None:
                return
            member.memory_bytes = memory_bytes
            used = self._count_memory(counted)
            if memory_bytes >= bounds.flush_bytes or log_bytes >= bounds.log_bytes_max or used.is_short:
                self._wake()

    @property
    def has_room(self) -> bool:
        return not self._full

    def wait_for_room(self, tablet: Maintained, timeout: float | None) -> None:
        """Until memory is below the budget, or nobody flushes the tablet any more.

        Raises MemoryBackpressure: not in time, or a flush of the tablet failed.
        """
        with self._condition:
            member = self._member_of(tablet)

            def is_settled() -> bool:
                return (not self._full or self._stopped or member not in self._members
                        or (member is not None and member.flush_failure(self._clock.now()) is not None))

            self._wake()
            self._waiting_count += 1
            try:
                in_time = self._condition.wait_for(is_settled, timeout)
            finally:
                self._waiting_count -= 1
            failure = None if member is None else member.flush_failure(self._clock.now())
            if not self._full or self._stopped or member not in self._members or (in_time and failure is None):
                return
            used = self._count_memory().used_bytes
        why = f"a flush failed: {failure.error}" if failure else f"flushes made no room within {timeout} s"
        raise MemoryBackpressure(
            f"tablets of this process hold {used} bytes in memory, their budget is {self._budget_bytes}; {why}",
            intact="what is in the log", advice="again later, smaller flush_bytes, or a larger memory_budget_bytes")

    def _count_memory(self, counted: int | None = None) -> MemoryFacts:
        """Under the condition's lock. counted: by used_bytes()."""
        if counted is None:
            counted = self._counted_bytes if self._used_bytes else sum(member.memory_bytes for member in self._members)
        self._counted_bytes = counted
        was_full, self._full = self._full, counted >= self._budget_bytes
        if self._full and not was_full:
            _log.warning("tablets hold %d bytes in memory, their budget is %d: writers wait for flushes", counted,
                         self._budget_bytes)
        elif was_full and not self._full:
            self._condition.notify_all()
        self._memory = MemoryFacts(counted, self._budget_bytes)
        return self._memory

    def stop(self) -> None:
        """For ever: until no action runs and no thread is left. From within an action it does not wait for that."""
        with self._condition:
            self._stopped = True
            self._wake()
            threads = [t for t in self._threads if t is not threading.current_thread()]
        me = threading.get_ident()
        with self._condition:
            self._condition.wait_for(lambda: not any(r.thread != me for r in self._running))
        for thread in threads:
            thread.join()

    # -- the work ------------------------------------------------------------------------------------------------------
    def run_one(self) -> Action | None:
        """Choose an action and run it in this thread. None: nothing is worth doing. Failures are in stats()."""
        with self._choosing:
            chosen = self._choose()
        if chosen is None:
            return None
        tablet, running = chosen
        outcome, error = "failed", "interrupted"
        try:
            running.plan = tablet.plan(running.action)
            outcome, error = ("done", "") if tablet.run(running.action) else ("nothing", "")
        except Exception as raised:
            error = _text_of(raised)
            _log.warning("%s of %s of tablet %s failed: %s", running.action.kind, running.action.target,
                         running.action.tablet_id, error, exc_info=not isinstance(raised, KuduStorageError))
        finally:
            self._note_end(running, outcome, error)
        return running.action

    def _choose(self) -> tuple[Maintained, _Running] | None:
        """Under _choosing: the action that is claimed, or None."""
        now = self._clock.now()
        tablets, withheld = self._look(now)
        known = {}
        for member, tablet in tablets.items():
            facts = self._facts_of(member, tablet)
            if facts is not None:
                known[member] = facts
        counted = self._used_bytes() if self._used_bytes else None
        with self._condition:
            memory = self._count_memory(counted)
        chosen = next_action(known, memory, self.policy, dice=self._dice, withheld=withheld)
        with self._condition:
            if chosen is None or self._stopped or chosen[0] not in self._members:
                return None
            member, action = chosen
            running = _Running(member, action, self._clock.now(), threading.get_ident())
            self._running.append(running)
            return tablets[member], running

    def _look(self, now: float) -> tuple[dict[_Member, Maintained], dict[_Member, Withheld]]:
        """The tablets to ask, and what of each is not to be chosen."""
        with self._condition:
            self._forget_collected()
            tablets = {}
            withheld: dict[_Member, Withheld] = {}
            for member in self._members:
                tablet = member.tablet()
                if tablet is None or (member.facts_failure is not None and member.facts_failure.until > now):
                    continue
                tablets[member] = tablet
                _withhold(withheld, member, member.withheld(now))
            for running in self._running:
                _withhold(withheld, running.member, withheld_while_running(running.action))
            return tablets, withheld

    def _facts_of(self, member: _Member, tablet: Maintained) -> TabletFacts | None:
        error = None
        try:
            facts = tablet.facts()
        except Exception as raised:
            facts, error = None, _text_of(raised)
            _log.warning("maintenance knows nothing of tablet %s: %s", member.tablet_id, error)
        with self._condition:
            member.facts_failure = None if error is None else self._failed_again(member.facts_failure, error)
            if error is None:
                member.memory_bytes = 0 if facts is None else facts.memory_bytes
        return facts

    def _note_end(self, running: _Running, outcome: str, error: str) -> None:
        with self._condition:
            if running not in self._running:
                return                                  # a fork came in between (S7)
            self._running.remove(running)
            action, now = running.action, self._clock.now()
            seconds = now - running.started
            self._ended.appendleft(_Ended(action, running.plan, seconds, now, outcome, error))
            total = self._totals.setdefault(action.kind, _Total())
            setattr(total, outcome, getattr(total, outcome) + 1)
            total.seconds += seconds
            member = running.member
            before = {key: f for key, f in member.failures.items() if f.until + _FORGET_AFTER_S > now}
            member.failures = {key: f for key, f in before.items() if key not in _units(action)}
            if outcome != "done":
                why = error or "there was nothing to do"
                member.failures |= {key: self._failed_again(before.get(key), why, failed=outcome == "failed")
                                    for key in _units(action)}
            self._wake()

    def _failed_again(self, before: _Failure | None, error: str, *, failed: bool = True) -> _Failure:
        attempts = 1 if before is None else before.attempts + 1
        delay = min(RETRY_AFTER_MAX_S, RETRY_AFTER_S * 2 ** min(attempts - 1, 30))
        return _Failure(error, attempts, self._clock.now() + delay, failed)

    # -- threads -------------------------------------------------------------------------------------------------------
    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self._condition:
                self._forget_collected()
                if self._stopped or not self._members:
                    self._threads.discard(me)
                    return
                self._woken = False
            ran, trouble = None, None
            try:
                ran = self.run_one()
            except Exception as raised:         # not of a tablet: a bug here, or memory that cannot be counted
                trouble = _text_of(raised)
                _log.exception("maintenance cannot choose")
            with self._condition:
                self._trouble = trouble
                if ran is None and not self._woken:
                    self._clock.wait(self._condition, self._idle_s)
                    self._idle_s = min(max(INTERVAL_MAX_S, self._interval_s), 2 * self._idle_s)
                if ran is not None or self._woken:
                    self._idle_s = self._interval_s

    def _start_threads(self) -> None:
        while len(self._threads) < self._thread_count:
            thread = threading.Thread(target=self._work, name="kudu-storage-maintenance", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _wake(self) -> None:
        self._woken = True
        self._condition.notify_all()

    def _forget_collected(self) -> None:
        self._members = [member for member in self._members if member.tablet() is not None]

    def _member_of(self, tablet: Maintained) -> _Member | None:
        return next((member for member in self._members if member.tablet() is tablet), None)

    def _own_action(self) -> _Running | None:
        me = threading.get_ident()
        with self._condition:
            return next((running for running in self._running if running.thread == me), None)

    # -- what it did ---------------------------------------------------------------------------------------------------
    def stats(self) -> dict[str, Any]:
        """What runs, what ran last (newest first), what failed and when it is tried again; ready for json.dumps."""
        with self._condition:
            now = self._clock.now()
            return {
                "tablets": sorted(member.tablet_id for member in self._members), "threads": len(self._threads),
                "stopped": self._stopped, "trouble": self._trouble,
                "memory": self._memory_json(),
                "running": [{**_said(r.action, r.plan), "seconds": now - r.started} for r in self._running],
                "ended": [{**_said(e.action, e.plan), "seconds": e.seconds, "seconds_ago": now - e.ended,
                           "outcome": e.outcome, "error": e.error or None} for e in self._ended],
                "failures": [_failure_json(member.tablet_id, kind, rowset_id, failure, now)
                             for member in self._members
                             for kind, rowset_id, failure in member.all_failures()],
                "totals": {kind: {"done": t.done, "nothing": t.nothing, "failed": t.failed, "seconds": t.seconds}
                           for kind, t in sorted(self._totals.items())},
            }

    def stats_of(self, tablet: Maintained) -> dict[str, Any]:
        """Of one tablet: what runs, what failed and when it is tried again, memory of all; ready for json.dumps."""
        with self._condition:
            now, member = self._clock.now(), self._member_of(tablet)
            failures = [] if member is None else list(member.all_failures())
            return {
                "running": [r.action.kind for r in self._running if r.member is member],
                "failures": [_failure_json(tablet.tablet_id, kind, rowset_id, failure, now)
                             for kind, rowset_id, failure in failures],
                "trouble": self._trouble, "memory": self._memory_json()}

    def _memory_json(self) -> dict[str, Any] | None:
        return None if self._memory is None else {
            "used_bytes": self._memory.used_bytes, "budget_bytes": self._memory.budget_bytes,
            "short": self._memory.is_short, "full": self._full, "writers_waiting": self._waiting_count}

    def check(self) -> None:
        """Derive S1 and S2 again. Raises InternalError."""
        with self._condition:
            if len(self._threads) > self._thread_count:
                raise InternalError(f"S1: {len(self._threads)} threads")
            claimed: dict[_Member, Withheld] = {}
            for running in self._running:
                action = running.action
                before = claimed.get(running.member, Withheld())
                if action.kind in before.kinds or before.rowset_ids & set(action.rowset_ids):
                    raise InternalError(f"S2: {action.kind} of {action.target} runs beside another that rewrites it")
                _withhold(claimed, running.member, withheld_while_running(action))


def _units(action: Action) -> set[tuple[Kind, int | None]]:
    """What fails with the action: the same on each of its rowsets, or the same at all where it is on none."""
    return {(action.kind, rowset_id) for rowset_id in action.rowset_ids} or {(action.kind, None)}


def _failure_json(tablet_id: str, kind: Kind | None, rowset_id: int | None, failure: _Failure, now: float
                  ) -> dict[str, Any]:
    """kind None: the tablet's facts could not be had."""
    return {"tablet_id": tablet_id, "kind": kind, "rowset_id": rowset_id, "error": failure.error,
            "attempts": failure.attempts, "retry_in_seconds": max(0.0, failure.until - now)}


def _withhold(withheld: dict[_Member, Withheld], member: _Member, more: Withheld) -> None:
    withheld[member] = withheld.get(member, Withheld()).joined(more)


def _said(action: Action, plan: Plan | None) -> dict[str, Any]:
    return {"action": action.to_json(), "plan": None if plan is None else plan.lines()}


def _text_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def default_budget_bytes() -> int:
    """Half of the machine's memory, or of what this process's control group may use of it."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        total = 0
    return max(_LEAST_BUDGET_BYTES, int(min(total, _group_limit_bytes() or total) * _DEFAULT_MEMORY_SHARE))


def _group_limit_bytes() -> int | None:
    """Of a container, as it sees its own group; None: no limit, or none to be found."""
    for path in _GROUP_LIMITS:
        try:
            return int(Path(path).read_text()) or None
        except (OSError, ValueError):       # "max"
            continue
    return None


# -- one for the process -----------------------------------------------------------------------------------------------
_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()
_process_lock = threading.Lock()
_process_scheduler: Scheduler | None = None


def process_scheduler() -> Scheduler:
    """The one of this process, made when first asked for. It is stopped when the interpreter ends."""
    global _process_scheduler
    with _process_lock:
        if _process_scheduler is None:
            _process_scheduler = Scheduler()
        # Last registered is first called: before the logs of tablets that nobody closed are closed under a flush.
        atexit.unregister(_process_scheduler.stop)
        atexit.register(_process_scheduler.stop)
        return _process_scheduler


def _after_fork_in_child() -> None:
    """S7. Whatever locks the parent's other threads held, nobody releases them here."""
    global _process_lock
    _process_lock = threading.Lock()
    for scheduler in list(_schedulers):
        scheduler._reset()


os.register_at_fork(after_in_child=_after_fork_in_child)
