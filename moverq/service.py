"""The worker: takes requests from the ledger and runs their jobs until it is told to stop.

    run ─┬─ jobs nursery     one task a move job; a job's errors stay with its request
         └─ intake nursery   one task: somebody asked, a place is free, a date came → what changed? what starts now?

`stop` ends the intake and asks every job to leave at its next safe point; what the deadline cuts short goes on from
the ledger at the next start. So does all that a killed worker leaves: there is no state that lives only here.

Neither a busy or broken ledger nor a directory that is away ends a worker: it would take its moves with it. The intake
says what it met, once, and looks again later; the jobs do the same, each for its move.

Several workers may share a ledger, and several processes be one worker (`share`). A file lock for each move keeps them
out of each other's way, for efficiency alone: where it fails, the higher token wins and the other stops.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio

from moverq.directory.directory import Directory
from moverq.errors import MoveError
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
from moverq.queue import Queue

INTAKE_INTERVAL_S = 0.05
"""Between two looks for what somebody asked at least: one look answers many who rang."""
SERVERS_KNOWN_S = 5.0
"""For so long it is believed which server a database is on: places that come free do not each ask the directory."""
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
        self._queue = Queue(share)
        self._known_upto = 0
        """The last change of the ledger that the queue has learnt."""
        self._server_of: dict[str, str] = {}
        self._servers_asked = -math.inf
        self._trouble = Trouble("moverq.worker", "looking for moves to run", rng)

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
                await self._look(jobs, tools, intake)
            except* MoveError as group:
                rest_s = self._trouble.met(group)
            await trio.sleep(rest_s)

    async def _look(self, jobs: trio.Nursery, tools: Tools, intake: trio.CancelScope) -> None:
        """What can start has been started, and something may have changed since.

        Raises what ledger and directory do: nothing is decided by half a look.
        """
        begun = trio.current_time()
        asked, freed = self._ledger.asked, tools.freed.version
        await self._learn()
        was_idle = not self._jobs
        choice = self._queue.choose(
            {i: job.quiet_since for i, job in self._jobs.items()},
            server_of=self._server_of,
            limits=self._limits,
            now_ms=self._ledger.now_ms(),
            now_s=trio.current_time(),
        )
        for request_id in choice.dismiss:
            self._jobs[request_id].dismiss()
        await self._start(choice.start, jobs, tools)
        # Who was at work when this was chosen, and is not any more, may have been why others wait.
        if tools.drain and was_idle and not self._jobs:
            if choice.start and choice.waiting:
                return  # another worker has those that were chosen in the place of the others
            intake.cancel()

        async def wait_asked() -> None:
            await trio.sleep_until(begun + INTAKE_INTERVAL_S)
            await self._ledger.wait_asked(asked)

        await wait_first(wait_asked, partial(tools.freed.wait, freed), at_most_s=self._rest_s(choice))
        self._trouble.is_over()

    async def _learn(self) -> None:
        """The queue is as the ledger has it now. Jobs whose request an operator has changed look at it."""
        more = True
        while more:
            changes = await self._ledger.changes(self._known_upto)
            for standing in changes.due:
                request_id = standing.request.request_id
                if self._only is not None and not self._only(standing):
                    self._queue.forget(request_id)
                elif self._queue.learn(standing, now_ms=self._ledger.now_ms()) and request_id in self._jobs:
                    self._jobs[request_id].bell.ring()
            for request_id in changes.over:
                self._queue.forget(request_id)
            self._known_upto, more = changes.upto, changes.has_more
        if trio.current_time() >= self._servers_asked + SERVERS_KNOWN_S:
            asked = trio.current_time()
            self._server_of = {entry.name: entry.server for entry in await self._directory.databases()}
            self._servers_asked = asked

    async def _start(self, chosen: Sequence[RequestId], jobs: trio.Nursery, tools: Tools) -> None:
        """Of those chosen the jobs run that no other worker has."""
        if not chosen:
            return
        locks = {request_id: FileLock(self._ledger.lock_path(request_id)) for request_id in chosen}
        held = await self._offload(lambda: _acquire(locks))
        for request_id, lock in locks.items():
            if request_id not in held:
                self._queue.is_elsewhere(request_id, until_s=trio.current_time() + SOON_S)
                continue
            job = Job(request_id=request_id, tools=tools, endpoints=self._endpoints, rng=self._rng)
            self._jobs[request_id] = job
            self._queue.started(request_id)
            jobs.start_soon(self._run, job, lock)

    async def _run(self, job: Job, lock: FileLock) -> None:
        try:
            await job.run()
            if job.was_taken_over:
                await trio.sleep(INTAKE_INTERVAL_S)  # whoever has it now is not raced for it
        finally:
            lock.release()
            del self._jobs[job.request_id]
            was_dismissed = job.tenure is not None and job.tenure.dismissed
            self._queue.ended(
                job.request_id,
                turn_s=trio.current_time() if was_dismissed else None,
                again=job.was_taken_over or not job.tools.drain,
                now_ms=self._ledger.now_ms(),
            )
            job.tools.freed.ring()

    def _rest_s(self, choice: Choice) -> float:
        is_soon = self._queue.has_elsewhere or self._trouble.lasts
        most = min(self._limits.poll_wishes_s, SOON_S) if is_soon else self._limits.poll_wishes_s
        if choice.waiting:
            most = min(most, self._limits.quiet_turn_s)
        return min(most, max(0.0, (self._queue.next_date_ms() - self._ledger.now_ms()) / 1000))


def _acquire(locks: Mapping[RequestId, FileLock]) -> set[RequestId]:
    """Blocking: which of them are ours now. Where one cannot be made, none are."""
    try:
        return {request_id for request_id, lock in locks.items() if lock.try_acquire()}
    except BaseException:
        for lock in locks.values():
            lock.release()
        raise


__all__ = ["Service"]
