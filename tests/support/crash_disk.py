"""What a crash may leave of a folder that was written through a RecordingDisk.

The recording is replayed up to the crash. Then everything that no sync covers is in doubt, more than any one file
system would put it in doubt:
 D1  A name made, removed or moved is certain only after a sync of its folder; before, each may have happened or not.
 D2  Bytes, sizes and allocations are certain only after a sync of their file, and then all of them.
 D3  What is in doubt is lost, kept, cut at a sector or page, or kept sector by sector in any order.
 D4  A sector (512 bytes) or page is what it was at one moment since the last sync: with a write it has those before.
May not touch: the log. It knows file calls only.
"""
from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

Data = Literal["lost", "kept", "torn", "scrambled"]
Names = Literal["old", "new", "prefix", "any"]
Sizes = Literal["old", "new"]


class Call(NamedTuple):
    """One line of RecordingDisk.calls()."""

    kind: str
    fd: int
    status: int
    flags: int
    offset: int
    size: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of what is in doubt. unit: bytes of a sector or page. sizes: of files whose bytes were lost."""

    names: Names
    data: Data
    sizes: Sizes = "old"
    unit: int = 512
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Change:
    """Of a file: bytes written (or zeroed by a hole), or a size set (`data` None). `grows_only`: an allocation."""

    offset: int
    data: bytes | None
    grows_only: bool = False

    def apply(self, fd: int) -> None:
        if self.data is not None:
            os.pwrite(fd, self.data, self.offset)
        elif not self.grows_only or os.fstat(fd).st_size < self.offset:
            os.ftruncate(fd, self.offset)


@dataclass(slots=True)
class _File:
    changes: list[_Change] = field(default_factory=list)
    certain: int = 0            # so many of the changes were synced


@dataclass(frozen=True, slots=True)
class _Naming:
    """`name` stands for `file` from now on (None: for nothing), and `gone` for nothing."""

    name: str
    file: _File | None
    gone: str | None = None

    @property
    def folders(self) -> set[str]:
        """The folders whose sync makes it certain, from the root."""
        return {os.path.dirname(name) for name in (self.name, self.gone) if name is not None}

    def apply(self, names: dict[str, _File]) -> None:
        if self.gone is not None:
            names.pop(self.gone, None)
        if self.file is None:
            names.pop(self.name, None)
        else:
            names[self.name] = self.file


class _Folder(_File):
    """A folder as a name sees it."""


class CrashedFolder:
    """The folder `root` and all below it after the first calls of a recording; the crash comes behind them.

    start: files that were there before the recording began, certain. Their folders, if any, are certain too.
    """

    def __init__(self, root: str | os.PathLike[str], calls: list[tuple[str, int, int, int, int, int, bytes]],
                 start: dict[str, bytes] | None = None) -> None:
        self._root = os.fspath(root)
        self._namings: list[_Naming] = []
        self._now: dict[str, _File] = {}
        self._open: dict[int, _File] = {}
        for name, content in (start or {}).items():
            for depth in range(1, name.count("/") + 1):
                folder = "/".join(name.split("/")[:depth])
                if folder not in self._now:
                    self._name(_Naming(folder, _Folder()))
            file = _File([_Change(0, content)], 1)
            self._name(_Naming(name, file))
        self._certain_namings = set(range(len(self._namings)))
        for call in calls:
            self._replay(Call(*call))

    def _name(self, naming: _Naming) -> None:
        self._namings.append(naming)
        naming.apply(self._now)

    def _replay(self, call: Call) -> None:
        if call.status < 0 and not (call.kind == "write" and call.data):
            return
        getattr(self, f"_do_{call.kind}")(call)

    def _local(self, path: bytes) -> str | None:
        name = os.path.relpath(os.fsdecode(path), self._root)
        return None if name.startswith("..") else name

    # -- one method a kind of call -------------------------------------------------------------------------------------
    def _do_open(self, call: Call) -> None:
        name = self._local(call.data)
        if name is None:
            return
        if name not in self._now:
            self._name(_Naming(name, _File()))
        self._open[call.fd] = self._now[name]

    def _do_close(self, call: Call) -> None:
        self._open.pop(call.fd, None)

    def _do_write(self, call: Call) -> None:
        self._open[call.fd].changes.append(_Change(call.offset, call.data))

    def _do_truncate(self, call: Call) -> None:
        self._open[call.fd].changes.append(_Change(call.size, None))

    def _do_allocate(self, call: Call) -> None:
        self._open[call.fd].changes.append(_Change(call.offset + call.size, None, True))

    def _do_punch_hole(self, call: Call) -> None:
        """Zeros, as far as the file goes."""
        file = self._open[call.fd]
        size = min(call.size, _size_after(file.changes) - call.offset)
        if size > 0:
            file.changes.append(_Change(call.offset, bytes(size)))

    def _do_make_dir(self, call: Call) -> None:
        name = self._local(call.data)
        if name is not None:
            self._name(_Naming(name, _Folder()))

    def _do_sync(self, call: Call) -> None:
        file = self._open[call.fd]
        file.certain = len(file.changes)

    def _do_rename(self, call: Call) -> None:
        source, target = (self._local(path) for path in call.data.split(b"\0"))
        assert source is not None and target is not None
        self._name(_Naming(target, self._now[source], source))

    def _do_unlink(self, call: Call) -> None:
        name = self._local(call.data)
        if name is not None:
            self._name(_Naming(name, None))

    def _do_sync_dir(self, call: Call) -> None:
        name = self._local(call.data)
        if name is not None:
            folder = "" if name == "." else name
            self._certain_namings.update(i for i, naming in enumerate(self._namings) if naming.folders <= {folder})

    # -- states --------------------------------------------------------------------------------------------------------
    def materialise(self, fate: Fate, target: str | os.PathLike[str]) -> bytes:
        """Make the folder as this fate leaves it, in an empty folder. Returns a digest of it, index chunks left out
        (they are hints, and nearly all holes)."""
        rng = random.Random(fate.seed)
        digest = hashlib.blake2b(digest_size=16)
        for name, file in sorted(self._names_left(fate, rng).items()):
            path = os.path.join(os.fspath(target), name)
            if isinstance(file, _Folder):
                os.mkdir(path)
                digest.update(f"{name}/\n".encode())
                continue
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                _write_file(fd, file, fate, rng)
                if not name.startswith("index."):
                    size = os.fstat(fd).st_size
                    digest.update(f"{name} {size}\n".encode() + os.pread(fd, size, 0))
            finally:
                os.close(fd)
        return digest.digest()

    def _names_left(self, fate: Fate, rng: random.Random) -> dict[str, _File]:
        names: dict[str, _File] = {}
        doubtful = [i for i in range(len(self._namings)) if i not in self._certain_namings]
        if fate.names == "prefix":
            doubtful = doubtful[:rng.randint(0, len(doubtful))]
        happened = self._certain_namings.union(
            i for i in doubtful if fate.names in ("new", "prefix") or (fate.names == "any" and rng.random() < 0.5))
        for i in sorted(happened):
            self._namings[i].apply(names)
        return {name: file for name, file in names.items() if _has_folders(name, names)}


def _has_folders(name: str, names: dict[str, _File]) -> bool:
    """All folders above a name are there: without them the name is lost as well."""
    parent = os.path.dirname(name)
    return not parent or (isinstance(names.get(parent), _Folder) and _has_folders(parent, names))


def _write_file(fd: int, file: _File, fate: Fate, rng: random.Random) -> None:
    for change in file.changes[:file.certain]:
        change.apply(fd)
    doubtful = file.changes[file.certain:]
    if fate.data == "kept":
        for change in doubtful:
            change.apply(fd)
        return
    if fate.data == "torn":
        _tear(fd, doubtful, fate.unit, rng)
    elif fate.data == "scrambled":
        _scramble(fd, doubtful, fate.unit, rng)
    if fate.sizes == "new":
        os.ftruncate(fd, max(os.fstat(fd).st_size, _size_after(file.changes)))


def _tear(fd: int, doubtful: list[_Change], unit: int, rng: random.Random) -> None:
    """All up to some place within a write, mostly the last one."""
    writes = [i for i, change in enumerate(doubtful) if change.data]
    if not writes:
        return
    torn = writes[-1] if rng.random() < 0.7 else rng.choice(writes)
    for change in doubtful[:torn]:
        change.apply(fd)
    parts = list(_units(doubtful[torn], unit))
    for part in parts[:rng.randint(1, len(parts) - 1) if len(parts) > 1 else 0]:
        part.apply(fd)


def _scramble(fd: int, doubtful: list[_Change], unit: int, rng: random.Random) -> None:
    """Each sector as it was at a moment of its own (D4)."""
    moments: dict[int, int] = {}
    for position, change in enumerate(doubtful):
        for part in _units(change, unit):
            moment = moments.setdefault(part.offset // unit if part.data else -1, rng.randint(0, len(doubtful)))
            if position < moment:
                part.apply(fd)


def _units(change: _Change, unit: int) -> Iterator[_Change]:
    """A write sector by sector; anything else as it is."""
    if change.data is None:
        yield change
        return
    at, end = change.offset, change.offset + len(change.data)
    while at < end:
        stop = min(end, (at // unit + 1) * unit)
        yield _Change(at, change.data[at - change.offset:stop - change.offset])
        at = stop


def _size_after(changes: list[_Change]) -> int:
    size = 0
    for change in changes:
        if change.data is not None:
            size = max(size, change.offset + len(change.data))
        elif not change.grows_only or size < change.offset:
            size = change.offset
    return size


def fates(seed: int, count: int) -> Iterator[Fate]:
    """The extreme fates, then `count` random ones."""
    yield Fate("old", "lost")
    yield Fate("new", "kept")
    yield Fate("new", "lost", "new")
    yield Fate("old", "kept")
    rng = random.Random(seed)
    for number in range(count):
        data: Data = ("torn", "scrambled")[number % 2]
        yield Fate(rng.choice(("old", "new", "prefix", "any")), data, rng.choice(("old", "new")),
                   (512, 4096)[number // 2 % 2], rng.randrange(1 << 30))


def scratch_root() -> str | None:
    """Where folders for many states are made: in memory, if that is possible."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def each_state(folder: CrashedFolder, chosen: Iterator[Fate],
               check: Callable[[Path, bytes, Fate], None]) -> None:
    """Call check(path, digest, fate) with a folder for each fate."""
    for fate in chosen:
        path = tempfile.mkdtemp(prefix="crash-", dir=scratch_root())
        try:
            check(Path(path), folder.materialise(fate, path), fate)
        finally:
            shutil.rmtree(path)
