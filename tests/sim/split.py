"""Blocking calls that others' blocking calls run in between, where two processes really overlap.

A call runs in a greenlet of its own. In some of its disk calls, and wherever it would wait for a lock on a file, it
gives way: the task that made it lets others run, for as long as the scheduler likes, and goes on with it afterwards.

    task ── switch ─▶ call … disk call … pause ─┐
      ▲                                         │   what others do meanwhile, as for a thread that is at its disk
      └────── turn, then switch back ◀──────────┘

As with a thread, a call that was begun is not abandoned by a cancellation. A death ends it where it stands.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
from greenlet import getcurrent, greenlet

from tests.sim.machine import Killed

T = TypeVar("T")


def pause() -> bool:
    """Others run. False: this is no split call, and nobody can."""
    task = getcurrent().parent
    if task is not None:
        task.switch()
    return task is not None


async def run_split(fn: Callable[[], T], turn: Callable[[], Awaitable[None]]) -> T:
    """What `fn` answers. `turn` is awaited at each of its pauses; `Killed` from it ends `fn` there."""
    call = greenlet(fn)
    answer: Any = call.switch()
    with trio.CancelScope(shield=True):
        while not call.dead:
            try:
                await turn()
            except Killed as death:
                answer = call.throw(death)
            else:
                answer = call.switch()
    return answer  # type: ignore[no-any-return]
