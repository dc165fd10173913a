"""A leader's snapshots on their way to peers that its log can no longer help. Runs in the event loop; opens nothing."""
from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from kudu_storage.errors import KuduStorageError

_log = logging.getLogger(__name__)


class CopySender:
    """Sends one snapshot at a time to each peer that needs one, until it is installed or not wanted any more.

    Args:
        read: gives the snapshot's file.
        send: (peer, file) to the peer, until it is installed there; raises when it is not.
        wanted: whether this replica leads and the peer still needs a copy.
        done: the peer has it.
        start: makes a task that its owner looks after.
    """

    def __init__(self, *, read: Callable[[], Awaitable[bytes]], send: Callable[[str, bytes], Awaitable[None]],
                 wanted: Callable[[str], bool], done: Callable[[str], None],
                 start: Callable[[Coroutine[Any, Any, None]], None], retry_s: float) -> None:
        self._read = read
        self._send = send
        self._wanted = wanted
        self._done = done
        self._start = start
        self._retry_s = retry_s
        self._peers: set[str] = set()

    def needs(self, peer: str) -> None:
        if peer not in self._peers:
            self._peers.add(peer)
            self._start(self._serve(peer))

    async def _serve(self, peer: str) -> None:
        try:
            while self._wanted(peer):
                try:
                    await self._send(peer, await self._read())
                except KuduStorageError as error:
                    _log.warning("%s needs a snapshot, and has none: %s", peer, error)
                    await asyncio.sleep(self._retry_s)
                else:
                    self._done(peer)
                    return
        finally:
            self._peers.discard(peer)
