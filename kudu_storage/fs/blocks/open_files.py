"""Data files kept open for readers, shared by all who read from one, a bounded number of them idle."""
from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _OpenFile:
    fd: int
    users: int = 0


class OpenFiles:
    """Descriptors by path. Not thread-safe: its owner's lock guards it."""

    def __init__(self, idle_max: int) -> None:
        self._idle_max = idle_max
        self._used: dict[str, _OpenFile] = {}
        self._idle: OrderedDict[str, _OpenFile] = OrderedDict()     # the longest idle one first
        self._forgotten: set[str] = set()

    def acquire(self, path: str) -> int:
        """A descriptor to read with. Raises OSError."""
        file = self._used.get(path) or self._idle.pop(path, None) or \
            _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        file.users += 1
        self._used[path] = file
        return file.fd

    def release(self, path: str) -> None:
        """One user fewer."""
        file = self._used[path]
        file.users -= 1
        if file.users:
            return
        del self._used[path]
        if path in self._forgotten:
            self._forgotten.discard(path)
            os.close(file.fd)
            return
        self._idle[path] = file
        while len(self._idle) > self._idle_max:
            os.close(self._idle.popitem(last=False)[1].fd)

    def forget(self, path: str) -> None:
        """The file is removed: its space is free when the last user has gone."""
        file = self._idle.pop(path, None)
        if file is not None:
            os.close(file.fd)
        elif path in self._used:
            self._forgotten.add(path)

    def close(self) -> None:
        """Close idle files now, the others when they are let go of."""
        self._idle_max = 0
        while self._idle:
            os.close(self._idle.popitem()[1].fd)

    def __del__(self) -> None:
        """Whoever read only, and dropped the store without closing it, must not leave its idle files open."""
        self.close()
