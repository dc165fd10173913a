"""What our log writes, opened by the real tool; and a real tablet server on a replica made by this package alone."""
from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import oracle
import pytest
from our_replica import Replica, rows_of
from typed_entries import commit, replicate

from kudu_storage import Log
from kudu_storage.bootstrap import replay
from kudu_storage.common.opid import OpId
from kudu_storage.common.row_codec import RowOp
from kudu_storage.wal.verify import verify

CODECS = ["none", "lz4", "snappy", "zlib"]


def real_dump(kudu: oracle.KuduBinaries, path: Path, *options: str) -> str:
    return kudu.run("wal", "dump", "-truncate_data=0", *options, path, check=True).stdout


# -- opaque entries ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("codec", CODECS)
def test_the_real_tool_prints_every_payload_of_every_segment(kudu: oracle.KuduBinaries, codec: str,
                                                             tmp_path: Path) -> None:
    rng = random.Random(codec)
    payloads = [b"<%d:%s>" % (i, rng.randbytes(rng.randrange(200)).hex().encode()) for i in range(1, 401)]
    with Log.open(tmp_path, create=True, compression=codec, segment_size="16KiB") as log:
        at = 0
        while at < len(payloads):
            size = rng.randrange(1, 12)
            log.append_many(payloads[at:at + size]).wait()
            at += size
        # The one being written too: the tool takes its preallocated rest for what it is.
        open_segment = max(tmp_path.glob("wal-*"))
        assert payloads[-1].decode() in real_dump(kudu, open_segment, "-print_entries=pb")
    segments = sorted(tmp_path.glob("wal-*"))
    assert len(segments) > 2
    text = "".join(real_dump(kudu, path, "-print_entries=pb", "-print_meta=false") for path in segments)
    assert re.findall(r'payload_for_tests: "(.*?)"', text) == [payload.decode() for payload in payloads]
    assert re.findall(r"^\s*index: (\d+)", text, re.MULTILINE) == [str(i) for i in range(1, 401)]
    for path in segments:
        assert "Footer:" in real_dump(kudu, path, "-print_entries=id")
    assert verify(tmp_path).problems == ()


@pytest.mark.parametrize("codec", CODECS)
def test_the_real_tool_and_verify_agree_after_cuts_and_replacements(kudu: oracle.KuduBinaries, codec: str,
                                                                    tmp_path: Path) -> None:
    with Log.open(tmp_path, create=True, compression=codec, segment_size="16KiB") as log:
        for first in range(1, 301, 10):
            log.append_replicate(*(replicate(1, i, payload=b"%d" % i * 40) for i in range(first, first + 10))).wait()
            log.append_commit(*(commit(1, i) for i in range(first, first + 10))).wait()
        log.truncate_after(255)
        log.append_replicate(replicate(2, 250, payload=b"other"), replace=True).wait()
        log.append_commit(commit(2, 250)).wait()
    ids = "".join(real_dump(kudu, path, "-print_entries=id", "-print_meta=false")
                  for path in sorted(tmp_path.glob("wal-*")))
    replicates = re.findall(r"^(\d+\.\d+)@\d+\s+REPLICATE", ids, re.MULTILINE)
    commits = re.findall(r"COMMIT (\d+\.\d+)", ids)
    assert replicates == [f"1.{i}" for i in range(1, 256)] + ["2.250"]
    assert commits == [f"1.{i}" for i in range(1, 256)] + ["2.250"]
    report = verify(tmp_path)
    assert report.problems == ()


# -- a replica that nobody but this package wrote ----------------------------------------------------------------------
@pytest.mark.parametrize("codec", CODECS)
def test_a_real_server_serves_the_rows_of_a_replica_that_we_wrote(kudu: oracle.KuduBinaries, codec: str,
                                                                  tmp_path: Path) -> None:
    replica = Replica(tmp_path / "replica", codec)
    replica.lead(1)
    for _ in range(150):
        replica.write(1, replica.some_writes())
    # Writes of an old leader that never committed, replaced by the next one's.
    lost = replica.log.last.index + 1
    for key in (1000, 1001, 1002):
        cells = {0: struct.pack("<i", key), 1: b"lost", 2: bytes(8)}
        replica.write(1, [(RowOp.INSERT, cells)], committed=False)
    replica.log.append_replicate(replicate(2, lost, timestamp=replica.next_timestamp()), replace=True)
    replica.log.append_commit(commit(2, lost))
    for _ in range(100):
        replica.write(2, replica.some_writes())
    # The server finds this one without a COMMIT and, being the only voter, commits it.
    replica.write(2, replica.some_writes(), committed=False)
    last = replica.log.last
    replica.log.close()
    assert last == OpId(2, lost + 101)
    assert len(list((replica.folder / "wals" / replica.tablet_id).glob("wal-*"))) > 1

    ours = replay(replica.folder, replica.tablet_id, include_pending=True)
    assert not ours.report.problems
    with oracle.start_tserver_on_replica(kudu, replica.folder, tmp_path / "t", uuid=replica.server) as server:
        log = server.bootstrap(replica.tablet_id)
        assert log.complete, log.failure
        assert (log.stats["read"], log.stats["overwritten"], log.stats["pending"]) == (1 + 150 + 3 + 1 + 101, 3, 1)
        assert rows_of(server.dump_rows(replica.tablet_id)) == replica.rows
    with oracle.cluster_on_replica(kudu, replica.folder, tmp_path / "c", uuid=replica.server) as cluster:
        assert list(cluster.checksums().values()) == [ours.tablet.checksum()]


def test_a_real_server_replays_opaque_entries_as_nothing(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    replica = Replica(tmp_path / "replica", "lz4")
    replica.lead(1)
    replica.write(1, replica.some_writes())
    for number in range(50):
        token = replica.log.append_many([b"opaque %d" % number, b""])
        replica.log.append_commit(*(commit(1, i) for i in range(token.first.index, token.last.index + 1)))
        replica.write(1, replica.some_writes())
    replica.log.close()
    with oracle.start_tserver_on_replica(kudu, replica.folder, tmp_path / "t", uuid=replica.server) as server:
        log = server.bootstrap(replica.tablet_id)
        assert log.complete, log.failure
        assert (log.stats["read"], log.stats["pending"]) == (152, 0)
        assert rows_of(server.dump_rows(replica.tablet_id)) == replica.rows
