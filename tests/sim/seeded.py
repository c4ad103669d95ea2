"""One number decides everything: the order of tasks, the ids, the time.

Four things could tell two runs of one seed apart, and each is taken away here: trio's choice among tasks that are
ready (two private names of trio, used in this module alone), random bytes, the clock, and threads (the simulation has
none: blocking work runs inline, through `Offload`). `test_simulation` proves it by comparing traces.

Besides, a few bounds are made small, so that a handful of items rolls generations and segments, trims a log and cuts
a feed. Nothing else of the product is changed.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import trio
import trio.testing
from trio._core import _run as scheduler

from moverq.ledger.codec import Codec

T = TypeVar("T")

SMALL: dict[str, Any] = {
    "store.log.log.GENERATION_GROW_BYTES": 4096,
    "store.log.log.GENERATION_BYTES_MAX": 32 * 1024,
    "store.retention.CHECKPOINT_LOG_BYTES": 32 * 1024,
    "store.content.pool.SEGMENT_BYTES_MAX": 4096,
    "store.database.READERS": 1,
    "store.feed.WATCH_PERIOD_S": 0.5,
    "moverq.service.INTAKE_INTERVAL_S": 0.2,
    "moverq.endpoints.store.KEYS_PER_PAGE": 2,
}
"""Bounds of the product, made so small that a short run meets them; and what looks again and
again does so less often."""

CODEC = Codec()
"""Making a codec compiles code, which takes longer than a move of ten items; a codec keeps nothing."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, trio's choices and random bytes follow from `seed`, and bounds are small."""
    bytes_ = random.Random(f"{seed} bytes")
    had = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    patches = [patch(name, value) for name, value in SMALL.items()]
    patches += [patch("os.urandom", bytes_.randbytes), patch("moverq.ledger.ledger.Codec", lambda: CODEC)]
    for each in patches:
        each.start()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING, state = had  # type: ignore[misc]
        scheduler._r.setstate(state)
        for each in reversed(patches):
            each.stop()


def simulate(seed: int, main: Callable[[], Awaitable[T]]) -> T:
    """`main` in virtual time: whenever every task waits, the clock jumps to the next deadline."""
    with seeded(seed):
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
