"""The one error tree.

Each class answers two questions: whose fault it is (`fault`) and whether trying again is useful (`retry`). Branch on
the class or on `kind`, never on text. Where a built-in exception says the same, the class derives from it too.

The text of every error says what happened, where, what is intact, and what to do next:
    segment wal-000000007 offset 81920: entry checksum mismatch (...); 1204 entries before it are intact; try: ...
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

Fault = Literal["ours", "caller", "peer", "disk"]


class KuduStorageError(Exception):
    """Base of all errors of this package.

    Args:
        detail: what happened, without the place.
        path: file or directory concerned.
        segment: sequence number of the log segment concerned.
        offset: byte offset in the file at which the trouble starts.
        intact: what can still be trusted, as a phrase.
        advice: what to do next, as a phrase.
    """

    kind: ClassVar[str] = "error"
    fault: ClassVar[Fault] = "ours"
    retry: ClassVar[bool] = False
    fields: ClassVar[tuple[str, ...]] = ("path", "segment", "offset", "intact", "advice")   # what pickling keeps

    def __init__(self, detail: str, *, path: str | None = None, segment: int | None = None, offset: int | None = None,
                 intact: str | None = None, advice: str | None = None) -> None:
        self.detail = detail
        self.path = path
        self.segment = segment
        self.offset = offset
        self.intact = intact
        self.advice = advice
        super().__init__(detail)

    def __str__(self) -> str:
        place = self.path or ("" if self.segment is None else f"segment wal-{self.segment:09d}")
        if self.offset is not None:
            place = f"{place} offset {self.offset}".strip()
        text = f"{place}: {self.detail}" if place else self.detail
        if self.intact:
            text += f"; {self.intact}"
        if self.advice:
            text += f"; try: {self.advice}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.detail, {name: getattr(self, name) for name in self.fields}))


def _rebuild(cls: type[KuduStorageError], detail: str, fields: dict[str, object]) -> KuduStorageError:
    return cls(detail, **fields)  # type: ignore[arg-type]


# -- the caller's fault ------------------------------------------------------------------------------------------------
class InvalidArgument(KuduStorageError, ValueError):
    """An argument that no state of the system could make valid."""

    kind = "invalid_argument"
    fault = "caller"


class WrongType(InvalidArgument, TypeError):
    """An argument of a type that has no meaning there."""


class NotFound(KuduStorageError, FileNotFoundError):
    """The named file, tablet, table or column does not exist."""

    kind = "not_found"
    fault = "caller"

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class Unsupported(KuduStorageError, NotImplementedError):
    """A feature of the format that this version refuses by name (arrays, encryption, a newer feature flag)."""

    kind = "unsupported"
    fault = "caller"


class MissingExtra(KuduStorageError, ImportError):
    """An optional package that this call needs is not installed."""

    kind = "missing_extra"
    fault = "caller"


# -- the disk's fault --------------------------------------------------------------------------------------------------
class CorruptionError(KuduStorageError, ValueError):
    """Bytes that are not what their format says. Subclasses tell the cases apart."""

    kind = "corruption"
    fault = "disk"


class BadChecksum(CorruptionError):
    """Bytes whose CRC-32C differs from the stored one."""

    kind = "bad_checksum"


class BadFormat(CorruptionError):
    """Bytes that pass their checksum, or have none, and still cannot be parsed."""

    kind = "bad_format"


class ForeignFile(CorruptionError):
    """The magic at the start says that this is another kind of file."""

    kind = "foreign_file"


class NewerVersion(CorruptionError, NotImplementedError):
    """A format version or an incompatible feature from a newer release."""

    kind = "newer_version"


class Truncated(CorruptionError):
    """The file ends before what it promised."""

    kind = "truncated"


class TornTail(Truncated):
    """The last entry of an unclosed segment is incomplete: a crash while writing. Opening to write cuts it."""

    kind = "torn_tail"


class LimitExceeded(CorruptionError):
    """A length read from outside is above its limit; nothing was allocated."""

    kind = "limit_exceeded"


class MissingSegment(CorruptionError):
    """The sequence numbers of the segments present are not consecutive."""

    kind = "missing_segment"


class BlankSegment(CorruptionError):
    """A segment file that was preallocated and never got a header. Left by a crash; holds nothing, may be ignored."""

    kind = "blank_segment"


class RenamedSegment(CorruptionError):
    """A segment file's name and its header disagree about the sequence number, or two files claim the same one."""

    kind = "renamed_segment"


