"""Kudu's RPC protocol, both sides. Framing and negotiation are pure; connections run on asyncio over their own sockets.

    channel = Channel("127.0.0.1", 7050)
    status = await Proxy(channel, "kudu.server.GenericService").call("GetStatus")

    server = Server(ServiceRegistry([Service("demo.Echo", {"Echo": lambda request: bytes(request.message)})]))
    host, port = await server.start()

Opens sockets, never files.
"""
from kudu_storage.rpc.channel import Channel
from kudu_storage.rpc.codes import RpcCode
from kudu_storage.rpc.connection import Call, ClientConnection, Reply, connect
from kudu_storage.rpc.framing import Method
from kudu_storage.rpc.options import ConnectionOptions, ServerOptions
from kudu_storage.rpc.proxy import Answer, CallOptions, Proxy
from kudu_storage.rpc.server import Server
from kudu_storage.rpc.services import LATER, CallRefused, Request, Response, Service, ServiceRegistry, with_messages

__all__ = [
    "LATER",
    "Answer",
    "Call",
    "CallOptions",
    "CallRefused",
    "Channel",
    "ClientConnection",
    "ConnectionOptions",
    "Method",
    "Proxy",
    "Reply",
    "Request",
    "Response",
    "RpcCode",
    "Server",
    "ServerOptions",
    "Service",
    "ServiceRegistry",
    "connect",
    "with_messages",
]
