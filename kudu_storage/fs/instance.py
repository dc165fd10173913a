"""The `instance` file: which server a directory belongs to. Blocks on the disk."""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from kudu_storage._native.disk import Disk
from kudu_storage.errors import Unsupported
from kudu_storage.fs.pb_container import as_text, read_single, write_single
from kudu_storage.protos import message_class

TYPE: Final = "kudu.InstanceMetadataPB"
# Any of these says that files of the server are encrypted.
_ENCRYPTION_FIELDS: Final = ("server_key", "server_key_iv", "server_key_version", "tenants")


@dataclass(frozen=True, slots=True)
class Instance:
    """Identity of a server's directories."""

    uuid: str               # 32 lowercase hexadecimal digits
    format_stamp: str       # when and where it was formatted, for people


def read_instance(path: str | os.PathLike[str]) -> Instance:
    """Raises Unsupported for a server with encryption at rest, else as `read_single` does."""
    message: Any = read_single(path, message_class(TYPE))
    used = [field.name for field, _ in message.ListFields() if field.name in _ENCRYPTION_FIELDS]
    if used:
        raise Unsupported(f"the server's files are encrypted ({', '.join(used)} is set)", path=os.fspath(path),
                          advice="the real kudu tools, which can reach the key server")
    return Instance(uuid=message.uuid.decode("latin-1"), format_stamp=as_text(message.format_stamp))


def write_instance(path: str | os.PathLike[str], instance: Instance, *, disk: Disk | None = None) -> None:
    """Replace the file durably. Raises DiskError."""
    message: Any = message_class(TYPE)()
    message.uuid, message.format_stamp = instance.uuid.encode(), instance.format_stamp
    write_single(path, message, disk=disk)
