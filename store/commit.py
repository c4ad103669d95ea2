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
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

import apsw
import attrs
import trio

from store.catalogue.queries import MailboxInfo
from store.catalogue.schema import catalogue_error, write_applied
from store.catalogue.view import BrokenRule, View
from store.content.pool import SHARED, SegmentWriter
from store.content.segment import Header
from store.disk import File
from store.errors import Refused, StoreBroken, StoreClosed, StoreError
from store.ids import ContentRef, InstanceId
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
from store.offload import Offload
from store.records import Record, join, pack
from store.recovery import catch_up

A = TypeVar("A")


@attrs.define
class Draft:
    """One transaction being decided: the catalogue as it is, and the records so far."""

    view: View
    instance: InstanceId
    now_ms: int
    content: Sequence[ContentRef]
    digest: bytes
    """SHA-256 of a delivery's content: bytes that a stranger chose."""
    records: list[Record] = attrs.Factory(list)
    _info: MailboxInfo | None = None
    _modseq: int = 0

    @property
    def db(self) -> apsw.Connection:
        """For any question about the catalogue; `view` answers the commonest at less cost."""
        return self.view.db

    @property
    def info(self) -> MailboxInfo:
        """The mailbox instance. Raises `NoSuchMailbox`."""
        if self._info is None:
            self._info = self.view.mailbox(self.instance)
            self._modseq = self._info.head
        return self._info

    @property
    def head(self) -> int:
        """The mailbox's modseq, the changes decided so far included."""
        return max(self._modseq, self.info.head)

    def next_modseq(self) -> int:
        """The mailbox's next change number."""
        self._modseq = self.head + 1
        return self._modseq

    def see_modseq(self, modseq: int) -> None:
        """A mover brings this change number along."""
        self._modseq = max(self.head, modseq)


@attrs.frozen
class Proposal(Generic[A]):
    """What a verb wants done. `decide` fills the draft's records and returns the verb's answer, or raises."""

    instance: InstanceId
    decide: Callable[[Draft], A]
    headers: Sequence[Header] = ()
    contents: Sequence[bytes] = ()
    """New items: what their frames say, and their bytes."""
    stream: bytes = SHARED
    items: int = 1
    """How many items it may touch: what bounds a group's frame."""
    delivery_key: bytes | None = None
    """Of a delivery, which is one item: the view is asked for it, and the draft has its digest."""

    @property
    def bytes(self) -> int:
        return sum(map(len, self.contents))


@attrs.define(eq=False)
class _Waiting:
    proposal: Proposal[Any]
    stream: bytes
    """In whose segment its content goes."""
    size: int
    done: trio.Event = attrs.Factory(trio.Event)
    answer: Any = None
    error: BaseException | None = None
    settled: bool = False
    staged: bool = False
    """Its content, if any, is in a segment."""
    refs: Sequence[ContentRef] = ()
    digest: bytes = b""


class _Outcome(NamedTuple):
    """What became of a proposal: its records, packed (b"": none), and its answer or its refusal."""

    packed: bytes
    answer: Any
    refusal: Exception | None


