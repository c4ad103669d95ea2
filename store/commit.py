"""A process's one committer: proposals in, outcomes out, many to one sync.

A *proposal* is content to be written and a decision to be made: a function from the catalogue as it is inside the
commit to records, or a refusal; a *delivery* is one in data, and all of a group are decided together (`delivering`).
Whatever queued during the last commit goes together; no timer.

    lane ──stager──▶ content written and synced ──committer──▶ commit.lock, BEGIN IMMEDIATE, catch up,
                                                              decide and apply each in turn,
                                                              one frame appended and synced, COMMIT, unlock, answer

There are two lanes, each with its own stager, and they take turns at the lock: what copies bring, in parts of
`COPIED_ITEMS_MAX`, and all else. A delivery waits for one such part, not for the mailbox that is being copied.

What always holds: an operation that cannot be applied is never logged; no acknowledged write is missing for a reader
in any process (answers come after COMMIT); the catalogue is never ahead of the log. Any failure between the first
byte of the frame and COMMIT leaves the outcome unknown to this process: it commits nothing more (`StoreBroken`), and
the next opener settles it.
"""

from collections.abc import Callable
from contextlib import suppress
from itertools import groupby, repeat
from typing import Any, TypeVar

import apsw
import attrs
import outcome
import trio

from store.catalogue.keys import RecentKeys
from store.catalogue.schema import catalogue_error, write_applied
from store.catalogue.view import BrokenRule, View
from store.content.pool import SHARED, SegmentWriter
from store.content.segment import NewContent, NewFrame
from store.delivering import decide_deliveries
from store.disk import File
from store.errors import Refused, StoreBroken, StoreClosed, StoreError
from store.ids import FolderId, ItemId, new_ids
from store.lane import Group, Lane, Waiting, answer, fail
from store.layout import Layout
from store.limits import FRAME_BYTES_MAX, LEASES_MAX, OWN_SEGMENT_AFTER_BYTES, STAGED_BY_COMMITTER_BYTES_MAX
from store.log.log import Log
from store.names import Added
from store.offload import Offload
from store.proposal import Delivery, Draft, Proposal, Received
from store.records import join, pack
from store.recovery import catch_up

