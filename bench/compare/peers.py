"""The programs that are compared, each behind the same few calls. One class a program; settings favour the program.

`commit(entries)` returns once the entries are acknowledged: with the kernel, or on disk when `durable`. `each` and
`grouped` are the measured loops. A program without a token to wait for gains from waiting once per many calls by
joining the calls: one transaction, batch or write for all of them, which is the same promise.

May be called from several threads: commit. Everything else: one thread.
"""
from __future__ import annotations

import importlib
import itertools
import os
import sqlite3
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # last: an installed package wins over the checkout

GROUP_BYTES_MAX = 8 << 20   # of calls joined into one; a joined write beyond it gains nothing
MAP_BYTES = 8 << 30         # LMDB's address space; sparse

Batches = Iterable[list[bytes]]


class Peer:
    """A program that entries are appended to. Close it, or what it still owes is not measured."""

    name: ClassVar[str]
    needs: ClassVar[str] = ""           # the module that must be importable
    compresses: ClassVar[bool] = False
    settings: ClassVar[str] = ""

    def __init__(self, folder: Path, durable: bool, compression: str) -> None:
        raise NotImplementedError

    def commit(self, entries: list[bytes]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def each(self, batches: Batches) -> None:
        """Every call followed by its acknowledgement."""
        commit = self.commit
        for entries in batches:
            commit(entries)

    def grouped(self, batches: Batches, calls: int) -> None:
        """One acknowledgement for `calls` calls."""
        held: list[bytes] = []
        held_calls = held_bytes = 0
        for entries in batches:
            held += entries
            held_calls += 1
            held_bytes += len(entries) * len(entries[0])
            if held_calls == calls or held_bytes >= GROUP_BYTES_MAX:
                self.commit(held)
                held = []
                held_calls = held_bytes = 0
        if held:
            self.commit(held)

    def scan(self) -> int:
        """All entries as bytes, in order; how many."""
        raise NotImplementedError

    def get_each(self, indexes: list[int]) -> int:
        """The entry of each index (from 1 on) as bytes; the sum of their sizes."""
        raise NotImplementedError


class Driver(Peer):
    """Takes the entries and does nothing: what making them costs."""

    name = "driver"
    compresses = True

    def __init__(self, folder: Path, durable: bool, compression: str) -> None:
        pass

    def commit(self, entries: list[bytes]) -> None:
        pass

    def close(self) -> None:
        pass

    def each(self, batches: Batches) -> None:
        for _ in batches:
            pass

    def grouped(self, batches: Batches, calls: int) -> None:
        for _ in batches:
            pass


class KuduLog(Peer):
    """kudu_storage.Log. The only place that knows its interface."""

    name = "kudu"
    needs = "kudu_storage:Log"
    compresses = True
    settings = 'Log.open(durability="os" or "fsync", compression="none" or "lz4"), else defaults'

    def __init__(self, folder: Path, durable: bool, compression: str) -> None:
        self.open(folder, durability="fsync" if durable else "os", compression=compression)

    def open(self, folder: Path, **options: str) -> None:
        self.backpressure: type[Exception] = importlib.import_module("kudu_storage.errors").LogBackpressure
        self.log: Any = importlib.import_module("kudu_storage").Log.open(str(folder), create=True, **options)

    def commit(self, entries: list[bytes]) -> None:
        self.log.append_many(entries).wait()

    def close(self) -> None:
        self.log.close()

    def each(self, batches: Batches) -> None:
        append_many = self.log.append_many
        for entries in batches:
            append_many(entries).wait()

    def grouped(self, batches: Batches, calls: int) -> None:
        append_many = self.log.append_many
        token = None
        for number, entries in enumerate(batches, 1):
            try:
                token = append_many(entries)
            except self.backpressure:
                if token is None:
                    raise
                token.wait()
                token = append_many(entries)
            if number % calls == 0:
                token.wait()
        if token is not None:
            token.wait()

    def scan(self) -> int:
        count = 0
        for _ in self.log.payloads(from_index=1):
            count += 1
        return count

    @classmethod
    def with_defaults(cls, folder: Path) -> KuduLog:
        peer = cls.__new__(cls)
        peer.open(folder)
        return peer

    def scan_objects(self) -> int:
        """All entries as the objects that read() gives, payloads not touched."""
        count = 0
        for _ in self.log.read(from_index=1):
            count += 1
        return count

    def get_each(self, indexes: list[int]) -> int:
        get, total = self.log.get, 0
        for index in indexes:
            total += len(bytes(get(index)))
        return total


class NaiveLog(Peer):
    """What one writes in an afternoon: struct, zlib.crc32, os.write. No roll, no index, no recovery."""

    name = "naive"
    compresses = True
    settings = "one os.write a call, CRC-32 an entry; durable: fdatasync a call under a lock"
    HEADER = struct.Struct("<II")

    def __init__(self, folder: Path, durable: bool, compression: str) -> None:
        self.path = folder / "log"
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.durable = durable
        self.lock = threading.Lock()
        self.compress: Callable[..., bytes] | None = None
        if compression == "lz4":
            self.compress = importlib.import_module("lz4.block").compress

    def commit(self, entries: list[bytes]) -> None:
        pack, crc32 = self.HEADER.pack, zlib.crc32
        if self.compress is not None:
            entries = [self.compress(b"".join([pack(len(e), 0) + e for e in entries]))]
        data = b"".join([part for e in entries for part in (pack(len(e), crc32(e)), e)])
        if not self.durable:
            os.write(self.fd, data)
            return
        with self.lock:
            os.write(self.fd, data)
            os.fdatasync(self.fd)

    def close(self) -> None:
        os.close(self.fd)

    def scan(self) -> int:
        unpack_from, crc32, count = self.HEADER.unpack_from, zlib.crc32, 0
        with open(self.path, "rb") as file:
            rest = b""
            while chunk := file.read(1 << 20):
                data, at = rest + chunk, 0
                while len(data) - at >= 8:
                    size, crc = unpack_from(data, at)
                    entry = data[at + 8:at + 8 + size]
                    if len(entry) < size:
                        break
                    if crc32(entry) != crc:
                        raise ValueError("checksum mismatch")
                    at += 8 + size
                    count += 1
                rest = data[at:]
        return count


class RocksDict(Peer):
    """RocksDB through rocksdict: a WriteBatch a call into the write-ahead log and the memtable."""

    name = "rocksdict"
    needs = "rocksdict"
    settings = "WAL on, raw mode, no compression, 64 MiB memtables, no automatic compaction; durable: sync=True"

    def __init__(self, folder: Path, durable: bool, compression: str) -> None:
        self.module: Any = importlib.import_module("rocksdict")
        options = self.module.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_disable_auto_compactions(True)
        options.set_compression_type(self.module.DBCompressionType.none())
        options.set_write_buffer_size(64 << 20)
        options.set_max_write_buffer_number(4)
        self.db = self.module.Rdict(str(folder), options)
        self.options = self.module.WriteOptions()
        self.options.sync = durable
        self.numbers = itertools.count(1)

    def commit(self, entries: list[bytes]) -> None:
        batch = self.module.WriteBatch(raw_mode=True)
        put, numbers = batch.put, self.numbers
        for entry in entries:
            put(next(numbers).to_bytes(8, "big"), entry)
        self.db.write(batch, self.options)

    def close(self) -> None:
        self.db.close()

    def scan(self) -> int:
        count = 0
        for _ in self.db.values():
            count += 1
        return count

    def get_each(self, indexes: list[int]) -> int:
        get, total = self.db.get, 0
        for index in indexes:
            total += len(get(index.to_bytes(8, "big")))
        return total


class Lmdb(Peer):
    """LMDB: a write transaction a call, keys appended in order."""

    name = "lmdb"
    needs = "lmdb"
    settings = "append=True; not durable: sync=False; durable: defaults (fdatasync a transaction)"

    def __init__(self, folder: Path, durable: bool, compression: str) -> None:
        self.env: Any = importlib.import_module("lmdb").open(str(folder), map_size=MAP_BYTES, sync=durable,
                                                             metasync=durable, max_spare_txns=128)
        with self.env.begin() as transaction:
            self.number = int(transaction.stat()["entries"])

    def commit(self, entries: list[bytes]) -> None:
        with self.env.begin(write=True) as transaction:     # the one writer: also guards `number`
            number, put = self.number, transaction.put
            for entry in entries:
                number += 1
                put(number.to_bytes(8, "big"), entry, append=True)
            self.number = number

    def close(self) -> None:
        self.env.close()

    def scan(self) -> int:
        count = 0
        with self.env.begin() as transaction:
            for _ in transaction.cursor().iternext(keys=False):
                count += 1
        return count

    def get_each(self, indexes: list[int]) -> int:
        total = 0
        with self.env.begin() as transaction:
            for index in indexes:
                total += len(transaction.get(index.to_bytes(8, "big")))
        return total


class Sqlite(Peer):
    """sqlite3 from the standard library: one transaction and executemany a call."""

    name = "sqlite"
    needs = "sqlite3"
    settings = "WAL mode, rowid table; not durable: synchronous=OFF; durable: synchronous=FULL, a lock around it"

    def __init__(self, folder: Path, durable: bool, compression: str) -> None:
        self.connection = sqlite3.connect(folder / "log.db", isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'OFF'}")
        self.connection.execute("CREATE TABLE IF NOT EXISTS log (number INTEGER PRIMARY KEY, entry BLOB NOT NULL)")
        self.lock = threading.Lock()

    def commit(self, entries: list[bytes]) -> None:
        with self.lock:
            execute = self.connection.execute
            if len(entries) == 1:
                execute("INSERT INTO log (entry) VALUES (?)", entries)
                return
            execute("BEGIN")
            self.connection.executemany("INSERT INTO log (entry) VALUES (?)", zip(entries, strict=True))
            execute("COMMIT")

    def close(self) -> None:
        self.connection.close()

    def scan(self) -> int:
        count = 0
        for _ in self.connection.execute("SELECT entry FROM log ORDER BY number"):
            count += 1
        return count

    def get_each(self, indexes: list[int]) -> int:
        execute, total = self.connection.execute, 0
        for index in indexes:
            total += len(execute("SELECT entry FROM log WHERE number = ?", (index,)).fetchone()[0])
        return total


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Driver, KuduLog, NaiveLog, RocksDict, Lmdb, Sqlite)}


def missing(name: str) -> str | None:
    """Why this program cannot take part, or None."""
    module, _, attribute = PEERS[name].needs.partition(":")
    if not module:
        return None
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        return f"not built: {error}" if attribute else f"not installed (pip install {module})"
    return None if not attribute or hasattr(found, attribute) else f"not built: {module} has no {attribute}"


def versions() -> dict[str, str]:
    """What is compared, by name."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"sqlite": sqlite3.sqlite_version, "python": sys.version.split()[0]}
    for package in ("rocksdict", "lmdb", "lz4", "kudu-storage"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def make_batches(pool: list[bytes], calls: int, batch: int, first: int = 0) -> Iterator[list[bytes]]:
    """Fresh entries: an 8-byte counter and one of the pool's payloads (a power of two). The driver of all programs."""
    pack, tails, mask = struct.Struct("<Q").pack, [payload[8:] for payload in pool], len(pool) - 1
    for start in range(first, first + calls * batch, batch):
        yield [pack(number) + tails[number & mask] for number in range(start, start + batch)]
