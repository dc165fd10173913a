"""What clients saw of a counter, and whether one counter could have shown it to them.

Each `add` raises the counter by one and returns it; a `get` returns it. The checker knows nothing of indexes, terms or
replicas. The order of the results is the only order that a history of such a counter can have been in, so it is enough
to see that no operation that ended before another began comes after it, that no result is given twice, and that the
additions nobody answered for suffice, and began early enough, to explain the gaps.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Call:
    call_id: int
    is_add: bool
    invoked_us: int
    returned_us: int = 0
    result: int = -1
    certainly_not: bool = False


class History:
    def __init__(self) -> None:
        self.calls: list[Call] = []

    def invoke(self, is_add: bool, now_us: int) -> int:
        self.calls.append(Call(len(self.calls), is_add, now_us))
        return len(self.calls) - 1

    def applied(self, call_id: object, result: int, now_us: int) -> None:
        assert isinstance(call_id, int)
        call = self.calls[call_id]
        assert not call.certainly_not, f"call {call_id} was said to have failed, and is applied"
        if call.result < 0:
            call.result, call.returned_us = result, now_us

    def failed(self, call_id: object) -> None:
        """Certainly not applied, neither now nor later."""
        if isinstance(call_id, int) and self.calls[call_id].result < 0:
            self.calls[call_id].certainly_not = True

    def check(self) -> None:
        answered = [c for c in self.calls if c.result >= 0]
        adds = sorted((c for c in answered if c.is_add), key=lambda c: c.result)
        values = [c.result for c in adds]
        assert len(set(values)) == len(values), "two additions returned the same count"
        self._check_real_time(answered)
        self._check_gaps(answered, values)

    @staticmethod
    def _check_real_time(answered: list[Call]) -> None:
        """Walks through invocations in order: each must see at least the largest result returned before it began."""
        ends = sorted(answered, key=lambda c: c.returned_us)
        at, seen = 0, 0
        for call in sorted(answered, key=lambda c: c.invoked_us):
            while at < len(ends) and ends[at].returned_us < call.invoked_us:
                seen = max(seen, ends[at].result)
                at += 1
            assert call.result >= seen + call.is_add, (
                f"call {call.call_id} returned {call.result}, but {seen} had been returned before it began")

    def _check_gaps(self, answered: list[Call], values: list[int]) -> None:
        """Each result needs as many additions begun before it was returned; those without an answer may be among
        them."""
        begun = sorted(c.invoked_us for c in self.calls if c.is_add and not c.certainly_not)
        count = 0
        at = 0
        for call in sorted(answered, key=lambda c: c.returned_us):
            while at < len(begun) and begun[at] <= call.returned_us:
                at += 1
            count = max(count, call.result)
            assert count <= at, f"{count} additions are visible to call {call.call_id}, {at} had begun"
