"""A move request and its statuses, in the words administrators know from Get-MoveRequestStatistics."""

from enum import Enum

import attrs

from moverq.endpoints.base import Home
from moverq.model.ids import InstanceId, MailboxId, RequestId


class Status(Enum):
    """RequestStatus of Exchange 2010 (`docs/reference`, statuses)."""

    NONE = "None"
    QUEUED = "Queued"
    IN_PROGRESS = "InProgress"
    AUTO_SUSPENDED = "AutoSuspended"
    COMPLETION_IN_PROGRESS = "CompletionInProgress"
    COMPLETED = "Completed"
    COMPLETED_WITH_WARNING = "CompletedWithWarning"
    SUSPENDED = "Suspended"
    FAILED = "Failed"

    @property
    def is_final(self) -> bool:
        return self in (Status.COMPLETED, Status.COMPLETED_WITH_WARNING)


class SyncStage(Enum):
    """Where in the work a move stands, in order; our own steps stand between Exchange's."""

    NONE = "None"
    QUEUED = "Queued"
    PREFLIGHT = "Preflight"
    CREATING_MAILBOX = "CreatingMailbox"
    CREATING_INITIAL_SYNC_CHECKPOINT = "CreatingInitialSyncCheckpoint"
    CREATING_FOLDER_HIERARCHY = "CreatingFolderHierarchy"
    LOADING_MESSAGES = "LoadingMessages"
    COPYING_MESSAGES = "CopyingMessages"
    INCREMENTAL_SYNC = "IncrementalSync"
    FINAL_INCREMENTAL_SYNC = "FinalIncrementalSync"
    VERIFY = "Verify"
    COMMIT = "Commit"
    CLEANUP = "Cleanup"
    SOAK = "Soak"
    SYNC_FINISHED = "SyncFinished"


class Priority(Enum):
    """As New-MoveRequest -Priority; of two queued requests the higher goes first."""

    LOWEST = "Lowest"
    LOWER = "Lower"
    LOW = "Low"
    NORMAL = "Normal"
    HIGH = "High"
    HIGHER = "Higher"
    HIGHEST = "Highest"
    EMERGENCY = "Emergency"


@attrs.frozen(kw_only=True)
class MoveRequest:
    """What an operator asked for, durable, unchanging but for what Set-MoveRequest may change."""

    request_id: RequestId
    idempotency_key: str
    """The caller's own: asking again with the same key gives the same request."""
    mailbox_id: MailboxId
    address: str
    source: Home
    target_database: str
    target_instance: InstanceId
    """Chosen when the request is made, so that a restart looks for the target by it."""
    parent: RequestId | None = None
    """A rollback: the request it takes back."""
    batch_name: str | None = None
    priority: Priority = Priority.NORMAL
    offline: bool = False
    """Asked for (`--offline`, ForceOffline) or demanded by the version pair."""
    suspend_when_ready_to_complete: bool = False
    complete_after_ms: int | None = None
    bad_item_limit: int | None = 0
    """None: unlimited."""
    lock_budget_ms: int = 1000
    soak_s: float = 14 * 86400.0
    """How long the way back is kept open by the reverse feed."""
    retention_s: float = 30 * 86400.0
    """How long the soft-deleted source is kept after that (MailboxRetention)."""
    queued_ms: int
