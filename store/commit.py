"""A process's one committer: proposals in, outcomes out, many to one sync.

A *proposal* is content to be written and a decision to be made: a function from the catalogue as it is inside the
commit to records, or a refusal. Whatever queued during the last commit goes together; no timer.

    queue ──stager──▶ content written and synced ──committer──▶ commit.lock, BEGIN IMMEDIATE, catch up,
                                                               decide and apply each in turn,
                                                               one frame appended and synced, COMMIT, unlock, answer

What always holds: an operation that cannot be applied is never logged; no acknowledged write is missing for a reader
in any process (answers come after COMMIT); the catalogue is never ahead of the log. Any failure between the first
byte of the frame and COMMIT leaves the outcome unknown to this process: it commits nothing more (`StoreBroken`), and
the next opener settles it.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import groupby, repeat
from typing import Any, TypeVar

import apsw
import attrs
import outcome
import trio

from store.catalogue.schema import catalogue_error, write_applied
from store.catalogue.view import BrokenRule, View
from store.content.pool import SHARED, SegmentWriter
from store.content.segment import NewContent, NewFrame
from store.delivering import decide_deliveries
from store.disk import File
from store.errors import Refused, StoreBroken, StoreClosed, StoreError
from store.ids import ContentRef, FolderId, ItemId, new_ids
from store.layout import Layout
from store.limits import (
    FRAME_BYTES_MAX,
    GROUP_BYTES_MAX,
    GROUP_ITEMS_MAX,
    LEASES_MAX,
    OWN_SEGMENT_AFTER_BYTES,
    QUEUE_BYTES_MAX,
    STAGED_BY_COMMITTER_BYTES_MAX,
)
from store.log.log import Log
from store.names import Added
from store.offload import Offload
from store.proposal import Delivery, Draft, Proposal, Received
from store.records import join, pack
from store.recovery import catch_up

A = TypeVar("A")
NO_FOLDER = FolderId(bytes(16))
"""What a delivery's frame says: which folder is INBOX is decided inside the commit."""


@attrs.define(eq=False)
class _Waiting:
    """Somebody who waits for an outcome, and how far it has come."""

    proposal: Proposal[Any] | Delivery
    stream: bytes
    """In whose segment its content goes."""
    size: int
    items: int
    task: trio.lowlevel.Task | None = None
    """Who waits; None: nobody any more."""
    staged: bool = False
    """Its content, if any, is in a segment: there."""
    content: Sequence[ContentRef] = ()
    received: Received | None = None
    settled: outcome.Value[Any] | outcome.Error | None = None


@attrs.define
class _Decided:
    """What a group comes to: the transactions to be logged, how many of it they are of, and each one's outcome."""

    transactions: list[bytes] = attrs.Factory(list)
    changes: int = 0
    outcomes: list[outcome.Value[Any] | outcome.Error] = attrs.Factory(list)


