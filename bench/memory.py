"""How much memory does a worker take at its peak, and does that grow with the mailbox?

Estimate before measuring: Python and what it imports 45 MiB; a move's batches in flight, each at most 8 MiB; a
database's aligned buffers, 4 MiB each way; SQLite's page caches, each bounded. None of it knows how many items there
are, so the peak at 1,000,000 is that at 10,000 as soon as the caches are full.

The worker is a process of its own, as an administrator runs it; what it took is what the kernel says at its end.
"""

import os
import sys
from pathlib import Path

import trio

from bench.common import Figure, arguments, tell, workplace
from bench.organisation import ADDRESS, fill, organisation
from moverq.root import open_root


async def main() -> None:
    asked = arguments(__doc__, small=10_000, large=1_000_000, median_bytes=1024, runs=1)
    peaks: dict[int, list[float]] = {asked.small: [], asked.large: []}
    for _ in range(asked.runs):
        for items, found in peaks.items():
            with workplace(asked.dir) as root:
                async with organisation(root) as made:
                    await fill(made, seed=1, items=items, median_bytes=asked.median_bytes)
                    request = await made.move(ADDRESS, to="DB2")
                found.append(await trio.to_thread.run_sync(worker_peak_mib, root))
                async with open_root(root) as made:
                    done = await made.move_show(request)
                    assert done.status == "Completed", done.message
    figures = [Figure(f"worker at {items:,} items", "MiB", tuple(found)) for items, found in peaks.items()]
    growth = tuple(large / small for small, large in zip(peaks[asked.small], peaks[asked.large], strict=True))
    tell(
        "memory",
        [*figures, Figure("large to small", "", growth)],
        extra={"median_bytes": asked.median_bytes},
        save=asked.save,
    )


def worker_peak_mib(root: Path) -> float:
    """A worker moves what is queued; its peak resident size."""
    command = [sys.executable, "-m", "moverq", "worker", "--drain", "--root", str(root)]
    pid = os.posix_spawn(command[0], command, os.environ)
    _, status, used = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return used.ru_maxrss / 1024


if __name__ == "__main__":
    trio.run(main)