class MissingOperations(CorruptionError):
    """The log jumps over operations: indexes that should be there are in no segment."""

    kind = "missing_operations"


class Contradiction(CorruptionError):
    """Two records that cannot both be true, such as a COMMIT of an insert for a row that already exists."""

    kind = "contradiction"


class SchemaUntrusted(CorruptionError):
    """A segment header's schema (it has no checksum) that nothing else in the replica confirms."""

    kind = "schema_untrusted"


class DiskError(KuduStorageError, OSError):
    """The operating system failed a file call."""

    kind = "io_error"
    fault = "disk"
    retry = True

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


# -- block stores ------------------------------------------------------------------------------------------------------
class NoSuchBlock(KuduStorageError, LookupError):
    """A block that is in no data directory: deleted, or never durable."""

    kind = "no_such_block"
    fault = "disk"

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class DirectoryFailed(DiskError):
    """A data directory that failed, named by `path`. Tablets with data there fail; all others go on."""

    kind = "directory_failed"
    retry = False


class DirectoryLocked(KuduStorageError, OSError):
    """Another process, or another object of this one, has a data directory open for writing."""

    kind = "directory_locked"
    fault = "caller"
    retry = True

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


# -- the log -----------------------------------------------------------------------------------------------------------
class LogError(KuduStorageError):
    """Base of what a log says about itself."""

    kind = "log"
    fault: ClassVar[Fault] = "caller"


class LogBackpressure(LogError):
    """The log's queue is full: the disk is slower than the appends. Nothing of this call was appended."""

    kind = "log_backpressure"
    retry = True


class LogPoisoned(LogError, OSError):
    """A write or a sync failed, so what is in memory is not trusted any more. Reopen the log to go on."""

    kind = "log_poisoned"
    fault = "disk"

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class OutOfMemory(LogError, MemoryError):
    """No memory was left to write this entry and those behind it; they are not in the log. Appending may go on."""

    kind = "out_of_memory"
    retry = True


class NoSpace(LogError, OSError):
    """No space was left for this entry and those behind it; they are not in the log. Appending may go on.

    Of a block store: for this block, or those made durable with it; nothing of them is left. Others may go on.
    """

    kind = "no_space"
    fault = "disk"
    retry = True

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class LogClosed(LogError, ValueError):
    """The log was closed, or belongs to another process (it was opened before a fork)."""

    kind = "log_closed"


class LogLocked(LogError, OSError):
    """Another process, or another object of this one, has the log open for writing."""

    kind = "log_locked"
    retry = True

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class Collected(LogError, LookupError):
    """An index below the first one that the log still holds."""

    kind = "collected"

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class NotYetWritten(LogError, LookupError):
    """An index above the last one."""

    kind = "not_yet_written"
    retry = True

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class WaitTimeout(LogError, TimeoutError):
    """A wait ended before what it waited for. That may still happen."""

    kind = "timeout"
    fault = "disk"
    retry = True

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


# -- the wire ----------------------------------------------------------------------------------------------------------
class RpcError(KuduStorageError):
    """Base of what goes wrong between two processes."""

    kind = "rpc"
    fault: ClassVar[Fault] = "peer"


class BadFrame(RpcError, ValueError):
    """Bytes from the peer that are not what the protocol says. The connection is closed."""

    kind = "bad_frame"


class FrameTooLarge(BadFrame):
    """A frame, or something in it, that says it is larger than its limit; nothing was allocated for it."""

    kind = "frame_too_large"


class NegotiationFailed(RpcError, ConnectionError):
    """The peers found no common way to talk, or one of them broke off before they had."""

    kind = "negotiation_failed"

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class TlsRequired(NegotiationFailed):
    """The peer insists on TLS, which this version does not speak."""

    kind = "tls_required"
    fault = "caller"


