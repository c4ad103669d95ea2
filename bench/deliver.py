"""How many durable deliveries a second, beside a bare loop that does the same writes and syncs without an engine? And
how long does one wait beside a bulk copy?

Estimate before measuring: one delivery alone is two syncs in a row (content, log) at 0.25 ms each, a thread hop at 0.1
ms and 0.15 ms of Python and SQLite, so about 1,300 a second. 16 and 256 at once share their syncs: 256 messages of 12
KiB are 3 MB a commit, 1.3 ms to write past the page cache and sync, and at 40 µs of Python and SQLite each 10 ms more:
about 20,000 a second. Beside a bulk copy a delivery waits for the batch before it: 8 MiB staged, then committed, 20 ms.

The bare loop: a batch's bytes appended and synced, the lock taken, one row each in the same SQLite schema, one frame
appended to a log and synced, COMMIT, unlock. Both deliver the same bytes again and again, under keys that are new. The
*whole* loop does what else a delivery is promised, in the same few lines: each content's hash, a row of its delivery
key, and the mailbox's head; the bar is the bare one's.
Four processes deliver to one database, and to four; the loops do so too, with one lock and with four. The mutex is what
a commit holds that no other process's commit can overlap: how long, and what share of the time.
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import apsw
import trio
import xxhash

import store
from bench.common import Figure, arguments, tell, workplace
from bench.organisation import ADDRESS, deliver_steadily, fill, organisation, run
from store.catalogue.schema import SCHEMA
from store.disk import File

INSTANCE = store.InstanceId(b"instance-of-ada.")
SIZE = 12 * 1024
KEPT_KEYS = """
CREATE TABLE kept_key (
    mailbox INTEGER NOT NULL, key BLOB NOT NULL, content_digest BLOB NOT NULL, accepted_ms INTEGER NOT NULL,
    modseq INTEGER NOT NULL, PRIMARY KEY (mailbox, key, content_digest)
) WITHOUT ROWID;
CREATE INDEX kept_key_modseq ON kept_key (mailbox, modseq);
"""
"""The bare loop's own delivery keys: what one writes down first."""


def main() -> None:
    asked = arguments(__doc__, seconds=3, runs=3, copied_items=40_000)
    figures: list[Figure] = []
    for processes, at_once, databases in ((1, 1, 1), (1, 16, 1), (1, 256, 1), (4, 64, 1), (4, 64, 4)):
        rates, limits, whole_limits, held, shares = [], [], [], [], []
        for _ in range(asked.runs):
            with workplace(asked.dir) as root:
                answers = measure("engine", root, processes, at_once, databases, asked.seconds)
                rates.append(sum(answer["per_second"] for answer in answers))
                held += [ms for answer in answers for ms in answer["held_ms"]]
                shares.append(sum(answer["held_share"] for answer in answers) / databases)
            with workplace(asked.dir) as root:
                answers = measure("bare", root, processes, at_once, databases, asked.seconds)
                limits.append(sum(answer["per_second"] for answer in answers))
            with workplace(asked.dir) as root:
                answers = measure("whole", root, processes, at_once, databases, asked.seconds)
                whole_limits.append(sum(answer["per_second"] for answer in answers))
        name = f"{processes} x {at_once} at once" + (f", {databases} databases" if databases > 1 else "")
        figures.append(Figure(name, "deliveries/s", tuple(rates)))
        figures.append(Figure(f"{name}: bare loop", "deliveries/s", tuple(limits)))
        figures.append(Figure(f"{name}: ratio", "", tuple(a / b for a, b in zip(rates, limits, strict=True))))
        figures.append(Figure(f"{name}: whole bare loop", "deliveries/s", tuple(whole_limits)))
        ratios = tuple(a / b for a, b in zip(rates, whole_limits, strict=True))
        figures.append(Figure(f"{name}: ratio to the whole one", "", ratios))
        figures.append(Figure(f"{name}: mutex held", "ms", tuple(held)))
        figures.append(Figure(f"{name}: mutex's share", "of the time", tuple(shares)))
    waits: list[float] = []
    for _ in range(asked.runs):
        with workplace(asked.dir) as root:
            waits += trio.run(beside_a_copy, root, asked.copied_items)
    figures.append(Figure("beside a bulk copy into the same database", "ms", tuple(waits)))
    tell("deliver", figures, extra={"bytes": SIZE}, save=asked.save)


