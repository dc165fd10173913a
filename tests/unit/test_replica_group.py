"""Three replicas in one program, on real logs: what proposers, readers and people are told, whatever happens."""
from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from replica_group import Group, Register, until

from consensus import (
    Aborted,
    NotLeader,
    ProposalsFull,
    RaftReplica,
    ReplicaClosed,
    ReplicaFailed,
    RequestDenied,
    Timeout,
)
from consensus.raft import Change, ChangeType, MemberType, Role
from consensus.replica.replica import PAYLOAD_BYTES_MAX
from consensus.replica.snapshots import Snapshot, encode
from kudu_storage import Log
from kudu_storage._native.disk import RecordingDisk
from kudu_storage._native.operations import Operation
from kudu_storage.common.opid import OpId
from kudu_storage.errors import CorruptionError, InvalidArgument, LogLocked
from kudu_storage.wal.reader import list_segments, open_segment


def run(main: Any) -> Any:
    return asyncio.run(asyncio.wait_for(main, 120))


def entries(folder: Path) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(term, index) of all REPLICATEs and all COMMITs of the one log below `folder`, in file order."""
    from kudu_storage.protos import message_class

    replicates, commits = [], []
    make: Any = message_class("kudu.log.LogEntryBatchPB")
    (path,) = (folder / "wals").iterdir()
    for file in list_segments(str(path)):
        with open_segment(file.path) as segment:
            scanner = segment.scanner()
            while (chunk := scanner.next_chunk()) is not None:
                for entry in (e for body in chunk for e in make.FromString(body).entry):
                    if entry.type == 1:
                        replicates.append((entry.replicate.id.term, entry.replicate.id.index))
                    else:
                        commits.append((entry.commit.commited_op_id.term, entry.commit.commited_op_id.index))
    return replicates, commits


def test_a_group_goes_on_when_its_leader_goes_and_is_the_same_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            results = await asyncio.gather(*[leader.propose(b"%d" % i) for i in range(1000)])
            assert results == list(range(1, 1001))
            await group.stop(leader.name)
            second = await group.leader()
            assert second is not leader
            assert await second.propose(b"after") == 1001
            again = await group.start(leader.name)
            await group.level()
            assert group.values(again.name) == group.values(second.name) == [*map(str, range(1000)), "after"]
        async with Group(tmp_path) as group:
            leader = await group.leader()
            await group.level()
            assert {tuple(group.values(name)) for name in "abc"} == {(*map(str, range(1000)), "after")}
            assert await leader.propose(b"later") == 1002
    run(main())


def test_each_applied_operation_has_one_commit_in_each_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            for i in range(20):
                await leader.propose_many([b"%d" % i] * 7)
            await group.level()
        async with Group(tmp_path) as group:
            await group.leader()
            await group.level()
    run(main())
    for name in "abc":
        replicates, commits = entries(tmp_path / name)
        assert replicates == commits and [index for _, index in replicates] == list(range(1, len(replicates) + 1))


def test_followers_name_the_leader(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            follower = next(r for r in group.replicas.values() if r is not leader)
            await until(lambda: follower.leader == leader.name)
            for call in (follower.propose(b"x"), follower.propose_many([b"x"]), follower.read_barrier(),
                         follower.transfer_leadership(), follower.change_config(remove=["a"]), follower.step_down()):
                with pytest.raises(NotLeader) as caught:
                    await call
                assert caught.value.leader == leader.name and caught.value.address == group.peers[leader.name]
    run(main())


def test_what_apply_raises_goes_to_the_proposer_and_stops_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            with pytest.raises(ValueError, match="no such thing"):
                await leader.propose(b"!no such thing")
            with pytest.raises(ValueError, match="second"):
                await leader.propose_many([b"one", b"!second", b"three"])
            assert await leader.propose(b"four") == 3
            await group.level()
            assert group.values("a") == group.values("b") == group.values("c") == ["one", "three", "four"]
    run(main())


def test_proposals_that_arrive_together_travel_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            await group.level()
            await until(lambda: leader._log.stats()["queued_bytes"] == 0)
            before = leader._log.stats()["batches_written"]
            await asyncio.gather(*[leader.propose(b"x") for _ in range(500)])
            await leader.propose_many([b"y"] * 500)
            await until(lambda: leader._log.stats()["queued_bytes"] == 0)
            assert leader._log.stats()["batches_written"] - before == 4     # two of operations, two of their COMMITs
    run(main())


def test_an_asynchronous_state_machine_is_awaited_in_order(tmp_path: Path) -> None:
    class Slow(Register):
        async def apply(self, op: Operation) -> int:  # type: ignore[override]
            await asyncio.sleep(0)
            return super().apply(op)

    async def main() -> None:
        async with Group(tmp_path, names="a") as group:
            await group.stop("a")
            replica = await group.start("a", sm=Slow())
            await replica.wait_for_leader()
            results = await asyncio.gather(*[replica.propose(b"%d" % i) for i in range(50)])
            assert results == list(range(1, 51)) and group.values("a") == [*map(str, range(50))]
            with pytest.raises(ValueError, match="why"):
                await replica.propose(b"!why")
            await replica.snapshot()
    run(main())


# -- leaders that are cut off ------------------------------------------------------------------------------------------
def test_a_replaced_proposal_is_aborted_only_when_a_later_term_committed(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            old = await group.leader()
            await old.propose(b"kept")
            await group.level()
            group.network.isolate(old.name)
            lost = asyncio.ensure_future(old.propose(b"lost", timeout=None))
            await until(lambda: not old.is_leader)          # check-quorum
            assert not lost.done()
            others = {n: r for n, r in group.replicas.items() if r is not old}
            await until(lambda: any(r.is_leader for r in others.values()))
            new = next(r for r in others.values() if r.is_leader)
            await new.propose(b"instead")
            assert not lost.done()
            group.network.heal()
            with pytest.raises(Aborted):
                await lost
            await group.level()
            assert group.values(old.name) == group.values(new.name) == ["kept", "instead"]
    run(main())
    replicates, commits = entries(tmp_path / "a")
    assert len(set(commits)) == len(commits) == len({index for _, index in replicates})


def test_a_leader_that_is_cut_off_answers_no_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            await leader.propose(b"x")
            assert await leader.read_barrier() >= 2
            group.network.isolate(leader.name)
            with pytest.raises((Timeout, NotLeader)) as caught:
                await leader.read_barrier(timeout=5)
            assert not getattr(caught.value, "maybe_applied", False)
    run(main())


def test_a_proposal_without_majority_times_out_and_may_be_applied(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            group.network.isolate(leader.name)
            with pytest.raises(Timeout) as caught:
                await leader.propose(b"x", timeout=0.01)
            assert caught.value.maybe_applied
    run(main())


def test_what_cannot_be_taken_is_refused_before_anything_is_done(tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            with pytest.raises(InvalidArgument, match="is the limit"):
                await leader.propose(bytes(PAYLOAD_BYTES_MAX + 1))
            assert await leader.propose_many([]) == []
            await group.level()
            last = leader.status().last
            monkeypatch.setattr("consensus.replica.replica.UNCOMMITTED_BYTES_MAX", 1000)
            group.network.isolate(leader.name)
            waiting = asyncio.ensure_future(leader.propose(bytes(900), timeout=None))
            await asyncio.sleep(0)
            with pytest.raises(ProposalsFull):
                await leader.propose(bytes(101))
            waiting.cancel()
            assert leader.status().last.index <= last.index + 1
    run(main())


# -- people ------------------------------------------------------------------------------------------------------------
def test_leadership_is_given_to_whom_it_should(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            await leader.propose(b"x")
            to = next(n for n in "abc" if n != leader.name)
            await leader.transfer_leadership(to)
            await until(lambda: group.replicas[to].is_leader)
            assert await group.replicas[to].propose(b"y") == 2
            with pytest.raises(RequestDenied) as caught:
                await group.replicas[to].transfer_leadership("nobody")
            assert caught.value.reason == "NOT_A_VOTER"
            await group.replicas[to].step_down()
            assert not group.replicas[to].is_leader
            await (await group.leader()).propose(b"z")
    run(main())


def test_a_member_is_added_caught_up_promoted_and_removed(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            await leader.propose_many([b"%d" % i for i in range(300)])
            address = "127.0.0.1:7009"
            new = await group.start("d", join=True, peers={**group.peers, "d": address})
            assert new.status().role is Role.NON_PARTICIPANT
            await leader.change_config(add={"d": address})
            await until(lambda: "d" in new.status().config.voters and new.status().role is Role.FOLLOWER)
            await group.level()
            assert group.values("d") == [*map(str, range(300))]
            with pytest.raises(RequestDenied) as caught:
                await leader.change_config(remove=["a", "b", "c", "d"])
            assert caught.value.reason in ("TOO_MANY_VOTERS_CHANGED", "PEER_IS_LEADER")
            gone = next(n for n in "abc" if n != leader.name)
            await leader.change_config(remove=[gone])
            await leader.change_config(changes=[Change(ChangeType.MODIFY, "d", MemberType.NON_VOTER)])
            assert leader.status().config.peer(gone) is None
            await group.stop("d")
            again = await group.start("d", peers={**group.peers, "d": address})
            await group.leader()
            await until(lambda: again.status().role is Role.LEARNER)
            assert [p.name for p in leader.status().peers] == [n for n in "abcd" if n not in (gone, leader.name)]
    run(main())


def test_status_tells_how_far_behind_a_peer_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            await group.level()
            behind = next(n for n in "abc" if n != leader.name)
            await group.stop(behind)
            await leader.propose_many([b"x" * 1000] * 10)
            lag = next(p for p in leader.status().peers if p.name == behind)
            assert lag.lag_ops == 10 and lag.lag_bytes == 10_000 and lag.lag_s > 0
            await group.start(behind)
            await group.level()
            await until(lambda: all(p.lag_ops == 0 for p in leader.status().peers))
            assert {(p.lag_bytes, p.lag_s) for p in leader.status().peers} == {(0, 0.0)}
    run(main())


def test_a_follower_that_is_far_behind_is_served_from_disk(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path, cache_size="64KiB", segment_size="64KiB") as group:
            leader = await group.leader()
            behind = next(n for n in "abc" if n != leader.name)
            await group.stop(behind)
            for i in range(100):
                await leader.propose_many([b"%d %s" % (i, b"x" * 3000)] * 10)
            assert leader._log.stats()["cache_bytes"] < 1 << 20
            await group.start(behind)
            await group.level()
            assert group.values(behind) == group.values(leader.name)
    run(main())


# -- snapshots ---------------------------------------------------------------------------------------------------------
def test_snapshots_let_go_of_the_log_and_replicas_start_from_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path, segment_size="32KiB", snapshot_every="100KiB") as group:
            leader = await group.leader()
            for i in range(150):
                await leader.propose_many([b"%d %s" % (i, os.urandom(250).hex().encode())] * 10)
            await group.level()
            await until(lambda: all(r._log.first_index > 1 for r in group.replicas.values()))
            values = group.values("a")
        async with Group(tmp_path) as group:
            await group.leader()
            await group.level()
            assert all(group.values(name) == values for name in "abc")
            for replica in group.replicas.values():
                status = replica.status()
                assert 1 < status.first_index <= status.snapshot_index + 1
                machine = replica.machine
                assert isinstance(machine, Register) and min(machine.applied, default=9999) > status.snapshot_index
            await (await group.leader()).propose(b"more")
    run(main())


def test_a_snapshot_can_be_taken_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path, names="a") as group:
            replica = await group.leader()
            await replica.propose(b"x")
            assert (await replica.snapshot()).index == replica.status().applied_index == 2
            await replica.propose(b"y")
        async with Group(tmp_path, names="a") as group:
            replica = await group.leader()
            await group.level()
            machine = replica.machine
            assert isinstance(machine, Register)
            assert machine.values == ["x", "y"] and machine.applied[0] == 3
    run(main())


def test_nothing_is_applied_while_a_snapshot_is_taken(tmp_path: Path) -> None:
    class Slow(Register):
        async def snapshot(self) -> bytes:  # type: ignore[override]
            before = len(self.values)
            await asyncio.sleep(0.05)
            assert len(self.values) == before
            return super().snapshot()

    async def main() -> None:
        async with Group(tmp_path, names="a") as group:
            await group.stop("a")
            replica = await group.start("a", sm=Slow())
            await group.leader()
            first = await replica.propose(b"first")
            taking = asyncio.ensure_future(replica.snapshot())
            await asyncio.sleep(0.01)
            writing = asyncio.ensure_future(replica.propose(b"second"))
            last = await taking
            assert await writing == first + 1 and replica.status().applied_index > last.index
        async with Group(tmp_path, names="a") as group:
            await group.leader()
            await group.level()
            assert group.values("a") == ["first", "second"]
    run(main())


def test_a_snapshot_waits_for_the_operation_that_is_being_applied(tmp_path: Path) -> None:
    class Halting(Register):
        def __init__(self) -> None:
            super().__init__()
            self.go_on = asyncio.Event()
            self.taken: list[list[str]] = []

        async def apply(self, op: Operation) -> int:  # type: ignore[override]
            self.values.append("half")
            await self.go_on.wait()
            self.values[-1] = "whole"
            return len(self.values)

        def snapshot(self) -> bytes:
            self.taken.append(list(self.values))
            return super().snapshot()

    async def main() -> None:
        async with Group(tmp_path, names="") as group:
            machine = Halting()
            replica = await group.start("a", peers={"a": "127.0.0.1:7000"}, sm=machine)
            await group.leader()
            applying = asyncio.ensure_future(replica.propose(b"x"))
            await until(lambda: machine.values)
            taking = asyncio.ensure_future(replica.snapshot())
            await until(lambda: replica._applier._held or machine.taken)
            assert machine.taken == []
            machine.go_on.set()
            assert (await taking).index == 2 and await applying == 1
            assert machine.taken == [["whole"]]
    run(main())


async def fill(leader: RaftReplica, batches: int) -> None:
    for i in range(batches):
        await leader.propose_many([b"%d %s" % (i, os.urandom(250).hex().encode())] * 10)


SMALL: dict[str, Any] = {"segment_size": "32KiB", "snapshot_every": "64KiB", "cache_size": "32KiB"}


@pytest.mark.parametrize("wire", [False, True], ids=["memory", "krpc"])
def test_a_follower_that_the_log_cannot_help_gets_a_snapshot(tmp_path: Path, wire: bool) -> None:
    async def main() -> None:
        async with Group(tmp_path, wire=wire, **SMALL) as group:
            leader = await group.leader()
            await fill(leader, 3)
            await group.level()
            behind = next(n for n in "abc" if n != leader.name)
            await group.stop(behind)
            await fill(leader, 120)
            await until(lambda: leader._log.first_index > 200)
            again = await group.start(behind)
            await group.level()
            assert group.values(behind) == group.values(leader.name)
            assert again.status().first_index > 200 and again.status().config == leader.status().config
            await leader.propose(b"more")
            await group.level()
        async with Group(tmp_path, wire=wire, **SMALL) as group:
            await group.leader()
            await group.level()
            assert group.values("a") == group.values("b") == group.values("c") and len(group.values("a")) == 1231
    run(main())


def test_a_member_joins_although_the_log_has_no_beginning_any_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path, **SMALL) as group:
            leader = await group.leader()
            await fill(leader, 100)
            await until(lambda: leader._log.first_index > 1)
            peers = {**group.peers, "d": "127.0.0.1:7009"}
            new = await group.start("d", join=True, peers=peers)
            await leader.change_config(add={"d": "127.0.0.1:7009"})
            await until(lambda: "d" in new.status().config.voters and new.status().role is Role.FOLLOWER)
            await group.level()
            assert group.values("d") == group.values(leader.name)
            await leader.transfer_leadership("d")
            await until(lambda: new.is_leader)
            await new.propose(b"as a leader")
            await group.level()
            assert group.values("a")[-1] == "as a leader"
    run(main())


@pytest.mark.parametrize("left", ["all", "begin", "nothing"])
def test_a_crash_after_the_snapshot_came_leaves_a_replica_that_has_it(tmp_path: Path, left: str) -> None:
    """The snapshot is on the disk, the log is still the one of before, whole or in part."""
    async def main() -> None:
        async with Group(tmp_path, **SMALL) as group:
            leader = await group.leader()
            await fill(leader, 30)
            await group.level()
            behind = next(n for n in "abc" if n != leader.name)
            await group.stop(behind)
            await fill(leader, 100)
            await until(lambda: leader._log.first_index > 400 and leader._keeper._task is None)
            tablet = leader.tablet_id
            source, target = (tmp_path / n / "snapshots" / tablet for n in (leader.name, behind))
            target.write_bytes(source.read_bytes())
            segments = sorted((tmp_path / behind / "wals" / tablet).glob("wal-*"))
            for path in {"all": [], "begin": segments[1:], "nothing": segments}[left]:
                path.unlink()
            again = await group.start(behind)
            await group.level()
            assert group.values(behind) == group.values(leader.name) and again.status().first_index > 400
    run(main())


def test_a_snapshot_that_is_damaged_on_the_way_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path, names="ab") as group:
            await (await group.leader()).propose(b"x")
            await group.level()
            data = encode(Snapshot(OpId(9, 99), b"", b"[]"))
            with pytest.raises(CorruptionError):
                await group.replicas["a"]._install(data[:-1] + b"?")
            old = encode(Snapshot(OpId(1, 1), b"", b"[]"))
            await group.replicas["a"]._install(old)
            await group.level()
            assert group.values("a") == ["x"]
    run(main())


# -- disks -------------------------------------------------------------------------------------------------------------
def test_a_failed_sync_stops_that_replica_alone(tmp_path: Path) -> None:
    disk = RecordingDisk()

    async def main() -> None:
        async with Group(tmp_path, names="abc") as group:
            await group.stop("a")
            broken = await group.start("a", disk=disk)
            leader = await group.leader()
            if leader is not broken:
                await leader.transfer_leadership("a")
                await until(lambda: broken.is_leader)
            await broken.propose(b"before")
            disk.fail("sync", 1, errno.EIO, onwards=True)
            unsure = asyncio.ensure_future(broken.propose(b"unsure", timeout=None))
            await until(unsure.done, "who waits is told")
            with pytest.raises(Timeout) as caught:
                await unsure
            assert caught.value.maybe_applied
            assert broken.status().state == "failed" and "sync failed" in str(broken.status().failure)
            with pytest.raises(ReplicaFailed):
                await broken.propose(b"x")
            term = broken.status().term
            new = await group.leader()
            assert new is not broken
            await new.propose(b"after")
            assert broken.status().term == term and not broken.is_leader
    run(main())


def test_a_vote_that_cannot_be_written_is_not_given(tmp_path: Path) -> None:
    disk = RecordingDisk()

    async def main() -> None:
        async with Group(tmp_path) as group:
            await group.leader()
            await group.stop("a")
            leader = await group.leader()
            broken = await group.start("a", disk=disk)
            await group.level()
            term = broken.status().term
            disk.fail("rename", 1, errno.EIO, onwards=True)
            await leader.step_down()
            await until(lambda: broken.status().state == "failed")
            await group.leader()
            assert broken._driver.raft.state.leadership is None
        async with Group(tmp_path) as group:
            await group.leader()
            await group.level()
            assert group.replicas["a"].status().term > term
    run(main())


def test_a_leader_whose_disk_is_full_steps_down_and_says_that_it_is_not_sure(tmp_path: Path) -> None:
    disk = RecordingDisk()

    async def main() -> None:
        async with Group(tmp_path) as group:
            await group.stop("a")
            full = await group.start("a", disk=disk)
            leader = await group.leader()
            if leader is not full:
                await leader.transfer_leadership("a")
                await until(lambda: full.is_leader)
            await full.propose(b"before")
            term = full.status().term
            disk.fail("write", 1, errno.ENOSPC)
            unsure = asyncio.ensure_future(full.propose(b"unsure", timeout=None))
            await until(lambda: full.status().term > term or not full.is_leader)
            after = await group.leader()
            await after.propose(b"after")
            try:
                await unsure
                applied = True
            except Aborted:
                applied = False
            await group.level()
            expected = ["before", *(["unsure"] if applied else []), "after"]
            assert [group.values(n) for n in "abc"] == [expected] * 3
            assert full.status().state == "running"
    run(main())


# -- opening -----------------------------------------------------------------------------------------------------------
def test_a_folder_belongs_to_one_replica(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path, names="ab") as group:
            with pytest.raises(LogLocked):
                await RaftReplica(tmp_path / "a", me="a", peers=group.peers, sm=Register(),
                                  transport=group.network.transport("a")).start()
            with pytest.raises(InvalidArgument, match="belongs to replica a"):
                await RaftReplica(tmp_path / "a", me="b", peers=group.peers, sm=Register(),
                                  transport=group.network.transport("b")).start()
            with pytest.raises(InvalidArgument, match="lacks c"):
                RaftReplica(tmp_path / "c", me="c", peers=group.peers, sm=Register())
    run(main())


def test_a_closed_replica_says_so_and_closing_again_is_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path, names="a") as group:
            replica = await group.leader()
            waiting = asyncio.ensure_future(replica.propose(b"x"))
            await asyncio.sleep(0)
            await replica.close()
            await replica.close()
            with pytest.raises((Timeout, ReplicaClosed)):
                await waiting
            with pytest.raises(ReplicaClosed):
                await replica.propose(b"x")
            assert replica.status().state == "closed"
    run(main())


def test_files_lie_where_kudu_has_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path, names="a") as group:
            replica = await group.leader()
            await replica.propose(b"x")
            (wal,) = (tmp_path / "a" / "wals").iterdir()
            assert (wal / "wal-000000001").exists() and wal.name == replica.tablet_id and len(wal.name) == 32
            assert [p.name for p in (tmp_path / "a" / "consensus-meta").iterdir()] == [wal.name]
    run(main())
    with Log.open(next((tmp_path / "a" / "wals").iterdir())) as log:
        assert [bytes(e) for e in log.read() if e.is_user] == [b"x"]


def test_futures_of_proposals_are_told_as_the_proposers_are(tmp_path: Path) -> None:
    async def main() -> None:
        async with Group(tmp_path) as group:
            leader = await group.leader()
            one, many, none = leader.submit(b"a"), leader.submit_many([b"b", b"c"]), leader.submit_many([])
            failing = leader.submit(b"!no")
            assert not one.done() and await none == []
            assert [await one, await many] == [1, [2, 3]]
            with pytest.raises(ValueError, match="no"):
                await failing
            given_up = leader.submit(b"d")
            given_up.cancel()
            assert await leader.propose(b"e") == 5      # cancelling takes nothing back
            other = next(r for r in group.replicas.values() if r is not leader)
            with pytest.raises(NotLeader):
                other.submit(b"x")
    run(main())
