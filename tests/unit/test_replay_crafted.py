"""Orders of entries that a valid log may have and few have, and logs that only an attacker writes."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from crafted_log import KEY_AND_TEXT, CraftedLog, client_of, int64

from kudu_storage.bootstrap import replay
from kudu_storage.common.row_codec import RowOp
from kudu_storage.common.schema import Schema


def _two_clients() -> tuple[Schema, Schema]:
    """One schema in two encodings, as the clients of two languages send it."""
    plain = client_of(KEY_AND_TEXT)
    return plain, Schema((plain.columns[0], replace(plain.columns[1], comment="x")))


def test_clients_that_take_turns_need_no_stack(tmp_path: Path) -> None:
    log = CraftedLog()
    clients = _two_clients()
    writes = [log.write([(RowOp.INSERT, {0: int64(i), 1: b"v"})], clients[i % 2]) for i in range(60_000)]
    for write in writes:
        log.commit(write, 1)
    # All in one chunk: the operations wait, and then are applied without a stop in between.
    report = replay(log.save(tmp_path, [log.entries])).report
    assert (report.rows, report.problems) == (60_000, [])


def test_more_client_schemas_than_are_remembered(tmp_path: Path) -> None:
    log = CraftedLog()
    plain = client_of(KEY_AND_TEXT)
    clients = [Schema((plain.columns[0], replace(plain.columns[1], comment=f"client {i}"))) for i in range(100)]
    for i in range(1000):
        log.applied([(RowOp.INSERT, {0: int64(i), 1: b"%d" % i})], clients[i * 7 % 100])
    result = replay(log.save(tmp_path))
    assert result.report.problems == []
    assert result.tablet is not None
    assert list(result.tablet.rows()) == [(i, str(i)) for i in range(1000)]
