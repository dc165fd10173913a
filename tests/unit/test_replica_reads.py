"""Who waits for what before a read is answered."""
from __future__ import annotations

import asyncio

from consensus.raft import effects as fx
from consensus.raft.inputs import ReadBarrier
from consensus.replica.reads import Reads


def test_a_read_waits_until_what_was_committed_when_it_began_is_applied() -> None:
    async def main() -> None:
        fed: list[ReadBarrier] = []
        reads = Reads(asyncio.get_running_loop(), fed.append)
        late, early = reads.ask(), reads.ask()
        await asyncio.sleep(0)
        (barrier,) = fed
        behind = reads.ask()
        await asyncio.sleep(0)
        reads.ready(fx.ReadReady(barrier.token, 7), 5)
        reads.ready(fx.ReadReady(fed[1].token, 5), 5)
        assert behind.result() == 5
        reads.applied(6)
        assert not late.done() and not early.done()
        reads.applied(9)
        assert (late.result(), early.result()) == (7, 7)
    asyncio.run(main())
