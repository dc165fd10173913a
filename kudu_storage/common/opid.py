"""OpId: the name of one operation in a replicated log."""
from __future__ import annotations

from typing import NamedTuple


class OpId(NamedTuple):
    """Term and index of an operation. Ordered by term, then index, as in Kudu (consensus/opid_util.cc).

    Index 0 means "nothing": the first operation of a log has index 1.
    """

    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here

    def __str__(self) -> str:
        return f"{self.term}.{self.index}"

    @classmethod
    def parse(cls, text: str) -> OpId:
        """Parse "term.index". Raises ValueError for anything else."""
        term, dot, index = text.partition(".")
        if not dot or not term.isdecimal() or not index.isdecimal():
            raise ValueError(f"not an operation id of the form term.index: {text!r}")
        return cls(int(term), int(index))


MINIMUM_OPID = OpId(0, 0)
