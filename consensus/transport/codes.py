"""Refusals and what the wire calls them: TabletServerErrorPB, ConsensusErrorPB, AppStatusPB. Pure.

Each direction is one function. A Kudu replica that has a tombstone says TABLET_NOT_FOUND, so ours does.
"""
from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from consensus.raft.inputs import SendFailure
from consensus.raft.refusals import Refusal, UpdateError, VoteDenial


class AppStatus(IntEnum):
    """AppStatusPB.ErrorCode."""

    NOT_FOUND = 1
    NOT_SUPPORTED = 3
    INVALID_ARGUMENT = 4
    ILLEGAL_STATE = 9
    SERVICE_UNAVAILABLE = 13
    TIMED_OUT = 14
    ABORTED = 11


class TabletError(IntEnum):
    """TabletServerErrorPB.Code."""

    UNKNOWN_ERROR = 1
    TABLET_NOT_FOUND = 6
    INVALID_CONFIG = 9
    TABLET_NOT_RUNNING = 12
    NOT_THE_LEADER = 15
    WRONG_SERVER_UUID = 16
    CAS_FAILED = 17
    TABLET_FAILED = 20


def set_error(error: Any, code: TabletError, status: AppStatus, text: str) -> None:
    """Fill a TabletServerErrorPB."""
    error.code = int(code)
    error.status.code = int(status)
    error.status.message = text


def set_consensus_error(error: Any, code: int, status: AppStatus, text: str) -> None:
    """Fill a ConsensusErrorPB."""
    error.code = code
    error.status.code = int(status)
    error.status.message = text


# -- of a request of a person, or the master -------------------------------------------------------------------------
_REFUSALS: Final[dict[Refusal, tuple[TabletError, AppStatus]]] = {
    Refusal.NOT_LEADER: (TabletError.NOT_THE_LEADER, AppStatus.ILLEGAL_STATE),
    Refusal.TRANSFERRING: (TabletError.UNKNOWN_ERROR, AppStatus.ILLEGAL_STATE),
    Refusal.BEHIND_CLOCK: (TabletError.UNKNOWN_ERROR, AppStatus.ILLEGAL_STATE),
    Refusal.NOT_READY: (TabletError.UNKNOWN_ERROR, AppStatus.ILLEGAL_STATE),
    Refusal.CHANGE_PENDING: (TabletError.UNKNOWN_ERROR, AppStatus.ILLEGAL_STATE),
    Refusal.CAS_FAILED: (TabletError.CAS_FAILED, AppStatus.ILLEGAL_STATE),
    Refusal.BAD_CONFIG: (TabletError.INVALID_CONFIG, AppStatus.INVALID_ARGUMENT),
    Refusal.TOO_MANY_VOTERS_CHANGED: (TabletError.INVALID_CONFIG, AppStatus.INVALID_ARGUMENT),
    Refusal.UNKNOWN_PEER: (TabletError.INVALID_CONFIG, AppStatus.INVALID_ARGUMENT),
    Refusal.PEER_IS_LEADER: (TabletError.INVALID_CONFIG, AppStatus.INVALID_ARGUMENT),
    Refusal.NOT_A_VOTER: (TabletError.UNKNOWN_ERROR, AppStatus.INVALID_ARGUMENT),
    Refusal.TOMBSTONED: (TabletError.TABLET_NOT_FOUND, AppStatus.ILLEGAL_STATE),
}


def refusal_code(refusal: Refusal) -> tuple[TabletError, AppStatus]:
    return _REFUSALS[refusal]


# -- of an update ------------------------------------------------------------------------------------------------------
CONSENSUS_ERRORS: Final = frozenset({UpdateError.INVALID_TERM, UpdateError.PRECEDING_ENTRY_DIDNT_MATCH,
                                     UpdateError.CANNOT_PREPARE})
_UPDATE_ERRORS: Final = {error.value: error for error in CONSENSUS_ERRORS}


def update_error_from(code: int) -> UpdateError:
    """What a ConsensusErrorPB in an update's answer means. One that no follower should send is as good as no answer to
    a request that made sense."""
    return _UPDATE_ERRORS.get(code, UpdateError.MALFORMED)


def send_failure_from(code: int) -> SendFailure:
    """What a TabletServerErrorPB in an update's answer means to the leader."""
    return SendFailure.NO_SUCH_TABLET if code == TabletError.TABLET_NOT_FOUND else SendFailure.UNREACHABLE


# -- of a vote ---------------------------------------------------------------------------------------------------------
_DENIALS: Final = {denial.value: denial for denial in VoteDenial}
WITHHELD: Final = frozenset({VoteDenial.LEADER_IS_ALIVE, VoteDenial.BUSY})


def denial_from(code: int) -> VoteDenial | None:
    """None: a reason that the core does not know; the vote is denied all the same."""
    return _DENIALS.get(code)
