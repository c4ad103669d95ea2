"""Group commit: the transactions of many tasks on one SQLite connection, one sync for all that queued up meanwhile.

A worker with fifty moves writes facts for all of them into one file, and a sync is most of what each costs. So whoever
comes while a commit is under way waits in the queue, and the next commit takes the whole queue; no timer, and no task
of its own: the first who comes leads, and hands the lead on to the first who waits.

What always holds: each caller's statements are all or nothing, alone, and see those before them, as if each had been a
transaction of its own. Where one raises, or the common transaction fails, nothing of it was done and each is tried
alone, so that everybody has his own answer or error: refusals are rare, and a savepoint for each caller is two
statements more for all the others. So statements may run twice, the first time for nothing.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import apsw
import attrs
import outcome
import trio

from moverq.flow.offload import Offload
from moverq.flow.sqlite import transaction

T = TypeVar("T")

GROUP_MAX = 256
"""Callers in one transaction: beyond that the sync is shared well enough."""


@attrs.define(eq=False)
class _Waiting(Generic[T]):
    statements: Callable[[], T]
    task: trio.lowlevel.Task
    answer: outcome.Value[T] | outcome.Error | None = None


class GroupCommit:
    """See the module. One per connection; the caller's statements run where `offload` runs them."""

    def __init__(self, connection: apsw.Connection, offload: Offload) -> None:
        self._connection = connection
        self._offload = offload
        self._queue: deque[_Waiting[Any]] = deque()
        self._is_led = False

    def __repr__(self) -> str:
        return f"<GroupCommit {self._connection.filename} {len(self._queue)} waiting>"

    async def __call__(self, statements: Callable[[], T]) -> T:
        """The statements are committed; returns what they return.

        Durable: as the connection is.
        Cancelled: statements that waited for their turn did not happen; those that had begun have their whole effect.
        Raises: what they raise, and then nothing changed; EndpointBroken, EndpointBusy as `transaction`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        mine = _Waiting(statements, trio.lowlevel.current_task())
        self._queue.append(mine)
        if self._is_led:
            await self._wait(mine)
        if mine.answer is None:
            await self._lead()
        assert mine.answer is not None, "who leads takes himself first"
        return mine.answer.unwrap()

    async def _wait(self, mine: _Waiting[Any]) -> None:
        """Until there is an answer, or the lead is handed on to this one."""

        def abort(_: object) -> trio.lowlevel.Abort:
            if mine not in self._queue:
                return trio.lowlevel.Abort.FAILED  # it has begun
            self._queue.remove(mine)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _lead(self) -> None:
        """Commit what is queued, this task's own first, and hand the lead on."""
        self._is_led = True
        group = [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_MAX))]
        try:
            await self._offload(lambda: self._commit(group))
        finally:
            me = trio.lowlevel.current_task()
            for waiting in reversed(group):
                if waiting.task is me:
                    continue
                if waiting.answer is not None:
                    trio.lowlevel.reschedule(waiting.task)
                else:  # the leader was cut short before it began: the others have not lost their turn
                    self._queue.appendleft(waiting)
            self._is_led = bool(self._queue)
            if self._queue:
                trio.lowlevel.reschedule(self._queue[0].task)

    def _commit(self, group: list[_Waiting[Any]]) -> None:
        """Blocking: everybody in the group has an answer."""
        if len(group) > 1:
            try:
                with transaction(self._connection):
                    values = [waiting.statements() for waiting in group]
            except Exception:  # whatever it was: alone, each learns what concerns it
                pass
            else:
                for waiting, value in zip(group, values, strict=True):
                    waiting.answer = outcome.Value(value)
                return
        for waiting in group:
            try:
                with transaction(self._connection):
                    value = waiting.statements()
            except Exception as error:
                waiting.answer = outcome.Error(error)
            else:
                waiting.answer = outcome.Value(value)


__all__ = ["GroupCommit"]
