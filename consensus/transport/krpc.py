"""The transport of replicas that are apart: Kudu's ConsensusService over krpc.

    endpoint = Endpoint("a", "127.0.0.1:7050", peers={"b": "127.0.0.1:7051", "c": "127.0.0.1:7052"})
    transport = endpoint.transport(tablet_id, admin=driver)
    await transport.start(deliver, on_connection)
    transport.send("b", request)            # deliver("b", answer or SendFailed, None) comes later
    transport.reply(call, response)         # for what deliver("b", request, call) brought
    await transport.stop()

One Endpoint is one server process: its uuid, its listening socket, its connections to others. Many replicas share it.

T1  Nothing is delivered from within `send`, `reply` or `start`: always from the loop, one at a time.
T2  Each UpdateRequest sent has one outcome: an UpdateResponse, or a SendFailed. Vote requests and RunElection may have
    none: silence is an answer that the core knows.
T3  After `stop` nothing is delivered. Requests that were not answered get an error.
T4  Operations are encoded once a range, not once a peer.
May not touch: files. Runs on one loop's thread.
"""
from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from consensus.raft.inputs import SendFailed, SendFailure
from consensus.raft.messages import Message, Run, RunElection, UpdateRequest, UpdateResponse, VoteRequest, VoteResponse
from consensus.transport import wire
from consensus.transport.admin import ReplicaAdmin
from consensus.transport.configs import join_address, split_address
from consensus.transport.identity import generic_service
from consensus.transport.names import Names
from consensus.transport.peers import Peers, default_options
from consensus.transport.routes import Deliver, IncomingCall, OnConnection, Route
from consensus.transport.service import SERVICE, ConsensusService
from kudu_storage._native.consensus_ops import ops_field
from kudu_storage.errors import BadFrame, InvalidArgument, RpcError
from kudu_storage.rpc.connection import OnDone, Reply
from kudu_storage.rpc.framing import COPY_BYTES_MAX, Method, Payload
from kudu_storage.rpc.options import ConnectionOptions, ServerOptions
from kudu_storage.rpc.server import Server
from kudu_storage.rpc.services import ServiceRegistry

_log = logging.getLogger(__name__)
_UPDATE: Final = Method(SERVICE, "UpdateConsensus")
_VOTE: Final = Method(SERVICE, "RequestConsensusVote")
_RUN_ELECTION: Final = Method(SERVICE, "RunLeaderElection")


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Args:
        update_timeout_s: an update is answered when it is durable, so longer than a slow disk takes. Until then a peer
            that is gone without a word keeps the leader's window full.
        vote_timeout_s: votes that come later than the next attempt are of no use.
        generic_service: serve GenericService.GetStatus, which the `kudu` tool asks first.
    """

    update_timeout_s: float = 10.0
    vote_timeout_s: float = 1.5
    generic_service: bool = True

    def __post_init__(self) -> None:
        if self.update_timeout_s <= 0 or self.vote_timeout_s <= 0:
            raise InvalidArgument(f"transport options out of range: {self}")


class Endpoint:
    """This server: where it listens, whom it knows."""

    def __init__(self, me: str, address: str, *, peers: Mapping[str, str] | None = None,
                 options: TransportOptions | None = None, connection_options: ConnectionOptions | None = None,
                 server_options: ServerOptions | None = None, registry: ServiceRegistry | None = None) -> None:
        """`me` and the keys of `peers` are names or uuids (names.py), addresses are "host:port". Port 0 of `address`:
        one of the kernel's choice. `registry`: serve these services, too."""
        host, _, port = address.rpartition(":")
        self._bind = (host.removeprefix("[").removesuffix("]"), 0) if port == "0" else split_address(address)
        self.me = me
        self.options = options or TransportOptions()
        self.names = Names([me, *(peers or {})])
        self.uuid = self.names.uuid(me)
        self.peers = Peers(connection_options or default_options())
        for name, where in (peers or {}).items():
            self.set_address(name, where)
        self.instance_seqno = time.time_ns() // 1000
        self.service = ConsensusService(self.names, me, self.instance_seqno)
        self.registry = registry or ServiceRegistry()
        self.registry.add(self.service.service())
        if self.options.generic_service:
            self.registry.add(generic_service(self))
        self._server_options = server_options
        self._server: Server | None = None
        self._starting: asyncio.Future[None] | None = None
        self._users = 0

    @property
    def server(self) -> Server | None:
        """What listens and has the connections of others; None: not started."""
        return self._server

    @property
    def address(self) -> str:
        """Where it listens; before it does, where it was told to."""
        if self._server is not None and self._server.addresses:
            return join_address(*self._server.addresses[0])
        return join_address(*self._bind)

    def set_address(self, name: str, address: str) -> None:
        """Where a peer is from now on. Raises InvalidArgument."""
        if name != self.me:
            self.names.add(name)
            self.peers.set_address(name, address)

    def transport(self, tablet_id: str, admin: ReplicaAdmin | None = None) -> KrpcTransport:
        """The transport of one replica. Without `admin` it answers its peers only."""
        return KrpcTransport(self, tablet_id, admin)

    async def start(self) -> None:
        """Listen, if nobody has asked for it yet; each start wants its own stop. Raises ConnectionLost."""
        self._users += 1
        try:
            while self._starting is not None:
                await asyncio.wait([self._starting])
            if self._server is None:
                await self._listen()
        except BaseException:
            self._users -= 1
            raise

    async def _listen(self) -> None:
        self._starting = asyncio.get_running_loop().create_future()
        server = Server(self.registry, self._server_options)
        try:
            await server.start(*self._bind)
            self._server = server
            self._bind = server.addresses[0]
        finally:
            self._starting.set_result(None)
            self._starting = None

    async def stop(self, grace_s: float = 0.0) -> None:
        """The last stop ends it: what is under way is lost after the grace."""
        self._users -= 1
        if self._users or self._server is None:
            return
        server, self._server = self._server, None
        await server.stop(grace_s)
        await self.peers.close()


