"""ports.Metadata over Kudu's file: term, vote and committed configuration, durably replaced (fs/consensus_metadata.py).

M1  What a call was given is durable when its future is done, and the driver goes on no sooner (R3).
M2  One write at a time: a replica's driver stands still until it is done. The loop's thread does not touch the disk.
M3  A full disk is no failure: the write is tried again every RETRY_S, and until then the replica says nothing.
M4  On disk a member is its permanent uuid, as in Kudu; consensus/transport/names.py says which.
"""
from __future__ import annotations

import errno
import logging
import os
from asyncio import AbstractEventLoop, Future
from typing import Any, Final

from consensus.raft.configuration import Config
from consensus.transport.configs import config_from, config_to
from consensus.transport.names import Names
from kudu_storage._native.disk import Disk
from kudu_storage.errors import DiskError
from kudu_storage.fs.consensus_metadata import TYPE, read_consensus_metadata, write_consensus_metadata
from kudu_storage.protos import message_class

_log = logging.getLogger(__name__)
RETRY_S: Final = 0.5


class MetadataFile:
    """The file of one replica. Opening and creating block; the port's methods do not."""

    def __init__(self, path: str, message: Any, names: Names, disk: Disk) -> None:
        self.path = path
        self._message = message
        self._names = names
        self._disk = disk
        self._loop: AbstractEventLoop | None = None

    @classmethod
    def open(cls, path: str, first: Config, names: Names, disk: Disk) -> MetadataFile:
        """What is there, else a new file with `first` as the committed configuration."""
        if os.path.exists(path):
            return cls(path, read_consensus_metadata(path).message, names, disk)
        message: Any = message_class(TYPE)(current_term=0)
        config_to(first, names, message.committed_config)
        folder = os.path.dirname(path)
        make_folder(folder, disk)
        write_consensus_metadata(path, message, disk=disk)
        return cls(path, message, names, disk)

    def adopt(self, term: int, config: Config) -> None:
        """A snapshot says what is not known here: an operation of `term` was committed, and so was `config`. Blocks."""
        if term > self.term:
            self._message.current_term = term
            self._message.ClearField("voted_for")
        if config.opid_index > self.config.opid_index:
            self._message.ClearField("committed_config")
            config_to(config, self._names, self._message.committed_config)
        write_consensus_metadata(self.path, self._message, disk=self._disk)

    def attach(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    # -- what it says --------------------------------------------------------------------------------------------------
    @property
    def term(self) -> int:
        return int(self._message.current_term)

    @property
    def voted_for(self) -> str | None:
        if not self._message.HasField("voted_for"):
            return None
        return self._names.name(self._message.voted_for.encode()) or str(self._message.voted_for)

    @property
    def config(self) -> Config:
        return config_from(self._message.committed_config, self._names)

    # -- ports.Metadata ------------------------------------------------------------------------------------------------
    def persist_vote(self, term: int, voted_for: str | None) -> Future[None]:
        message = self._message
        message.current_term = term
        if voted_for is None:
            message.ClearField("voted_for")
        else:
            message.voted_for = self._names.uuid(voted_for)
        return self._write()

    def persist_config(self, config: Config) -> Future[None]:
        self._message.ClearField("committed_config")
        config_to(config, self._names, self._message.committed_config)
        return self._write()

    def _write(self) -> Future[None]:
        assert self._loop is not None
        copy: Any = message_class(TYPE)()
        copy.CopyFrom(self._message)
        durable: Future[None] = self._loop.create_future()
        self._try(copy, durable)
        return durable

    def _try(self, message: Any, durable: Future[None]) -> None:
        """Again and again while the disk is full (M3)."""
        assert self._loop is not None
        written = self._loop.run_in_executor(
            None, lambda: write_consensus_metadata(self.path, message, disk=self._disk))
        written.add_done_callback(lambda done: self._tried(message, durable, done))

    def _tried(self, message: Any, durable: Future[None], done: Future[None]) -> None:
        if durable.done() or done.cancelled():
            return
        error = done.exception()
        if error is None:
            durable.set_result(None)
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            assert self._loop is not None
            _log.warning("%s cannot be written, the replica waits: %s", self.path, error)
            self._loop.call_later(RETRY_S, self._try, message, durable)
        else:
            durable.set_exception(error)


def make_folder(folder: str, disk: Disk) -> None:
    """The folder and those above it that are missing, durably. Other replicas may make those above meanwhile."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for made in reversed(missing):
        try:
            disk.make_dir(made)
        except DiskError as error:
            if error.errno != errno.EEXIST or not os.path.isdir(made):
                raise
        disk.sync_dir(os.path.dirname(made))
