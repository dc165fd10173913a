"""Which term each operation of a log has, without a record per operation. Pure.

Terms of a log never go down, so it is enough to know where each term begins: as many numbers as there were leaders, not
as many as there are operations.

T1  Spans are ordered by index and by term, both strictly.
T2  `base` is the last operation that is known only by its name (collected, or left behind by a copy); (0, 0) if none.
"""
from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from kudu_storage.common.opid import MINIMUM_OPID, OpId


class Terms:
    """The terms of the operations from `base` to `last`."""

    __slots__ = ("_firsts", "_terms", "base", "last_index")

    def __init__(self, base: OpId = MINIMUM_OPID, spans: Iterable[tuple[int, int]] = (),
                 last_index: int | None = None) -> None:
        """`spans` are (term, first index) after `base`."""
        self.base = base
        self._terms: list[int] = [base.term]
        self._firsts: list[int] = [base.index]
        self.last_index = base.index
        for term, first in spans:
            if first <= self._firsts[-1] or term < self._terms[-1]:
                raise ValueError(f"span {term} from {first} does not follow {self._terms[-1]} from {self._firsts[-1]}")
            if term > self._terms[-1]:
                self._terms.append(term)
                self._firsts.append(first)
            self.last_index = first
        if last_index is not None:
            self.last_index = last_index

    @property
    def last(self) -> OpId:
        """The last operation; (0, 0) in an empty log."""
        return OpId(self._terms[-1], self.last_index)

    @property
    def last_term(self) -> int:
        return self._terms[-1]

    def term_at(self, index: int) -> int:
        """Term of the operation at `index`; -1 when the log has no such operation or no longer knows it.

        Index 0 is a legal question: nothing is there, and its term is 0, as long as the log begins there.
        """
        if index >= self._firsts[-1]:
            return self._terms[-1] if index <= self.last_index else -1
        if index < self.base.index:
            return -1
        return self._terms[bisect_right(self._firsts, index) - 1]

    def holds(self, op: OpId) -> bool:
        """Whether this very operation is in the log. By log matching (R5) all before it are the same then, too."""
        return self.term_at(op.index) == op.term

    def opid_at(self, index: int) -> OpId:
        term = self.term_at(index)
        if term < 0:
            raise LookupError(f"no operation {index} between {self.base} and {self.last}")
        return OpId(term, index)

    def first_of_term(self, term: int) -> int:
        """Index of the first operation of `term`, or one past the last operation when there is none."""
        if self._terms[-1] != term:
            return self.last_index + 1
        return max(self._firsts[-1], self.base.index + 1)

    def first_mismatch(self, term: int, first: int, end: int) -> int:
        """The first index in [first, end) whose operation here has another term; `end` when there is none.

        Indexes at `base` or below count as matching: they were committed.
        """
        first = max(first, self.base.index + 1)
        while first < end:
            here = bisect_right(self._firsts, first) - 1
            if self._terms[here] != term:
                return first
            if here + 1 == len(self._firsts):
                return end
            first = self._firsts[here + 1]
        return end

    def append(self, term: int, last_index: int) -> None:
        """The log now goes to `last_index`; what is new has `term`."""
        if term != self._terms[-1]:
            self._terms.append(term)
            self._firsts.append(self.last_index + 1)
        self.last_index = last_index

    def truncate_after(self, index: int) -> None:
        self.last_index = index
        while self._firsts[-1] > index:
            self._firsts.pop()
            self._terms.pop()

    def spans(self) -> list[tuple[int, int]]:
        """(term, first index) after `base`."""
        after = self.base.index + 1
        ends = [*self._firsts[1:], self.last_index + 1]
        return [(term, max(first, after)) for term, first, end in zip(self._terms, self._firsts, ends, strict=True)
                if end > after]

    def check(self) -> None:
        assert self._firsts == sorted(set(self._firsts)), f"T1: {self._firsts}"
        assert self._terms == sorted(set(self._terms)), f"T1: {self._terms}"
        assert self._firsts[0] == self.base.index and self._terms[0] == self.base.term, "T2"
        assert self.last_index >= self._firsts[-1], f"T1: {self.last_index} before {self._firsts[-1]}"
