"""How fast is a whole online move, beside `cp` and a sync of the same bytes?

Estimate before measuring: 2 GB of median 12 KiB items are 80,000 items. Each byte is read once past the page cache,
hashed twice, copied in memory three times and written once past it: at 1.6 GB/s of disk either way and 6 GB/s of
memory 2 s of waiting and 2 s of processor time. Each item costs about 30 µs of Python and SQLite, both ends and the
map: 2.4 s, on one core, for Python has one lock. So about 25,000 items/s, 600 MB/s. Small items are bound by those
30 µs, large ones by the disk.

The move is the engine's own, all of it: preflight to cutover, verified, every batch durable at the target, in the item
map and in the ledger, in a process of its own. The figure is the time from Queued to the target open. `cp` is measured
twice: as the move found the segments (on the disk), and with all of them in the page cache.
"""

import argparse
import json
import resource
import shutil
import sys
from pathlib import Path

import attrs
import trio

from bench.common import Figure, arguments, copy_limit, tell, workplace
from bench.organisation import ADDRESS, fill, organisation, run
from moverq.cli.waiting import share_one_heap
from moverq.model.ids import RequestId
from moverq.root import open_root


@attrs.frozen
class Shape:
    """A mailbox to be moved."""

    name: str
    items: int
    median_bytes: int


SHAPES = (
    Shape("median 12 KiB", 80_000, 12 * 1024),
    Shape("median 2 KiB", 200_000, 2 * 1024),
    Shape("median 1 MiB", 1_200, 1024 * 1024),
)


async def main() -> None:
    asked = arguments(__doc__, runs=3, percent=100)
    for shape in SHAPES:
        await measure(attrs.evolve(shape, items=max(1, shape.items * asked.percent // 100)), asked)


async def measure(shape: Shape, asked: argparse.Namespace) -> None:
    figures: dict[str, tuple[str, list[float]]] = {}

    def note(name: str, unit: str, value: float) -> None:
        figures.setdefault(name, (unit, []))[1].append(value)

    for number in range(asked.runs):
        with workplace(asked.dir) as root:
            async with organisation(root) as made:
                size = await fill(made, seed=number, items=shape.items, median_bytes=shape.median_bytes)
                request = await made.move(ADDRESS, to="DB2")
            command = [sys.executable, "-m", "bench.bulk_copy", "--move", str(root), request]
            ended = await trio.run_process(command, capture_stdout=True)
            moved = json.loads(ended.stdout)
            shutil.rmtree(root / "databases" / "DB2")
            segments = root / "databases" / "DB1" / "content"
            cold = copy_limit(segments, root / "cold")
            shutil.rmtree(root / "cold")
            for path in segments.iterdir():
                path.read_bytes()  # into the page cache
            warm = copy_limit(segments, root / "warm")
        note("move", "MB/s", size / moved["seconds"] / 1e6)
        note("items", "items/s", shape.items / moved["seconds"])
        note("cp + sync, from the disk", "MB/s", size / cold / 1e6)
        note("cp + sync, from the page cache", "MB/s", size / warm / 1e6)
        note("move to cp, from the disk", "", cold / moved["seconds"])
        note("move to cp, from the page cache", "", warm / moved["seconds"])
        note("CPU per item, both ends", "µs", moved["cpu_s"] / shape.items * 1e6)
        note("peak memory", "MiB", moved["peak_mib"])
    tell(
        "bulk_copy",
        [Figure(name, unit, tuple(samples)) for name, (unit, samples) in figures.items()],
        extra={"shape": shape.name, "items": shape.items, "median_bytes": shape.median_bytes},
        save=asked.save,
    )


async def move(root: str, request: str) -> None:
    """The measured process: it moves as `moverq worker` does, and says what it took."""
    share_one_heap()
    async with open_root(Path(root)) as made:
        before, start = resource.getrusage(resource.RUSAGE_SELF), trio.current_time()
        done = await run(made, RequestId(request))
        seconds, after = trio.current_time() - start, resource.getrusage(resource.RUSAGE_SELF)
        assert done.status == "Completed", done.message
        assert done.digest_source == done.digest_target
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_mib": peak_mib()}))


def peak_mib() -> float:
    """Of this process since it began; the kernel's other account, of children, has in it what the parent was before."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--move"]:
        trio.run(move, *sys.argv[2:])
    else:
        trio.run(main)
