"""What people and tools ask of a replica, over a real connection: Kudu's methods, Kudu's codes."""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from consensus_wire import TABLET
from transport_nodes import DEADLINE_S, FakeAdmin, Node, group

from consensus.raft.configuration import Change, ChangeType, Config, MemberType, Peer
from consensus.raft.effects import Role
from consensus.raft.messages import RunElection
from consensus.raft.progress import Sending
from consensus.raft.refusals import Refusal
from consensus.raft.status import PeerStatus
from consensus.transport.codes import AppStatus, TabletError
from consensus.transport.configs import FAILED_AFTER_US
from consensus.transport.service import SERVICE
from kudu_storage.common.opid import OpId
from kudu_storage.errors import WaitTimeout
from kudu_storage.protos import message_class
from kudu_storage.rpc import Proxy, connect

C = "c" * 32
Ask = Callable[..., Awaitable[Any]]


def asked(conversation: Callable[[Ask, FakeAdmin, Node], Awaitable[None]], *, admin: FakeAdmin | None = None) -> None:
    """Run a conversation with one replica, `ask(method, **fields)` being a call of its ConsensusService."""
    admin = admin or FakeAdmin()

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S), group("a", admin=admin) as (a,):
            host, _, port = a.endpoint.address.rpartition(":")
            connection = await connect(host, int(port))

            async def ask(method: str, **fields: Any) -> Any:
                proxy = Proxy(connection, SERVICE)
                kind = message_class(f"kudu.consensus.{method}RequestPB")
                if method != "GetConsensusState" and "tablet_id" in kind.DESCRIPTOR.fields_by_name:
                    fields = {"tablet_id": TABLET.encode(), "dest_uuid": a.endpoint.uuid.encode(), **fields}
                return (await proxy.call(method, kind(**fields))).message

            await conversation(ask, admin, a)
            await connection.close()

    asyncio.run(run())


def code(answer: Any) -> tuple[TabletError, AppStatus]:
    assert answer.HasField("error")
    return TabletError(answer.error.code), AppStatus(answer.error.status.code)


def test_the_last_operation_is_told() -> None:
    async def conversation(ask: Ask, admin: FakeAdmin, _: Node) -> None:
        for opid_type, index in ((1, 12), (2, 11)):
            answer = await ask("GetLastOpId", opid_type=opid_type)
            assert not answer.HasField("error")
            assert (answer.opid.term, answer.opid.index) == (3, index)
        assert (await ask("GetLastOpId")).opid.index == 12      # received, if not said
        assert code(await ask("GetLastOpId", opid_type=0)) == (TabletError.UNKNOWN_ERROR, AppStatus.INVALID_ARGUMENT)
        admin.committed = None
        assert code(await ask("GetLastOpId", opid_type=2))[0] is TabletError.TABLET_NOT_RUNNING

    asked(conversation)


def test_the_state_is_told_of_all_tablets_or_of_those_asked_for() -> None:
    async def conversation(ask: Ask, admin: FakeAdmin, a: Node) -> None:
        other = Node(a.endpoint, "another tablet", FakeAdmin())
        without_admin = Node(a.endpoint, "peers only")
        await other.start()
        await without_admin.start()
        answer = await ask("GetConsensusState")
        assert {tablet.tablet_id for tablet in answer.tablets} == {TABLET.encode(), b"another tablet"}
        assert answer.replica_management_info.replacement_scheme == 1
        answer = await ask("GetConsensusState", tablet_ids=[TABLET.encode(), b"unknown"])
        (tablet,) = answer.tablets
        state = tablet.cstate
        assert (state.current_term, state.leader_uuid) == (3, a.endpoint.uuid)
        assert state.committed_config.opid_index == 7 and not state.HasField("pending_config")
        assert [peer.permanent_uuid.decode() for peer in state.committed_config.peers] == [
            a.endpoint.uuid, a.endpoint.names.uuid("b")]
        assert state.committed_config.peers[0].last_known_addr.port == 1
        assert not state.committed_config.peers[0].HasField("health_report")
        admin.state = None      # not running
        assert not (await ask("GetConsensusState", tablet_ids=[TABLET.encode()])).tablets
        await other.transport.stop()
        await without_admin.transport.stop()

    asked(conversation)