@attrs.define(eq=False)
class Committer:
    """See the module. Runs inside `run`; `submit` and `deliver` from any task of the process."""

    _layout: Layout
    _db: apsw.Connection
    _log: Log
    _writer: SegmentWriter
    _commit_lock: File
    _offload_content: Offload
    _offload_log: Offload
    _now_ms: Callable[[], int]
    _on_commit: Callable[[], None]
    _queue: deque[_Waiting] = attrs.Factory(deque)
    _queued_bytes: int = 0
    _written: dict[bytes, int] = attrs.Factory(dict)
    _changed: trio.Event = attrs.Factory(trio.Event)
    _room: trio.Event = attrs.Factory(trio.Event)
    _stopped: StoreError | None = None
    _ahead: int = 0
    """Groups that are staged and not committed."""
    broken: trio.Event = attrs.Factory(trio.Event)
    """Set when a commit had an unknown outcome: only a fresh opener can go on."""
    commits: int = 0
    transactions: int = 0

    def __repr__(self) -> str:
        return f"<Committer {self._layout.root} {self.transactions} transactions in {self.commits} commits>"

    async def submit(self, proposal: Proposal[A]) -> A:
        """The proposal's transaction is committed; returns its answer.

        Durable: everything it said. Cancelled: it may or may not have happened.
        Raises: what `decide` raised (nothing happened); `StoreFull` (nothing happened); `StoreBroken` (unknown);
            `StoreClosed`.
        Bounded by: `QUEUE_BYTES_MAX` of content waiting; a larger proposal waits alone.
        """
        size = sum(map(len, proposal.contents))
        stream = self._stream_of(proposal.stream, size)
        answer: A = await self._wait_for(_Waiting(proposal, stream, size, proposal.items))
        return answer

    async def deliver(self, delivery: Delivery) -> Added:
        """The same for a delivery; returns where it went."""
        answer: Added = await self._wait_for(_Waiting(delivery, SHARED, len(delivery.content), 1))
        return answer

    async def _wait_for(self, waiting: _Waiting) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._queue and self._queued_bytes + waiting.size > QUEUE_BYTES_MAX:
            room = self._room
            await room.wait()
        if self._stopped is not None:
            raise self._stopped.with_traceback(None)  # one object for everybody: its traceback would grow for ever
        self._queue.append(waiting)
        self._queued_bytes += waiting.size
        self._changed.set()

        def leave(_: object) -> trio.lowlevel.Abort:
            waiting.task = None
            if waiting in self._queue:  # not begun: it did not happen
                self._queue.remove(waiting)
                self._queued_bytes -= waiting.size
                self._make_room()
            return trio.lowlevel.Abort.SUCCEEDED

        # What waiting for an event comes to, without making one for each of thousands.
        waiting.task = trio.lowlevel.current_task()
        return await trio.lowlevel.wait_task_rescheduled(leave)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; what waits then gets `StoreClosed`, what was begun is finished first."""
        staged, to_commit = trio.open_memory_channel[list[_Waiting]](0)
        try:
            # Two tasks: the stager writes the next group's content while the committer commits this one's.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stage_groups, staged)
                nursery.start_soon(self._commit_groups, to_commit)
                task_status.started()
        finally:
            self._stop(StoreClosed(path=str(self._layout.root)))

    def _stop(self, error: StoreError) -> None:
        if self._stopped is None:
            self._stopped = error
        _fail(self._queue, self._stopped)
        self._queue.clear()
        self._queued_bytes = 0
        self._make_room()

    def _make_room(self) -> None:
        self._room.set()
        self._room = trio.Event()

    def _stream_of(self, stream: bytes, size: int) -> bytes:
        """A bulk copy gets a segment of its own when it turns out to be one: ten thousand small mailboxes are not ten
        thousand files, and what is small shares its syncs."""
        if stream == SHARED:
            return SHARED
        written = self._written.pop(stream, 0) + size
        self._written[stream] = written  # the one used last is the last one
        if len(self._written) > LEASES_MAX:
            del self._written[next(iter(self._written))]
        return stream if written > OWN_SEGMENT_AFTER_BYTES else SHARED

    def _take_group(self) -> list[_Waiting]:
        """What goes together: the queue from its front, one stream of content, bounded in bytes and number."""
        group = [self._queue.popleft()]
        size, stream, items = group[0].size, group[0].stream, group[0].items
        while self._queue:
            following = self._queue[0]
            if (
                items + following.items > GROUP_ITEMS_MAX
                or size + following.size > GROUP_BYTES_MAX
                or (following.stream != stream and following.size)
            ):
                break
            group.append(self._queue.popleft())
            size += following.size
            items += following.items
        self._queued_bytes -= size
        self._make_room()
        return group

    async def _stage_groups(self, staged: trio.MemorySendChannel[list[_Waiting]]) -> None:
        with staged:
            while True:
                while not self._queue:
                    self._changed = trio.Event()
                    await self._changed.wait()
                group = self._take_group()
                try:
                    # With nothing to overlap with, a small group goes through in one go: the turns of tasks and
                    # threads that it saves are most of what a single delivery costs beside its syncs.
                    if not self._ahead and sum([one.size for one in group]) <= STAGED_BY_COMMITTER_BYTES_MAX:
                        await self._commit_group(group)
                        # Who was answered just now may have more to say: all of them before the next group is taken.
                        await trio.lowlevel.checkpoint()
                    else:
                        await self._offload_content(lambda group=group: self._stage(group))  # type: ignore[misc]
                        self._ahead += 1
                        await staged.send(group)
                except Exception as error:  # a bug, too, fails this group alone: nothing was committed
                    _fail(group, error)
                except BaseException:
                    _fail(group, StoreClosed(path=str(self._layout.root)))
                    raise

    def _stage(self, group: list[_Waiting]) -> None:
        """Blocking: the group's content is in a segment, durable, and each member knows where. Deliveries get their
        items' ids and are digested here, where it holds up nobody."""
        items: list[NewFrame] = []
        stream = SHARED
        for waiting, item_id in zip(group, new_ids(self._now_ms(), len(group)), strict=True):
            asked = waiting.proposal
            if isinstance(asked, Delivery):
                items.append(
                    (asked.instance, NewContent(ItemId(item_id), NO_FOLDER, asked.received_ms, 0), asked.content)
                )
            elif asked.contents:
                items += zip(repeat(asked.instance), asked.headers, asked.contents)
                stream = waiting.stream
        refs = self._writer.write(stream, items) if items else []
        at = 0
        for waiting in group:
            asked = waiting.proposal
            if isinstance(asked, Delivery):
                digest = hashlib.sha256(asked.content).digest()
                waiting.received = Received(asked, items[at][1].item_id, refs[at], digest)
                at += 1
            else:
                waiting.content = refs[at : at + len(asked.contents)]
                at += len(asked.contents)
            waiting.staged = True

    async def _commit_groups(self, to_commit: trio.MemoryReceiveChannel[list[_Waiting]]) -> None:
        async for group in to_commit:
            await self._commit_group(group)
            self._ahead -= 1

    async def _commit_group(self, group: list[_Waiting]) -> None:
        """The group is committed or not; whatever happens, each member has its outcome."""
        if self._stopped is not None:
            _fail(group, self._stopped)
            return
        # Of a group that was cancelled: what the offload began ran to its end and is settled, the rest did not happen.
        unsettled: StoreError = StoreClosed(path=str(self._layout.root))
        try:
            await self._offload_log(lambda: self._commit(group))
        except _NotTogether:
            for waiting in group:
                await self._commit_group([waiting])
        except StoreBroken as error:
            self._stop(error)
            _fail(group, error)
            self.broken.set()
        except Exception as error:  # a bug, too, fails this group alone: it was rolled back before the log saw it
            _fail(group, error)
        except trio.Cancelled:
            raise
        except BaseException:
            unsettled = StoreBroken(path=str(self._layout.root), why="the commit was cut short; its outcome is unknown")
            raise
        finally:
            _answer(group, unsettled)
        self._on_commit()

    def _commit(self, group: list[_Waiting]) -> None:
        """Blocking: one commit, whole. Settles each member."""
        if not group[0].staged:
            self._stage(group)
        self._commit_lock.lock(exclusive=True, wait=True)
        try:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                head = catch_up(self._db, self._log, now_ms=self._now_ms())
                decided = self._decide_all(group)
            except apsw.Error as error:
                raise catalogue_error(self._layout.catalogue, error) from error
            payload = join(decided.transactions)
            if len(payload) > FRAME_BYTES_MAX:
                if len(group) > 1:
                    raise _NotTogether
                raise Refused(why=f"{len(payload):,} bytes of changes are more than one commit takes: split them")
            if decided.transactions:
                # A full disk shows here, before the frame's first byte, where nothing has happened yet.
                head = self._log.make_room(len(payload), head=head, now_ms=self._now_ms())
            try:
                if decided.transactions:
                    head = self._log.append(payload, head=head, now_ms=self._now_ms())
                    write_applied(self._db, head)
                self._db.execute("COMMIT")
            except Exception as error:
                # From the first byte of the frame on, only a fresh opener can tell what happened.
                raise StoreBroken(
                    path=str(self._layout.root), why=f"a commit failed half-way ({error}); open the database again"
                ) from error
        finally:
            self._roll_back()
            self._commit_lock.unlock()
        self.commits += 1
        self.transactions += decided.changes
        for waiting, settled in zip(group, decided.outcomes, strict=True):
            waiting.settled = settled

    def _decide_all(self, group: list[_Waiting]) -> _Decided:
        """What the group comes to, each member in turn; the catalogue is as it says.

        Applying fails only by a bug: records that break a rule of the catalogue. Then the group is rolled back and
        its members go one by one, so that the bug fails its own alone; no savepoint is paid for by all the others.
        """
        view, now_ms, decided = View(self._db), self._now_ms(), _Decided()
        try:
            for are_deliveries, run in groupby(group, key=lambda waiting: waiting.received is not None):
                if are_deliveries:
                    _decide_deliveries(view, [one.received for one in run if one.received], now_ms, decided)
                else:
                    for waiting in run:
                        _decide(view, waiting, now_ms, decided)
            view.flush()
        except BrokenRule as broken:
            if len(group) > 1:
                raise _NotTogether from broken
            self._db.execute("ROLLBACK")
            self._db.execute("BEGIN IMMEDIATE")
            return _Decided(outcomes=[outcome.Error(broken.bug)])
        return decided

    def _roll_back(self) -> None:
        """Nothing of an unfinished commit stays in the catalogue; after a COMMIT there is nothing to do."""
        if not self._db.get_autocommit():
            with suppress(apsw.Error):
                self._db.execute("ROLLBACK")


