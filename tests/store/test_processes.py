"""Several real processes on one database, killed at any moment: nothing lost, nothing twice, nothing half."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from store.catalogue import queries
from store.catalogue.schema import open_catalogue
from store.layout import Layout
from tests.support.store_world import ALICE, BOB, check_sound, contents, inbox_of, make_mailbox, opened

pytestmark = pytest.mark.slow


@attrs.define(eq=False)
class Worker:
    """A process that works in a loop, and what it has said."""

    process: subprocess.Popen[str]
    lines: list[str] = attrs.Factory(list)
    _reader: threading.Thread | None = None

    def listen(self) -> None:
        def reads() -> None:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                self.lines.append(line.strip())

        self._reader = threading.Thread(target=reads)
        self._reader.start()

    def kill(self) -> None:
        """Dead at once; what it had said is in `lines`."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self._reader is not None
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()

    @property
    def delivered(self) -> list[tuple[str, int, int]]:
        """(key, uid, microseconds) of each acknowledged delivery."""
        said = [line.split() for line in self.lines if line.startswith("delivered ")]
        return [(words[1], int(words[2]), int(words[3])) for words in said if len(words) == 4]


@attrs.define(eq=False)
class Workers:
    path: Path
    errors: Path
    running: list[Worker] = attrs.Factory(list)

    def start(self, *words: str) -> Worker:
        with self.errors.open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.store_worker", str(self.path), *words],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
        worker = Worker(process)
        worker.listen()
        self.running.append(worker)
        return worker


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    found = Workers(tmp_path / "db", tmp_path / "errors")
    yield found
    for worker in found.running:
        if worker.process.poll() is None:
            worker.kill()


async def make(path: Path) -> None:
    async with opened(path) as database:
        await make_mailbox(database)
        await make_mailbox(database, BOB)


def check_all_is_seen(workers: Workers) -> None:
    """What any process has been told is done, a fresh reader in another one sees."""
    told = {key.encode() for worker in workers.running for key, _, _ in worker.delivered}
    db = open_catalogue(Layout(workers.path).catalogue)
    seen = {row[0] for row in db.execute("SELECT key FROM delivery_key")}
    db.close()
    assert told <= seen


async def test_processes_killed_at_any_moment_lose_nothing_and_do_nothing_twice(workers: Workers) -> None:
    rng = random.Random(4711)
    await make(workers.path)
    acknowledged: dict[str, int] = {}
    started = {"ann": 0, "ben": 0}

    def run_rounds() -> None:
        running = {name: workers.start("deliver", name, "0") for name in started}
        running |= {verb: workers.start(verb) for verb in ("flag", "read")}
        for _ in range(14):
            for _ in range(5):
                time.sleep(rng.uniform(0.1, 0.24))
                check_all_is_seen(workers)
            victims = rng.sample(sorted(running), rng.choice((1, 1, 2, 4)))
            for name in victims:
                running[name].kill()
            for name in victims:
                for key, uid, _ in running[name].delivered:
                    # 0: it had been delivered before the kill, and the answer was lost.
                    assert acknowledged.get(key, uid) in (uid, 0) or uid == 0
                    acknowledged[key] = uid or acknowledged.get(key, 0)
                if name in started:
                    # From the first that was not acknowledged: it may be there already.
                    started[name] += len(running[name].delivered)
                    running[name] = workers.start("deliver", name, str(started[name]))
                else:
                    running[name] = workers.start(name)
        for name, worker in running.items():
            assert worker.process.poll() is None, f"{name} ended by itself: {workers.errors.read_text()}"
            worker.kill()
            acknowledged.update({key: uid or acknowledged.get(key, 0) for key, uid, _ in worker.delivered})

    run_rounds()
    assert workers.errors.read_text() == ""
    assert len(acknowledged) > 100
    async with opened(workers.path) as database:
        inbox = await inbox_of(database)
        rows = await database.folder_items(ALICE, inbox, limit=1 << 30)
        found: list[bytes] = []
        while len(found) < len(rows):
            page = await database.fetch(ALICE, rows[len(found) :])
            assert [one.damage for one in page] == [None] * len(page)
            found += [one.content or b"" for one in page]
    by_content = dict(zip(found, rows, strict=True))
    assert len(by_content) == len(rows), "something is there twice"
    for key, uid in acknowledged.items():
        row = by_content.get(key.encode() * 20)
        assert row is not None, f"{key} was acknowledged and is not there"
        assert uid in (0, row.uid)
    assert len({row.uid for row in rows}) == len(rows)
    for name in started:
        # One process's deliveries, one after the other: UIDs in their order.
        numbered = [(row.uid, int(content[: len(content) // 20].split(b"-")[1])) for content, row in by_content.items()
                    if content.startswith(name.encode())]  # fmt: skip
        assert [number for _, number in sorted(numbered)] == sorted(number for _, number in numbered)
    check_sound(workers.path)


async def test_deliveries_while_another_process_appends_in_bulk(
    workers: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    await make(workers.path)
    worker = workers.start("deliver", "ann", "0")
    bulk = workers.start("bulk")

    def wait() -> None:
        time.sleep(4)
        worker.kill()
        bulk.kill()

    wait()
    taken = sorted(microseconds for _, _, microseconds in worker.delivered)
    assert len(taken) > 20
    middle, late = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
    db = open_catalogue(Layout(workers.path).catalogue)
    other = queries.used_bytes(db, queries.mailbox(db, BOB).no)
    db.close()
    with capsys.disabled():
        print(
            f"\n{len(taken)} deliveries beside {other >> 20} MiB in bulk: "
            f"p50 {middle / 1000:.1f} ms, p99 {late / 1000:.1f} ms, max {taken[-1] / 1000:.1f} ms"
        )
    async with opened(workers.path) as database:
        assert len(await contents(database, await inbox_of(database))) >= 1
    check_sound(workers.path)
