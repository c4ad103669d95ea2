"""A tenure: one orchestrator's turn at one move, and what its phases share.

A tenure has one token. It ends when the move is done, at a safe point, or with any error; the next turn, of this
process or another, is a new tenure with a higher token that begins with `settle`. So no phase cleans up behind
itself: whatever one leaves lying, the next holder finds in the ledger and at the register.

    job ─▶ Tenure ─┬─ ledger.write(token)     facts, row and report, in one transaction
                   ├─ source, target          the two sides, guarded by the token
                   ├─ item_map                what is at the target
                   └─ safe_point()            operators' wishes, the service's stop
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import attrs
import trio

from moverq.directory.directory import Directory, MoveAttributes, Register
from moverq.endpoints.base import Capabilities, Home, MailboxSummary, Source, Target
from moverq.errors import TooManyBadItems
from moverq.flow.bell import Bell
from moverq.flow.byte_budget import ByteBudget
from moverq.flow.share import Share
from moverq.ledger.item_map import ItemMap
from moverq.ledger.ledger import Ledger
from moverq.limits import Limits
from moverq.model.facts import Fact, Facts
from moverq.model.ids import RequestId
from moverq.model.progress import Progress
from moverq.model.report import EntryKind, ReportEntry
from moverq.model.request import MoveRequest, Status, SyncStage
from moverq.model.standing import Change, Standing
from moverq.model.status_detail import StatusDetail, percent_complete
from moverq.phases.carry import Carrier

OnProgress = Callable[[Progress], None]


class Reason(Enum):
    """Why a job leaves at a safe point."""

    SUSPEND = "suspend"
    REMOVE = "remove"
    STOP = "stop"
    """The service stops, or drains and this move only waits, or others that wait have their turn."""


class LeaveAtSafePoint(Exception):
    """Not an error: the job leaves where leaving costs nothing. `job` alone catches it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@attrs.frozen(kw_only=True)
class Rehearsed:
    """What a rehearsal of the final steps came to."""

    folders: int
    took_ms: float
    at: float
    """When, by trio's clock."""


@attrs.frozen(kw_only=True)
class Tools:
    """What a worker hands every job of its own."""

    ledger: Ledger
    directory: Directory
    limits: Limits
    budget: ByteBudget
    on_progress: OnProgress | None = None
    drain: bool = False
    """Leave instead of waiting for an operator, a date or the end of a soak."""
    stopping: trio.Event = attrs.field(factory=trio.Event)
    """Set: every job leaves at its next safe point."""
    _pages: dict[str, trio.Semaphore] = attrs.field(factory=dict)
    _cutovers: dict[str, trio.CapacityLimiter] = attrs.field(factory=dict)
    rehearsed: dict[tuple[str, str], Rehearsed] = attrs.field(factory=dict)
    """The last rehearsal of each pair of databases, source and target."""
    freed: Bell = attrs.field(factory=Bell)
    """Rung when a job has come to rest or has ended: another may have its place."""

    def now_ms(self) -> int:
        return self.ledger.now_ms()

    def pages(self, database: str, can: Capabilities) -> Share:
        """A share of the pages that may be on their way into this database; one of its own where there is no writer
        to wait for."""
        if not can.has_one_writer:
            return Share(trio.Semaphore(self.limits.pages_at_once_max))
        if database not in self._pages:
            self._pages[database] = trio.Semaphore(self.limits.pages_at_once_max)
        return Share(self._pages[database])

    def cutover(self, database: str) -> trio.CapacityLimiter:
        """Entered for as long as a mailbox that goes to this database is locked."""
        if database not in self._cutovers:
            self._cutovers[database] = trio.CapacityLimiter(self.limits.cutovers_at_once_max)
        return self._cutovers[database]


