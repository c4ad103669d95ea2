"""A move job: one request through its phases, from whatever the ledger and the register say.

    begin (token, take over, settle) ─▶ advance: the phase that the facts call for, then the next ─▶ …
          ▲                                   │ an error, with its remedy
          └──────────── backoff ◀─────────────┘

There is no other retry: an error ends the tenure, the next begins with a higher token and `settle`, and so gives the
source back if the last one had locked it. Only then is it waited. What an operator must cure makes the request
Failed, and `resume` enters again. After the commit nothing makes it Failed: the mailbox is in use, the rest is
patience.
"""

import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Protocol

import attrs
import trio

from moverq.endpoints.base import Endpoint, GuardMode
from moverq.errors import (
    EndpointBusy,
    MoveError,
    NotFound,
    Remedy,
    TooManyBadItems,
    VerificationFailed,
    leaves,
    remedy_for,
)
from moverq.flow.backoff import backoff_s, wait_first
from moverq.flow.bell import Bell
from moverq.flow.log import log
from moverq.model.facts import (
    CleanedUp,
    Committed,
    Differed,
    Facts,
    Preflighted,
    PurgeAllowed,
    Purged,
    SeedCursor,
    SourceRemoved,
    TargetMade,
)
from moverq.model.ids import RequestId
from moverq.model.progress import Progress
from moverq.model.report import EntryKind, ReportEntry
from moverq.model.request import Status, SyncStage
from moverq.model.standing import Change, Standing, Wishes
from moverq.model.status_detail import StatusDetail
from moverq.phases.abort import abort, unlock_source
from moverq.phases.clean_up import clean_up, complete, finish, open_target, purge, taken_back
from moverq.phases.create import create_checkpoint, create_target, lock_for_offline
from moverq.phases.finalize import finalize
from moverq.phases.incremental_sync import incremental_sync, still_waits
from moverq.phases.preflight import preflight
from moverq.phases.seed import reseed, seed
from moverq.phases.settle import claim_sides, give_source_back, settle_register
from moverq.phases.soak import soak
from moverq.phases.tenure import LeaveAtSafePoint, Reason, Tenure, Tools
from moverq.plan.scheduling import NEVER

CLOSE_S: Final = 5.0
"""For what a tenure held open. What is not closed then is closed with its database."""

Endpoints = Callable[[str], Awaitable[Endpoint]]
"""The endpoint of a database, by the name it has in the directory."""


@attrs.frozen
class _Busy:
    """A part of an endpoint that was busy each time lately. Not in the ledger: after a restart it is given its time
    anew."""

    part: str
    since: float
    seen: float


class Lent(Protocol):
    """Whatever a tenure holds open."""

    async def aclose(self) -> None: ...


