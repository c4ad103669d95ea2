"""How many durable deliveries a second, beside a bare loop that does the same writes and syncs without an engine?

Estimate before measuring: one delivery alone is two syncs in a row (content, log) at 0.3 to 0.6 ms and three thread
hops at 0.1 ms, so about 700 a second. 16 and 256 at once share their syncs: 256 messages of 12 KiB are 3 MB a commit,
10 ms to write and sync, and at 60 µs of Python and SQLite each 15 ms more: about 10,000 a second.

The bare loop: a batch's bytes appended and synced, the lock taken, one row each in the same SQLite schema, one frame
appended to a log and synced, COMMIT, unlock. Four processes deliver to one database in the last figures, and the bare
loop does so in four processes too.
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import apsw
import trio

import store
from bench.common import Figure, arguments, tell, workplace
from store.catalogue.schema import SCHEMA

INSTANCE = store.InstanceId(b"instance-of-ada.")
SIZE = 12 * 1024


def main() -> None:
    asked = arguments(__doc__, seconds=3, runs=3)
    figures: list[Figure] = []
    for processes, at_once in ((1, 1), (1, 16), (1, 256), (4, 64)):
        rates, limits = [], []
        for _ in range(asked.runs):
            with workplace(asked.dir) as root:
                rates.append(measure("engine", root, processes, at_once, asked.seconds))
            with workplace(asked.dir) as root:
                limits.append(measure("bare", root, processes, at_once, asked.seconds))
        name = f"{processes} process, {at_once} at once" if processes == 1 else f"{processes} processes, {at_once} each"
        figures.append(Figure(name, "deliveries/s", tuple(rates)))
        figures.append(Figure("  bare loop", "deliveries/s", tuple(limits)))
        figures.append(Figure("  ratio", "", tuple(a / b for a, b in zip(rates, limits, strict=True))))
    tell("deliver", figures, extra={"bytes": SIZE}, save=asked.save)


def measure(kind: str, root: Path, processes: int, at_once: int, seconds: int) -> float:
    """Deliveries a second, all processes together."""
    if kind == "engine":
        store.create_database(root / "DB")
        trio.run(_make_mailbox, root / "DB")
    else:
        _make_bare(root)
    command = [sys.executable, "-m", "bench.deliver_process", kind, str(root), str(at_once), str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    answers = [process.communicate()[0] for process in running]
    return sum(json.loads(answer)["per_second"] for answer in answers)


async def _make_mailbox(path: Path) -> None:
    async with store.open_database(path) as database:
        await database.create_mailbox(store.MailboxId(b"m" * 16), INSTANCE)


def _make_bare(root: Path) -> None:
    db = apsw.Connection(str(root / "bare.sqlite"))
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(SCHEMA)
    db.close()
    (root / "lock").touch()
    (root / "log").write_bytes(bytes(64 << 20))


def bare(root: Path, at_once: int, seconds: int) -> float:
    """The bare loop; deliveries a second."""
    db = apsw.Connection(str(root / "bare.sqlite"))
    db.set_busy_timeout(10_000)
    db.execute("PRAGMA synchronous=NORMAL")
    segment = os.open(root / f"segment-{os.getpid()}", os.O_RDWR | os.O_CREAT)
    log = os.open(root / "log", os.O_RDWR)
    lock = os.open(root / "lock", os.O_RDWR)
    content, frame = os.urandom(SIZE), os.urandom(300 * at_once)
    done, offset, at = 0, 0, 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        os.pwrite(segment, content * at_once, offset)
        os.fdatasync(segment)
        offset += SIZE * at_once
        fcntl.flock(lock, fcntl.LOCK_EX)
        db.execute("BEGIN IMMEDIATE")
        rows = [
            (
                1,
                os.urandom(16),
                1,
                os.getpid() << 32 | done + n,
                done + n,
                0,
                SIZE,
                content[:16],
                1,
                0,
                0,
                "[]",
                "x",
                "[]",
            )
            for n in range(at_once)
        ]
        db.executemany("INSERT INTO item VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        os.pwrite(log, frame, at % (60 << 20))
        os.fdatasync(log)
        db.execute("COMMIT")
        fcntl.flock(lock, fcntl.LOCK_UN)
        at += len(frame)
        done += at_once
    return done / seconds


async def engine(root: Path, at_once: int, seconds: int) -> float:
    """The store; deliveries a second."""
    done = 0
    async with store.open_database(root / "DB") as database:
        mailbox = database.mailbox(INSTANCE)
        end = trio.current_time() + seconds

        async def one() -> None:
            nonlocal done
            while trio.current_time() < end:
                await mailbox.deliver(os.urandom(8) + bytes(SIZE - 8), key=os.urandom(16))
                done += 1

        async with trio.open_nursery() as nursery:  # the senders, until the time is over
            for _ in range(at_once):
                nursery.start_soon(one)
    return done / seconds


if __name__ == "__main__":
    main()
