"""What a worker knows of the requests that are due, kept up with the ledger by what changed; which of them run now.

    ledger ── changes ──▶ Queue: one entry a request ──┬─▶ Line, who could start now ── choose ──▶ jobs
                                                        └─▶ dates, who can later

A request is kept out of the line while its job is at work, for a while where another worker has it, and for good where
it has had its turn and there is to be no second one (a worker that drains).
"""

import heapq
import math
from collections.abc import Mapping
from typing import Final

import attrs

from moverq.limits import Limits
from moverq.model.ids import RequestId
from moverq.model.request import Status, SyncStage
from moverq.model.standing import Standing
from moverq.model.status_detail import StatusDetail
from moverq.plan.scheduling import NEVER, Candidate, Choice, Line
from moverq.plan.sharing import WHOLE, Share

ALWAYS: Final = -math.inf
NOT_BY_ITSELF: Final = math.inf


@attrs.frozen(kw_only=True)
class _Due:
    """One request: no more than is needed to choose, for there may be a hundred thousand."""

    candidate: Candidate
    startable_ms: float
    """From when on a job would find something to do; `ALWAYS`, `NOT_BY_ITSELF`."""
    wanted_ms: float
    """From when on one that only waits is wanted: an operator has asked something of it, or its date has come."""
    asked: int
    """Another number where an operator has asked for something else."""


class Queue:
    """The due requests, as one process of a worker sees them."""

    def __init__(self, share: Share = WHOLE) -> None:
        self._line = Line(share)
        self._due: dict[RequestId, _Due] = {}
        self._running: set[RequestId] = set()
        self._done_with: set[RequestId] = set()
        self._elsewhere: dict[RequestId, float] = {}
        """Those another worker had, and until when that is believed."""
        self._turns: dict[RequestId, float] = {}
        """When those that only wait were at work last, where that was here."""
        self._dates: list[tuple[float, RequestId]] = []
        """A heap, with dates that hold no more among them."""

    def __repr__(self) -> str:
        return f"<Queue of {len(self._due)}, {len(self._running)} at work>"

    @property
    def has_elsewhere(self) -> bool:
        """Is any of them believed to be another worker's?"""
        return bool(self._elsewhere)

    def learn(self, standing: Standing, *, now_ms: int) -> bool:
        """How a due request stands now. Has an operator asked for something else than was known?"""
        request_id = standing.request.request_id
        before = self._due.get(request_id)
        self._due[request_id] = due = _due(standing)
        for date in {due.startable_ms, due.wanted_ms}:
            if now_ms < date < NOT_BY_ITSELF:
                heapq.heappush(self._dates, (date, request_id))
        self._place(request_id, now_ms)
        return before is not None and before.asked != due.asked

    def forget(self, request_id: RequestId) -> None:
        """It is not due any more."""
        self._line.take_out(request_id)
        self._due.pop(request_id, None)
        self._turns.pop(request_id, None)

    def next_date_ms(self) -> float:
        """Before then nothing becomes startable, or wanted, by itself."""
        return self._dates[0][0] if self._dates else NOT_BY_ITSELF

    def choose(
        self,
        quiet_since: Mapping[RequestId, float | None],
        *,
        server_of: Mapping[str, str],
        limits: Limits,
        now_ms: int,
        now_s: float,
    ) -> Choice:
        """`quiet_since`: the jobs of this worker and since when each only waits (`NEVER`: for its next try), None
        where it does more."""
        while self._dates and self._dates[0][0] <= now_ms:
            self._place(heapq.heappop(self._dates)[1], now_ms)
        for request_id in [i for i, until in self._elsewhere.items() if until <= now_s]:
            del self._elsewhere[request_id]
            self._place(request_id, now_ms)
        running = {i: (self._due[i].candidate, since) for i, since in quiet_since.items() if i in self._due}
        return self._line.choose(running, server_of=server_of, limits=limits, now_s=now_s)

    def started(self, request_id: RequestId) -> None:
        """Its job is at work here."""
        self._running.add(request_id)
        self._line.take_out(request_id)

    def ended(self, request_id: RequestId, *, turn_s: float | None, again: bool, now_ms: int) -> None:
        """Its job has ended. `turn_s`: its turn among those that only wait was over then. `again`: it may have another
        job, if there is something to do."""
        self._running.discard(request_id)
        if turn_s is not None and request_id in self._due:
            self._turns[request_id] = turn_s
        if not again:
            self._done_with.add(request_id)
        self._place(request_id, now_ms)

    def is_elsewhere(self, request_id: RequestId, *, until_s: float) -> None:
        """Another worker has it."""
        self._elsewhere[request_id] = until_s
        self._line.take_out(request_id)

    def _place(self, request_id: RequestId, now_ms: int) -> None:
        """It stands in the line as it should now, or not at all."""
        due = self._due.get(request_id)
        if due is None:
            return
        is_out = any(request_id in those for those in (self._running, self._done_with, self._elsewhere))
        if is_out or now_ms < due.startable_ms:
            self._line.take_out(request_id)
            return
        candidate = due.candidate
        if candidate.quiet:
            turn_s = self._turns.get(request_id, NEVER)
            candidate = attrs.evolve(candidate, wanted=now_ms >= due.wanted_ms, turn_s=turn_s)
        self._line.put(candidate)


def _due(standing: Standing) -> _Due:
    request, wishes = standing.request, standing.wishes
    date = NOT_BY_ITSELF if standing.next_try_ms is None else standing.next_try_ms
    asked = wishes.remove or wishes.retry or wishes.complete or wishes.finish or wishes.superseded_by is not None
    quiet = (
        standing.status.is_final
        or standing.status is Status.AUTO_SUSPENDED
        or (standing.detail is StatusDetail.INCREMENTAL_SYNC and standing.next_try_ms is not None)
    )
    if wishes.remove:
        startable = ALWAYS
    elif standing.status is Status.AUTO_SUSPENDED and wishes.suspend:
        startable = ALWAYS if wishes.retry else NOT_BY_ITSELF
    elif standing.stage is SyncStage.SYNC_FINISHED:
        startable = date
    else:
        startable = ALWAYS
    return _Due(
        candidate=Candidate(
            request_id=request.request_id,
            mailbox_id=request.mailbox_id,
            source_database=request.source.database,
            target_database=request.target_database,
            priority=request.priority,
            queued_ms=request.queued_ms,
            quiet=quiet,
        ),
        startable_ms=startable,
        wanted_ms=ALWAYS if asked else date if quiet else NOT_BY_ITSELF,
        asked=hash((wishes, request)),
    )


__all__ = ["Queue"]