@attrs.define(eq=False, kw_only=True)
class Job:
    """One request at work in this process. `run` it; it ends when there is nothing to do for it now."""

    request_id: RequestId
    tools: Tools
    endpoints: Endpoints
    rng: random.Random
    bell: Bell = attrs.field(factory=Bell)
    tenure: Tenure | None = attrs.field(default=None, init=False)
    waiting: bool = attrs.field(default=False, init=False)
    """In a backoff."""
    was_taken_over: bool = attrs.field(default=False, init=False)
    """It ended because a higher token was seen."""
    _token: int | None = attrs.field(default=None, init=False)
    """The last one that took the ledger over."""
    _heard: Wishes | None = attrs.field(default=None, init=False)
    """What the operator wanted when this was last looked at: waiting is cut short by what is new alone."""
    _busy: "_Busy | None" = attrs.field(default=None, init=False)
    _said: str = attrs.field(default="", init=False)
    """What has been said of a ledger that cannot be written."""

    def __repr__(self) -> str:
        return f"<Job {self.request_id[:8]} {self.tenure!r}>"

    @property
    def quiet_since(self) -> float | None:
        """Waiting since then for changes, a date or an operator; `NEVER` for the next try: so it takes nothing from
        anybody. None: it does more than wait."""
        if self.waiting:
            return NEVER
        return self.tenure.resting_since if self.tenure is not None and self.tenure.quiet else None

    def dismiss(self) -> None:
        """Its turn is over, if it still only waits."""
        if self.tenure is not None:
            self.tenure.dismissed = True
            self.bell.ring()

    async def run(self) -> None:
        """The request is done, at rest, or somebody else's.

        Cancelled: a polite crash; the next job goes on from the ledger.
        """
        todo: tuple[Exception, ...] = ()
        leaving: Reason | None = None
        while True:
            caught: list[BaseException] = []
            try:
                if leaving is not None:
                    await self._leave(leaving)
                    return
                async with self._turn() as tenure:
                    if not todo:
                        await advance(tenure)
                        return
                    seconds = await self._act(tenure, todo)
                    self._heard = tenure.standing.wishes
                todo = ()
                if seconds is None or not await self._wait(seconds):
                    return
            except* Exception as group:
                caught = leaves(group)
            errors = tuple(error for error in caught if isinstance(error, Exception))
            left = [error for error in errors if isinstance(error, LeaveAtSafePoint)]
            errors = tuple(error for error in errors if not isinstance(error, LeaveAtSafePoint))
            if not errors:
                leaving = left[0].reason if left else None
                continue
            leaving = None  # what stopped it is seen to first; the wish to leave is still there then
            if any(_remedy(error) is Remedy.STOP for error in errors):
                self.was_taken_over = True
                return
            if not todo:
                todo = errors
                continue
            # Even settling failed: an endpoint or the directory is away, or an operator must look. Nothing can be
            # given back before that; wait, and settle again.
            if not await self._note_unsettled(errors) or not await self._wait(self._delay_s(1)):
                return

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Tenure]:
        """A tenure, and at its end nothing is held for it: no connection, no open file."""
        held: list[Lent] = []
        try:
            yield await self._begin(held)
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                async with trio.open_nursery() as nursery:  # until all are closed
                    for one in held:
                        nursery.start_soon(one.aclose)

    async def _begin(self, held: "list[Lent]") -> Tenure:
        """A new tenure: the token is ours everywhere, the register settled, the source given back if it was locked.
        What is to be closed at its end is in `held`, also where it does not begin."""
        ledger, directory = self.tools.ledger, self.tools.directory
        standing = await ledger.get(self.request_id)
        self._heard = standing.wishes
        request = standing.request
        token = await directory.take_token(request.mailbox_id)
        standing, facts = await ledger.take_over(self.request_id, token)
        self._token = token
        from_end, to_end = await self.endpoints(request.source.database), await self.endpoints(request.target_database)
        source_id, target_id = request.source.instance, request.target_instance
        source, target = from_end.source(source_id), to_end.target(target_id)
        source_as_target, target_as_source = from_end.target(source_id), to_end.source(target_id)
        held += (source, target, source_as_target, target_as_source)
        if owns_sides(standing, facts):
            register, facts = await settle_register(ledger, directory, request, token=token, facts=facts)
            source_mode, _ = await claim_sides(source, target, token=token)
            if register.home == request.source and source_mode is GuardMode.LOCKED:
                facts = await give_source_back(ledger, source, request, token=token, facts=facts)
        else:
            register = (await directory.recipient(request.mailbox_id)).register
        item_map = ledger.item_map(self.request_id)
        held.append(item_map)
        if owns_sides(standing, facts):
            await item_map.take_over(token)
        counters = standing.counters
        self.tenure = Tenure(
            tools=self.tools,
            token=token,
            standing=standing,
            facts=facts,
            register=register,
            source=source,
            target=target,
            source_as_target=source_as_target,
            target_as_source=target_as_source,
            item_map=item_map,
            bell=self.bell,
            progress=Progress(
                request_id=self.request_id,
                stage=standing.stage,
                at_ms=ledger.now_ms(),
                items=counters.items_transferred,
                items_total=counters.mailbox_items,
                bytes=counters.bytes_transferred,
                bytes_total=counters.mailbox_bytes,
            ),
        )
        return self.tenure

    async def _act(self, t: Tenure, errors: tuple[Exception, ...]) -> float | None:
        """What the errors call for, in a settled tenure. Seconds until the next try; None: there is none."""
        remedy = max(_remedy(error) for error in errors)
        message = str(errors[0]) or repr(errors[0])
        bug = not isinstance(errors[0], MoveError)
        failure = t.entry(
            EntryKind.FAILURE,
            message,
            failure_type=type(errors[0]).__name__,
            remedy=remedy.name,
            sync_stage=t.standing.stage.value,
            stack_trace="".join(traceback.format_exception(errors[0])) if bug else None,
        )
        tries = t.standing.counters.failed_tries + 1
        stuck_s = self._stuck_s(errors)
        if stuck_s > t.limits.busy_part_s:
            message = f"{message}; it has been so for {stuck_s / 60:.0f} min, so waiting will not mend it"
        counters = {"failed_tries": tries}
        delay = self._delay_s(tries)
        committed = t.register.home == t.target_home or t.facts.has(Committed)
        if committed:
            warned = {**counters, "warnings": t.standing.counters.warnings + (remedy is not Remedy.WAIT)}
            await t.write(entries=(failure,), counters=warned, message=message)
            if self.tools.drain and t.facts.has(CleanedUp):
                return None  # the mailbox is in use; the way back is looked after by the next worker
            return max(delay, t.limits.reverse_interval_s)
        if remedy is Remedy.RESEED and tries <= t.limits.max_retries:
            await t.write(entries=(failure,), counters=counters)
            await reseed(t)
            return 0.0
        if remedy is Remedy.WAIT and tries <= t.limits.max_retries and stuck_s <= t.limits.busy_part_s:
            await t.write(
                entries=(failure,),
                counters=counters,
                status=Status.IN_PROGRESS,
                detail=StatusDetail.TRANSIENT_FAILURE,
                message=message,
                next_try_ms=t.now_ms() + int(delay * 1000),
            )
            return delay
        if t.register.home == t.source_home:
            await unlock_source(t)
        detail = (
            StatusDetail.FAILED_BAD_ITEM_LIMIT if isinstance(errors[0], TooManyBadItems) else StatusDetail.FAILED_OTHER
        )
        differed = any(isinstance(error, VerificationFailed) for error in errors)
        await t.write(
            *((Differed(at_ms=t.now_ms()),) if differed else ()),
            entries=(failure,),
            counters={**counters, "failure_ms": t.now_ms()},
            status=Status.FAILED,
            detail=detail,
            message=message,
            taken_wishes=("retry",),
        )
        await t.show_status()
        return delay if t.standing.wishes.remove and not self.tools.drain else None

    def _stuck_s(self, errors: tuple[Exception, ...]) -> float:
        """How long the same part of an endpoint has been busy, at every try or at least every `busy_part_s`. Getting on
        elsewhere does not count: a mailbox that is in use gets on with something at each try."""
        busy = [f"{error.endpoint}: {error.part}" for error in errors if isinstance(error, EndpointBusy) and error.part]
        if not busy:
            return 0.0
        now, before = trio.current_time(), self._busy
        if before is None or before.part not in busy or now - before.seen > self.tools.limits.busy_part_s:
            before = _Busy(busy[0], now, now)
        self._busy = attrs.evolve(before, seen=now)
        return now - before.since

    async def _note_unsettled(self, errors: tuple[Exception, ...]) -> bool:
        """What keeps this move from being settled is in its row. False: there is no next try.

        Before the commit only an operator may help. After it nothing makes the request Failed, here neither. Nothing
        is raised: there is no tenure left that an error could end.
        """
        ledger = self.tools.ledger
        entry = ReportEntry(
            at_ms=self.tools.now_ms(),
            kind=EntryKind.FAILURE,
            text=str(errors[0]) or repr(errors[0]),
            data={"failure_type": type(errors[0]).__name__},
        )
        try:
            # Where not even a token could be taken, the row still has its last one, and a word is said under that.
            standing = await ledger.get(self.request_id)
            token = self._token if self._token is not None else standing.token
            facts = await ledger.facts(self.request_id)
            hopeless = max(_remedy(error) for error in errors) >= Remedy.OPERATOR and not facts.has(Committed)
            change = Change(
                status=Status.FAILED if hopeless else None,
                message=entry.text,
                taken_wishes=("retry",) if hopeless else (),
            )
            await ledger.write(self.request_id, token, entries=(entry,), change=change)
        except MoveError as error:
            # A ledger that cannot be written now is tried again, too. Nobody can read in it why, so it is said here.
            if _remedy(error) is not Remedy.STOP and str(error) != self._said:
                self._said = str(error)
                log("moverq.worker").warning(
                    "a move waits, and its ledger cannot say so",
                    request=self.request_id,
                    why=entry.text,
                    ledger=str(error),
                )
            return _remedy(error) is not Remedy.STOP
        self._said = ""
        if self.tools.drain and (hopeless or facts.has(CleanedUp)):
            return False
        return not hopeless or standing.wishes.remove

    async def _leave(self, reason: Reason) -> None:
        """At a safe point: what an operator wanted it for is done."""
        if reason is Reason.STOP:
            return
        async with self._turn() as t:
            if reason is Reason.REMOVE:
                await abort(t)
                return
            if t.register.home == t.source_home:
                await unlock_source(t)
            await t.write(
                status=Status.SUSPENDED,
                message="suspended by an operator; goes on with `moverq move resume`",
                counters={"suspended_ms": t.now_ms()},
                taken_wishes=("retry",),
            )
            await t.show_status()

    async def _wait(self, seconds: float) -> bool:
        """The backoff is over, or a new wish of an operator cut it short. False: the service stops."""
        self.waiting = True
        self.tools.freed.ring()
        try:
            until = trio.current_time() + seconds
            while not self.tools.stopping.is_set() and (left := until - trio.current_time()) > 0:
                seen = self.bell.version
                if await self._is_wanted():
                    break
                await wait_first(partial(self.bell.wait, seen), self.tools.stopping.wait, at_most_s=left)
            return not self.tools.stopping.is_set()
        finally:
            self.waiting = False

    async def _is_wanted(self) -> bool:
        """Does an operator cut the wait short? A wish that has been tried and cannot be met now waits like the rest. A
        request that is gone is looked at again at once, and a ledger that cannot be read now is asked later."""
        try:
            wishes = (await self.tools.ledger.get(self.request_id)).wishes
        except MoveError as error:
            return _remedy(error) is Remedy.STOP
        return wishes != self._heard and (wishes.remove or wishes.suspend or wishes.retry)

    def _delay_s(self, tries: int) -> float:
        limits = self.tools.limits
        return backoff_s(tries - 1, first_s=limits.retry_delay_s, most_s=limits.retry_delay_max_s, rng=self.rng)


