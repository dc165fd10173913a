"""Who needs the log from which operation on: rowsets and stores not yet flushed, readers, copy sessions.

An anchor at an index keeps the segments that hold that operation and all later ones. Invariants:
 A1  Every held anchor is registered exactly once, under its own index; a released one not at all, or it is in the queue
     of those to be removed, which every call empties first.
 A2  No held anchor is below `floor`: what was collected is not promised again.
 A3  `floor` never goes down.
 A4  Releasing never waits, so finalizers and signal handlers may do it wherever they interrupt: also within a call here
     that holds the lock, of the same thread. Such an interruption may also ask; it may not register nor move.
Safe from any thread; never blocks on disk. May not touch: files, segments, the rules of what may go (retention.py).

Collection against late comers: it asks holders(), plans, then calls raise_floor() with the first index that it will
keep. That either names the anchor that came between or makes every later register() below raise Collected. Only then
may files go.
"""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Final, Literal, get_args

from sortedcontainers import SortedDict

from kudu_storage.common.sizes import whole_number
from kudu_storage.errors import Collected, InternalError, InvalidArgument, WrongType

AnchorKind = Literal["rowset", "store", "reader", "copy", "operation"]
_KINDS: Final = frozenset(get_args(AnchorKind))


@dataclass(frozen=True, slots=True)
class AnchorInfo:
    """An anchor as it was when somebody asked.

    index: operations from it on are kept. owner: a rowset or store id, a reader's or copy session's name.
    since: when it came to hold this index, in the registry's clock (seconds since 1970 unless told otherwise).
    """

    index: int
    owner: str
    kind: AnchorKind
    since: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Anchor:
    """One holder's claim. Made by AnchorRegistry.register(); release it, or use it as a context manager."""

    __slots__ = ("_index", "_kept_by", "_serial", "_since", "kind", "owner")

    def __init__(self, registry: AnchorRegistry, serial: int, index: int, owner: str, kind: AnchorKind,
                 since: float) -> None:
        # _index and _since are written under the registry's lock. Who pops the registry releases: one atomic step.
        self._kept_by = [registry]
        self._serial = serial
        self._index = index
        self._since = since
        self.owner = owner
        self.kind: AnchorKind = kind

    @property
    def index(self) -> int:
        """The first operation that it keeps; of a released anchor, the last one it kept."""
        return self._index

    @property
    def since(self) -> float:
        """When it came to hold this index (registered or moved), in seconds of the registry's clock."""
        return self._since

    @property
    def held(self) -> bool:
        return bool(self._kept_by)

    def info(self) -> AnchorInfo:
        return AnchorInfo(self._index, self.owner, self.kind, self._since)

    def move_to(self, index: int) -> None:
        """Hold from another index on. Raises InvalidArgument (released, or no index), Collected (below the floor)."""
        registry = self._registry()
        if registry is None:
            raise _released(self)
        registry._move(self, index)

    def release(self) -> bool:
        """Let go; False when that was done before. For a second release to be an error use AnchorRegistry.release().

        Never waits: a finalizer may call it.
        """
        try:
            registry = self._kept_by.pop()
        except IndexError:
            return False
        registry._drop(self)
        return True

    def _registry(self) -> AnchorRegistry | None:
        try:
            return self._kept_by[0]
        except IndexError:
            return None

    def __enter__(self) -> Anchor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "" if self.held else ", released"
        return f"<Anchor {self.kind} {self.owner!r} at {self._index} since {self._since:.3f}{state}>"