def test_a_leader_reports_its_peers_health_when_asked() -> None:
    def peer(name: str, silent_us: int, sending: Sending = Sending.REPLICATE) -> PeerStatus:
        return PeerStatus(name, sending, 0, 1, 0, 0, 0, silent_us, None)

    async def conversation(ask: Ask, admin: FakeAdmin, a: Node) -> None:
        assert admin.state is not None
        pending = Config((*(Peer(name) for name in ("a", "b", "c", "d")), Peer("e", MemberType.NON_VOTER)), 9)
        admin.state = replace(admin.state, pending_config=pending, peers=(
            peer("b", 0), peer("c", FAILED_AFTER_US + 1), peer("d", 0, Sending.COPY)))
        state = (await ask("GetConsensusState", report_health=2)).tablets[0].cstate
        assert [p.health_report.overall_health for p in state.pending_config.peers] == [1, 1, 0, 2, 999]
        assert not state.pending_config.HasField("opid_index")
        admin.state = replace(admin.state, role=Role.FOLLOWER)
        state = (await ask("GetConsensusState", report_health=2)).tablets[0].cstate
        assert not state.committed_config.peers[1].HasField("health_report")

    asked(conversation)


def test_changes_of_configuration_reach_the_replica() -> None:
    async def conversation(ask: Ask, admin: FakeAdmin, a: Node) -> None:
        server = {"permanent_uuid": C.encode(), "member_type": 0, "last_known_addr": {"host": "h", "port": 1},
                  "attrs": {"promote": True}}
        add = Change(ChangeType.ADD, C, MemberType.NON_VOTER, "h:1", True)
        remove = Change(ChangeType.REMOVE, "b")
        b = a.endpoint.names.wire("b")
        assert not (await ask("ChangeConfig", type=1, server=server)).HasField("error")
        assert not (await ask("BulkChangeConfig", cas_config_opid_index=7, config_changes=[
            {"type": 1, "peer": server}, {"type": 2, "peer": {"permanent_uuid": b}}])).HasField("error")
        assert not (await ask("UnsafeChangeConfig", caller_id=b"test", new_config={
            "peers": [{"permanent_uuid": a.endpoint.uuid.encode()}]})).HasField("error")
        assert admin.asked == [("change", (add,), None), ("change", (add, remove), 7),
                               ("unsafe", frozenset({"a"}))]

    asked(conversation)


@pytest.mark.parametrize(("method", "fields"), [
    ("ChangeConfig", {}), ("ChangeConfig", {"type": 2}), ("ChangeConfig", {"type": 2, "server": {}}),
    ("ChangeConfig", {"type": 1, "server": {"permanent_uuid": C.encode()}}),
    ("ChangeConfig", {"type": 1, "server": {"permanent_uuid": C.encode(), "member_type": 999}}),
    ("BulkChangeConfig", {}), ("BulkChangeConfig", {"config_changes": [{"type": 2}]}),
    ("UnsafeChangeConfig", {"caller_id": b"t", "new_config": {}}),
    ("UnsafeChangeConfig", {"caller_id": b"t", "new_config": {"peers": [{}]}}),
    ("UnsafeChangeConfig", {"caller_id": b"t", "new_config": {"peers": [{"permanent_uuid": C.encode()}] * 2}}),
], ids=str)
def test_configurations_that_cannot_be_reach_no_replica(method: str, fields: dict[str, Any]) -> None:
    async def conversation(ask: Ask, admin: FakeAdmin, _: Node) -> None:
        assert code(await ask(method, **fields)) == (TabletError.INVALID_CONFIG, AppStatus.INVALID_ARGUMENT)
        assert admin.asked == []

    asked(conversation)


CHANGE = {"type": 2, "server": {"permanent_uuid": C.encode()}}


@pytest.mark.parametrize(("refusal", "tablet_code"), [
    (Refusal.NOT_LEADER, TabletError.NOT_THE_LEADER), (Refusal.CAS_FAILED, TabletError.CAS_FAILED),
    (Refusal.BAD_CONFIG, TabletError.INVALID_CONFIG), (Refusal.CHANGE_PENDING, TabletError.UNKNOWN_ERROR)])
def test_refusals_of_the_core_have_kudus_codes(refusal: Refusal, tablet_code: TabletError) -> None:
    async def conversation(ask: Ask, admin: FakeAdmin, _: Node) -> None:
        admin.refusal = refusal
        answer = await ask("ChangeConfig", **CHANGE)
        assert code(answer)[0] is tablet_code
        assert refusal.value in answer.error.status.message

    asked(conversation)


