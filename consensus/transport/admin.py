"""What people, masters and tools ask of a replica: the administrative methods of Kudu's ConsensusService.

Each is a coroutine that fills a response; rules live in the core, which the replica's driver asks (ReplicaAdmin).
May not touch: sockets.
"""
from __future__ import annotations

from typing import Any, Final, Protocol

from consensus.raft.configuration import Change
from consensus.raft.effects import Role
from consensus.raft.messages import RunElection
from consensus.raft.refusals import Refusal
from consensus.raft.status import Status
from consensus.transport.codes import AppStatus, TabletError, refusal_code, set_error
from consensus.transport.configs import change_from, state_to
from consensus.transport.names import Names
from consensus.transport.routes import Route
from kudu_storage.common.opid import OpId
from kudu_storage.errors import BadFrame, InvalidArgument, KuduStorageError

_ABRUPT, _GRACEFUL = 1, 2
_RECEIVED, _COMMITTED = 1, 2
_PREPARE_REPLACEMENT_BEFORE_EVICTION: Final = 1
_INCLUDE_HEALTH_REPORT: Final = 2


class ReplicaAdmin(Protocol):
    """A replica, as its administration sees it. The driver implements it.

    The coroutines give None when it was done, else why not; they may raise any error of this package, which is told as
    it is.
    """

    def status(self) -> Status | None:
        """None: it is starting, stopping, or has failed."""

    def last_op_id(self, committed: bool) -> OpId | None:
        """The last operation received, or the last one committed."""

    async def change_config(self, changes: tuple[Change, ...], cas_opid_index: int | None) -> Refusal | None:
        """Until the change is committed."""

    async def unsafe_change_config(self, retained: frozenset[str]) -> Refusal | None: ...

    async def step_down(self) -> Refusal | None: ...

    async def transfer_leadership(self, to: str | None) -> Refusal | None:
        """Until the transfer has begun."""


def _refused(error: Any, refusal: Refusal | None, admin: ReplicaAdmin) -> None:
    if refusal is None:
        return
    code, app_status = refusal_code(refusal)
    status = admin.status()
    leader = f"; the leader is {status.leader_id}" if refusal is Refusal.NOT_LEADER and status and status.leader_id \
        else ""
    set_error(error, code, app_status, refusal.value + leader)


def failed(error: Any, problem: KuduStorageError) -> None:
    """Any error of this package, in a response."""
    if isinstance(problem, (InvalidArgument, BadFrame)):
        set_error(error, TabletError.INVALID_CONFIG, AppStatus.INVALID_ARGUMENT, str(problem))
    elif isinstance(problem, TimeoutError):
        set_error(error, TabletError.UNKNOWN_ERROR, AppStatus.TIMED_OUT, str(problem))
    else:
        set_error(error, TabletError.UNKNOWN_ERROR, AppStatus.ABORTED, str(problem))


async def change_config(request: Any, response: Any, admin: ReplicaAdmin, route: Route) -> None:
    item = change_from(request.type if request.HasField("type") else None,
                       request.server if request.HasField("server") else None, route.names)
    await _change(request, response, (item,), admin)


async def bulk_change_config(request: Any, response: Any, admin: ReplicaAdmin, route: Route) -> None:
    items = tuple([change_from(item.type if item.HasField("type") else None,
                               item.peer if item.HasField("peer") else None, route.names)
                   for item in request.config_changes])
    if not items:
        raise InvalidArgument("requested configuration change does not actually modify the config")
    await _change(request, response, items, admin)


async def _change(request: Any, response: Any, changes: tuple[Change, ...], admin: ReplicaAdmin) -> None:
    cas = request.cas_config_opid_index if request.HasField("cas_config_opid_index") else None
    _refused(response.error, await admin.change_config(changes, cas), admin)


async def unsafe_change_config(request: Any, response: Any, admin: ReplicaAdmin, route: Route) -> None:
    names = [route.names.name(peer.permanent_uuid) for peer in request.new_config.peers]
    retained = frozenset(name for name in names if name is not None)
    if not names or None in names or len(retained) != len(names):
        raise InvalidArgument("new_config must name each peer once, by its permanent_uuid")
    _refused(response.error, await admin.unsafe_change_config(retained), admin)


async def leader_step_down(request: Any, response: Any, admin: ReplicaAdmin, route: Route) -> None:
    if request.mode == _ABRUPT:     # also when none is given, as in Kudu
        if request.new_leader_uuid:
            set_error(response.error, TabletError.UNKNOWN_ERROR, AppStatus.INVALID_ARGUMENT,
                      "cannot specify a new leader uuid for an abrupt step down")
            return
        _refused(response.error, await admin.step_down(), admin)
    elif request.mode == _GRACEFUL:
        to = None
        if request.new_leader_uuid:
            to = route.names.name(request.new_leader_uuid)
            if to is None:
                set_error(response.error, TabletError.UNKNOWN_ERROR, AppStatus.INVALID_ARGUMENT,
                          "new_leader_uuid is no replica's uuid")
                return
        _refused(response.error, await admin.transfer_leadership(to), admin)
    else:
        set_error(response.error, TabletError.UNKNOWN_ERROR, AppStatus.INVALID_ARGUMENT,
                  f"unknown LeaderStepDown mode: {request.mode}")


async def run_leader_election(request: Any, response: Any, admin: ReplicaAdmin, route: Route) -> None:
    del request
    status = admin.status()
    if status is None:
        not_running(response.error)
    elif status.role in (Role.LEARNER, Role.NON_PARTICIPANT, Role.TOMBSTONED):
        set_error(response.error, TabletError.UNKNOWN_ERROR, AppStatus.ILLEGAL_STATE,
                  f"only voting members can start elections: this one is a {status.role.value}")
    else:
        route.deliver("", RunElection(), None)


async def get_last_op_id(request: Any, response: Any, admin: ReplicaAdmin, route: Route) -> None:
    del route
    if request.opid_type not in (_RECEIVED, _COMMITTED):
        set_error(response.error, TabletError.UNKNOWN_ERROR, AppStatus.INVALID_ARGUMENT,
                  "Invalid opid_type specified to GetLastOpId()")
        return
    op_id = admin.last_op_id(request.opid_type == _COMMITTED)
    if op_id is None:
        not_running(response.error)
    else:
        response.opid.term, response.opid.index = op_id


def not_running(error: Any) -> None:
    set_error(error, TabletError.TABLET_NOT_RUNNING, AppStatus.ILLEGAL_STATE, "Tablet not RUNNING")


def get_consensus_state(request: Any, response: Any, routes: list[Route], names: Names) -> None:
    """Of all replicas asked for, those that can say something."""
    wanted = set(request.tablet_ids)
    health = request.report_health == _INCLUDE_HEALTH_REPORT
    for route in routes:
        tablet_id = route.tablet_id.encode()
        status = route.admin.status() if route.admin is not None and (not wanted or tablet_id in wanted) else None
        if status is not None:
            added = response.tablets.add(tablet_id=tablet_id)
            state_to(status, names, added.cstate, health=health)
    response.replica_management_info.replacement_scheme = _PREPARE_REPLACEMENT_BEFORE_EVICTION