def owns_sides(standing: Standing, facts: Facts) -> bool:
    """May this request's job claim the guards? Not when its part is over: another request may own them by now."""
    return not facts.has(PurgeAllowed) and not (facts.has(Committed) and standing.wishes.superseded_by is not None)


async def advance(t: Tenure) -> None:
    """From where the facts and the register stand, phase by phase to the end.

    Raises: what a phase raises; `LeaveAtSafePoint`.
    """
    if t.standing.wishes.remove:
        raise LeaveAtSafePoint(Reason.REMOVE)
    if t.facts.has(PurgeAllowed):
        await _after_soak(t)
        return
    if t.facts.has(CleanedUp) and t.standing.wishes.superseded_by is not None:
        await taken_back(t)
        return
    if t.register.home != t.target_home:
        await _to_the_lock(t)
        async with t.tools.cutover(t.request.target_database):
            await t.safe_point()  # it may have waited, and this is the last time that leaving costs nothing
            attempt = await finalize(t)
            await open_target(t, attempt)
        await complete(t, attempt)
    elif not t.facts.has(CleanedUp):
        await clean_up(t)
    while await soak(t):
        if await finish(t):
            return
    await taken_back(t)


async def _to_the_lock(t: Tenure) -> None:
    await t.safe_point()
    if not t.facts.has(Preflighted):
        await preflight(t)
        await t.safe_point()
    elif t.standing.wishes.retry or not (t.standing.status is Status.IN_PROGRESS or still_waits(t)):
        await t.write(status=Status.IN_PROGRESS, taken_wishes=("retry",), message="")
    if t.facts.has(Differed):
        await reseed(t)
    if not t.facts.has(TargetMade):
        await create_target(t)
    if t.facts.need(Preflighted).offline:
        await lock_for_offline(t)
    if not t.facts.has(SeedCursor):
        await create_checkpoint(t)
    cursor = t.facts.need(SeedCursor)
    if not (cursor.done and cursor.swept):
        await seed(t)
    await incremental_sync(t)


async def _after_soak(t: Tenure) -> None:
    if t.standing.stage is not SyncStage.SYNC_FINISHED or not t.facts.has(SourceRemoved):
        await finish(t)
    removed = t.facts.need(SourceRemoved)
    if not t.facts.has(Purged) and t.now_ms() >= removed.keep_until_ms:
        await purge(t)


def _remedy(error: BaseException) -> Remedy:
    """A missing thing (a database taken out of the directory) is an operator's matter; so is a redirect."""
    if isinstance(error, NotFound):
        return Remedy.STOP if error.kind == "move request" else Remedy.OPERATOR
    remedy = remedy_for(error)
    return Remedy.OPERATOR if remedy in (Remedy.CALLER, Remedy.REDIRECT) else remedy


__all__ = ["Endpoints", "Job", "advance", "owns_sides"]
