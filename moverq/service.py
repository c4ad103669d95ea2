"""The worker: takes requests from the ledger and runs their jobs until it is told to stop.

    run ─┬─ jobs nursery     one task a move job; a job's errors stay with its request
         └─ intake nursery   one task: somebody asked, a place is free, a date came → what starts now?

`stop` ends the intake and asks every job to leave at its next safe point; what the deadline cuts short goes on from
the ledger at the next start. So does all that a killed worker leaves: there is no state that lives only here.

Neither a busy or broken ledger nor a directory that is away ends a worker: it would take its moves with it. The intake
says what it met, once, and looks again later; the jobs do the same, each for its move.

Several workers may share a ledger, and several processes be one worker (`share`). A file lock for each move keeps them
out of each other's way, for efficiency alone: where it fails, the higher token wins and the other stops.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice

import trio

from moverq.directory.directory import Directory
from moverq.errors import MoveError, NotFound
from moverq.flow.backoff import wait_first
from moverq.flow.byte_budget import ByteBudget
from moverq.flow.file_lock import FileLock
from moverq.flow.offload import Offload
from moverq.flow.trouble import Trouble
from moverq.job import Endpoints, Job
from moverq.ledger.ledger import Ledger
from moverq.limits import Limits
from moverq.model.ids import RequestId
from moverq.model.progress import Progress
from moverq.model.standing import Standing
from moverq.phases.tenure import OnProgress, Tools
from moverq.plan.scheduling import Choice
from moverq.plan.sharing import WHOLE, Share
from moverq.queue import choose_requests, next_date_ms

INTAKE_INTERVAL_S = 0.05
"""Between two looks at the ledger at least: one look answers many who rang."""
INTAKE_REST_MAX_S = 5.0
"""Between two looks at most, however long the last one took: it may have been the process that was stopped, or the
directory that was slow, and nobody waits ten times as long for a worker because of that."""
INTAKE_SHARE = 0.1
"""Of the time, at most, goes into looking: with thousands of requests a look takes a while."""
LINE_MAX = 1000
"""So many of those that wait stand in line for a place that comes free before the next look."""
SOON_S = 1.0
"""Between two tries of a move that another worker has: its death writes nothing, only the file lock tells of it. Also
where a look has just worked again: it is not over before waiting works, too."""


class Service:
    """One worker. `run` it once."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        directory: Directory,
        endpoints: Endpoints,
        make_offload: Callable[[], Offload],
        rng: random.Random,
        limits: Limits | None = None,
        on_progress: OnProgress | None = None,
        only: Callable[[Standing], bool] | None = None,
        share: Share = WHOLE,
    ) -> None:
        """`only`: the requests that this worker cares for; the others wait for another one. `share`: its part, where
        several processes are one worker; `limits` are those of the whole worker."""
        self._ledger = ledger
        self._directory = directory
        self._endpoints = endpoints
        self._offload = make_offload()
        self._rng = rng
        self._limits = share.limits(limits if limits is not None else Limits())
        self._share = share
        self._budget = ByteBudget(self._limits.process_bytes_max)
        self._on_progress = on_progress
        self._only = only
        self._stop = trio.Event()
        self._jobs: dict[RequestId, Job] = {}
        self._told: dict[RequestId, tuple[object, object]] = {}
        self._resting: set[RequestId] = set()
        self._turns: dict[RequestId, float] = {}
        """When moves that only wait were at work last."""
        self._elsewhere: dict[RequestId, float] = {}
        """Moves that another worker had, and until when that is believed."""
        self._line: dict[RequestId, Standing] = {}
        """As the last look saw them: those at work, and the first of those that wait."""
        self._server_of: dict[str, str] = {}
        self._trouble = Trouble("moverq.worker", "looking for moves to run", rng)
        self.waiting: dict[RequestId, str] = {}
        """Why requests that could run are not run now, as of the last look."""

    def __repr__(self) -> str:
        return f"<Service {len(self._jobs)} jobs>"

    @property
    def progress(self) -> dict[RequestId, Progress]:
        """How far the moves are that this worker has at work."""
        return {i: job.tenure.progress for i, job in self._jobs.items() if job.tenure is not None}

    def stop(self) -> None:
        """The intake ends; jobs leave at their next safe point, or are cut short at the deadline."""
        self._stop.set()

    async def run(self, *, drain: bool = False) -> None:
        """Until `stop`; with `drain` until every request is over or waits for an operator, a date or its soak.

        Cancelled: a polite crash.
        """
        tools = Tools(
            ledger=self._ledger,
            directory=self._directory,
            limits=self._limits,
            budget=self._budget,
            on_progress=self._on_progress,
            drain=drain,
        )
        # In the outer nursery: the jobs; they end by themselves, at a safe point, or by the deadline.
        async with trio.open_nursery() as jobs:
            # In the inner nursery: the intake, ended by `stop` or, draining, by itself.
            async with trio.open_nursery() as intake:
                intake.start_soon(self._take_in, jobs, tools, intake.cancel_scope)
                await self._stop.wait()
                intake.cancel_scope.cancel()
            tools.stopping.set()
            if self._stop.is_set():
                jobs.cancel_scope.deadline = trio.current_time() + self._limits.stop_deadline_s

    async def _take_in(self, jobs: trio.Nursery, tools: Tools, intake: trio.CancelScope) -> None:
        while True:
            rest_s = 0.0
            try:
                looked_s = await self._look(jobs, tools, intake)
                next_look = trio.current_time() + max(
                    INTAKE_INTERVAL_S, min(looked_s / INTAKE_SHARE, INTAKE_REST_MAX_S)
                )
                await self._fill_places(jobs, tools, until=next_look)
            except* MoveError as group:
                rest_s = self._trouble.met(group)
            await trio.sleep(rest_s)

    async def _fill_places(self, jobs: trio.Nursery, tools: Tools, *, until: float) -> None:
        """Between two looks: whoever ends makes room for the next in line. Draining, no longer than somebody is at
        work: the next look starts what has waited, or ends it.

        With thousands queued a look takes long and is rare, and two places that a move needs for 50 ms would lie empty
        until the next.
        """
        while True:
            freed = tools.freed.version
            chosen = self._choose(list(self._line.values())).start
            as_seen = [request_id for request_id in chosen if await self._is_as_seen(request_id)]
            await self._start(as_seen, jobs, tools)
            if len(as_seen) < len(chosen):
                continue  # others are in line for their places
            left = until - trio.current_time()
            if left <= 0 or (tools.drain and not self._jobs):
                return
            await wait_first(partial(tools.freed.wait, freed), at_most_s=left)

    async def _is_as_seen(self, request_id: RequestId) -> bool:
        """Nobody has written to the request since the last look. One that somebody has waits for the next look."""
        seen = self._line[request_id]
        try:
            present = await self._ledger.get(request_id)
        except NotFound:
            present = None
        if present != seen:
            del self._line[request_id]
        return present == seen

    def _choose(self, due: Sequence[Standing]) -> Choice:
        return choose_requests(
            due,
            running={i: job.quiet_since for i, job in self._jobs.items()},
            turns=self._turns,
            resting=self._resting | self._elsewhere.keys(),
            server_of=self._server_of,
            now_ms=self._ledger.now_ms(),
            limits=self._limits,
            share=self._share,
            now_s=trio.current_time(),
        )

    async def _look(self, jobs: trio.Nursery, tools: Tools, intake: trio.CancelScope) -> float:
        """What can start has been started, and something may have changed since. Returns how many seconds looking took.

        Raises what ledger and directory do: nothing is decided by half a look.
        """
        begun = trio.current_time()
        asked, freed = self._ledger.asked, tools.freed.version
        due = [standing for standing in await self._ledger.due() if self._only is None or self._only(standing)]
        self._tell(due)
        self._elsewhere = {i: until for i, until in self._elsewhere.items() if until > begun}
        self._server_of = {entry.name: entry.server for entry in await self._directory.databases()}
        was_idle = not self._jobs
        choice = self._choose(due)
        line = self._jobs.keys() | choice.start | set(islice(choice.waiting, LINE_MAX))
        self._line = {i: standing for standing in due if (i := standing.request.request_id) in line}
        looked_s = trio.current_time() - begun
        self.waiting = dict(choice.waiting)
        self._turns = {i: ended for i, ended in self._turns.items() if i in self._told}
        for request_id in choice.dismiss:
            if request_id in self._jobs:
                self._jobs[request_id].dismiss()
        await self._start(choice.start, jobs, tools)
        # Who was at work when this was chosen, and is not any more, may have been why others wait.
        if tools.drain and was_idle and not self._jobs:
            if choice.start and choice.waiting:
                return looked_s  # another worker has those that were chosen in the place of the others
            intake.cancel()
        await wait_first(
            partial(self._ledger.wait_asked, asked),
            partial(tools.freed.wait, freed),
            at_most_s=self._rest_s(due),
        )
        self._trouble.is_over()
        if not tools.drain:
            self._resting.clear()
        return looked_s

    async def _start(self, chosen: Sequence[RequestId], jobs: trio.Nursery, tools: Tools) -> None:
        """Of those chosen the jobs run that no other worker has."""
        if not chosen:
            return
        locks = {request_id: FileLock(self._ledger.lock_path(request_id)) for request_id in chosen}
        held = await self._offload(lambda: _acquire(locks))
        for request_id, lock in locks.items():
            if request_id not in held:
                self._elsewhere[request_id] = trio.current_time() + SOON_S
                continue
            job = Job(request_id=request_id, tools=tools, endpoints=self._endpoints, rng=self._rng)
            self._jobs[request_id] = job
            jobs.start_soon(self._run, job, lock)

    async def _run(self, job: Job, lock: FileLock) -> None:
        try:
            await job.run()
        finally:
            lock.release()
            del self._jobs[job.request_id]
            self._line.pop(job.request_id, None)
            if job.tenure is not None and job.tenure.dismissed:
                self._turns[job.request_id] = trio.current_time()
            if not job.was_taken_over:
                self._resting.add(job.request_id)
            job.tools.freed.ring()

    def _tell(self, due: list[Standing]) -> None:
        """Jobs whose request an operator has changed look at it."""
        told: dict[RequestId, tuple[object, object]] = {}
        for standing in due:
            request_id = standing.request.request_id
            wanted = (standing.wishes, standing.request)
            if request_id in self._jobs and self._told.get(request_id) != wanted:
                self._jobs[request_id].bell.ring()
            told[request_id] = wanted
        self._told = told

    def _rest_s(self, due: list[Standing]) -> float:
        date = next_date_ms(due)
        is_soon = bool(self._elsewhere) or self._trouble.lasts
        most = min(self._limits.poll_wishes_s, SOON_S) if is_soon else self._limits.poll_wishes_s
        if self.waiting:
            most = min(most, self._limits.quiet_turn_s)
        return most if date is None else min(most, max(0.0, (date - self._ledger.now_ms()) / 1000))


def _acquire(locks: Mapping[RequestId, FileLock]) -> set[RequestId]:
    """Blocking: which of them are ours now. Where one cannot be made, none are."""
    try:
        return {request_id for request_id, lock in locks.items() if lock.try_acquire()}
    except BaseException:
        for lock in locks.values():
            lock.release()
        raise


__all__ = ["Service"]
