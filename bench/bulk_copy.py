"""How fast is a whole online move, beside `cp` and a sync of the same bytes?

Estimate before measuring: 2 GB of median 12 KiB items are 100,000 items; each byte is read once, hashed twice and
written once, which at 0.5 GB/s (buffered, synced) is 4 s; each item costs about 60 µs of Python and SQLite on either
side (state, row, digest, map), on two cores 6 s. So about 15,000 items/s, 300 MB/s, and a third to a half of `cp`.

The move is the engine's own, all of it: preflight to cutover, verified, every batch durable at the target, in the item
map and in the ledger. The figure is the time from Queued to the target open.
"""

import resource
import shutil

import trio

from bench.common import Figure, arguments, copy_limit, tell, workplace
from bench.organisation import ADDRESS, fill, organisation, run


async def main() -> None:
    asked = arguments(__doc__, items=20_000, median_bytes=12 * 1024, runs=3)
    rates, limits, ratios, cpu, items_s = [], [], [], [], []
    for number in range(asked.runs):
        with workplace(asked.dir) as root:
            async with organisation(root) as made:
                size = await fill(made, seed=number, items=asked.items, median_bytes=asked.median_bytes)
                before = resource.getrusage(resource.RUSAGE_SELF)
                start = trio.current_time()
                done = await run(made, await made.move(ADDRESS, to="DB2"))
                seconds = trio.current_time() - start
                after = resource.getrusage(resource.RUSAGE_SELF)
                assert done.status == "Completed", done.message
                assert done.digest_source == done.digest_target
            shutil.rmtree(root / "databases" / "DB2")
            copied = copy_limit(root / "databases" / "DB1" / "content", root / "copy")
        rates.append(size / seconds / 1e6)
        limits.append(size / copied / 1e6)
        ratios.append(copied / seconds)
        items_s.append(asked.items / seconds)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cpu.append(used / asked.items * 1e6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tell(
        "bulk_copy",
        [
            Figure("move", "MB/s", tuple(rates)),
            Figure("items", "items/s", tuple(items_s)),
            Figure("cp + sync", "MB/s", tuple(limits)),
            Figure("move to cp", "", tuple(ratios)),
            Figure("CPU per item, both ends", "µs", tuple(cpu)),
        ],
        extra={"items": asked.items, "median_bytes": asked.median_bytes, "peak_mib": round(peak, 1)},
        save=asked.save,
    )


if __name__ == "__main__":
    trio.run(main)
