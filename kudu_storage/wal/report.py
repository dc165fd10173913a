"""What checking a log found, as plain values: one report a segment, and problems. Pure."""
from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from kudu_storage.errors import CorruptionError, KuduStorageError

SegmentStatus = Literal["ok", "zero_tail", "torn_tail", "blank", "corrupt", "unreadable", "not_replayed"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that should not be so. `kind` is the `kind` of the class in kudu_storage.errors that stands for it.

    segment: sequence number, None when it concerns no single segment. offset: of the first byte that cannot be trusted.
    """

    kind: str
    segment: int | None
    offset: int | None
    detail: str
    advice: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that `--report json` prints."""
        return asdict(self)

    @classmethod
    def of(cls, error: KuduStorageError, segment: int | None = None) -> Problem:
        """The problem that an error describes."""
        return cls(error.kind, error.segment if error.segment is not None else segment, error.offset, error.detail,
                   error.advice)

    def __str__(self) -> str:
        place = "" if self.segment is None else f"wal-{self.segment:09d}"
        if self.offset is not None:
            place = f"{place} offset {self.offset}".strip()
        text = f"{self.kind}: {place}: {self.detail}" if place else f"{self.kind}: {self.detail}"
        return f"{text}; try: {self.advice}" if self.advice else text


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One segment file after it was read to its end.

    sequence: of the header, or of the file name where the header cannot be read, or None. bytes: size of the file.
    footer: whether it was closed. min_index, max_index: of its REPLICATEs. detail: what ended it when not "ok".
    """

    sequence: int | None
    path: str
    entries: int
    replicates: int
    commits: int
    bytes: int
    codec: str | None
    footer: bool
    min_index: int | None
    max_index: int | None
    status: SegmentStatus
    detail: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The object that `--report json` prints."""
        return asdict(self)


def error_class(kind: str | None) -> type[CorruptionError]:
    """The CorruptionError class of a `kind`, such as the scanner's error_kind; the base class for one unknown here."""
    return _by_kind().get(kind or "", CorruptionError)


def _by_kind() -> dict[str, type[CorruptionError]]:
    found: dict[str, type[CorruptionError]] = {}
    todo: list[type[CorruptionError]] = [CorruptionError]
    while todo:
        cls = todo.pop()
        found[cls.kind] = cls
        todo.extend(cls.__subclasses__())
    return found
