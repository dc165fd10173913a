"""Who this server is: GenericService.GetStatus, which Kudu's tool asks before it asks for anything else."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.transport.configs import split_address
from kudu_storage.protos import message_class
from kudu_storage.rpc.services import Request, Service, with_messages

if TYPE_CHECKING:
    from consensus.transport.krpc import Endpoint

GENERIC: str = "kudu.server.GenericService"
_request_pb: Any = message_class("kudu.server.GetStatusRequestPB")
_response_pb: Any = message_class("kudu.server.GetStatusResponsePB")


def generic_service(endpoint: Endpoint) -> Service:
    """Answers GetStatus for `endpoint`."""

    def get_status(_: Any, __: Request) -> Any:
        response = _response_pb()
        status = response.status
        status.node_instance.permanent_uuid = endpoint.uuid.encode()
        status.node_instance.instance_seqno = endpoint.instance_seqno
        bound = status.bound_rpc_addresses.add()
        bound.host, bound.port = split_address(endpoint.address)
        return response

    return Service(GENERIC, {"GetStatus": with_messages(_request_pb, get_status)})