def measure(kind: str, root: Path, processes: int, at_once: int, databases: int, seconds: int) -> list[dict[str, Any]]:
    """What each process says."""
    for number in range(databases):
        (root / str(number)).mkdir()
        if kind == "engine":
            store.create_database(root / str(number) / "DB")
            trio.run(_make_mailbox, root / str(number) / "DB")
        else:
            _make_bare(root / str(number))
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "bench.deliver_process",
                kind,
                str(root / str(number % databases)),
                str(at_once),
                str(seconds),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    return [json.loads(process.communicate()[0]) for process in running]


async def beside_a_copy(root: Path, items: int) -> list[float]:
    """Milliseconds of each delivery, a hundred a second, into the database that a mailbox is being copied into."""
    waits: list[float] = []
    async with organisation(root) as made:
        await fill(made, seed=1, items=items, median_bytes=SIZE)
        await made.mailbox_add("eve@example.com", database="DB2")
        async with trio.open_nursery() as nursery:  # the deliveries, until the move is done
            nursery.start_soon(deliver_steadily, made, "eve@example.com", waits, 100)
            done = await run(made, await made.move(ADDRESS, to="DB2"))
            assert done.status == "Completed", done.message
            nursery.cancel_scope.cancel()
    return waits


async def _make_mailbox(path: Path) -> None:
    async with store.open_database(path) as database:
        await database.create_mailbox(store.MailboxId(b"m" * 16), INSTANCE)


def _make_bare(root: Path) -> None:
    db = apsw.Connection(str(root / "bare.sqlite"))
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(SCHEMA)
    db.execute(KEPT_KEYS)
    db.execute("INSERT INTO mailbox VALUES (1, ?, ?, 0, 0, '', 0, 0, 0, NULL)", (INSTANCE, INSTANCE))
    db.close()
    (root / "lock").touch()
    (root / "log").write_bytes(bytes(64 << 20))


def bare(root: Path, at_once: int, seconds: int, *, whole: bool = False) -> float:
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
        contents = [content] * at_once
        hashes = [xxhash.xxh3_128_digest(one) for one in contents] if whole else []
        os.pwrite(segment, b"".join(contents), offset)
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
        if whole:
            keys = [(1, os.urandom(16), hashed, 0, done + n) for n, hashed in enumerate(hashes)]
            db.executemany("INSERT INTO kept_key VALUES (?, ?, ?, ?, ?)", keys)
            db.execute("UPDATE mailbox SET head = ?", (done + at_once,))
        os.pwrite(log, frame, at % (60 << 20))
        os.fdatasync(log)
        db.execute("COMMIT")
        fcntl.flock(lock, fcntl.LOCK_UN)
        at += len(frame)
        done += at_once
    return done / seconds


async def engine(root: Path, at_once: int, seconds: int) -> dict[str, Any]:
    """The store; deliveries a second, and how long its commits held the mutex."""
    done = 0
    async with store.open_database(root / "DB") as database:
        timer = _Timed(database._committer._commit_lock)
        database._committer._commit_lock = timer  # type: ignore[assignment]
        mailbox = database.mailbox(INSTANCE)
        end = trio.current_time() + seconds

        async def one() -> None:
            nonlocal done
            content = os.urandom(SIZE)
            while trio.current_time() < end:
                await mailbox.deliver(content, key=os.urandom(16))
                done += 1

        async with trio.open_nursery() as nursery:  # the senders, until the time is over
            for _ in range(at_once):
                nursery.start_soon(one)
    return {
        "per_second": done / seconds,
        "held_ms": [round(held * 1000, 3) for held in timer.held_s],
        "held_share": sum(timer.held_s) / seconds,
    }


class _Timed:
    """The commit's mutex, with a clock."""

    def __init__(self, lock: File) -> None:
        self._lock = lock
        self.held_s: list[float] = []
        self._since = 0.0

    def lock(self, *, exclusive: bool, wait: bool) -> bool:
        taken = self._lock.lock(exclusive=exclusive, wait=wait)
        self._since = time.perf_counter()
        return taken

    def unlock(self) -> None:
        self._lock.unlock()
        self.held_s.append(time.perf_counter() - self._since)


if __name__ == "__main__":
    main()
