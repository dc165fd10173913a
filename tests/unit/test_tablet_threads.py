"""Writers, scans and lookups of one tablet in many threads: batches are seen whole, and snapshots never change."""
from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import kudu_storage.client as kudu
from kudu_storage import Tablet

ACCOUNTS = 64
BATCHES = 120


def accounts() -> kudu.Schema:
    builder = kudu.schema_builder()
    builder.add_column("id", kudu.string, nullable=False)
    builder.add_column("balance", kudu.int64, nullable=False)
    builder.add_column("note", kudu.string)
    return builder.set_primary_keys(["id"]).build()


def name(account: int) -> str:
    return f"account {account:05d}"


class Bank:
    """Threads at work on one tablet; the first failure is raised."""

    def __init__(self, tablet: Tablet) -> None:
        self.tablet = tablet
        self.failures: list[BaseException] = []

    def run(self, *works: Callable[[int], None]) -> None:
        def guarded(work: Callable[[int], None], number: int) -> None:
            try:
                work(number)
            except BaseException as error:
                self.failures.append(error)

        threads = [threading.Thread(target=guarded, args=(work, number)) for number, work in enumerate(works)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def write(self, number: int) -> None:
        rng = random.Random(number)
        session = self.tablet.new_session(flush_mode=("manual", "background")[number % 2], flush_interval=0.001)
        try:
            for _ in range(BATCHES):
                for account in rng.sample(range(ACCOUNTS * 8), rng.randrange(2, 20)):
                    session.apply(session.new_upsert((name(account), number, "x" * rng.randrange(60))))
                if rng.random() < 0.5:
                    session.flush()
        finally:
            session.close()


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank(Tablet.create(tmp_path / "t", accounts(), durability="os", segment_size="64KiB", maintenance="manual"))


def test_scans_see_batches_whole_and_snapshots_that_do_not_change(bank: Bank) -> None:
    tablet = bank.tablet
    done = threading.Event()

    def write(number: int) -> None:
        """All rows of a batch carry its number: a scan finds all rows of the newest batch of each writer, or none."""
        session = tablet.new_session()
        for batch in range(BATCHES):
            for row in range(16):
                session.apply(session.new_upsert((name(number * 100 + row), batch, f"writer {number}")))
            session.flush()

    def scan(_: int) -> None:
        while not done.is_set():
            at = tablet.now()
            rows = tablet.scanner().set_snapshot(at).set_batch_rows(7).open().read_all_tuples()
            latest = tablet.scanner().open().read_all_tuples()
            for seen in (rows, latest):
                batches: dict[object, set[object]] = {}
                for _name, batch, writer in seen:
                    batches.setdefault(writer, set()).add(batch)
                assert all(len(found) == 1 for found in batches.values()), batches
            assert tablet.scanner().set_snapshot(at).open().read_all_tuples() == rows

    def look(number: int) -> None:
        before = -1
        while not done.is_set():
            row = tablet.get(name(0))
            if row is not None:
                assert row["balance"] >= before
                before = row["balance"]

    def writers(number: int) -> None:
        try:
            threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            done.set()

    bank.run(writers, scan, scan, look)
    assert tablet.count() == 48
    tablet.close()


def test_writers_and_readers_go_on_while_stores_are_flushed_and_compacted(bank: Bank) -> None:
    """Money is moved between accounts, a pair in each batch: the sum of no snapshot ever changes."""
    tablet = Tablet.open(close(bank.tablet), durability="os", segment_size="64KiB", rowset_size=3000,
                         maintenance="manual")
    bank.tablet = tablet
    with tablet.new_session() as session:
        for account in range(ACCOUNTS):
            session.apply(session.new_insert((name(account), 1000, "")))
    writing = [True] * 2

    def move(number: int) -> None:
        """Accounts of its own, so that balances are known."""
        rng, mine = random.Random(number), list(range(number, ACCOUNTS, 2))
        balances = dict.fromkeys(mine, 1000)
        session = tablet.new_session()
        try:
            for batch in range(BATCHES):
                one, other = rng.sample(mine, 2)
                balances[one] -= batch
                balances[other] += batch
                session.apply(session.new_update({"id": name(one), "balance": balances[one]}))
                if batch % 3:
                    session.apply(session.new_upsert((name(other), balances[other], "u" * rng.randrange(60))))
                else:
                    session.apply(session.new_delete([name(other)]))
                    session.apply(session.new_insert((name(other), balances[other], "again")))
                session.flush()
            for account, balance in balances.items():
                assert tablet.get(name(account))["balance"] == balance      # type: ignore[index]
        finally:
            writing[number] = False

    def rewrite(_: int) -> None:
        rng = random.Random(7)
        while any(writing):
            tablet.flush()
            ids = [rowset["id"] for rowset in tablet.stats()["layout"]]
            for rowset_id in ids:
                rng.choice([tablet.maintenance.compact_redos, tablet.maintenance.compact_columns])(rowset_id)
            tablet.maintenance.merge(rng.sample(ids, min(3, len(ids))))
            tablet.log.gc()

    def merge_too(_: int) -> None:
        while any(writing):
            tablet.compact()
            tablet.maintenance.flush_memory()

    def read(number: int) -> None:
        more = True
        while more:
            more = any(writing)
            scanner = tablet.scanner().set_batch_rows(9)
            rows = (scanner.ordered() if number % 2 else scanner).open().read_all_tuples()
            assert len(rows) == ACCOUNTS and sum(row[1] for row in rows) == 1000 * ACCOUNTS

    bank.run(move, move, rewrite, merge_too, read, read)
    checksum = tablet.checksum()
    tablet.close()
    with Tablet.open(tablet.path) as opened:
        assert (opened.count(), opened.checksum()) == (ACCOUNTS, checksum)


def close(tablet: Tablet) -> str:
    tablet.close()
    return tablet.path


def test_sessions_of_both_kinds_write_at_once(bank: Bank) -> None:
    bank.run(*[bank.write] * 3)
    rows = bank.tablet.scanner().open().read_all_tuples()
    checksum = bank.tablet.checksum()
    assert len({row[0] for row in rows}) == len(rows) > ACCOUNTS
    assert bank.tablet.stats()["in_flight"] == 0
    bank.tablet.close()
    with Tablet.open(bank.tablet.path) as tablet:
        assert tablet.scanner().open().read_all_tuples() == rows
        assert tablet.checksum() == checksum


def test_arrow_streams_and_scans_run_side_by_side(bank: Bank) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    tablet = bank.tablet
    count = 20_000

    def write(number: int) -> None:
        keys = [f"{number} {i:06d}" for i in range(count)]
        tablet.insert_arrow(pyarrow.table({"id": keys, "balance": list(range(count)), "note": keys}))

    def scan(number: int) -> None:
        seen = 0
        while seen < 2 * count and not bank.failures:
            result = pyarrow.table(tablet.scanner().to_arrow())
            assert result["id"].to_pylist() == sorted(result["id"].to_pylist())
            assert result.num_rows >= seen
            seen = result.num_rows

    bank.run(write, write, scan)
    tablet.close()