class AnchorRegistry:
    """All anchors of one log, ordered by index, then by when they were registered.

    clock: seconds; floor: operations below it are gone already.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, floor: int = 0) -> None:
        # The collector can run in any line that holds the lock, and finalizers in it: hence one that its owner may take
        # again. `_changing` tells them, under the lock, that they are within such a line.
        self._lock = threading.RLock()
        self._changing = False
        self._dropped: deque[Anchor] = deque()      # released, still in _held; any thread appends, without the lock
        self._clock = clock
        # All below are read and written under the lock.
        self._floor = _checked(floor)
        self._serial = 0
        self._held: Any = SortedDict()          # (index, serial) -> Anchor

    def register(self, index: int, owner: str, *, kind: AnchorKind = "reader") -> Anchor:
        """Keep operations from `index` on until the anchor is released.

        Raises InvalidArgument (a negative index, no owner, an unknown kind), Collected (the log does not hold it).
        """
        if not isinstance(owner, str):
            raise WrongType(f"an anchor's owner is a name, not {owner!r:.80}")
        if not owner:
            raise InvalidArgument("an anchor needs an owner, or nobody can say who holds the log")
        if kind not in _KINDS:
            raise InvalidArgument(f"there are no anchors of kind {kind!r}", advice=", ".join(sorted(_KINDS)))
        index = _checked(index)
        with _Change(self):
            self._require_kept(index)
            self._serial += 1
            anchor = Anchor(self, self._serial, index, owner, kind, self._clock())
            self._held[index, anchor._serial] = anchor
        return anchor

    def release(self, anchor: Anchor) -> None:
        """Anchor.release() that insists: raises InvalidArgument for one released before, or of another registry."""
        registry = anchor._registry()
        if registry is not None and registry is not self:
            raise InvalidArgument(f"{anchor!r} belongs to another log")
        if not anchor.release():
            raise _released(anchor)

    def lowest(self) -> Anchor | None:
        """The anchor that keeps most."""
        with self._lock:
            if not self._changing:
                with _Change(self):
                    return self._lowest()
        return next(iter(self._in_order()), None)

    def holders(self) -> list[AnchorInfo]:
        """All held anchors, lowest index first."""
        return [anchor.info() for anchor in self._in_order()]

    @property
    def floor(self) -> int:
        """No anchor can be registered below this index."""
        with self._lock:
            return self._floor

    def raise_floor(self, index: int) -> AnchorInfo | None:
        """Promise nothing below `index` any more, so that it can be collected.

        None: done (also when the floor was higher already). Otherwise the anchor below `index`; then nothing changed.
        """
        index = _checked(index)
        with _Change(self):
            lowest = self._lowest()
            if lowest is not None and lowest._index < index:
                return lowest.info()
            self._floor = max(self._floor, index)
        return None

    def __len__(self) -> int:
        with self._lock:
            if not self._changing:
                with _Change(self):
                    return len(self._held)
        return len(self._in_order())

    def __repr__(self) -> str:
        lowest = self.lowest()
        return f"<AnchorRegistry {len(self)} held, floor {self.floor}, lowest {lowest!r}>"

    def check(self) -> None:
        """Derive A1 and A2 again. Raises InternalError. Not while another thread is just releasing."""
        with _Change(self):
            for (index, serial), anchor in self._held.items():
                if (anchor._index, anchor._serial) != (index, serial) \
                        or (anchor._registry() is not self and anchor not in tuple(self._dropped)):
                    raise InternalError(f"A1: {anchor!r} is registered under {index}, or not held here")
                if index < self._floor:
                    raise InternalError(f"A2: {anchor!r} is below the floor {self._floor}")
            if len({anchor._serial for anchor in self._held.values()}) != len(self._held):
                raise InternalError("A1: an anchor is registered twice")

    # -- called by Anchor ----------------------------------------------------------------------------------------------
    def _move(self, anchor: Anchor, index: int) -> None:
        index = _checked(index)
        with _Change(self):
            if anchor._registry() is not self:      # released by another thread meanwhile
                raise _released(anchor)
            self._require_kept(index)
            if index == anchor._index:
                return
            since = self._clock()
            del self._held[anchor._index, anchor._serial]
            anchor._index, anchor._since = index, since
            self._held[index, anchor._serial] = anchor

    def _drop(self, anchor: Anchor) -> None:
        """It was released. Whoever has the lock now, or takes it next, removes it."""
        self._dropped.append(anchor)
        if self._lock.acquire(blocking=False):
            try:
                if not self._changing:
                    self._changing = True
                    try:
                        self._remove_dropped()
                    finally:
                        self._changing = False
            finally:
                self._lock.release()

    # -- under the lock ------------------------------------------------------------------------------------------------
    def _remove_dropped(self) -> None:
        """With `_changing` set."""
        while self._dropped:
            anchor = self._dropped[0]
            self._held.pop((anchor._index, anchor._serial), None)
            self._dropped.popleft()

    def _in_order(self) -> list[Anchor]:
        """All held anchors by index, then by age."""
        with self._lock:
            if not self._changing:
                with _Change(self):
                    return list(self._held.values())
            # The order may be half changed; the mapping below it is whole between any two lines.
            anchors = sorted(dict.values(self._held), key=lambda anchor: (anchor._index, anchor._serial))
        return [anchor for anchor in anchors if anchor.held]

    def _lowest(self) -> Anchor | None:
        if not self._held:
            return None
        anchor: Anchor = self._held.peekitem(0)[1]
        return anchor

    def _require_kept(self, index: int) -> None:
        if index < self._floor:
            raise Collected(f"operation {index} cannot be held: operations below {self._floor} are collected")


class _Change:
    """Holds a registry's lock, with all that was released before removed.

    Entering raises InvalidArgument within another change, which a finalizer or signal handler interrupted.
    """

    __slots__ = ("_registry",)

    def __init__(self, registry: AnchorRegistry) -> None:
        self._registry = registry

    def __enter__(self) -> None:
        registry = self._registry
        registry._lock.acquire()
        if registry._changing:
            registry._lock.release()
            raise InvalidArgument("a finalizer or signal handler changes anchors while they are being changed",
                                  advice="there, release anchors only")
        registry._changing = True
        try:
            if registry._dropped:
                registry._remove_dropped()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._registry._changing = False
        self._registry._lock.release()


def _checked(index: int) -> int:
    if type(index) is not int:
        index = whole_number(index, "the index of an operation")
    if index < 0:
        raise InvalidArgument(f"{index} is no index of an operation: it is negative")
    return index


def _released(anchor: Anchor) -> InvalidArgument:
    return InvalidArgument(f"the anchor of {anchor.kind} {anchor.owner!r} was released before")
