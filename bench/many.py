"""How fast are many small mailboxes moved by one worker, of one process and of several, beside one large mailbox of the
same bytes?

Estimate before measuring: a small mailbox's move is a large one's, with its eighty-odd steps in a thread (target, tree,
rehearsal, watermark, lock, register, clean-up): 20 to 30 ms of Python and SQLite besides its bytes. Fifty at a time
share the syncs of their stores, but not the interpreter: about 40 moves a second of one process. Two processes wait for
each other where stores, ledger and directory are written, perhaps a third of the time: 60 a second, where each has a
processor of its own. So many beside it make a cutover slower than alone, and how much is a figure too.

What one run made is deleted at the end of all: ext4 goes looking round files that were deleted in the last minutes
whenever one is made, and a small move makes three. So each run takes 15 GB of disk.
"""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import attrs
import trio

from bench.common import Figure, arguments, tell, workplace
from bench.organisation import ADDRESS, fill, organisation, run
from moverq.limits import Limits
from moverq.root import open_root


@attrs.define
class Found:
    """What was measured of a worker of so many processes, a sample a run; of locks one a move."""

    bytes_per_s: list[float] = attrs.field(factory=list)
    moves_per_s: list[float] = attrs.field(factory=list)
    cpu_ms: list[float] = attrs.field(factory=list)
    peak_mib: list[float] = attrs.field(factory=list)
    locks_ms: list[float] = attrs.field(factory=list)


async def main() -> None:
    default = min(len(os.sched_getaffinity(0)), Limits().worker_processes_max)
    asked = arguments(
        __doc__, mailboxes=500, items=200, median_bytes=12 * 1024, at_once=50, runs=1, processes=max(2, default)
    )
    found = {processes: Found() for processes in dict.fromkeys((1, asked.processes))}
    one = []
    with ExitStack() as places:
        for number in range(asked.runs):
            for processes, into in found.items():
                root = places.enter_context(workplace(asked.dir))
                size = await many(root, asked.mailboxes, asked.items, asked.median_bytes)
                os.sync()  # what was filled before is not this run's to write
                command = [sys.executable, "-m", "bench.many_worker", str(root), str(processes), str(asked.at_once)]
                done = await trio.run_process(command, capture_stdout=True)
                told = json.loads(done.stdout)
                into.bytes_per_s.append(size / told["seconds"] / 1e6)
                into.moves_per_s.append(asked.mailboxes / told["seconds"])
                into.cpu_ms.append(told["cpu_s"] / asked.mailboxes * 1e3)
                into.peak_mib.append(told["peak_mib"])
                into.locks_ms += await locks_ms(root)
            async with organisation(places.enter_context(workplace(asked.dir))) as made:
                large = await fill(
                    made, seed=number, items=asked.mailboxes * asked.items, median_bytes=asked.median_bytes
                )
                os.sync()
                start = trio.current_time()
                moved = await run(made, await made.move(ADDRESS, to="DB2"))
                assert moved.status == "Completed", moved.message
                one.append(large / (trio.current_time() - start) / 1e6)
    figures = []
    for processes, of in found.items():
        who = f"{processes} process{'es' if processes > 1 else ''}"
        ratios = tuple(a / b for a, b in zip(of.bytes_per_s, one, strict=True))
        figures += [
            Figure(f"{asked.mailboxes} mailboxes, {asked.at_once} at once, {who}", "MB/s", tuple(of.bytes_per_s)),
            Figure(f"moves, {who}", "moves/s", tuple(of.moves_per_s)),
            Figure(f"CPU a move, {who}", "ms", tuple(of.cpu_ms)),
            Figure(f"peak of a process, {who}", "MiB", tuple(of.peak_mib)),
            Figure(f"lock, {who}", "ms", tuple(of.locks_ms)),
            Figure(f"many to one, {who}", "", ratios),
        ]
    figures.append(Figure("one mailbox of the same bytes", "MB/s", tuple(one)))
    tell(
        "many",
        figures,
        extra={"mailboxes": asked.mailboxes, "items": asked.items, "median_bytes": asked.median_bytes},
        save=asked.save,
    )


async def many(root: Path, mailboxes: int, items: int, median_bytes: int) -> int:
    """So many mailboxes, and a request for each, queued; returns the bytes of all."""
    size = 0
    async with organisation(root) as made:
        for at in range(mailboxes):
            address = f"user{at}@example.com"
            await made.mailbox_add(address, database="DB1")
            size += await fill(made, seed=at, items=items, median_bytes=median_bytes, address=address)
            await made.move(address, to="DB2")
    return size


async def locks_ms(root: Path) -> list[float]:
    """How long each mailbox was locked; all of them have been moved."""
    found = []
    async with open_root(root) as made:
        for moved in await made.move_list():
            assert moved.status == "Completed", moved.message
            assert moved.lock_ms is not None
            found.append(moved.lock_ms)
    return found


if __name__ == "__main__":
    trio.run(main)
