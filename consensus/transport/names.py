"""Names of peers and their permanent uuids. Pure.

On the wire and on disk a replica is 32 hexadecimal digits, as in Kudu. The core and people may call it something else:
`Names` maps both ways. A uuid that has no other name is its own name, so that servers which know uuids only need no
table, and a peer that joins later can be spoken to before anybody has named it.
"""
from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from kudu_storage.errors import InvalidArgument

_UUID: Final = re.compile(r"[0-9a-f]{32}")
_DOMAIN: Final = b"kudu-storage replica "


def is_uuid(text: str) -> bool:
    """Whether it is a permanent uuid as Kudu writes it."""
    return _UUID.fullmatch(text) is not None


def uuid_of_name(name: str) -> str:
    """The same uuid for the same name wherever it is asked for; a uuid is its own."""
    if is_uuid(name):
        return name
    if not name:
        raise InvalidArgument("a replica needs a name")
    return hashlib.sha256(_DOMAIN + name.encode()).hexdigest()[:32]


class Names:
    """Who is who. Names are added and never change."""

    __slots__ = ("_by_uuid", "_by_wire", "_wire")

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._wire: dict[str, bytes] = {}       # name -> uuid as messages have it
        self._by_wire: dict[bytes, str] = {}
        self._by_uuid: dict[str, str] = {}
        for name in names:
            self.add(name)

    def add(self, name: str) -> str:
        """Know this name from now on; gives its uuid."""
        uuid = uuid_of_name(name)
        known = self._by_uuid.setdefault(uuid, name)
        if known != name:
            raise InvalidArgument(f"{name} and {known} are the same replica")
        self._wire[name] = wire = uuid.encode()
        self._by_wire[wire] = name
        return uuid

    def wire(self, name: str) -> bytes:
        """The uuid, as messages carry it."""
        found = self._wire.get(name)
        if found is None:
            self.add(name)
            found = self._wire[name]
        return found

    def uuid(self, name: str) -> str:
        """The uuid, as text."""
        return self.wire(name).decode()

    def name(self, wire: bytes) -> str | None:
        """Whoever a message names; None: that is no uuid."""
        found = self._by_wire.get(wire)
        if found is not None:
            return found
        try:
            uuid = wire.decode("ascii")
        except UnicodeDecodeError:
            return None
        # Not remembered: a peer could make us remember as many as it likes.
        return uuid if is_uuid(uuid) else None