class AuthenticationRefused(NegotiationFailed):
    """The peer does not accept who we say we are, or offers no way of saying it that this version knows."""

    kind = "authentication_refused"
    fault = "caller"


class ConnectionLost(RpcError, ConnectionError):
    """The connection ended, or could not be made.

    `maybe_sent` is False if no byte of this call was given to the kernel: the peer has certainly not seen it.
    """

    kind = "connection_lost"
    retry = True
    fields = (*KuduStorageError.fields, "maybe_sent")

    def __init__(self, detail: str, *, maybe_sent: bool = False, **place: Any) -> None:
        super().__init__(detail, **place)
        self.maybe_sent = maybe_sent

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class CallTimeout(RpcError, TimeoutError):
    """No answer came within the call's deadline. `maybe_sent` as in ConnectionLost: it may still happen."""

    kind = "call_timeout"
    retry = True
    fields = (*KuduStorageError.fields, "maybe_sent")

    def __init__(self, detail: str, *, maybe_sent: bool = True, **place: Any) -> None:
        super().__init__(detail, **place)
        self.maybe_sent = maybe_sent

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class RpcBackpressure(RpcError):
    """Too many calls, or bytes of calls, are on their way on this connection. Nothing of this call was sent."""

    kind = "rpc_backpressure"
    fault = "caller"
    retry = True


class ConnectionClosed(RpcError, ValueError):
    """This side closed the connection before the call. Nothing of it was sent."""

    kind = "connection_closed"
    fault = "caller"


class RemoteError(RpcError):
    """The peer answered with an ErrorStatusPB.

    Args:
        code: ErrorStatusPB.RpcErrorCodePB; a number that this version does not know is kept.
        extensions: application errors by extension number (100 and up), as the bytes that came.
        unsupported_flags: of the required feature flags those that the peer does not know.
    """

    kind = "remote_error"
    fields = (*KuduStorageError.fields, "code", "extensions", "unsupported_flags")

    def __init__(self, detail: str, *, code: int, extensions: Mapping[int, bytes] | None = None,
                 unsupported_flags: tuple[int, ...] = (), **place: Any) -> None:
        super().__init__(detail, **place)
        self.code = code
        self.extensions = dict(extensions or {})
        self.unsupported_flags = unsupported_flags


class ServerTooBusy(RemoteError):
    """The peer's queue was full, or the deadline passed in it; the call was not carried out. Back off first."""

    kind = "server_too_busy"
    retry = True


class ServerUnavailable(RemoteError):
    """The peer is starting, stopping or otherwise not serving; the call was not carried out."""

    kind = "server_unavailable"
    retry = True


class NoSuchMethod(RemoteError, LookupError):
    """The peer has no such service or method."""

    kind = "no_such_method"
    fault = "caller"

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class RequestRefused(RemoteError, ValueError):
    """The peer could not parse the request, or lacks a feature that it requires (`unsupported_flags`)."""

    kind = "request_refused"
    fault = "caller"


# -- the tablet --------------------------------------------------------------------------------------------------------
class TabletError(KuduStorageError):
    """Base of what a tablet says about itself."""

    kind = "tablet"
    fault: ClassVar[Fault] = "caller"


class TabletClosed(TabletError, ValueError):
    """The tablet was closed, or belongs to another process (it was opened before a fork)."""

    kind = "tablet_closed"


class TabletFailed(TabletError, OSError):
    """An operation that is in the log could not be applied: what is in memory is not trusted. Open the tablet again."""

    kind = "tablet_failed"
    fault = "disk"

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class SessionFull(TabletError):
    """A session holds as many operations as it may. Flush it. The operation of this call was not taken."""

    kind = "session_full"
    retry = True


class MemoryBackpressure(TabletError, TimeoutError):
    """What this process's tablets hold in memory is at its budget, and flushes made no room in time. Nothing of the
    operation is in the log; a session keeps it for its next flush."""

    kind = "memory_backpressure"
    fault = "disk"
    retry = True

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class SchemaMismatch(TabletError, ValueError):
    """Operations for columns that the table has no more, or has with another type: its schema was changed since.

    None of them is in the log. Make them again.
    """

    kind = "schema_mismatch"


