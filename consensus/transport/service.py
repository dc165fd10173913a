"""Kudu's ConsensusService for the replicas of one server: requests in, each to the replica that it is for.

V1  A request for another server, an unknown tablet, or one that cannot be parsed is answered in Kudu's codes and
    reaches no replica.
V2  Each request gets one answer: here, by the replica's `reply`, or when its route is closed.
Rules of Raft are not here: whether a caller, a term or a configuration may be, the core says.
May not touch: files.
"""
from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from consensus.transport import admin
from consensus.transport.codes import AppStatus, TabletError, set_error
from consensus.transport.names import Names
from consensus.transport.routes import IncomingCall, Route
from consensus.transport.wire import Addressed, decode_update, decode_vote_request, parse
from kudu_storage.errors import BadFrame, InvalidArgument, KuduStorageError
from kudu_storage.protos import message_class
from kudu_storage.rpc.codes import RpcCode
from kudu_storage.rpc.proxy import typed_method
from kudu_storage.rpc.services import LATER, Answer, CallRefused, Handler, Later, Request, Service

SERVICE: Final = "kudu.consensus.ConsensusService"
_update_response_pb: Any = message_class("kudu.consensus.ConsensusResponsePB")
_vote_response_pb: Any = message_class("kudu.consensus.VoteResponsePB")
_AdminMethod: TypeAlias = "Callable[[Any, Any, admin.ReplicaAdmin, Route], Awaitable[None]]"


