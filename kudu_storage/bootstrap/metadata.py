"""A replica's metadata files as far as replay needs them; what is wrong with them becomes problems, not exceptions."""
from __future__ import annotations

from dataclasses import dataclass, field

from kudu_storage.errors import KuduStorageError
from kudu_storage.fs.consensus_metadata import ConsensusMetadata, read_consensus_metadata
from kudu_storage.fs.instance import read_instance
from kudu_storage.fs.layout import TabletFiles
from kudu_storage.fs.superblock import Superblock, read_superblock
from kudu_storage.wal.report import Problem


@dataclass(slots=True)
class ReplicaMetadata:
    """None where a file is absent or unreadable."""

    superblock: Superblock | None = None
    consensus: ConsensusMetadata | None = None
    uuid: str | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def tells_no_superblock(self) -> bool:
        """There is none, and no problem says so yet."""
        return self.superblock is None and not any("tablet metadata" in p.detail for p in self.problems)


def load_metadata(files: TabletFiles) -> ReplicaMetadata:
    """Read what there is. A file that should be there and is not, or cannot be read, is a problem; no exception."""
    found = ReplicaMetadata()
    # Beside one tablet's bare segment folder nothing else is expected.
    expected = files.superblock_path is not None or files.cmeta_path is not None
    if files.superblock_path is not None:
        try:
            found.superblock = read_superblock(files.superblock_path)
        except KuduStorageError as error:
            found.problems.append(_problem(error, "tablet metadata"))
    elif expected:
        found.problems.append(_missing("tablet metadata (superblock)"))
    if files.cmeta_path is not None:
        try:
            found.consensus = read_consensus_metadata(files.cmeta_path)
        except KuduStorageError as error:
            found.problems.append(_problem(error, "consensus metadata"))
    elif expected:
        found.problems.append(_missing("consensus metadata"))
    if files.instance_path is not None:
        try:
            found.uuid = read_instance(files.instance_path).uuid
        except KuduStorageError as error:
            found.problems.append(_problem(error, "instance file"))
    return found


def _problem(error: KuduStorageError, what: str) -> Problem:
    return Problem(kind=error.kind, segment=None, offset=error.offset, detail=f"{what}: {error.detail}",
                   advice=error.advice or "copy the file from a healthy replica, or rebuild it with the kudu tool")


def _missing(what: str) -> Problem:
    return Problem(kind="missing_metadata", segment=None, offset=None, detail=f"{what} file is missing",
                   advice="the rows need only the log; a server needs the file: copy it from a healthy replica")
