"""One request in numbers: Get-MoveRequestStatistics' properties, in snake_case.

Dates are ISO 8601 in UTC, durations seconds. `from_standing` adds up what is still running: a request that has been
Queued for an hour shows that hour.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from moverq.model.request import Status
from moverq.model.standing import Standing


@attrs.frozen(kw_only=True)
class MoveStatistics:
    """The keys of `moverq move show --json`, in the order they are shown."""

    request_id: str
    address: str
    source_database: str
    target_database: str
    batch_name: str | None
    parent: str | None
    status: str
    status_detail: str
    sync_stage: str
    percent_complete: int
    is_offline: bool
    priority: str
    suspend: bool
    suspend_when_ready_to_complete: bool
    complete_after: str | None
    message: str
    total_mailbox_size: int
    total_mailbox_item_count: int
    bytes_transferred: int
    items_transferred: int
    changes_applied: int
    bytes_transferred_per_minute: float | None
    bad_items_encountered: int
    bad_item_limit: int | None
    queued_timestamp: str
    start_timestamp: str | None
    last_update_timestamp: str
    initial_seeding_completed_timestamp: str | None
    final_sync_timestamp: str | None
    completion_timestamp: str | None
    suspended_timestamp: str | None
    failure_timestamp: str | None
    next_try_timestamp: str | None
    overall_duration: float
    total_queued_duration: float
    total_in_progress_duration: float
    total_suspended_duration: float
    total_failed_duration: float
    total_finalization_duration: float
    epoch: int | None
    lock_ms: float | None
    lock_budget_ms: int
    lock_attempts: int
    backlog: int | None
    predicted_lock_ms: float | None
    digest_source: str | None
    digest_target: str | None
    digest_ledger: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return attrs.asdict(self)


def iso(ms: int | None) -> str | None:
    """Milliseconds since 1970 as a date."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_standing(standing: Standing, *, now_ms: int) -> MoveStatistics:
    """The request's numbers as of now."""
    request, counters, wishes = standing.request, standing.counters, standing.wishes
    spent = _spent_s(standing, now_ms)
    begun, ended = counters.start_ms, counters.seeding_completed_ms or now_ms
    minutes = (ended - begun) / 60_000 if begun is not None else 0.0
    over = counters.completion_ms if counters.completion_ms is not None else now_ms
    progress = standing.progress
    queued = iso(request.queued_ms)
    updated = iso(standing.updated_ms)
    assert queued is not None
    assert updated is not None
    return MoveStatistics(
        request_id=request.request_id,
        address=request.address,
        source_database=request.source.database,
        target_database=request.target_database,
        batch_name=request.batch_name,
        parent=request.parent,
        status=standing.status.value,
        status_detail=standing.detail.value,
        sync_stage=standing.stage.value,
        percent_complete=standing.percent,
        is_offline=request.offline,
        priority=request.priority.value,
        suspend=wishes.suspend,
        suspend_when_ready_to_complete=request.suspend_when_ready_to_complete,
        complete_after=iso(request.complete_after_ms),
        message=standing.message,
        total_mailbox_size=counters.mailbox_bytes,
        total_mailbox_item_count=counters.mailbox_items,
        bytes_transferred=counters.bytes_transferred,
        items_transferred=counters.items_transferred,
        changes_applied=counters.changes_applied,
        bytes_transferred_per_minute=counters.bytes_transferred / minutes if minutes > 0 else None,
        bad_items_encountered=counters.bad_items,
        bad_item_limit=request.bad_item_limit,
        queued_timestamp=queued,
        start_timestamp=iso(counters.start_ms),
        last_update_timestamp=updated,
        initial_seeding_completed_timestamp=iso(counters.seeding_completed_ms),
        final_sync_timestamp=iso(counters.final_sync_ms),
        completion_timestamp=iso(counters.completion_ms),
        suspended_timestamp=iso(counters.suspended_ms),
        failure_timestamp=iso(counters.failure_ms),
        next_try_timestamp=iso(standing.next_try_ms),
        overall_duration=(over - request.queued_ms) / 1000,
        total_queued_duration=spent.get(Status.QUEUED.value, 0.0),
        total_in_progress_duration=spent.get(Status.IN_PROGRESS.value, 0.0),
        total_suspended_duration=spent.get(Status.SUSPENDED.value, 0.0) + spent.get(Status.AUTO_SUSPENDED.value, 0.0),
        total_failed_duration=spent.get(Status.FAILED.value, 0.0),
        total_finalization_duration=spent.get(Status.COMPLETION_IN_PROGRESS.value, 0.0),
        epoch=counters.epoch,
        lock_ms=counters.lock_ms,
        lock_budget_ms=request.lock_budget_ms,
        lock_attempts=counters.lock_attempts,
        backlog=progress.backlog if progress else None,
        predicted_lock_ms=progress.predicted_lock_ms if progress else None,
        digest_source=counters.digest_source,
        digest_target=counters.digest_target,
        digest_ledger=counters.digest_ledger,
    )


def _spent_s(standing: Standing, now_ms: int) -> Mapping[str, float]:
    spent = {status: ms / 1000 for status, ms in standing.counters.spent_ms.items()}
    if not standing.status.is_final:
        present = standing.status.value
        spent[present] = spent.get(present, 0.0) + max(0, now_ms - standing.since_ms) / 1000
    return spent
