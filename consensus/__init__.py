"""Replication and servers above kudu_storage: the Raft core, replicas, tablet servers and masters.

Public names are loaded when first used: asyncio with RaftReplica.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kudu_storage.errors import Aborted, NotLeader, ProposalsFull, ReplicaClosed, ReplicaFailed, RequestDenied, Timeout

if TYPE_CHECKING:
    from consensus.replica.replica import RaftReplica
    from consensus.replica.state_machine import StateMachine
    from consensus.transport.memory import MemoryNetwork

__all__ = ["Aborted", "MemoryNetwork", "NotLeader", "ProposalsFull", "RaftReplica", "ReplicaClosed", "ReplicaFailed",
           "RequestDenied", "StateMachine", "Timeout"]

_LAZY = {"RaftReplica": "consensus.replica.replica", "StateMachine": "consensus.replica.state_machine",
         "MemoryNetwork": "consensus.transport.memory"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