class _NotTogether(Exception):
    """A group cannot be committed as one: too large for a frame, or one of it fails. Each alone may not be."""


def _decide(view: View, waiting: _Waiting, now_ms: int, decided: _Decided) -> None:
    """Deciding changes nothing, so a refusal needs no undoing."""
    proposal = waiting.proposal
    assert isinstance(proposal, Proposal)
    draft = Draft(view, proposal.instance, now_ms, waiting.content)
    try:
        answer = outcome.Value(proposal.decide(draft))
        packed = pack(draft.records) if draft.records else b""
    except (BrokenRule, apsw.Error):
        raise  # of one before it; the catalogue's own trouble
    except Exception as refusal:
        decided.outcomes.append(outcome.Error(refusal))
        return
    if packed:
        view.apply(draft.records)
        decided.transactions.append(packed)
        decided.changes += 1
    decided.outcomes.append(answer)


def _decide_deliveries(view: View, received: list[Received], now_ms: int, decided: _Decided) -> None:
    """Likewise; all of them are one transaction."""
    try:
        records, answers = decide_deliveries(view, received, now_ms=now_ms)
        packed = pack(records) if records else b""
    except (BrokenRule, apsw.Error):
        raise
    except Exception as bug:
        raise BrokenRule(bug) from bug
    if packed:
        view.apply(records)
        decided.transactions.append(packed)
    for answer in answers:
        if isinstance(answer, StoreError):
            decided.outcomes.append(outcome.Error(answer))
        else:
            decided.changes += not answer.duplicate
            decided.outcomes.append(outcome.Value(answer))


def _answer(group: Iterable[_Waiting], unsettled: BaseException) -> None:
    """Each member goes on with its outcome; one that has none, with that error."""
    for waiting in group:
        if waiting.task is not None:
            trio.lowlevel.reschedule(waiting.task, waiting.settled or outcome.Error(unsettled))
            waiting.task = None


def _fail(group: Iterable[_Waiting], error: BaseException) -> None:
    """None of it happened, or nobody knows."""
    for waiting in group:
        waiting.settled = outcome.Error(error)
    _answer(group, error)