A = TypeVar("A")
NO_FOLDER = FolderId(bytes(16))
"""What a delivery's frame says: which folder is INBOX is decided inside the commit."""


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
    _clients: Lane
    _copies: Lane
    _commit_lock: File
    _offload_log: Offload
    _now_ms: Callable[[], int]
    _on_commit: Callable[[], None]
    _written: dict[bytes, int] = attrs.Factory(dict)
    _recent_keys: RecentKeys = attrs.Factory(RecentKeys)
    _stopped: StoreError | None = None
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
        lane = self._clients if proposal.stream == SHARED else self._copies
        waiting = Waiting(proposal, self._stream_of(proposal.stream, size), size, proposal.items)
        answered: A = await lane.wait_for(waiting)
        return answered

    async def deliver(self, delivery: Delivery) -> Added:
        """The same for a delivery; returns where it went."""
        added: Added = await self._clients.wait_for(Waiting(delivery, SHARED, len(delivery.content), 1))
        return added

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; what waits then gets `StoreClosed`, what was begun is finished first."""
        try:
            # Two tasks a lane: one writes the next group's content while the other commits this one's.
            async with trio.open_nursery() as nursery:
                for lane in (self._clients, self._copies):
                    staged, to_commit = trio.open_memory_channel[Group](0)
                    nursery.start_soon(self._stage_groups, lane, staged)
                    nursery.start_soon(self._commit_groups, lane, to_commit)
                task_status.started()
        finally:
            self._stop(StoreClosed(path=str(self._layout.root)))

    def _stop(self, error: StoreError) -> None:
        if self._stopped is None:
            self._stopped = error
        for lane in (self._clients, self._copies):
            lane.stop(self._stopped)

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

    async def _stage_groups(self, lane: Lane, staged: trio.MemorySendChannel[Group]) -> None:
        with staged:
            while True:
                group = await lane.take()
                try:
                    # With nothing to overlap with, a small group goes through in one go: the turns of tasks and
                    # threads that it saves are most of what a single delivery costs beside its syncs.
                    if not lane.ahead and sum([one.size for one in group]) <= STAGED_BY_COMMITTER_BYTES_MAX:
                        await self._commit_group(lane, group)
                        # Who was answered just now may have more to say: all of them before the next group is taken.
                        await trio.lowlevel.checkpoint()
                    else:
                        await lane.offload(lambda group=group: self._stage(lane.writer, group))  # type: ignore[misc]
                        lane.ahead += 1
                        await staged.send(group)
                except Exception as error:  # a bug, too, fails this group alone: nothing was committed
                    fail(group, error)
                except BaseException:
                    fail(group, StoreClosed(path=str(self._layout.root)))
                    raise

    def _stage(self, writer: SegmentWriter, group: Group) -> None:
        """Blocking: the group's content is in a segment, durable, and each member knows where. Deliveries get their
        items' ids here, where it holds up nobody."""
        items: list[NewFrame] = []
        stream = SHARED
        for waiting, item_id in zip(group, new_ids(self._now_ms(), len(group)), strict=True):
            asked = waiting.proposal
            if isinstance(asked, Delivery):
                items.append(
                    (asked.instance, NewContent(ItemId(item_id), NO_FOLDER, asked.received_ms, 0), asked.content)
                )
            elif asked.contents:
                assert len(asked.headers) == len(asked.contents), "each item has its header"
                items += zip(repeat(asked.instance), asked.headers, asked.contents)
                stream = waiting.stream
        refs = writer.write(stream, items) if items else []
        at = 0
        for waiting in group:
            asked = waiting.proposal
            if isinstance(asked, Delivery):
                waiting.received = Received(asked, items[at][1].item_id, refs[at])
                at += 1
            else:
                waiting.content = refs[at : at + len(asked.contents)]
                at += len(asked.contents)
            waiting.staged = True

    async def _commit_groups(self, lane: Lane, to_commit: trio.MemoryReceiveChannel[Group]) -> None:
        async for group in to_commit:
            await self._commit_group(lane, group)
            lane.ahead -= 1

    async def _commit_group(self, lane: Lane, group: Group) -> None:
        """The group is committed or not; whatever happens, each member has its outcome."""
        if self._stopped is not None:
            fail(group, self._stopped)
            return
        # Of a group that was cancelled: what the offload began ran to its end and is settled, the rest did not happen.
        unsettled: StoreError = StoreClosed(path=str(self._layout.root))
        try:
            await self._offload_log(lambda: self._commit(lane, group))
        except _NotTogether:
            for waiting in group:
                await self._commit_group(lane, [waiting])
        except StoreBroken as error:
            self._stop(error)
            fail(group, error)
            self.broken.set()
        except Exception as error:  # a bug, too, fails this group alone: it was rolled back before the log saw it
            fail(group, error)
        except trio.Cancelled:
            raise
        except BaseException:
            unsettled = StoreBroken(path=str(self._layout.root), why="the commit was cut short; its outcome is unknown")
            raise
        finally:
            answer(group, unsettled)
        self._on_commit()

    def _commit(self, lane: Lane, group: Group) -> None:
        """Blocking: one commit, whole. Settles each member."""
        if self._stopped is not None:  # since this group waited for its turn
            raise self._stopped.with_traceback(None)
        if not group[0].staged:
            self._stage(lane.writer, group)
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
                # From the first byte of the frame on, only a fresh opener can tell what happened. The other lane's
                # group may have the next turn before any task hears of this.
                why = f"a commit failed half-way ({error}); open the database again"
                self._stopped = StoreBroken(path=str(self._layout.root), why=why)
                raise self._stopped from error
        finally:
            self._roll_back()
            self._commit_lock.unlock()
        self.commits += 1
        self.transactions += decided.changes
        for waiting, settled in zip(group, decided.outcomes, strict=True):
            waiting.settled = settled

    def _decide_all(self, group: Group) -> _Decided:
        """What the group comes to, each member in turn; the catalogue is as it says.

        Applying fails only by a bug: records that break a rule of the catalogue. Then the group is rolled back and
        its members go one by one, so that the bug fails its own alone; no savepoint is paid for by all the others.
        """
        view, now_ms, decided = View(self._db, self._recent_keys), self._now_ms(), _Decided()
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


def _decide(view: View, waiting: Waiting, now_ms: int, decided: _Decided) -> None:
    """Deciding changes nothing, so a refusal needs no undoing."""
    proposal = waiting.proposal
    assert isinstance(proposal, Proposal)
    draft = Draft(view, proposal.instance, now_ms, waiting.content)
    try:
        answered = outcome.Value(proposal.decide(draft))
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
    decided.outcomes.append(answered)


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
    for each in answers:
        if isinstance(each, StoreError):
            decided.outcomes.append(outcome.Error(each))
        else:
            decided.changes += not each.duplicate
            decided.outcomes.append(outcome.Value(each))
