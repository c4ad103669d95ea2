"""How long to wait before the next try, and waiting for the first of several things."""

import random
from collections.abc import Awaitable, Callable

import trio


def backoff_s(tries: int, *, first_s: float, most_s: float, rng: random.Random) -> float:
    """Doubling from `first_s` to `most_s`, each between half and the whole, so that many who failed together do not
    come back together."""
    whole = min(most_s, first_s * (1 << min(tries, 30)))
    return whole * (0.5 + rng.random() / 2)


async def wait_first(*waits: Callable[[], Awaitable[object]], at_most_s: float | None = None) -> None:
    """Return when the first of `waits` has, or after `at_most_s`; the others are cancelled."""
    with trio.move_on_after(float("inf") if at_most_s is None else max(0.0, at_most_s)):
        # In the nursery: one task a wait. The first to return ends them all.
        async with trio.open_nursery() as nursery:

            async def wait(one: Callable[[], Awaitable[object]]) -> None:
                await one()
                nursery.cancel_scope.cancel()

            for one in waits:
                nursery.start_soon(wait, one)
