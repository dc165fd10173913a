from collections.abc import Iterable
from typing import TypeAlias

from typing_extensions import Buffer

from kudu_storage._native.log_entries import CachedBatch
from kudu_storage._native.segment import BatchChunk

# A batch of the cache, a chunk that the segment reader returned, or the bytes of a LogEntryBatchPB.
_Part: TypeAlias = CachedBatch | BatchChunk | Buffer
# (term, first index, last index, kind, bytes in the log, ChangeConfigRecordPB or None). Kinds: 0 the state machine's,
# 1 NO_OP without payload, 5 CHANGE_CONFIG (always a run of its own).
_Run: TypeAlias = tuple[int, int, int, int, int, bytes | None]

def ops_field(parts: Iterable[_Part], first: int, last: int) -> bytes:
    """Operations `first` to `last` as ConsensusRequestPB.ops: to be put behind the request's other fields.

    COMMITs and operations outside of the range are left out.
    Raises InvalidArgument if one is missing, BadFormat for bytes that are no batch.
    """

def log_body(parts: Iterable[_Part], first: int, last: int) -> bytes:
    """The same operations as a LogEntryBatchPB, which LogWriter.append_entries takes."""

def split_request(data: Buffer) -> tuple[bytes, bytes, list[_Run], int]:
    """A ConsensusRequestPB: its other fields, its operations as a LogEntryBatchPB, what they are, highest timestamp.

    Raises BadFrame: bytes that are no message, operations that cannot be parsed or do not follow each other.
    """

def log_runs(body: Buffer) -> tuple[list[_Run], int]:
    """What operations a LogEntryBatchPB without COMMITs has, and their highest timestamp. Raises BadFrame."""

def fixed64_field(data: Buffer, number: int) -> int:
    """The last fixed64 field of this number in a message; 0: there is none. Raises BadFrame."""
