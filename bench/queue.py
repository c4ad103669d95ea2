"""Does a long queue hold up a worker? The same small mailboxes, a few hundred and ten thousand of them, by `moverq
worker --drain` as it comes; and what a worker does when all of them are in their soak.

Estimate before measuring: what a place that comes free costs is one question to the ledger for what has changed and a
look at the first of each row, about 0.3 ms, whatever waits behind. To learn all that is due takes 0.25 ms a request
once, in each process: 2.5 s of 10,000. So of a move's 20 ms a long queue takes two hundredths.

In their soak a hundred ways back at a time are kept open, for half a minute each: some three tenures begin and end a
second, of about 20 ms, and each of the hundred is told of changes by its feed: a tenth of a processor.
"""

import os
import subprocess
import sys
from pathlib import Path

import trio

from bench.common import Figure, arguments, tell, workplace
from bench.organisation import organisation
from moverq.root import Root, open_root

MESSAGES = 3
MAKERS = 32
SETTLED_S = 20
"""After which a worker has learnt what is due, and the first are looked after."""


async def main() -> None:
    asked = arguments(__doc__, few=500, many=10_000, idle_seconds=60)
    rates, figures = [], list[Figure]()
    for count in (asked.few, asked.many):
        with workplace(asked.dir) as root:
            async with organisation(root) as made:
                await fill(made, count)
            addresses = [f"user{at}@example.com" for at in range(count)]
            new_s = await moverq(root, "move", "new", *addresses, "--to", "DB2", "--json")
            drain_s = await moverq(root, "worker", "--drain", "--quiet")
            list_s = await moverq(root, "move", "list", "--json")
            await check(root, count)
            rates.append(count / drain_s)
            figures += [
                Figure(f"{count} mailboxes", "moves/s", (count / drain_s,)),
                Figure(f"`move new` of {count}", "s", (new_s,)),
                Figure(f"`move list` of {count}", "s", (list_s,)),
                Figure(f"CPU of a worker with {count} in their soak", "%", (await idle(root, asked.idle_seconds),)),
            ]
    figures.append(Figure(f"{asked.many} to {asked.few}", "", (rates[1] / rates[0],)))
    tell("queue", figures, extra={"messages": MESSAGES}, save=asked.save)


async def fill(made: Root, count: int) -> None:
    """So many mailboxes of a few short messages."""
    limiter = trio.CapacityLimiter(MAKERS)

    async def one(at: int) -> None:
        address = f"user{at}@example.com"
        async with limiter:
            await made.mailbox_add(address, database="DB1")
            for number in range(MESSAGES):
                await made.deliver(address, b"Subject: %d\r\n\r\n" % number + b"x" * 1000)

    async with trio.open_nursery() as nursery:
        for at in range(count):
            nursery.start_soon(one, at)


async def moverq(root: Path, *arguments: str) -> float:
    """Seconds that the command takes, its start among them."""
    start = trio.current_time()
    await trio.run_process(
        [sys.executable, "-m", "moverq", *arguments], env={**os.environ, "MOVERQ_ROOT": str(root)}, capture_stdout=True
    )
    return trio.current_time() - start


async def check(root: Path, count: int) -> None:
    async with open_root(root) as made:
        found = await made.move_list()
    assert len([one for one in found if one.status == "Completed"]) >= count


async def idle(root: Path, seconds: float) -> float:
    """Of one processor, what a worker that has nothing to move uses."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "moverq", "worker", "--quiet"],
        env={**os.environ, "MOVERQ_ROOT": str(root)},
        stderr=subprocess.DEVNULL,
    )
    try:
        await trio.sleep(min(SETTLED_S, seconds))
        before, start = cpu_s(process.pid), trio.current_time()
        await trio.sleep(seconds)
        return 100 * (cpu_s(process.pid) - before) / (trio.current_time() - start)
    finally:
        process.terminate()
        await process.wait()


def cpu_s(pid: int) -> float:
    """Of a process and its children, so far."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for each in (str(pid), *children):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    trio.run(main)