@attrs.define(eq=False)
class Committer:
    """See the module. Runs inside `run`; `submit` from any task of the process."""

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
    _committing: bool = False
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
        await trio.lowlevel.checkpoint_if_cancelled()
        size = proposal.bytes
        waiting = _Waiting(proposal, self._stream_of(proposal.stream, size), size)
        while self._queue and self._queued_bytes + waiting.size > QUEUE_BYTES_MAX:
            room = self._room
            await room.wait()
        if self._stopped is not None:
            raise self._stopped.with_traceback(None)  # one object for everybody: its traceback would grow for ever
        self._queue.append(waiting)
        self._queued_bytes += waiting.size
        self._changed.set()
        try:
            await waiting.done.wait()
        except trio.Cancelled:
            if waiting in self._queue:  # not begun: it did not happen
                self._queue.remove(waiting)
                self._queued_bytes -= waiting.size
                self._make_room()
            raise
        if waiting.error is not None:
            raise waiting.error
        answer: A = waiting.answer
        return answer

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
        for waiting in self._queue:
            _fail(waiting, self._stopped)
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
        size, stream, items = group[0].size, group[0].stream, group[0].proposal.items
        while (
            self._queue
            and items + self._queue[0].proposal.items <= GROUP_ITEMS_MAX
            and size + self._queue[0].size <= GROUP_BYTES_MAX
            and (self._queue[0].stream == stream or not self._queue[0].size)
        ):
            group.append(self._queue.popleft())
            size += group[-1].size
            items += group[-1].proposal.items
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
                    # With nothing to overlap with, a small group's content is written by the committer itself: one
                    # thread hop less, which is most of what a single delivery costs beside its syncs.
                    size = sum(waiting.size for waiting in group)
                    alone = not self._committing and size <= STAGED_BY_COMMITTER_BYTES_MAX
                    if not alone:
                        await self._offload_content(lambda group=group: self._stage(group))  # type: ignore[misc]
                    await staged.send(group)
                    if alone:
                        await group[0].done.wait()  # one writer: nothing else is staged meanwhile
                        # Who was answered just now may have more to say: all of them before the next group is taken.
                        await trio.lowlevel.checkpoint()
                except Exception as error:  # a bug, too, fails this group alone: nothing was committed
                    _fail_all(group, error)
                except BaseException:
                    _fail_all(group, StoreClosed(path=str(self._layout.root)))
                    raise

    def _stage(self, group: list[_Waiting]) -> None:
        """Blocking: the group's content is in a segment, durable, and each member knows where. Deliveries are digested
        here, where it holds up nobody."""
        with_content = [waiting for waiting in group if waiting.proposal.contents]
        if with_content:
            proposals = (waiting.proposal for waiting in with_content)
            content = [(proposal.instance, proposal.headers, proposal.contents) for proposal in proposals]
            places = self._writer.write(with_content[0].stream, content)
            for waiting, refs in zip(with_content, places, strict=True):
                waiting.refs = refs
        for waiting in group:
            if waiting.proposal.delivery_key is not None:
                waiting.digest = hashlib.sha256(waiting.proposal.contents[0]).digest()
            waiting.staged = True

    async def _commit_groups(self, to_commit: trio.MemoryReceiveChannel[list[_Waiting]]) -> None:
        async for group in to_commit:
            self._committing = True
            await self._commit_group(group)
            self._committing = False
            self._on_commit()

    async def _commit_group(self, group: list[_Waiting]) -> None:
        """The group is committed or not; whatever happens, each member has its answer or its error."""
        if self._stopped is not None:
            _fail_all(group, self._stopped)
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
            _fail_all(group, error)
        except Exception as error:  # a bug, too, fails this group alone: it was rolled back before the log saw it
            _fail_all(group, error)
        except trio.Cancelled:
            raise
        except BaseException:
            unsettled = StoreBroken(path=str(self._layout.root), why="the commit was cut short; its outcome is unknown")
            raise
        finally:
            for waiting in group:
                if not waiting.settled:
                    _fail(waiting, unsettled)
                waiting.done.set()

    def _commit(self, group: list[_Waiting]) -> None:
        """Blocking: one commit, whole. Sets each member's answer or error."""
        if not group[0].staged:
            self._stage(group)
        self._commit_lock.lock(exclusive=True, wait=True)
        try:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                head = catch_up(self._db, self._log, now_ms=self._now_ms())
                outcomes = self._decide_all(group)
            except apsw.Error as error:
                raise catalogue_error(self._layout.catalogue, error) from error
            logged = [outcome.packed for outcome in outcomes if outcome.packed]
            payload = join(logged)
            if len(payload) > FRAME_BYTES_MAX:
                if len(group) > 1:
                    raise _NotTogether
                raise Refused(why=f"{len(payload):,} bytes of changes are more than one commit takes: split them")
            if logged:
                # A full disk shows here, before the frame's first byte, where nothing has happened yet.
                head = self._log.make_room(len(payload), head=head, now_ms=self._now_ms())
            try:
                if logged:
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
        self.transactions += len(logged)
        for waiting, (_, answer, refusal) in zip(group, outcomes, strict=True):
            waiting.answer, waiting.error, waiting.settled = answer, refusal, True

    def _decide_all(self, group: list[_Waiting]) -> list[_Outcome]:
        """Each proposal's outcome, decided in turn; the catalogue is as they say.

        Applying fails only by a bug: records that break a rule of the catalogue. Then the group is rolled back and
        its members go one by one, so that the bug fails its own alone; no savepoint is paid for by all the others.
        """
        keys: dict[InstanceId, list[bytes]] = {}
        for waiting in group:
            if waiting.proposal.delivery_key is not None:
                keys.setdefault(waiting.proposal.instance, []).append(waiting.proposal.delivery_key)
        view = View(self._db, keys)
        try:
            outcomes = [self._decide(waiting, view) for waiting in group]
            view.flush()
        except BrokenRule as broken:
            if len(group) > 1:
                raise _NotTogether from broken
            self._db.execute("ROLLBACK")
            self._db.execute("BEGIN IMMEDIATE")
            return [_Outcome(b"", None, broken.bug)]
        return outcomes

    def _decide(self, waiting: _Waiting, view: View) -> _Outcome:
        """Deciding changes nothing, so a refusal needs no undoing."""
        proposal = waiting.proposal
        draft = Draft(view, proposal.instance, self._now_ms(), waiting.refs, waiting.digest)
        try:
            answer = proposal.decide(draft)
            packed = pack(draft.records) if draft.records else b""
        except BrokenRule:
            raise  # of one before it
        except Exception as refusal:
            if isinstance(refusal, apsw.Error):
                raise  # the catalogue's own trouble, not this proposal's
            return _Outcome(b"", None, refusal)
        if draft.records:
            view.apply(draft.records)
        return _Outcome(packed, answer, None)

    def _roll_back(self) -> None:
        """Nothing of an unfinished commit stays in the catalogue; after a COMMIT there is nothing to do."""
        if not self._db.get_autocommit():
            with suppress(apsw.Error):
                self._db.execute("ROLLBACK")


class _NotTogether(Exception):
    """A group cannot be committed as one: too large for a frame, or one of it fails. Each alone may not be."""


def _fail(waiting: _Waiting, error: BaseException) -> None:
    waiting.error, waiting.settled = error, True
    waiting.done.set()


def _fail_all(group: list[_Waiting], error: BaseException) -> None:
    for waiting in group:
        _fail(waiting, error)
