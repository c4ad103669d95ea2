"""How long from a commit in one process until another process has seen it? And does a query of changes grow with the
mailbox?

Estimate before measuring: the watcher looks every 5 ms, so 2.5 ms on average and 5 at most, and then reads a page:
two thread hops and ten small queries, 0.5 ms; p99 below 10 ms idle. A query of 10 changes is index ranges alone: the
same at 100 items and at 100,000. Seen may be before acknowledged: the reader sees the commit while the answer is still
on its way to the writer, so the shortest times are negative.
"""

import subprocess
import sys
import time
from pathlib import Path

import trio

import store
from bench.common import Figure, arguments, tell, workplace

INSTANCE = store.InstanceId(b"instance-of-ada.")


async def main() -> None:
    asked = arguments(__doc__, commits=200, small=100, large=100_000)
    figures: list[Figure] = []
    with workplace(asked.dir) as root:
        await make(root / "watched", 10)
        figures.append(Figure("seen in another process", "ms", tuple(await latencies(root / "watched", asked.commits))))
        for items in (asked.small, asked.large):
            await make(root / str(items), items)
            figures.append(Figure(f"10 changes among {items:,} items", "ms", tuple(await queries(root / str(items)))))
    tell("feed", figures, extra={}, save=asked.save)


async def make(path: Path, items: int) -> None:
    store.create_database(path)
    async with store.open_database(path) as database:
        await database.create_mailbox(store.MailboxId(b"m" * 16), INSTANCE)
        _, (inbox,), _ = await database.account(INSTANCE)
        for start in range(0, items, 500):
            new = [store.NewItem(content=b"x" * 500, received_ms=n) for n in range(min(500, items - start))]
            await database.mailbox(INSTANCE).append(inbox.folder_id, new)


async def latencies(path: Path, commits: int) -> list[float]:
    """Milliseconds from the other process's acknowledged commit to here; clocks are the machine's one."""
    found: list[float] = []
    async with store.open_database(path) as database:
        head = (await database.info(INSTANCE)).head
        command = [sys.executable, "-m", "bench.feed", "--commit", str(path), str(commits)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 (once, and short)
        seen: list[int] = []
        while len(seen) < commits:
            await database.wait_change(INSTANCE, after=head)
            page = await database.feed(INSTANCE, after=head)
            now = time.monotonic_ns()
            head = page.through
            seen += [now] * len(page.items)
        out, _ = await trio.to_thread.run_sync(process.communicate)
        found = [(here - int(there)) / 1e6 for here, there in zip(seen, out.split(), strict=True)]
    return found


async def commit(path: str, commits: str) -> None:
    """The other process: one delivery every 20 ms; prints when each was acknowledged."""
    times = []
    async with store.open_database(Path(path)) as database:
        for number in range(int(commits)):
            await database.mailbox(INSTANCE).deliver(b"Subject: %d" % number, key=b"%d" % number)
            times.append(time.monotonic_ns())
            await trio.sleep(0.02)
    print("\n".join(str(at) for at in times))


async def queries(path: Path) -> list[float]:
    found = []
    async with store.open_database(path) as database:
        rows = await database.items(INSTANCE, limit=10)
        for number in range(50):
            head = (await database.info(INSTANCE)).head
            await database.mailbox(INSTANCE).set_flags([row.item_id for row in rows], 1 + number % 2)
            start = time.perf_counter()
            page = await database.feed(INSTANCE, after=head)
            found.append((time.perf_counter() - start) * 1000)
            assert len(page.items) == 10
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--commit"]:
        trio.run(commit, *sys.argv[2:])
    else:
        trio.run(main)