class ConsensusService:
    """Routes by tablet id, and the handlers of the service."""

    def __init__(self, names: Names, me: str, instance_seqno: int) -> None:
        self.names, self.me = names, me
        self.instance_seqno = instance_seqno
        self.routes: dict[str, Route] = {}
        self._uuid = names.wire(me)

    def service(self) -> Service:
        """For a server's registry."""
        return Service(SERVICE, {
            "UpdateConsensus": self._update,
            "RequestConsensusVote": self._vote,
            "ChangeConfig": self._with_admin("ChangeConfig", admin.change_config),
            "BulkChangeConfig": self._with_admin("BulkChangeConfig", admin.bulk_change_config),
            "UnsafeChangeConfig": self._with_admin("UnsafeChangeConfig", admin.unsafe_change_config),
            "RunLeaderElection": self._with_admin("RunLeaderElection", admin.run_leader_election),
            "LeaderStepDown": self._with_admin("LeaderStepDown", admin.leader_step_down),
            "GetLastOpId": self._with_admin("GetLastOpId", admin.get_last_op_id),
            "GetConsensusState": self._plain("GetConsensusState", self._get_consensus_state),
            "GetNodeInstance": self._plain("GetNodeInstance", self._get_node_instance),
            "StartTabletCopy": self._plain("StartTabletCopy", self._start_tablet_copy),
        })

    def add(self, route: Route) -> None:
        if route.tablet_id in self.routes:
            raise InvalidArgument(f"tablet {route.tablet_id} has a replica here already")
        self.routes[route.tablet_id] = route

    def remove(self, route: Route) -> None:
        if self.routes.get(route.tablet_id) is route:
            del self.routes[route.tablet_id]
            route.close()

    # -- between replicas ----------------------------------------------------------------------------------------------
    def _update(self, request: Request) -> Answer | Later:
        call = IncomingCall(request)
        try:
            addressed = decode_update(request.message, self.names, call)
        except BadFrame as error:
            raise _unparsed(error) from None
        route = self.routes.get(addressed.tablet_id)
        if route is None or addressed.dest_uuid != self._uuid:
            response = _update_response_pb()
            route = self._check(addressed, response.error, "UpdateConsensus")
            if route is None:
                data: bytes = response.SerializeToString()
                return data
        leader = addressed.message.leader_id    # type: ignore[union-attr]  # decode_update gives UpdateRequests
        self._refuse_me(leader)
        route.take(call, leader)
        route.deliver(leader, addressed.message, call)
        return LATER

    def _vote(self, request: Request) -> Answer | Later:
        call = IncomingCall(request)
        try:
            addressed = decode_vote_request(request.message, self.names, call)
        except BadFrame as error:
            raise _unparsed(error) from None
        response = _vote_response_pb()
        route = self._check(addressed, response.error, "RequestConsensusVote")
        if route is None:
            data: bytes = response.SerializeToString()
            return data
        candidate = addressed.message.candidate_id  # type: ignore[union-attr]  # as above
        self._refuse_me(candidate)
        route.take(call, candidate)
        route.deliver(candidate, addressed.message, call)
        return LATER

    def _refuse_me(self, sender: str) -> None:
        """A replica sends itself nothing: whoever has our uuid is another one by mistake, or means harm."""
        if sender == self.me:
            raise CallRefused(f"Invalid argument: a call from {self._uuid.decode()}, which is this server",
                              code=RpcCode.ERROR_INVALID_REQUEST)

    def _check(self, addressed: Addressed, error: Any, method: str) -> Route | None:
        if not self._is_for_us(addressed.dest_uuid, error, method):
            return None
        return self._route(addressed.tablet_id, error)

    def _is_for_us(self, dest_uuid: bytes, error: Any, method: str) -> bool:
        """Kudu, too, lets callers pass that do not say whom they want."""
        if not dest_uuid or dest_uuid == self._uuid:
            return True
        set_error(error, TabletError.WRONG_SERVER_UUID, AppStatus.INVALID_ARGUMENT,
                  f"{method}: Wrong destination UUID requested. Local UUID: {self._uuid.decode()}. "
                  f"Requested UUID: {_text(dest_uuid)}")
        return False

    def _route(self, tablet_id: str, error: Any) -> Route | None:
        route = self.routes.get(tablet_id)
        if route is None:
            set_error(error, TabletError.TABLET_NOT_FOUND, AppStatus.NOT_FOUND,
                      f"Tablet not found: {tablet_id[:80]}")
        return route

    # -- administration ------------------------------------------------------------------------------------------------
    def _with_admin(self, name: str, method: _AdminMethod) -> Handler:
        typed = typed_method(SERVICE, name)

        async def run(message: Any, response: Any, route: Route) -> bytes:
            if route.admin is None or route.admin.status() is None:
                admin.not_running(response.error)
            else:
                try:
                    await method(message, response, route.admin, route)
                except KuduStorageError as error:
                    response.Clear()
                    admin.failed(response.error, error)
            data: bytes = response.SerializeToString()
            return data

        def handler(request: Request) -> Answer | Awaitable[Answer]:
            message = _parsed(typed.request_type, request)
            response = typed.response_type()
            route = self._route(_text(message.tablet_id), response.error) \
                if self._is_for_us(message.dest_uuid, response.error, name) else None
            if route is None:
                data: bytes = response.SerializeToString()
                return data
            return run(message, response, route)

        return handler

    def _plain(self, name: str, fill: Callable[[Any, Any], None]) -> Handler:
        typed = typed_method(SERVICE, name)

        def handler(request: Request) -> Answer:
            message = _parsed(typed.request_type, request)
            response = typed.response_type()
            if not hasattr(message, "dest_uuid") or self._is_for_us(message.dest_uuid, response.error, name):
                fill(message, response)
            data: bytes = response.SerializeToString()
            return data

        return handler

    def _get_consensus_state(self, message: Any, response: Any) -> None:
        admin.get_consensus_state(message, response, list(self.routes.values()), self.names)

    def _get_node_instance(self, _: Any, response: Any) -> None:
        response.node_instance.permanent_uuid = self._uuid
        response.node_instance.instance_seqno = self.instance_seqno

    def _start_tablet_copy(self, message: Any, response: Any) -> None:
        set_error(response.error, TabletError.UNKNOWN_ERROR, AppStatus.NOT_SUPPORTED,
                  f"copying of tablets is not supported yet: {_text(message.tablet_id)}")


def _text(data: bytes) -> str:
    return data[:80].decode("ascii", "backslashreplace")


def _unparsed(error: BadFrame) -> CallRefused:
    return CallRefused(f"Invalid argument: {error}", code=RpcCode.ERROR_INVALID_REQUEST)


def _parsed(message_type: Any, request: Request) -> Any:
    try:
        return parse(message_type, request.message)
    except BadFrame as error:
        raise _unparsed(error) from None

