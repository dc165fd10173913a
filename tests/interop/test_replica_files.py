"""What replicas write is Kudu's: the real `kudu` tool prints their logs, their metadata and the instance file."""
from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import oracle
from replica_group import Group


def write(folder: Path) -> tuple[str, str]:
    """A group with two leaders and a new member; the first leader's name and the tablet's id."""
    async def main() -> tuple[str, str]:
        async with Group(folder, segment_size="16KiB") as group:
            leader = await group.leader()
            for i in range(100):
                await leader.propose_many([b"payload %d %s" % (i, os.urandom(50).hex().encode())] * 5)
            await leader.change_config(add={"d": "127.0.0.1:7999"}, learner=True)
            other = next(n for n in "abc" if n != leader.name)
            await leader.transfer_leadership(other)
            await (await group.leader()).propose(b"of another term")
            await group.level()
            return leader.name, leader.tablet_id
    return asyncio.run(main())


def test_the_real_tool_prints_logs_and_metadata_of_replicas(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    _, tablet_id = write(tmp_path)
    for name in "abc":
        folder = tmp_path / name
        segments = sorted((folder / "wals" / tablet_id).glob("wal-*"))
        dumps = [kudu.run("wal", "dump", str(path)).stdout for path in segments]
        text = "".join(dumps)
        assert len(dumps) > 1 and text.count('payload_for_tests: "payload 99 ') == 5
        assert text.count("COMMIT 1.") >= 500 and "CHANGE_CONFIG_OP" in text and "of another term" in text
        printed = json.loads(kudu.run("pbc", "dump", str(folder / "consensus-meta" / tablet_id), "--json").stdout)
        assert len(printed["committedConfig"]["peers"]) == 4
        assert int(printed["currentTerm"]) >= 2
        assert "replica " + name in kudu.run("pbc", "dump", str(folder / "instance")).stdout
