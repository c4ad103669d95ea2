"""Which requests run now: the ledger's due requests and the running jobs, as `plan.scheduling` wants to see them."""

from collections.abc import Iterable, Mapping, Sequence, Set

from moverq.limits import Limits
from moverq.model.ids import RequestId
from moverq.model.request import Status, SyncStage
from moverq.model.standing import Standing
from moverq.model.status_detail import StatusDetail
from moverq.plan.scheduling import NEVER, Candidate, Choice, choose
from moverq.plan.sharing import WHOLE, Share


def choose_requests(
    due: Sequence[Standing],
    *,
    running: Mapping[RequestId, float | None],
    turns: Mapping[RequestId, float],
    resting: Set[RequestId],
    server_of: Mapping[str, str],
    now_ms: int,
    limits: Limits,
    share: Share = WHOLE,
    now_s: float = 0.0,
) -> Choice:
    """`running`: the jobs of this worker and since when each is quiet (`NEVER`: for its next try), None where it is
    not. `turns`: when the last turn of a quiet one ended. `resting`: not to be started now."""
    by_id = {standing.request.request_id: standing for standing in due}
    at_work = [
        _candidate(by_id[request_id], quiet=since is not None, turn_s=NEVER if since is None else since)
        for request_id, since in running.items()
        if request_id in by_id
    ]
    queued = [
        _candidate(
            standing,
            quiet=(quiet := _is_quiet(standing)),
            wanted=quiet and _is_wanted(standing, now_ms),
            turn_s=turns.get(standing.request.request_id, NEVER),
        )
        for standing in due
        if standing.request.request_id not in running
        and standing.request.request_id not in resting
        and is_startable(standing, now_ms=now_ms)
    ]
    return choose(queued, at_work, server_of=server_of, limits=limits, share=share, now_s=now_s)


def is_startable(standing: Standing, *, now_ms: int) -> bool:
    """Would a job find something to do?"""
    if standing.wishes.remove:
        return True
    if standing.status is Status.AUTO_SUSPENDED and standing.wishes.suspend:
        return standing.wishes.retry
    if standing.stage is SyncStage.SYNC_FINISHED:
        return standing.next_try_ms is not None and now_ms >= standing.next_try_ms
    return True


def next_date_ms(due: Iterable[Standing]) -> int | None:
    """The next date at which a request becomes startable by itself."""
    dates = [s.next_try_ms for s in due if s.next_try_ms is not None and s.stage is SyncStage.SYNC_FINISHED]
    return min(dates, default=None)


def _is_quiet(standing: Standing) -> bool:
    """Does its job start with waiting rather than with copying?"""
    return (
        standing.status.is_final
        or standing.status is Status.AUTO_SUSPENDED
        or (standing.detail is StatusDetail.INCREMENTAL_SYNC and standing.next_try_ms is not None)
    )


def _is_wanted(standing: Standing, now_ms: int) -> bool:
    """Has an operator asked something of it, or has its date come?"""
    wishes, date = standing.wishes, standing.next_try_ms
    asked = wishes.remove or wishes.retry or wishes.complete or wishes.finish or wishes.superseded_by is not None
    return asked or (date is not None and now_ms >= date)


def _candidate(standing: Standing, *, quiet: bool, wanted: bool = False, turn_s: float) -> Candidate:
    request = standing.request
    return Candidate(
        request_id=request.request_id,
        mailbox_id=request.mailbox_id,
        source_database=request.source.database,
        target_database=request.target_database,
        priority=request.priority,
        queued_ms=request.queued_ms,
        quiet=quiet,
        wanted=wanted,
        turn_s=turn_s,
    )
