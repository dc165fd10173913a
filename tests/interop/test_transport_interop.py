"""Our transport among real replicas, and the real `kudu` tool with our replicas."""
from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
from consensus_wire import TABLET, WRITE, batch
from memory_replica import MemoryReplica
from transport_nodes import FakeAdmin, Node, group

from consensus.raft.effects import Role
from consensus.raft.inputs import SendFailed, SendFailure, Transfer
from consensus.raft.messages import Run, RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.raft.refusals import Refusal, UpdateError, VoteDenial
from consensus.transport import Endpoint
from consensus.transport.configs import config_from
from consensus.transport.service import SERVICE
from kudu_storage.common.opid import OpId
from kudu_storage.protos import message_class
from kudu_storage.rpc import Proxy, connect
from kudu_storage.rpc.connection import ClientConnection

C = "c" * 32


@pytest.fixture(scope="module")
def cluster(kudu: oracle.KuduBinaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[oracle.MiniCluster]:
    """One tablet with one replica, written to, on a server with default security settings."""
    with oracle.MiniCluster(kudu, tmp_path_factory.mktemp("transport")) as cluster:
        cluster.create_table("t", [{"column_name": "key", "column_type": "INT64", "is_nullable": False}], ["key"])
        cluster.loadgen("--table_name=t", "--num_rows_per_thread=50", "--num_threads=1", "--flush_per_n_rows=5")
        cluster.wait_healthy()
        yield cluster


@pytest.fixture
def tablet(cluster: oracle.MiniCluster) -> str:
    (found,) = cluster.tablet_ids("t")
    return found


async def ask(connection: ClientConnection, method: str, **fields: Any) -> Any:
    request = message_class(f"kudu.consensus.{method}RequestPB")(**fields)
    return (await Proxy(connection, SERVICE).call(method, request)).message


def test_a_real_server_tells_its_state_and_operations(cluster: oracle.MiniCluster, tablet: str) -> None:
    server = cluster.tservers[0]
    assert server.address is not None and server.uuid is not None
    host, _, port = server.address.partition(":")

    async def run() -> None:
        connection = await connect(host, int(port))
        dest = {"dest_uuid": str(server.uuid).encode()}
        (told,) = (await ask(connection, "GetConsensusState", **dest, report_health=2)).tablets
        assert told.tablet_id.decode() == tablet
        assert told.cstate.leader_uuid == server.uuid and told.cstate.current_term >= 1
        config = config_from(told.cstate.committed_config, Endpoint("a", "127.0.0.1:0").names)
        assert config.voters == (server.uuid,) and config.peers[0].address == server.address
        assert told.cstate.committed_config.peers[0].health_report.overall_health == 1
        received, committed = [(await ask(connection, "GetLastOpId", **dest, tablet_id=tablet.encode(),
                                          opid_type=opid_type)).opid for opid_type in (1, 2)]
        assert received == committed and received.term == told.cstate.current_term
        assert received.index > 10      # ten batches of rows and a NO_OP
        await connection.close()

    asyncio.run(run())


def test_a_real_replica_takes_our_messages_for_those_of_a_replica(cluster: oracle.MiniCluster, tablet: str) -> None:
    server = cluster.tservers[0]
    them = str(server.uuid)
    assert server.address is not None

    async def run() -> None:
        a = Node(Endpoint("a", "127.0.0.1:0"), tablet)
        await a.start()
        a.transport.set_address(them, server.address or "")
        ahead, behind = OpId(1000, 1_000_000), OpId(0, 0)
        vote = VoteRequest("a", 1, behind, is_pre_election=True)

        async def answer(message: Any) -> Any:
            a.transport.send(them, message)
            sender, told, call = await a.next()
            assert (sender, call) == (them, None)
            return told

        assert await answer(replace(vote, term=1000)) == VoteResponse(
            them, 1000, True, False, 0, VoteDenial.LEADER_IS_ALIVE)
        told = await answer(replace(vote, term=1000, ignore_live_leader=True))
        assert told.denial is VoteDenial.LAST_OPID_TOO_OLD and told.responder_term >= 1
        term = told.responder_term
        told = await answer(replace(vote, term=1000, last_received=ahead, ignore_live_leader=True))
        assert told == VoteResponse(them, 1000, True, True, term)       # it would; nothing of that is kept
        told = await answer(UpdateRequest("a", 0, behind, 0, time_floor=1 << 60, seq=5, safe_time=1))
        assert isinstance(told, UpdateResponse)
        assert (told.error, told.term, told.seq) == (UpdateError.INVALID_TERM, term, 5)
        index = 2_000_000
        replicate = UpdateRequest("a", 0, OpId(term, index - 1), 0, (Run(term, index, index),), seq=6,
                                  payload=batch([(term, index, WRITE, b"x")]))
        told = await answer(replicate)
        assert isinstance(told, UpdateResponse) and told.error is UpdateError.INVALID_TERM     # it was parsed
        # A gap before the first operation: Kudu, too, refuses it without a word about the log.
        assert await answer(replace(replicate, preceding=behind, seq=7)) == SendFailed(them, 7)
        await a.transport.stop()

        other = Node(Endpoint("a", "127.0.0.1:0"), "no such tablet")
        await other.start()
        other.transport.set_address(them, server.address or "")
        other.transport.set_address(C, server.address or "")
        other.transport.send(them, UpdateRequest("a", 1, behind, 0, seq=1))
        assert (await other.next())[1] == SendFailed(them, 1, SendFailure.NO_SUCH_TABLET)
        other.transport.send(C, UpdateRequest("a", 1, behind, 0, seq=2))      # not that server's uuid
        assert (await other.next())[1] == SendFailed(C, 2, SendFailure.UNREACHABLE)
        await other.transport.stop()

    asyncio.run(run())


@pytest.fixture
def small_cluster(kudu: oracle.KuduBinaries, tmp_path: Path) -> Iterator[oracle.MiniCluster]:
    """A tablet with one replica, in a cluster whose master leaves configurations alone."""
    with oracle.MiniCluster(kudu, tmp_path, master_flags=[
            "--unlock_unsafe_flags", "--catalog_manager_evict_excess_replicas=false",
            "--master_add_server_when_underreplicated=false"]) as cluster:
        cluster.create_table("t", [{"column_name": "key", "column_type": "INT64", "is_nullable": False}], ["key"])
        load(cluster, 0)
        yield cluster


def load(cluster: oracle.MiniCluster, start: int) -> None:
    cluster.loadgen("--table_name=t", "--num_rows_per_thread=50", "--num_threads=1", "--flush_per_n_rows=5",
                    f"--seq_start={start}")


def test_our_replica_follows_a_real_leader_then_leads_it_and_gives_leadership_back(
        small_cluster: oracle.MiniCluster) -> None:
    server = small_cluster.tservers[0]
    them, address = str(server.uuid), str(server.address)
    (tablet,) = small_cluster.tablet_ids("t")

    async def run() -> None:
        host, _, port = address.partition(":")
        connection = await connect(host, int(port))

        async def last(committed: bool) -> OpId:
            told = (await ask(connection, "GetLastOpId", tablet_id=tablet.encode(), opid_type=1 + committed)).opid
            return OpId(told.term, told.index)

        async def state() -> Any:
            return (await ask(connection, "GetConsensusState", tablet_ids=[tablet.encode()])).tablets[0].cstate

        endpoint = Endpoint("a", "127.0.0.1:0", peers={them: address})
        config = config_from((await state()).committed_config, endpoint.names)
        ours = MemoryReplica(endpoint, tablet, config)
        await ours.start()
        raft = ours.raft.state
        host, _, port = endpoint.address.partition(":")
        added = await ask(connection, "ChangeConfig", tablet_id=tablet.encode(), type=1, server={
            "permanent_uuid": endpoint.uuid.encode(), "member_type": 0, "attrs": {"promote": True},
            "last_known_addr": {"host": host, "port": int(port)}})
        assert not added.HasField("error"), added

        # A learner that catches up from the first operation on is promoted; from then on commits need it.
        await ours.until(lambda: raft.role is Role.FOLLOWER and not raft.configs.pending)
        assert set(raft.configs.committed.voters) == {"a", them}
        assert raft.leader_id == them and ours.connections == [(them, True)]
        before = await last(True)
        await asyncio.to_thread(load, small_cluster, 1000)
        after = await last(True)
        assert after.index >= before.index + 10
        await ours.until(lambda: raft.terms.last == after)

        # It stands, the real replica votes for it, and takes its NO_OP.
        ours.feed(RunElection())
        await ours.until(lambda: raft.role is Role.LEADER and raft.commit_index > after.index)
        assert raft.terms.last == OpId(raft.term, after.index + 1) and raft.term > after.term
        assert await last(False) == raft.terms.last
        assert (await state()).leader_uuid == endpoint.uuid
        async with asyncio.timeout(30):
            while await last(True) != raft.terms.last:      # the commit index comes with the next request
                pass
        term = raft.term

        # It hands over, and the real leader's writes go on to need it.
        ours.feed(Transfer(them))
        await ours.until(lambda: raft.leader_id == them and raft.term > term)
        await asyncio.to_thread(load, small_cluster, 2000)
        after = await last(True)
        await ours.until(lambda: raft.terms.last == after)
        await ours.until(lambda: raft.commit_index == after.index)
        await ours.stop()
        await connection.close()

    asyncio.run(run())


def run_tool(kudu: oracle.KuduBinaries, admin: FakeAdmin, *words: str) -> tuple[int, str]:
    """Run the tool with ADDRESS and UUID of one of our replicas in place."""

    async def run() -> tuple[int, str]:
        async with group("a", admin=admin) as (a,):
            known = {"ADDRESS": a.endpoint.address, "UUID": a.endpoint.uuid}
            done = await asyncio.to_thread(kudu.run, *(known.get(word, word) for word in words), timeout_s=60)
            return done.returncode, done.stdout + done.stderr

    return asyncio.run(run())


def test_the_real_tool_forces_a_configuration_on_our_replica(kudu: oracle.KuduBinaries, tmp_path: Path) -> None:
    admin = FakeAdmin()
    status, said = run_tool(kudu, admin, "remote_replica", "unsafe_change_config", "ADDRESS", TABLET, "UUID", C)
    assert status == 0, said
    assert admin.asked == [("unsafe", frozenset({"a", C}))]


def test_the_real_tool_is_told_why_not(kudu: oracle.KuduBinaries) -> None:
    admin = FakeAdmin()
    admin.refusal = Refusal.UNKNOWN_PEER
    status, said = run_tool(kudu, admin, "remote_replica", "unsafe_change_config", "ADDRESS", TABLET, "UUID")
    assert status != 0 and Refusal.UNKNOWN_PEER.value in said and "Invalid argument" in said
    status, said = run_tool(kudu, admin, "remote_replica", "unsafe_change_config", "ADDRESS", "no such tablet", "UUID")
    assert status != 0 and "Tablet not found: no such tablet" in said


def test_the_real_tool_reads_the_status_of_our_replicas_server(kudu: oracle.KuduBinaries) -> None:
    status, said = run_tool(kudu, FakeAdmin(), "tserver", "status", "ADDRESS")
    assert status == 0, said
    assert "permanent_uuid" in said and "bound_rpc_addresses" in said