class RowError(TabletError):
    """One row operation was refused; the others of its batch stand.

    Args:
        operation: what was asked for: "insert", "update", ...
        key: the row's key, by column; None where it has no whole one.
        reason: why.
    """

    kind = "row"

    def __init__(self, operation: str, key: dict[str, object] | None, reason: str) -> None:
        self.operation = operation
        self.key = key
        self.reason = reason
        super().__init__(f"{operation} of row {key}: {reason}" if key is not None else f"{operation}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.operation, self.key, self.reason))


class RowExists(RowError):
    """An insert of a key that is there."""

    kind = "row_exists"


class RowNotFound(RowError, LookupError):
    """An update or delete of a key that is not there."""

    kind = "row_not_found"

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class RowImmutable(RowError):
    """A change of a column that cannot be changed."""

    kind = "row_immutable"


class RowInvalid(RowError, ValueError):
    """An operation that no row could make valid: a key column or a required one without a value, a key too long."""

    kind = "row_invalid"


class RowErrors(TabletError):
    """Some operations of a flush were refused; all the others stand.

    Args:
        errors: of the rows, as many as were kept.
        count: how many there were.
    """

    kind = "row_errors"

    def __init__(self, errors: Sequence[RowError], count: int) -> None:
        self.errors = tuple(errors)
        self.count = count
        first = f"; the first: {errors[0]}" if errors else ""
        super().__init__(f"{count} row operations were refused{first}")

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.errors, self.count))


# -- replicas ----------------------------------------------------------------------------------------------------------
class ReplicaError(KuduStorageError):
    """Base of what a replica of a group says about itself."""

    kind = "replica"
    fault: ClassVar[Fault] = "caller"


class NotLeader(ReplicaError):
    """This replica does not lead, so it did nothing: what was asked for is certainly not applied. Ask the leader.

    Args:
        leader: its name; None: this replica knows of none.
        address: of the leader, where the configuration has one.
    """

    kind = "not_leader"
    retry = True
    fields = (*KuduStorageError.fields, "leader", "address")

    def __init__(self, detail: str = "this replica does not lead", *, leader: str | None = None, address: str = "",
                 **place: Any) -> None:
        place.setdefault("advice", f"ask {leader}" + (f" at {address}" if address else "") if leader else "ask another")
        super().__init__(detail, **place)
        self.leader = leader
        self.address = address


class Aborted(ReplicaError):
    """Certainly not applied, and never will be: refused, or another leader's operation was committed in its place."""

    kind = "aborted"
    retry = True


class Timeout(ReplicaError, TimeoutError):
    """The answer did not come in time.

    Args:
        maybe_applied: whether what was asked for may have been done, or may still be.
    """

    kind = "replica_timeout"
    retry = True
    fields = (*KuduStorageError.fields, "maybe_applied")

    def __init__(self, detail: str, *, maybe_applied: bool = True, **place: Any) -> None:
        super().__init__(detail, **place)
        self.maybe_applied = maybe_applied

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class RequestDenied(ReplicaError, ValueError):
    """A change of configuration or a transfer that the group's state does not allow. Nothing was done.

    Args:
        reason: which rule, as a word: the name of a consensus.raft.Refusal.
    """

    kind = "request_denied"
    fields = (*KuduStorageError.fields, "reason")

    def __init__(self, detail: str, *, reason: str = "", **place: Any) -> None:
        super().__init__(detail, **place)
        self.reason = reason


class ProposalsFull(ReplicaError):
    """Too many bytes of proposals wait for the log. Nothing of this call was taken."""

    kind = "proposals_full"
    retry = True


class ReplicaFailed(ReplicaError, OSError):
    """This replica stopped: its disk failed, or holds what cannot be. It neither votes nor leads until opened again."""

    kind = "replica_failed"
    fault = "disk"

    def __str__(self) -> str:
        return KuduStorageError.__str__(self)


class ReplicaClosed(ReplicaError, ValueError):
    """The replica was closed, or not opened yet."""

    kind = "replica_closed"


# -- our fault ---------------------------------------------------------------------------------------------------------
class InternalError(KuduStorageError):
    """A bug in this package. Never caught inside it."""

    kind = "internal"
