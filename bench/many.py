"""How fast are many small mailboxes moved by one worker, beside one large mailbox of the same bytes?

Estimate before measuring: a small mailbox's move is a large one's, with its eighty-odd steps in a thread (target, tree,
rehearsal, watermark, lock, register, clean-up): 20 to 30 ms of Python and SQLite besides its bytes. Fifty at a time
share the syncs of their stores, but not the interpreter: about 40 moves a second. At 4 MB a mailbox that is 160 MB/s.
So many beside it make a cutover slower than alone, and how much is a figure too.
"""

import resource

import trio

from bench.common import Figure, arguments, tell, workplace
from bench.organisation import ADDRESS, fill, organisation, run
from moverq.limits import Limits


async def main() -> None:
    asked = arguments(__doc__, mailboxes=500, items=200, median_bytes=12 * 1024, at_once=50, runs=1)
    limits = Limits(
        max_active_moves_per_source_mdb=asked.at_once,
        max_active_moves_per_target_mdb=asked.at_once,
        max_active_moves_per_source_server=asked.at_once,
        max_active_moves_per_target_server=asked.at_once,
    )
    many, one, moves, cpu, locks = [], [], [], [], []
    for number in range(asked.runs):
        with workplace(asked.dir) as root:
            async with organisation(root, limits=limits) as made:
                addresses = [f"user{at}@example.com" for at in range(asked.mailboxes)]
                size = 0
                for at, address in enumerate(addresses):
                    await made.mailbox_add(address, database="DB1")
                    size += await fill(
                        made, seed=at, items=asked.items, median_bytes=asked.median_bytes, address=address
                    )
                requests = [await made.move(address, to="DB2") for address in addresses]
                before, start = cpu_s(), trio.current_time()
                await made.worker(drain=True)
                seconds, used = trio.current_time() - start, cpu_s() - before
                for request in requests:
                    done = await made.move_show(request)
                    assert done.status == "Completed", done.message
                    assert done.lock_ms is not None
                    locks.append(done.lock_ms)
        many.append(size / seconds / 1e6)
        moves.append(asked.mailboxes / seconds)
        cpu.append(used / asked.mailboxes * 1e3)
        with workplace(asked.dir) as root:
            async with organisation(root) as made:
                large = await fill(
                    made, seed=number, items=asked.mailboxes * asked.items, median_bytes=asked.median_bytes
                )
                start = trio.current_time()
                done = await run(made, await made.move(ADDRESS, to="DB2"))
                assert done.status == "Completed", done.message
                one.append(large / (trio.current_time() - start) / 1e6)
    tell(
        "many",
        [
            Figure(f"{asked.mailboxes} mailboxes, {asked.at_once} at once", "MB/s", tuple(many)),
            Figure("moves", "moves/s", tuple(moves)),
            Figure("CPU a move", "ms", tuple(cpu)),
            Figure("lock", "ms", tuple(locks)),
            Figure("one mailbox of the same bytes", "MB/s", tuple(one)),
            Figure("many to one", "", tuple(a / b for a, b in zip(many, one, strict=True))),
        ],
        extra={"mailboxes": asked.mailboxes, "items": asked.items, "median_bytes": asked.median_bytes},
        save=asked.save,
    )


def cpu_s() -> float:
    """Processor seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    trio.run(main)
