"""Damage in any file of a small tablet: found and named, or harmless. Never a row that was not, never a crash.

Each damaged copy is opened (Tablet.open), read at its snapshots, written on, flushed and compacted; replayed; and given
to the commands. What the rows must be is known from the tablet's own writes.

KUDU_STORAGE_TABLET_FLIPS=N flips N bits of each tablet, N=all a bit of each byte; KUDU_STORAGE_SEED says which.
"""
from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from crash_disk import scratch_root
from tablet_files import OPTIONS, SCHEMAS, Files, Rows, Sound, bits, make

from kudu_storage import Tablet
from kudu_storage.bootstrap import replay
from kudu_storage.cli.main import root as command
from kudu_storage.errors import InternalError, KuduStorageError

FLIPS = os.environ.get("KUDU_STORAGE_TABLET_FLIPS", "160")
SEED = int(os.environ.get("KUDU_STORAGE_SEED", "7"))
KINDS = [(kind, killed) for kind in SCHEMAS for killed in (False, True)]
MEMORY_KIB = 700 * 1024         # what the whole run may add to this process's peak


@pytest.fixture(scope="module")
def peak() -> Iterator[None]:
    """Memory stays bounded, whatever lengths a damaged file claims."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KIB or "LD_PRELOAD" in os.environ


class Judge:
    """What becomes of one damaged copy. `names`: the files that were damaged; one of them must be named."""

    def __init__(self, sound: Sound, folder: Path) -> None:
        self.sound = sound
        self.folder = folder
        self.fates: Counter[str] = Counter()

    def judge(self, names: set[str], *, thorough: bool, tail_may_be_gone: bool = False) -> None:
        """thorough: also the commands, and writing on. tail_may_be_gone: of the log, and nobody can know."""
        self.names = names
        self.tail_may_be_gone = tail_may_be_gone or (self.sound.last_segment in names)
        self.replayed()
        if thorough:
            self.commands()
        self.fates[self.opened(thorough)] += 1

    # -- words ---------------------------------------------------------------------------------------------------------
    def is_named(self, text: str) -> bool:
        marks = {mark for name in self.names for mark in (Path(name).name, Path(name).stem)}
        if any(name.startswith("data/") for name in self.names):
            marks.add("no block ")      # a container's records end before its
        if any("wal-" in name or "index." in name for name in self.names):
            marks |= {f"wals/{self.sound.tablet_id}", "segment wal-"}
        return any(mark in text for mark in marks)

    def named(self, error: KuduStorageError) -> str:
        if isinstance(error, InternalError):
            raise error
        assert self.is_named(str(error)), f"not named: {error!r}: {error}"
        return "named"

    # -- rows ----------------------------------------------------------------------------------------------------------
    def is_earlier(self, rows: Rows) -> bool:
        return self.tail_may_be_gone and (any(rows == state for _, state in self.sound.states) or not rows)

    def replayed(self) -> None:
        """The replay tool: a problem in its report, or all rows."""
        try:
            found = replay(self.folder, self.sound.tablet_id, data_dirs=[self.folder])
            rows = None if found.tablet is None else list(found.tablet.rows())
        except KuduStorageError as error:
            self.named(error)
            return
        problems = [str(problem) for problem in found.report.problems]
        if rows is None:
            assert problems
            return
        torn = any(segment.status not in ("ok", "blank") for segment in found.report.segments)
        if rows != self.sound.rows:
            assert problems or torn or self.tail_may_be_gone, "other rows, and no word of it"
            assert not rows or any(rows == state for _, state in self.sound.states), "rows that never were together"

    def opened(self, thorough: bool) -> str:
        before = Files.of(self.folder) if thorough else None
        try:
            tablet = Tablet.open(self.folder, **OPTIONS)
        except KuduStorageError as error:
            if before is not None:
                self.check_untouched(before)
            return self.named(error)
        with tablet:
            fate = self.read(tablet)
            if fate == "harmless" and thorough:
                fate = self.go_on(tablet)
        return fate

    def check_untouched(self, before: Files) -> None:
        """What was refused can be mended: put back what was damaged, and all is there."""
        for name in self.names:
            self.sound.files.put_back(self.folder, name)
        with Tablet.open(self.folder, **OPTIONS) as tablet:
            assert tablet.scanner().ordered().open().read_all_tuples() == self.sound.rows
        before.write(self.folder)

    def read(self, tablet: Tablet) -> str:
        """All rows now, by two kinds of scan and by key; then at every state."""
        fate, cut = "harmless", len(self.sound.states)
        try:
            rows = tablet.scanner().ordered().open().read_all_tuples()
        except KuduStorageError as error:
            return self.named(error)
        if rows != self.sound.rows:
            assert self.is_earlier(rows), "rows that never were together"
            assert tablet.log.stats()["cut_bytes"] or self.tail_may_be_gone
            fate = "cut"
            cut = max((i + 1 for i, (_, state) in enumerate(self.sound.states) if state == rows), default=0)
        keys = tablet.schema.key_column_count
        for row in (*rows[::7], *rows[-1:]):
            fate = self.either(fate, lambda row=row: tablet.get(row[:keys]), row)       # type: ignore[misc]
        fate = self.either(fate, lambda: sorted(map(repr, tablet.scanner().read_all_tuples())), sorted(map(repr, rows)))
        for at, state in self.sound.states[:cut][::3]:
            fate = self.either(fate, lambda at=at: tablet.scanner().set_snapshot(at).ordered().read_all_tuples(),  # type: ignore[misc]
                               state)
        return fate

    def either(self, fate: str, ask: Callable[[], object], truth: object) -> str:
        try:
            assert ask() == truth
        except KuduStorageError as error:
            return self.named(error)
        return fate

    def go_on(self, tablet: Tablet) -> str:
        """Written on, flushed and compacted, and opened again."""
        keys = tablet.schema.key_column_count
        gone = self.sound.rows[3]
        try:
            session = tablet.new_session()
            session.apply(session.new_delete(list(gone[:keys])))
            session.flush()
            tablet.flush()
            tablet.maintenance.merge([rowset["id"] for rowset in tablet.stats()["layout"]])
            tablet.close()
            with Tablet.open(self.folder, **OPTIONS) as again:
                rows = again.scanner().ordered().open().read_all_tuples()
                assert rows == [row for row in self.sound.rows if row != gone]
                for at, state in self.sound.states[::2]:
                    assert again.scanner().set_snapshot(at).ordered().read_all_tuples() == state
        except KuduStorageError as error:
            return self.named(error)
        return "harmless"

    # -- commands ------------------------------------------------------------------------------------------------------
    def commands(self) -> None:
        tablet, folder = self.sound.tablet_id, str(self.folder)
        for arguments in (["local_replica", "info", tablet, folder], ["local_replica", "dump", "meta", tablet, folder],
                          ["local_replica", "dump", "rowset", tablet, folder, "--dump_all_columns=true"],
                          ["local_replica", "dump", "block_ids", tablet, folder],
                          ["local_replica", "data_size", tablet, folder],
                          ["local_replica", "export", tablet, folder, "--format", "jsonl"],
                          ["fs", "check", folder], ["wal", "verify", f"{folder}/wals/{tablet}"]):
            result = CliRunner().invoke(command, arguments)
            error = result.exception
            if isinstance(error, InternalError) or not isinstance(error, KuduStorageError | SystemExit | None):
                raise AssertionError(f"{' '.join(arguments)}: {error!r}") from error
            assert result.exit_code in (0, 1, 2), (arguments, result.exit_code)


# -- bits --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flips-", dir=scratch_root()) as scratch:
        yield Path(scratch) / "t"


@pytest.mark.usefixtures("peak")
@pytest.mark.parametrize(("kind", "killed"), KINDS)
def test_a_flipped_bit_is_named_or_harmless(kind: str, killed: bool, folder: Path) -> None:
    sound = make(kind, SEED, killed=killed)
    rng = random.Random(f"{SEED} {kind} {killed}")
    judge = Judge(sound, folder)
    chosen = bits(sound.files, rng, each_byte=FLIPS == "all")
    for number, (name, offset, bit) in enumerate(chosen if FLIPS == "all" else itertools.islice(chosen, int(FLIPS))):
        sound.files.write(folder)
        sound.files.put(folder, name, flipped(sound.files.content[name], offset, bit))
        with noted(f"{name} offset {offset} bit {bit}"):
            judge.judge({name}, thorough=number % (8 if FLIPS != "all" else 64) == 0)
    print(kind, "killed" if killed else "closed", dict(judge.fates))
    assert judge.fates["named"] > judge.fates.total() // 5 and judge.fates["harmless"], judge.fates


def flipped(data: bytes, offset: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 1 << bit
    return bytes(changed)


@contextlib.contextmanager
def noted(damage: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"{damage}, seed {SEED}")
        raise


# -- larger damage -----------------------------------------------------------------------------------------------------
def cut(files: Files, folder: Path, rng: random.Random) -> set[str]:
    name = rng.choice([name for name, data in files.content.items() if data])
    data = files.content[name]
    (folder / name).write_bytes(data[:rng.randrange(min(len(data), rng.choice([len(data), len(data.rstrip(b"\0"))])))])
    return {name}


def lost(files: Files, folder: Path, rng: random.Random) -> set[str]:
    name = rng.choice(list(files.content))
    (folder / name).unlink()
    return {name}


def zeroed(files: Files, folder: Path, rng: random.Random) -> set[str]:
    name = rng.choice([name for name, data in files.content.items() if data])
    data, unit = bytearray(files.content[name]), rng.choice([512, 4096])
    at = rng.randrange(-(-len(data.rstrip(b"\0")) // unit)) * unit
    data[at:at + unit] = bytes(len(data[at:at + unit]))
    files.put(folder, name, bytes(data))
    return {name}


def swapped(files: Files, folder: Path, rng: random.Random) -> set[str]:
    one, other = rng.sample(list(files.content), 2)
    scratch = folder / "scratch"
    (folder / one).rename(scratch)
    (folder / other).rename(folder / one)
    scratch.rename(folder / other)
    return {one, other}


def garbled(files: Files, folder: Path, rng: random.Random) -> set[str]:
    """A run of random bytes, longer than what a checksum of 32 bits must find."""
    name = rng.choice([name for name, data in files.content.items() if data])
    data = bytearray(files.content[name])
    at = rng.randrange(len(data.rstrip(b"\0")))
    data[at:at + 40] = rng.randbytes(len(data[at:at + 40]))
    files.put(folder, name, bytes(data))
    return {name}


DAMAGE = [cut, lost, zeroed, swapped, garbled]
TIMES = 4 if FLIPS != "all" else 120


@pytest.mark.usefixtures("peak")
@pytest.mark.parametrize(("kind", "killed"), KINDS)
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_larger_damage_is_named_or_harmless(damage: Callable[[Files, Path, random.Random], set[str]], kind: str,
                                            killed: bool, folder: Path) -> None:
    sound = make(kind, SEED, killed=killed)
    rng = random.Random(f"{SEED} {damage.__name__} {kind} {killed}")
    judge = Judge(sound, folder)
    for number in range(TIMES):
        sound.files.write(folder)
        names = damage(sound.files, folder, rng)
        with noted(f"{damage.__name__} {number}: {', '.join(sorted(names))}"):
            judge.judge(names, thorough=number % 2 == 0)
    print(damage.__name__, kind, killed, dict(judge.fates))
