"""Replicas that talk over the network: Kudu's ConsensusService over krpc, both sides.

    names     what replicas are called, and their uuids                               pure
    configs   configurations and states <-> RaftConfigPB, ConsensusStatePB            pure
    codes     refusals <-> error codes                                                pure
    wire      messages between replicas <-> bytes                                     pure
    peers     calls to other servers: a channel each
    routes    incoming messages, and to which replica of this server they go
    admin     what people and tools ask of a replica
    service   the handlers of ConsensusService
    identity  GetStatus
    krpc      Endpoint and KrpcTransport: what the rest of the program sees

May not touch: files. docs/transport.md.
"""
from consensus.transport.admin import ReplicaAdmin
from consensus.transport.krpc import Endpoint, KrpcTransport, TransportOptions
from consensus.transport.names import Names, uuid_of_name
from consensus.transport.routes import IncomingCall
from consensus.transport.wire import Operations

__all__ = ["Endpoint", "IncomingCall", "KrpcTransport", "Names", "Operations", "ReplicaAdmin", "TransportOptions",
           "uuid_of_name"]
