"""Who waits for which operation: proposals on their way, and what they may be told. Opens nothing, knows no clock.

P1  Each waiter is told once: a result, or why there is none.
P2  "Certainly not applied" is said only of what was refused before it was appended, or once an operation of a higher
    term is committed at its index or below. That it was replaced here proves nothing: another replica may still have it
    and lead next (docs/raft.md, return of an old leader).
P3  Terms of a log never go down, so waiters stand in the order of their terms and indexes.
"""
from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Iterable
from typing import Any

from kudu_storage.errors import Aborted, KuduStorageError, Timeout


class Failure:
    """What apply() raised, in the place of its result."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Call:
    """One call of propose() or propose_many(): so many operations in a row."""

    __slots__ = ("count", "expiring", "future", "many", "results")

    def __init__(self, future: Future[Any], count: int, many: bool) -> None:
        self.future = future
        self.count = count
        self.many = many
        self.results: list[Any] = []    # of those applied so far, when a batch is applied in pieces
        self.expiring: set[Call] | None = None      # timeouts.py: where this stands until it has its outcome

    def take(self, results: list[Any]) -> None:
        """Results of its next operations."""
        if len(results) < self.count or self.results:
            self.results += results
            if len(self.results) < self.count:
                return
            results = self.results
        if self.expiring is not None:
            self.expiring.discard(self)
        future = self.future
        if future.done():
            return
        if self.many:
            failed = next((r for r in results if type(r) is Failure), None)
            if failed is None:
                future.set_result(results)
                return
        elif type(results[0]) is Failure:
            failed = results[0]
        else:
            future.set_result(results[0])
            return
        future.set_exception(failed.error)

    def fail(self, error: KuduStorageError) -> None:
        if self.expiring is not None:
            self.expiring.discard(self)
        if not self.future.done():
            self.future.set_exception(error)


class Waiting:
    """The calls of one batch, once it has a place in the log."""

    __slots__ = ("calls", "first", "last", "next", "term")

    def __init__(self, term: int, first: int, last: int, calls: list[Call]) -> None:
        self.term = term
        self.first = first
        self.last = last
        self.next = first           # the first operation without a result
        self.calls = deque(calls)


class Rounds:
    """The batches of this replica that are in its log, or were, and are not settled."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def appended(self, term: int, first: int, last: int, calls: list[Call]) -> None:
        self._waiting.append(Waiting(term, first, last, calls))

    def applied(self, term: int, first: int, results: list[Any]) -> None:
        """Operations from `first` on, all of `term`, were committed and applied; what that says of everybody."""
        waiting = self._waiting
        last = first + len(results) - 1
        while waiting:
            head = waiting[0]
            if head.term > term or (head.term == term and head.next > last):
                return
            if head.term < term:
                self._fail_head(Aborted("another leader's operation was committed in its place"))
                continue
            assert head.next >= first, f"P3: {head.term}.{head.next} was passed over"
            self._give(head, first, last, results)
            if head.next <= head.last:
                return
            waiting.popleft()

    @staticmethod
    def _give(head: Waiting, first: int, last: int, results: list[Any]) -> None:
        calls = head.calls
        while calls and head.next <= last:
            call = calls[0]
            left = call.count - len(call.results)
            count = min(left, last - head.next + 1)
            at = head.next - first
            call.take(results if count == len(results) else results[at:at + count])
            head.next += count
            if count == left:
                calls.popleft()

    def _fail_head(self, error: KuduStorageError) -> None:
        for call in self._waiting.popleft().calls:
            call.fail(error)

    def fail_all(self, why: str) -> None:
        """Nobody will be told any more."""
        while self._waiting:
            self._fail_head(Timeout(why, maybe_applied=True))


def fail_calls(calls: Iterable[Call], error: KuduStorageError) -> None:
    for call in calls:
        call.fail(error)