class KrpcTransport:
    """One replica's way to its peers, and theirs to it. Implements consensus.replica.ports.Network."""

    def __init__(self, endpoint: Endpoint, tablet_id: str, admin: ReplicaAdmin | None = None) -> None:
        if not tablet_id or len(tablet_id.encode()) > wire.TABLET_ID_BYTES_MAX:
            raise InvalidArgument(f"not a tablet's id: {tablet_id!r}")
        self.endpoint, self.tablet_id, self.admin = endpoint, tablet_id, admin
        self.names = endpoint.names
        self._peers = endpoint.peers
        self._options = endpoint.options
        self._deliver: Deliver | None = None
        self._route: Route | None = None
        self._encoders: dict[str, wire.UpdateEncoder] = {}
        # The operations that were encoded last (T4), and which they are: first index, then term and last of each run.
        self._ops_key: tuple[object, ...] | None = None
        self._ops = b""

    async def start(self, deliver: Deliver, on_connection: OnConnection | None = None) -> None:
        """Listen, and deliver what comes for this replica."""
        assert self._route is None, "started twice"
        route = Route(self.tablet_id, self.names, deliver, on_connection, self.admin)
        self.endpoint.service.add(route)
        self._route, self._deliver = route, deliver
        self._loop = asyncio.get_running_loop()
        try:
            await self.endpoint.start()
        except BaseException:
            self._detach()
            raise

    async def stop(self) -> None:
        """Deliver nothing any more (T3)."""
        if self._route is not None:
            self._detach()
            await self.endpoint.stop()

    def _detach(self) -> None:
        route, self._route, self._deliver = self._route, None, None
        self._ops_key, self._ops = None, b""
        if route is not None:
            self.endpoint.service.remove(route)

    def set_address(self, peer: str, address: str) -> None:
        """Where a peer is, as a configuration says."""
        self.endpoint.set_address(peer, address)

    # -- out -----------------------------------------------------------------------------------------------------------
    def send(self, to: str, message: UpdateRequest | VoteRequest | RunElection) -> None:
        """Delivery is not promised. An update's operations are `payload`: a LogEntryBatchPB's bytes, a CachedBatch, a
        BatchChunk or a sequence of those, which hold at least the operations of `runs`."""
        kind = type(message)
        if kind is UpdateRequest:
            self._send_update(to, message)      # type: ignore[arg-type]  # as just found
        elif kind is VoteRequest:
            self._send_vote(to, message)        # type: ignore[arg-type]
        else:
            self._call(to, _RUN_ELECTION, wire.encode_run_election(self.tablet_id, to, self.names), _ignore,
                       self._options.vote_timeout_s)

    def reply(self, call: IncomingCall, message: UpdateResponse | VoteResponse) -> None:
        """Answer a call that was delivered; dropped if the peer is gone."""
        if type(message) is UpdateResponse:
            call.respond(wire.encode_update_response(message, self.names))
        else:
            call.respond(wire.encode_vote_response(message, self.names))   # type: ignore[arg-type]

    def _send_update(self, to: str, request: UpdateRequest) -> None:
        encoder = self._encoders.get(to)
        if encoder is None:
            encoder = self._encoders[to] = wire.UpdateEncoder(self.tablet_id, self.endpoint.me, to, self.names)
        head = encoder.encode(request)
        payload: Payload = head
        if request.runs:
            ops = self._operations(request.runs, request.payload)
            # Joined while that is cheaper than another buffer; a large frame is written as two.
            payload = head + ops if len(ops) <= COPY_BYTES_MAX else (head, ops)
        error = self._call(to, _UPDATE, payload, partial(self._updated, to, request.seq),
                           self._options.update_timeout_s)
        if error is not None:
            self._loop.call_soon(self._tell, to, SendFailed(to, request.seq))

    def _operations(self, runs: Sequence[Run], payload: Any) -> bytes:
        key = (runs[0].first, *[(run.term, run.last) for run in runs])
        if key != self._ops_key:
            self._ops = ops_field(_parts(payload), runs[0].first, runs[-1].last)
            self._ops_key = key
        return self._ops

    def _send_vote(self, to: str, request: VoteRequest) -> None:
        self._call(to, _VOTE, wire.encode_vote_request(request, self.tablet_id, to, self.names),
                   partial(self._voted, to, request), self._options.vote_timeout_s)

    def _call(self, to: str, method: Method, payload: Payload, on_done: OnDone, timeout_s: float) -> RpcError | None:
        """None, or why the call was not made."""
        try:
            self._peers.start_call(to, method, payload, on_done, timeout_s)
        except RpcError as error:
            _log.debug("%s to %s was not sent: %s", method, to, error)
            return error
        return None

    # -- answers -------------------------------------------------------------------------------------------------------
    def _tell(self, peer: str, message: Message | SendFailed) -> None:
        if self._deliver is not None:
            self._deliver(peer, message, None)

    def _updated(self, peer: str, seq: int, outcome: Reply | RpcError) -> None:
        answer: UpdateResponse | SendFailed
        if isinstance(outcome, Reply):
            try:
                answer = wire.decode_update_response(outcome.message, peer, seq)
            except BadFrame as error:
                _log.warning("%s answered an update of %s with nonsense: %s", peer, self.tablet_id, error)
                answer = SendFailed(peer, seq, SendFailure.UNREACHABLE)
        else:
            answer = SendFailed(peer, seq, SendFailure.UNREACHABLE)
        self._tell(peer, answer)

    def _voted(self, peer: str, request: VoteRequest, outcome: Reply | RpcError) -> None:
        if not isinstance(outcome, Reply):
            return
        try:
            answer = wire.decode_vote_response(outcome.message, peer, request)
        except BadFrame as error:
            _log.warning("%s answered a vote request of %s with nonsense: %s", peer, self.tablet_id, error)
            return
        if answer is not None:
            self._tell(peer, answer)


def _parts(payload: Any) -> Sequence[Any]:
    if isinstance(payload, wire.Operations):
        return (payload.body,)
    return payload if isinstance(payload, (list, tuple)) else (payload,)


def _ignore(_: Reply | RpcError) -> None:
    """A successor that does not stand is noticed by the transfer's own deadline."""
