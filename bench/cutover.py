"""How long is a mailbox locked at its cutover, and does that grow with the mailbox?

Estimate before measuring: under the lock stand about ten durable steps in a row (lock, drain, the map, the watermark,
commit intent, register, note, retire, open), each a commit with one or two syncs; at 0.3 to 1 ms a sync that is 5 to 15
ms. Nothing in it depends on the number of items; what was delivered since the last round (at 100 a second, one or two)
is drained in one batch.

Each size is moved there and taken back in turn, with deliveries all the while. The limit in the same run: as many 4 KiB
writes in a row, each synced. The largest mailbox is moved fewer times: what is not under the lock, the copy and the
way back's own map, does grow with it.
"""

import trio

from bench.common import Figure, arguments, sync_limit_ms, tell, workplace
from bench.organisation import ADDRESS, deliver_steadily, fill, organisation, run
from moverq.root import Root

DURABLE_STEPS = 12
"""Syncs in a row under the lock: five commits of a store (each its log), and of SQLite files in FULL mode seven."""


async def main() -> None:
    asked = arguments(
        __doc__, small=100, middle=10_000, large=1_000_000, moves=200, large_moves=20, median_bytes=1024, per_second=100
    )
    figures: list[Figure] = []
    with workplace(asked.dir) as root:
        for items, moves in ((asked.small, asked.moves), (asked.middle, asked.moves), (asked.large, asked.large_moves)):
            if not moves:
                continue
            place = root / str(items)
            place.mkdir()
            async with organisation(place) as made:
                await fill(made, seed=1, items=items, median_bytes=asked.median_bytes)
                locks, waits = await cutovers(made, moves, asked.per_second)
            figures.append(Figure(f"lock at {items:,} items", "ms", tuple(locks)))
            figures.append(Figure(f"delivery at {items:,} items", "ms", tuple(waits)))
        limit = [sync_limit_ms(root, DURABLE_STEPS) for _ in range(asked.moves)]
    figures.append(Figure(f"limit: {DURABLE_STEPS} writes, each synced", "ms", tuple(limit)))
    tell("cutover", figures, extra={"per_second": asked.per_second}, save=asked.save)


async def cutovers(made: Root, number: int, per_second: int) -> tuple[list[float], list[float]]:
    """Moves there and back; (each one's lock in ms, what each delivery meanwhile took in ms)."""
    locks: list[float] = []
    waits: list[float] = []
    async with trio.open_nursery() as nursery:  # the deliveries, until the moves are done
        nursery.start_soon(deliver_steadily, made, ADDRESS, waits, per_second)
        request = None
        for _ in range(number):
            request = await (made.rollback(request) if request else made.move(ADDRESS, to="DB2"))
            done = await run(made, request)
            assert done.status == "Completed", done.message
            assert done.lock_ms is not None
            locks.append(done.lock_ms)
        nursery.cancel_scope.cancel()
    return locks, waits


if __name__ == "__main__":
    trio.run(main)