@attrs.define(eq=False, kw_only=True)
class Tenure:
    """One turn at one move. Its own task is the only one that writes to it."""

    tools: Tools
    token: int
    standing: Standing
    facts: Facts
    register: Register
    """As read after this token had taken over."""
    source: Source
    target: Target
    source_as_target: Target
    target_as_source: Source
    item_map: ItemMap
    progress: Progress
    bell: Bell
    """Rung when an operator's wishes may have changed."""
    carrier: Carrier | None = None
    """From source to target (`follow.forward`)."""
    summary: MailboxSummary | None = None
    """Of the source, as preflight saw it in this tenure."""
    quiet: bool = False
    """Waiting for changes, a date or an operator: the scheduler does not count it."""
    resting_since: float | None = None
    """When it first came to wait so, by trio's clock."""
    dismissed: bool = False
    """Others that only wait have their turn now: it leaves, unless it does more than wait."""
    _stage_since_ms: int = 0
    _stage_items: int = 0
    _stage_bytes: int = 0
    _published_at: float = attrs.field(factory=trio.current_time)
    _noted_facts: tuple[Fact, ...] = ()
    _noted_counters: Mapping[str, Any] = attrs.field(factory=dict)
    _bell_at_standing: int | None = attrs.field(default=attrs.Factory(lambda t: t.bell.version, takes_self=True))
    """The bell before `standing` was read, with the wishes in it; None: a safe point has looked at it since."""
    _shown: MoveAttributes | None = None

    def __repr__(self) -> str:
        return f"<Tenure {self.request_id[:8]} token {self.token} {self.standing.stage.value}>"

    @property
    def request(self) -> MoveRequest:
        return self.standing.request

    @property
    def request_id(self) -> RequestId:
        return self.standing.request.request_id

    @property
    def ledger(self) -> Ledger:
        return self.tools.ledger

    @property
    def directory(self) -> Directory:
        return self.tools.directory

    @property
    def limits(self) -> Limits:
        return self.tools.limits

    @property
    def source_home(self) -> Home:
        return self.request.source

    @property
    def target_home(self) -> Home:
        return Home(self.request.target_database, self.request.target_instance)

    def now_ms(self) -> int:
        return self.tools.now_ms()

    def rest(self) -> None:
        """From now on it only waits: for changes, a date or an operator."""
        if not self.quiet:
            self.quiet = True
            if self.resting_since is None:
                self.resting_since = trio.current_time()
            self.tools.freed.ring()

    # --- writing ----------------------------------------------------------------------------------------------

    async def write(
        self,
        *facts: Fact,
        forget: Sequence[type[Fact]] = (),
        entries: Sequence[ReportEntry] = (),
        **change: Any,
    ) -> None:
        """Facts, row and report are durable together, with what was noted before; `change` names fields of `Change`."""
        if self._noted_counters:
            change["counters"] = {**self._noted_counters, **change.get("counters", {})}
        bell = self.bell.version
        self.standing = await self.ledger.write(
            self.request_id,
            self.token,
            facts=(*self._noted_facts, *facts),
            forget=forget,
            entries=entries,
            change=Change(**change) if change else None,
        )
        self.facts = self.facts.minus(*forget).plus(*facts)
        self._noted_facts, self._noted_counters = (), {}
        self._bell_at_standing = bell

    def note(self, fact: Fact, *, counters: Mapping[str, Any] | None = None) -> None:
        """The fact counts from now on, and is durable with the next write.

        Only for one that says how far the work got: after a crash before that write, the stretch is done once more.
        """
        self.facts = self.facts.plus(fact)
        self._noted_facts += (fact,)
        self._noted_counters = {**self._noted_counters, **(counters or {})}
        self.standing = self._with_noted(self.standing)

    def _with_noted(self, standing: Standing) -> Standing:
        return attrs.evolve(standing, counters=attrs.evolve(standing.counters, **self._noted_counters))

    async def enter(
        self,
        stage: SyncStage,
        *facts: Fact,
        status: Status | None = None,
        detail: StatusDetail | None = None,
        forget: Sequence[type[Fact]] = (),
        entries: Sequence[ReportEntry] = (),
        counters: Mapping[str, Any] | None = None,
        message: str = "",
        taken_wishes: tuple[str, ...] = (),
    ) -> None:
        """The move stands at `stage`; what it did in the stage before goes into the report.

        A phase whose last fact is written enters the next stage with it, which then finds nothing left to write.
        """
        here = stage is self.standing.stage and status in (None, self.standing.status)
        if here and self._stage_since_ms and not (facts or forget or entries or counters or taken_wishes):
            return
        await self.write(
            *facts,
            forget=forget,
            entries=(*entries, *self.stage_over()),
            stage=stage,
            status=status,
            detail=detail,
            message=message,
            percent=percent_complete(stage, bytes_done=0, bytes_total=0),
            counters=counters or {},
            taken_wishes=taken_wishes,
        )
        self.begin_stage(stage)
        if status is not None and self._shown != self._attributes(status):
            await self.show_status()

    def begin_stage(self, stage: SyncStage) -> None:
        """From here on time, items and bytes are this stage's. The row says so with the next write that names it."""
        self.standing = attrs.evolve(self.standing, stage=stage)
        self._stage_since_ms, self._stage_items, self._stage_bytes = self.now_ms(), 0, 0
        self.progress = attrs.evolve(self.progress, stage=stage, at_ms=self.now_ms())

    def stage_over(self) -> tuple[ReportEntry, ...]:
        """The stretch of work that ends now, for the report; nothing if it was none."""
        now, start = self.now_ms(), self._stage_since_ms
        if start == 0:
            return ()
        seconds = (now - start) / 1000
        stage = self.standing.stage.value
        data = {
            "sync_stage": stage,
            "start_timestamp_ms": start,
            "end_timestamp_ms": now,
            "items": self._stage_items,
            "bytes": self._stage_bytes,
            "items_per_s": self._stage_items / seconds if seconds > 0 else None,
            "bytes_per_s": self._stage_bytes / seconds if seconds > 0 else None,
        }
        text = f"{stage}: {self._stage_items:,} items, {self._stage_bytes:,} bytes in {seconds:.1f} s"
        return (self.entry(EntryKind.STAGE, text, **data),)

    def entry(self, kind: EntryKind, text: str, /, **data: Any) -> ReportEntry:
        return ReportEntry(at_ms=self.now_ms(), kind=kind, text=text, data=data)

    def carried(self, *, items: int, bytes_: int, changes: int = 0) -> dict[str, int]:
        """Counters after carrying so much more. Getting on ends a row of failed tries."""
        self._stage_items += items
        self._stage_bytes += bytes_
        counters = self.standing.counters
        return {
            "items_transferred": counters.items_transferred + items,
            "bytes_transferred": counters.bytes_transferred + bytes_,
            "changes_applied": counters.changes_applied + changes,
            "failed_tries": 0 if items or changes else counters.failed_tries,
        }

    async def show_status(self, status: Status | None = None) -> None:
        """The user's entry in the directory shows how the move stands; nobody decides by it."""
        attributes = self._attributes(status or self.standing.status)
        await self.directory.set_move(self.request.mailbox_id, attributes)
        self._shown = attributes

    async def show_what_a_crash_left_out(self) -> None:
        """The ledger is written first: who died between the two left the entry as it was before."""
        if self._shown is None and (await self.directory.recipient(self.request.mailbox_id)).move != self._attributes(
            self.standing.status
        ):
            await self.show_status()

    def _attributes(self, status: Status) -> MoveAttributes:
        return MoveAttributes(
            status=status.value,
            batch_name=self.request.batch_name,
            source_database=self.request.source.database,
            target_database=self.request.target_database,
        )

    # --- looking round ----------------------------------------------------------------------------------------

    async def safe_point(self) -> None:
        """Between two batches: does an operator want something, does the service stop?

        The ledger's answer to what was written since the last safe point told of the wishes too. Only without that, or
        where the bell has rung since, is it asked.

        Raises: LeaveAtSafePoint.
        """
        await trio.lowlevel.checkpoint()
        if self.tools.stopping.is_set() or (self.dismissed and self.quiet):
            raise LeaveAtSafePoint(Reason.STOP)
        if self._bell_at_standing != self.bell.version:
            self.standing = self._with_noted(await self.ledger.get(self.request_id))
        self._bell_at_standing = None
        if self.standing.wishes.remove:
            raise LeaveAtSafePoint(Reason.REMOVE)
        if self.standing.wishes.suspend and not self.standing.status.is_final:
            raise LeaveAtSafePoint(Reason.SUSPEND)

    def check_bad_items(self) -> None:
        """Raises `TooManyBadItems` beyond the request's limit, which an operator may have raised meanwhile."""
        limit, encountered = self.request.bad_item_limit, self.standing.counters.bad_items
        if limit is not None and encountered > limit:
            raise TooManyBadItems(limit=limit, encountered=encountered)

    async def publish(self, *, at_once: bool = False, **seen: Any) -> None:
        """Progress for the callback at once, for other processes now and then, or `at_once` too."""
        self.progress = attrs.evolve(self.progress, at_ms=self.now_ms(), **seen)
        if self.tools.on_progress is not None:
            self.tools.on_progress(self.progress)
        now = trio.current_time()
        if at_once or now - self._published_at >= self.limits.progress_interval_s:
            self._published_at = now
            await self.ledger.publish(self.token, self.progress)
