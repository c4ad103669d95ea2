"""StatusDetail: what a move is doing or waiting for, in the words of Exchange 2010's RequestState.

The status says how a request stands; the detail says what it does at this moment, finely enough to account for its
time. The words are Exchange's; a sync stage of our own maps to the nearest of them.
"""

from enum import Enum

from moverq.model.request import Status, SyncStage


class StatusDetail(Enum):
    NONE = "None"
    QUEUED = "Queued"
    INITIALIZING_MOVE = "InitializingMove"
    CREATING_MAILBOX = "CreatingMailbox"
    CREATING_FOLDER_HIERARCHY = "CreatingFolderHierarchy"
    CREATING_INITIAL_SYNC_CHECKPOINT = "CreatingInitialSyncCheckpoint"
    LOADING_MESSAGES = "LoadingMessages"
    COPYING_MESSAGES = "CopyingMessages"
    COMPLETION = "Completion"
    INCREMENTAL_SYNC = "IncrementalSync"
    FINALIZATION = "Finalization"
    CLEANUP = "Cleanup"
    STALLED = "Stalled"
    TRANSIENT_FAILURE = "TransientFailure"
    NETWORK_FAILURE = "NetworkFailure"
    MDB_OFFLINE = "MDBOffline"
    SUSPENDED = "Suspended"
    AUTO_SUSPENDED = "AutoSuspended"
    RELINQUISHED = "Relinquished"
    FAILED = "Failed"
    FAILED_BAD_ITEM_LIMIT = "FailedBadItemLimit"
    FAILED_OTHER = "FailedOther"
    COMPLETED = "Completed"
    COMPLETED_WITH_WARNINGS = "CompletedWithWarnings"
    CANCELED = "Canceled"


_OF_STAGE = {
    SyncStage.NONE: StatusDetail.NONE,
    SyncStage.QUEUED: StatusDetail.QUEUED,
    SyncStage.PREFLIGHT: StatusDetail.INITIALIZING_MOVE,
    SyncStage.CREATING_MAILBOX: StatusDetail.CREATING_MAILBOX,
    SyncStage.CREATING_INITIAL_SYNC_CHECKPOINT: StatusDetail.CREATING_INITIAL_SYNC_CHECKPOINT,
    SyncStage.CREATING_FOLDER_HIERARCHY: StatusDetail.CREATING_FOLDER_HIERARCHY,
    SyncStage.LOADING_MESSAGES: StatusDetail.LOADING_MESSAGES,
    SyncStage.COPYING_MESSAGES: StatusDetail.COPYING_MESSAGES,
    SyncStage.INCREMENTAL_SYNC: StatusDetail.INCREMENTAL_SYNC,
    SyncStage.FINAL_INCREMENTAL_SYNC: StatusDetail.FINALIZATION,
    SyncStage.VERIFY: StatusDetail.FINALIZATION,
    SyncStage.COMMIT: StatusDetail.FINALIZATION,
    SyncStage.CLEANUP: StatusDetail.CLEANUP,
    SyncStage.SOAK: StatusDetail.COMPLETED,
    SyncStage.SYNC_FINISHED: StatusDetail.COMPLETED,
}
_OF_STATUS = {
    Status.QUEUED: StatusDetail.QUEUED,
    Status.SUSPENDED: StatusDetail.SUSPENDED,
    Status.AUTO_SUSPENDED: StatusDetail.AUTO_SUSPENDED,
    Status.FAILED: StatusDetail.FAILED,
    Status.COMPLETED: StatusDetail.COMPLETED,
    Status.COMPLETED_WITH_WARNING: StatusDetail.COMPLETED_WITH_WARNINGS,
}
_PERCENT = {
    SyncStage.NONE: 0,
    SyncStage.QUEUED: 0,
    SyncStage.PREFLIGHT: 1,
    SyncStage.CREATING_MAILBOX: 5,
    SyncStage.CREATING_INITIAL_SYNC_CHECKPOINT: 8,
    SyncStage.CREATING_FOLDER_HIERARCHY: 10,
    SyncStage.LOADING_MESSAGES: 15,
    SyncStage.COPYING_MESSAGES: 20,
    SyncStage.INCREMENTAL_SYNC: 95,
    SyncStage.FINAL_INCREMENTAL_SYNC: 96,
    SyncStage.VERIFY: 97,
    SyncStage.COMMIT: 98,
    SyncStage.CLEANUP: 99,
    SyncStage.SOAK: 100,
    SyncStage.SYNC_FINISHED: 100,
}


def detail_of(status: Status, stage: SyncStage) -> StatusDetail:
    """The detail where nothing more special is known."""
    return _OF_STATUS.get(status, _OF_STAGE[stage])


def percent_complete(stage: SyncStage, *, bytes_done: int, bytes_total: int) -> int:
    """PercentComplete: 20 to 95 is the copy by bytes, 95 the line where an AutoSuspended move waits, as Exchange."""
    if stage is not SyncStage.COPYING_MESSAGES:
        return _PERCENT[stage]
    share = min(1.0, bytes_done / bytes_total) if bytes_total > 0 else 0.0
    return 20 + int(75 * share)
