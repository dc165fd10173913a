"""A replica as its administration sees it: what Kudu's ConsensusService asks (consensus/transport/admin.py)."""
from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.raft.configuration import Change
from consensus.raft.inputs import StepDown, Transfer, UnsafeChangeConfig
from consensus.raft.refusals import Refusal
from consensus.raft.status import Status
from kudu_storage.common.opid import OpId

if TYPE_CHECKING:
    from consensus.replica.replica import RaftReplica

TIMEOUT_S = 30.0


class Admin:
    """Implements consensus.transport.admin.ReplicaAdmin."""

    def __init__(self, replica: RaftReplica) -> None:
        self._replica = replica

    def status(self) -> Status | None:
        return self._replica.core_status()

    def last_op_id(self, committed: bool) -> OpId | None:
        return self._replica.last_op_id(committed)

    async def change_config(self, changes: tuple[Change, ...], cas_opid_index: int | None) -> Refusal | None:
        return await self._replica.ask_change(changes, cas_opid_index, TIMEOUT_S)

    async def unsafe_change_config(self, retained: frozenset[str]) -> Refusal | None:
        return await self._replica.ask(lambda token: UnsafeChangeConfig(retained, token), TIMEOUT_S)

    async def step_down(self) -> Refusal | None:
        return await self._replica.ask(StepDown, TIMEOUT_S)

    async def transfer_leadership(self, to: str | None) -> Refusal | None:
        return await self._replica.ask(lambda token: Transfer(to, token), TIMEOUT_S)
