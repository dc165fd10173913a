"""Words for what the native replay found wrong. Pure."""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kudu_storage.common.opid import OpId
from kudu_storage.wal.report import Problem

if TYPE_CHECKING:
    from kudu_storage.bootstrap._replayer import ProblemFacts

# code of _replayer.pyx -> (kind of the error class that stands for it, words)
_WORDS: Final = {
    "gap": ("missing_operations", "operations before it are missing: the index jumps"),
    "below_applied": ("contradiction", "its index was committed before"),
    "over_committed": ("contradiction", "it would replace an operation that has a COMMIT"),
    "commit_without_replicate": ("missing_operations", "a COMMIT without its REPLICATE"),
    "commit_other_term": ("contradiction", "a COMMIT for an operation of another term"),
    "commit_twice": ("contradiction", "a second COMMIT"),
    "write_malformed": ("bad_format", "its write request cannot be decoded"),
    "transaction": ("unsupported", "it belongs to a multi-row transaction, which is not supported"),
    "result_count": ("contradiction", "its COMMIT has another number of results than it has row operations"),
    "row_contradiction": ("contradiction", "its COMMIT says that it changed a row, which it cannot have"),
    "row_invalid": ("contradiction", "its COMMIT says that it changed a row, which no server would have let it"),
    "orphan_alter": ("missing_operations", "an ALTER took effect whose request is in an earlier, missing segment"),
    "bad_index": ("bad_format", "an operation id out of range"),
    "schema": ("schema_untrusted", "its schema does not fit"),
}


def replay_problem(facts: ProblemFacts, sequence: int | None, applied: tuple[int, int] | None) -> Problem:
    """The problem that stopped a replay in segment `sequence` after the operation `applied`."""
    kind, words = _WORDS[facts["code"]]
    row = f", row operation {facts['row']}" if facts["row"] >= 0 else ""
    detail = f"operation {OpId(facts['term'], facts['index'])}{row}: {words}" if facts["index"] else words
    advice = f"rows are as of operation {OpId(*applied)}" if applied else "no operation before it was applied"
    return Problem(kind, sequence, facts["offset"], detail, advice)