def test_an_error_of_the_replica_is_told_as_it_is() -> None:
    async def conversation(ask: Ask, admin: FakeAdmin, _: Node) -> None:
        admin.error = WaitTimeout("not committed in time")
        answer = await ask("ChangeConfig", **CHANGE)
        assert code(answer) == (TabletError.UNKNOWN_ERROR, AppStatus.TIMED_OUT)
        assert "not committed in time" in answer.error.status.message

    asked(conversation)


def test_leaders_step_down_abruptly_or_for_a_successor() -> None:
    async def conversation(ask: Ask, admin: FakeAdmin, a: Node) -> None:
        b = a.endpoint.names.wire("b")
        for fields in ({}, {"mode": 1}, {"mode": 2}, {"mode": 2, "new_leader_uuid": b}):
            assert not (await ask("LeaderStepDown", **fields)).HasField("error")
        assert admin.asked == [("step down",), ("step down",), ("transfer", None), ("transfer", "b")]
        for fields in ({"new_leader_uuid": b}, {"mode": 1, "new_leader_uuid": b},
                       {"mode": 2, "new_leader_uuid": b"nobody"}):
            assert code(await ask("LeaderStepDown", **fields)) == (TabletError.UNKNOWN_ERROR,
                                                                   AppStatus.INVALID_ARGUMENT)
        assert len(admin.asked) == 4
        admin.refusal = Refusal.NOT_LEADER
        assert code(await ask("LeaderStepDown", mode=1)) == (TabletError.NOT_THE_LEADER, AppStatus.ILLEGAL_STATE)

    asked(conversation)


def test_voters_are_told_to_stand_and_learners_are_not() -> None:
    async def conversation(ask: Ask, admin: FakeAdmin, a: Node) -> None:
        assert admin.state is not None
        admin.state = replace(admin.state, role=Role.LEARNER)
        assert code(await ask("RunLeaderElection")) == (TabletError.UNKNOWN_ERROR, AppStatus.ILLEGAL_STATE)
        assert a.received.empty()
        admin.state = replace(admin.state, role=Role.FOLLOWER)
        assert not (await ask("RunLeaderElection")).HasField("error")
        assert await a.next() == ("", RunElection(), None)

    asked(conversation)


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("ChangeConfig", CHANGE), ("BulkChangeConfig", {}), ("LeaderStepDown", {"mode": 1}), ("RunLeaderElection", {}),
    ("GetLastOpId", {}), ("UnsafeChangeConfig", {"caller_id": b"t", "new_config": {}})]


@pytest.mark.parametrize(("method", "fields"), METHODS)
def test_wrong_servers_and_unknown_tablets_are_told_apart(method: str, fields: dict[str, Any]) -> None:
    async def conversation(ask: Ask, admin: FakeAdmin, a: Node) -> None:
        wrong = await ask(method, **fields, dest_uuid=C.encode())
        assert code(wrong) == (TabletError.WRONG_SERVER_UUID, AppStatus.INVALID_ARGUMENT)
        unknown = await ask(method, **fields, tablet_id=b"\xffunknown")
        assert code(unknown) == (TabletError.TABLET_NOT_FOUND, AppStatus.NOT_FOUND)
        admin.state = None
        assert code(await ask(method, **fields))[0] is TabletError.TABLET_NOT_RUNNING
        assert admin.asked == [] and a.received.empty()

    asked(conversation)


def test_a_copy_is_refused_as_not_supported_yet() -> None:
    async def conversation(ask: Ask, _: FakeAdmin, __: Node) -> None:
        answer = await ask("StartTabletCopy", copy_peer_uuid=C.encode(), copy_peer_addr={"host": "h", "port": 1})
        assert code(answer) == (TabletError.UNKNOWN_ERROR, AppStatus.NOT_SUPPORTED)
        answer = await ask("StartTabletCopy", copy_peer_uuid=C.encode(), copy_peer_addr={"host": "h", "port": 1},
                           dest_uuid=C.encode())
        assert code(answer)[0] is TabletError.WRONG_SERVER_UUID

    asked(conversation)


def test_a_server_says_which_instance_it_is() -> None:
    async def conversation(ask: Ask, _: FakeAdmin, a: Node) -> None:
        answer = await ask("GetNodeInstance")
        assert answer.node_instance.permanent_uuid.decode() == a.endpoint.uuid
        assert answer.node_instance.instance_seqno == a.endpoint.instance_seqno

    asked(conversation)


def test_committed_operations_are_told_apart_from_received_ones() -> None:
    assert FakeAdmin().last_op_id(True) == OpId(3, 11) != FakeAdmin().last_op_id(False)
