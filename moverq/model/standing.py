"""Where a request stands: all that the ledger knows of it beside its facts and its report.

`Counters` is what its orchestrator adds up; `Wishes` what operators have asked for since. Both are durable columns of
the request's row; a job reads the wishes at its safe points.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from moverq.model.ids import RequestId
from moverq.model.progress import Progress
from moverq.model.request import MoveRequest, Status, SyncStage
from moverq.model.status_detail import StatusDetail


@attrs.frozen(kw_only=True)
class Counters:
    """Sums over the whole life of a request, restarts included."""

    bytes_transferred: int = 0
    items_transferred: int = 0
    changes_applied: int = 0
    bad_items: int = 0
    mailbox_bytes: int = 0
    mailbox_items: int = 0
    epoch: int | None = None
    lock_ms: float | None = None
    """Of the attempt that committed."""
    lock_attempts: int = 0
    warnings: int = 0
    digest_source: str | None = None
    digest_target: str | None = None
    digest_ledger: str | None = None
    failed_tries: int = 0
    """In a row, since the move last got on."""
    start_ms: int | None = None
    seeding_completed_ms: int | None = None
    final_sync_ms: int | None = None
    completion_ms: int | None = None
    suspended_ms: int | None = None
    failure_ms: int | None = None
    spent_ms: Mapping[str, int] = attrs.field(factory=dict)
    """How long the request has been in each status, but for the present one."""


@attrs.frozen(kw_only=True)
class Wishes:
    """What operators want of a request."""

    suspend: bool = False
    retry: bool = False
    """Resume of a failed or suspended request."""
    complete: bool = False
    """Go on to the cutover now, whatever `suspend_when_ready_to_complete` and `complete_after_ms` say."""
    finish: bool = False
    """End the soak now."""
    remove: bool = False
    superseded_by: RequestId | None = None
    """The rollback that takes this move back."""


@attrs.frozen(kw_only=True)
class Standing:
    """One request as the ledger has it now."""

    request: MoveRequest
    token: int
    status: Status
    detail: StatusDetail
    stage: SyncStage
    since_ms: int
    """When the status became what it is."""
    updated_ms: int
    percent: int
    message: str = ""
    """Why it waits or failed, for an operator."""
    next_try_ms: int | None = None
    counters: Counters = Counters()
    wishes: Wishes = Wishes()
    progress: Progress | None = None


@attrs.frozen(kw_only=True)
class Change:
    """What an orchestrator changes of its request's row; None leaves a column as it is.

    `next_try_ms` is written with every change of status, since it belongs to it.
    """

    status: Status | None = None
    detail: StatusDetail | None = None
    stage: SyncStage | None = None
    percent: int | None = None
    message: str | None = None
    next_try_ms: int | None = None
    counters: Mapping[str, Any] = attrs.field(factory=dict)
    """Names of `Counters` and their new values."""
    taken_wishes: tuple[str, ...] = ()
    """Names of `Wishes` that have been acted on and are cleared."""
