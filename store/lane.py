"""A lane to the committer: who waits for an outcome, in order, bounded in bytes, taken in groups.

There are two (`commit`), so that a delivery does not wait behind a mailbox that is being copied.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import outcome
import trio

from store.content.pool import SegmentWriter
from store.errors import StoreError
from store.ids import ContentRef
from store.limits import GROUP_BYTES_MAX, QUEUE_BYTES_MAX
from store.offload import Offload
from store.proposal import Delivery, Proposal, Received


@attrs.define(eq=False)
class Waiting:
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


Group = list[Waiting]


@attrs.define(eq=False)
class Lane:
    """See the module. `writer` and `offload`: how its content is staged; one caller at a time."""

    writer: SegmentWriter
    offload: Offload
    items_max: int
    """How many items one of its groups touches."""
    queued_bytes: int = 0
    ahead: int = 0
    """Groups that are staged and not committed."""
    _queue: deque[Waiting] = attrs.Factory(deque)
    _changed: trio.Event = attrs.Factory(trio.Event)
    _room: trio.Event = attrs.Factory(trio.Event)
    _stopped: StoreError | None = None

    async def wait_for(self, waiting: Waiting) -> Any:
        """Its answer; raises its refusal. Cancelled: it did not happen where it was not yet taken.

        Bounded by: `QUEUE_BYTES_MAX` of content waiting; one that is larger waits alone.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._queue and self.queued_bytes + waiting.size > QUEUE_BYTES_MAX:
            room = self._room
            await room.wait()
        if self._stopped is not None:
            raise self._stopped.with_traceback(None)  # one object for everybody: its traceback would grow for ever
        self._queue.append(waiting)
        self.queued_bytes += waiting.size
        self._changed.set()

        def leave(_: object) -> trio.lowlevel.Abort:
            waiting.task = None
            if waiting in self._queue:  # not begun: it did not happen
                self._queue.remove(waiting)
                self.queued_bytes -= waiting.size
                self._make_room()
            return trio.lowlevel.Abort.SUCCEEDED

        # What waiting for an event comes to, without making one for each of thousands.
        waiting.task = trio.lowlevel.current_task()
        return await trio.lowlevel.wait_task_rescheduled(leave)

    async def take(self) -> Group:
        """What goes together: the queue from its front, one stream of content, bounded in bytes and number."""
        while not self._queue:
            self._changed = trio.Event()
            await self._changed.wait()
        group = [self._queue.popleft()]
        size, stream, items = group[0].size, group[0].stream, group[0].items
        while self._queue:
            following = self._queue[0]
            if (
                items + following.items > self.items_max
                or size + following.size > GROUP_BYTES_MAX
                or (following.stream != stream and following.size)
            ):
                break
            group.append(self._queue.popleft())
            size += following.size
            items += following.items
        self.queued_bytes -= size
        self._make_room()
        return group

    def _make_room(self) -> None:
        self._room.set()
        self._room = trio.Event()

    def stop(self, error: StoreError) -> None:
        """Who waits, and who comes later, gets this error."""
        self._stopped = error
        fail(self._queue, error)
        self._queue.clear()
        self.queued_bytes = 0
        self._make_room()


def answer(group: Iterable[Waiting], unsettled: BaseException) -> None:
    """Each member goes on with its outcome; one that has none, with that error."""
    for waiting in group:
        if waiting.task is not None:
            trio.lowlevel.reschedule(waiting.task, waiting.settled or outcome.Error(unsettled))
            waiting.task = None


def fail(group: Iterable[Waiting], error: BaseException) -> None:
    """None of it happened, or nobody knows."""
    for waiting in group:
        waiting.settled = outcome.Error(error)
    answer(group, error)
