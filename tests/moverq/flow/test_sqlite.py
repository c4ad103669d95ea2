"""SQLite as moverq opens it: checked pages, refused strangers, errors in words, and waiting for others' commits."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import cast

import apsw
import pytest
import trio
import trio.testing

from moverq.errors import EndpointBroken, EndpointBusy
from moverq.flow.sqlite import BUSY_MS, LOOKS_MS, Watcher, bring_up, close_sqlite, open_sqlite, transaction

KIND = {"kind": "directory", "application_id": b"test"}
STEPS = ("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)",)


async def inline(fn):
    return fn()


def filled(path: Path, rows: int = 2000) -> None:
    connection = open_sqlite(path, synchronous="NORMAL")
    bring_up(connection, steps=STEPS, **KIND)
    with transaction(connection):
        connection.executemany("INSERT INTO t (b) VALUES (?)", (("x" * 90,) for _ in range(rows)))
    connection.close()


def test_a_flipped_bit_in_any_page_is_reported_and_never_returned(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    filled(path)
    good = path.read_bytes()
    pages = len(good) // 4096
    assert pages > 40
    for page in range(pages):
        damaged = bytearray(good)
        damaged[page * 4096 + 3000] ^= 1 << page % 8
        path.write_bytes(damaged)
        with pytest.raises(EndpointBroken, match=r"a\.sqlite: .*(checksum|damaged)"):
            read_everything(path)
    path.write_bytes(good)
    assert read_everything(path) == 2000 * 90


def read_everything(path: Path) -> object:
    connection = open_sqlite(path, synchronous="NORMAL", create=False)
    try:
        with transaction(connection):
            return connection.execute("SELECT sum(length(b)) FROM t").get
    finally:
        connection.close()


def test_a_flip_that_would_switch_the_checksums_off_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    filled(path)
    damaged = bytearray(path.read_bytes())
    assert damaged[20] == 8
    damaged[20] = 0
    path.write_bytes(damaged)
    with pytest.raises(EndpointBroken, match="no page checksums"):
        open_sqlite(path, synchronous="FULL")


LEFT = """
import os, sys
from moverq.flow.sqlite import open_sqlite, transaction
connection = open_sqlite(sys.argv[1], synchronous="FULL")
connection.wal_checkpoint(mode=3)
for number in range(10):
    with transaction(connection):
        connection.execute("UPDATE t SET b = ? WHERE a = 1", (str(number),))
os._exit(1)
"""


@pytest.mark.slow
def test_damage_in_the_log_is_told_from_a_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    filled(path, rows=3)
    subprocess.run([sys.executable, "-c", LEFT, str(path)], cwd=Path(__file__).parents[3], check=False)
    files = [path, Path(f"{path}-wal")]
    good = [file.read_bytes() for file in files]
    frames = (len(good[1]) - 32) // (4096 + 24)
    assert frames == 10, "one frame a transaction"

    def damage(offset: int) -> bytes:
        damaged = bytearray(good[1])
        damaged[offset] ^= 4
        Path(f"{path}-shm").unlink(missing_ok=True)
        for file, content in zip(files, [good[0], damaged], strict=True):
            file.write_bytes(content)
        return bytes(damaged)

    for offset in range(32):
        damage(offset)
        with pytest.raises(EndpointBroken, match="damaged at its frame 1, and 1 or more"):
            open_sqlite(path, synchronous="FULL")
    for frame in range(frames):
        damaged = damage(32 + frame * 4120 + 2000)
        if frame < frames - 1:
            for _ in range(2):
                with pytest.raises(EndpointBroken, match=f"damaged at its frame {frame + 1}, and {9 - frame} or more"):
                    open_sqlite(path, synchronous="FULL")
            assert files[1].read_bytes() == damaged, "left as it is, for whoever saves what can be saved"
        else:
            connection = open_sqlite(path, synchronous="FULL")
            assert connection.execute("SELECT b FROM t WHERE a = 1").get == str(frames - 2)
            connection.close()


def test_a_log_in_use_is_no_damaged_log(tmp_path: Path) -> None:
    """Others write, begin the log again, roll back, spill, all while it is opened again and again."""
    path = tmp_path / "a.sqlite"
    filled(path, rows=300)
    writer = open_sqlite(path, synchronous="FULL")
    writer.pragma("cache_size", 5)
    for number in range(60):
        with pytest.raises(ZeroDivisionError), transaction(writer):
            fail_half_way(writer)
        with transaction(writer):
            writer.execute("UPDATE t SET b = ? WHERE a % 7 = ?", ("z" * 90, number % 7))
        if number % 5 == 0:
            writer.wal_checkpoint(mode=(apsw.SQLITE_CHECKPOINT_RESTART, apsw.SQLITE_CHECKPOINT_FULL)[number % 2])
        open_sqlite(path, synchronous="FULL").close()
    writer.close()
    open_sqlite(path, synchronous="FULL").close()


def test_durability_is_as_asked_for(tmp_path: Path) -> None:
    for name, level in (("FULL", 2), ("NORMAL", 1)):
        connection = open_sqlite(tmp_path / name, synchronous=name)
        assert connection.pragma("synchronous") == level
        assert connection.pragma("journal_mode") == "wal"
        connection.close()


def test_many_who_make_one_file_at_once_all_write_checksums(tmp_path: Path) -> None:
    """Who opened it while it was empty would write pages that the others then take for damaged."""
    for round_ in range(20):
        path = tmp_path / f"{round_}.sqlite"
        barrier = Barrier(6)

        def make(path: Path = path, barrier: Barrier = barrier) -> None:
            barrier.wait()
            connection = open_sqlite(path, synchronous="NORMAL")
            bring_up(connection, steps=STEPS, **KIND)
            with transaction(connection):
                connection.execute("INSERT INTO t (b) VALUES ('x')")
            connection.close()

        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(make) for _ in range(6)]:
                done.result()
        assert read_everything(path) == 6


def test_a_newer_schema_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    connection = open_sqlite(path, synchronous="FULL")
    bring_up(connection, steps=(*STEPS, "CREATE TABLE later (a)"), **KIND)
    with pytest.raises(EndpointBroken, match=r"newer moverq \(schema 2, this one knows 1\)"):
        bring_up(connection, steps=STEPS, **KIND)
    connection.close()


def test_an_older_schema_is_brought_up_by_the_missing_steps_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    filled(path, rows=3)
    connection = open_sqlite(path, synchronous="FULL")
    bring_up(connection, steps=(*STEPS, "ALTER TABLE t ADD COLUMN c DEFAULT 7"), **KIND)
    assert connection.execute("SELECT sum(c) FROM t").get == 21
    connection.close()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "a.sqlite", rows=1)
    connection = open_sqlite(tmp_path / "a.sqlite", synchronous="FULL")
    with pytest.raises(EndpointBroken, match="this file is no ledger"):
        bring_up(connection, kind="ledger", application_id=b"ledg", steps=STEPS)
    connection.close()


def test_what_is_no_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"Dear diary, today I was not a database.\n" * 200)
    with pytest.raises(EndpointBroken, match="no SQLite file"):
        open_sqlite(path, synchronous="FULL")
    assert path.read_bytes().startswith(b"Dear diary")


@pytest.mark.parametrize("path", ["missing.sqlite", "no/such/folder.sqlite", "/proc/moverq.sqlite"])
def test_a_file_that_cannot_be_opened_says_so(tmp_path: Path, path: str) -> None:
    with pytest.raises(EndpointBroken, match="cannot be opened"):
        open_sqlite(tmp_path / path, synchronous="FULL", create="/" in path)


def test_a_full_disk_is_said_and_the_transaction_is_gone_whole(tmp_path: Path) -> None:
    filled(tmp_path / "a.sqlite", rows=10)
    connection = open_sqlite(tmp_path / "a.sqlite", synchronous="FULL")
    connection.pragma("max_page_count", 4)  # what SQLite reports then is what it reports on ENOSPC
    with pytest.raises(EndpointBroken, match="disk is full"), transaction(connection):
        connection.executemany("INSERT INTO t (b) VALUES (?)", (("y" * 900,) for _ in range(100)))
    assert not connection.in_transaction
    assert connection.execute("SELECT count(*) FROM t").get == 10
    connection.close()


def test_an_error_inside_a_transaction_undoes_it(tmp_path: Path) -> None:
    filled(tmp_path / "a.sqlite", rows=1)
    connection = open_sqlite(tmp_path / "a.sqlite", synchronous="FULL")
    with pytest.raises(ZeroDivisionError), transaction(connection):
        fail_half_way(connection)
    with pytest.raises(apsw.SQLError), transaction(connection):  # a bug stays a bug
        connection.execute("SELEKT")
    assert connection.execute("SELECT b FROM t").get == "x" * 90
    connection.close()


def fail_half_way(connection: apsw.Connection) -> None:
    connection.execute("UPDATE t SET b = b || 'more'")
    raise ZeroDivisionError


def test_another_writer_for_too_long_is_busy_not_broken(tmp_path: Path) -> None:
    filled(tmp_path / "a.sqlite", rows=1)
    first = open_sqlite(tmp_path / "a.sqlite", synchronous="FULL")
    second = open_sqlite(tmp_path / "a.sqlite", synchronous="FULL")
    with transaction(first):
        with pytest.raises(EndpointBusy), transaction(second, busy_ms=0):
            pytest.fail("two writers")
        assert second.execute("SELECT count(*) FROM t").get == 1
    first.close()
    second.close()


def test_who_waits_for_another_writer_looks_as_often_however_long_it_takes() -> None:
    asked = list[object]()

    class Busy:
        filename = "a.sqlite"

        def execute(self, sql: str) -> None:
            asked.append(sql)
            if asked.count("BEGIN IMMEDIATE") < 4:
                raise apsw.BusyError("database is locked")

        def set_busy_timeout(self, ms: int) -> None:
            asked.append(ms)

    with transaction(cast(apsw.Connection, Busy())):
        assert asked == [LOOKS_MS] + ["BEGIN IMMEDIATE"] * 4 + [BUSY_MS]


async def test_the_watcher_wakes_all_who_wait_and_asks_only_while_they_do(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    filled(tmp_path / "a.sqlite", rows=1)
    writer = open_sqlite(tmp_path / "a.sqlite", synchronous="NORMAL")
    asked = 0

    async def counting(fn):
        nonlocal asked
        asked += 1
        return fn()

    connection = open_sqlite(tmp_path / "a.sqlite", synchronous="NORMAL")
    watcher = Watcher(connection, counting)
    await watcher.wait_changed(watcher.version)  # the first look may end for nothing
    woken = 0

    async def wait() -> None:
        nonlocal woken
        await watcher.wait_changed(seen)
        woken += 1

    async def wait_until(scope: trio.CancelScope) -> None:
        with scope:
            await wait()

    seen, before = watcher.version, asked
    asker = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_until, asker)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(10):
            nursery.start_soon(wait)
        await trio.sleep(1)
        asker.cancel()
        await trio.sleep(1)
        assert 300 < asked - before < 500, "one asks for all, every 5 ms, and another takes over"
        assert woken == 0
        writer.execute("INSERT INTO t (b) VALUES ('z')")
    assert woken == 10
    quiet = asked
    await trio.sleep(10)
    assert asked == quiet
    connection.close()
    writer.close()


async def test_a_commit_between_reading_and_waiting_is_not_missed(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    filled(tmp_path / "a.sqlite", rows=1)
    writer = open_sqlite(tmp_path / "a.sqlite", synchronous="NORMAL")
    connection = open_sqlite(tmp_path / "a.sqlite", synchronous="NORMAL")
    watcher = Watcher(connection, inline)
    await watcher.wait_changed(watcher.version)
    seen = watcher.version
    writer.execute("INSERT INTO t (b) VALUES ('z')")
    started = trio.current_time()
    await watcher.wait_changed(seen)
    assert trio.current_time() == started
    seen = watcher.version
    watcher.notify()
    await watcher.wait_changed(seen)
    assert trio.current_time() == started
    connection.close()
    writer.close()


# ---- closing


def with_a_log(path: Path) -> apsw.Connection:
    connection = open_sqlite(path, synchronous="NORMAL")
    bring_up(connection, steps=STEPS, **KIND)
    with transaction(connection):
        connection.execute("INSERT INTO t (b) VALUES ('kept')")
    assert path.with_name("a.sqlite-wal").stat().st_size
    return connection


def test_who_closes_last_folds_the_log_in(tmp_path: Path) -> None:
    close_sqlite(with_a_log(tmp_path / "a.sqlite"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.sqlite"]


def test_the_log_is_folded_in_before_the_connection_is_closed(tmp_path: Path) -> None:
    """Closing would do it with the interpreter's lock held."""
    path = tmp_path / "a.sqlite"
    connection, other = with_a_log(path), open_sqlite(path, synchronous="NORMAL")
    close_sqlite(connection)  # not the last one, so its closing folds nothing
    assert not path.with_name("a.sqlite-wal").stat().st_size
    assert other.execute("SELECT b FROM t").get == "kept"
    other.close()


@pytest.mark.parametrize("holding", ["BEGIN", "BEGIN IMMEDIATE"])
def test_closing_does_not_wait_for_others(holding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    connection, other = with_a_log(path), open_sqlite(path, synchronous="NORMAL")
    other.execute(holding)
    assert other.execute("SELECT b FROM t").get == "kept"
    connection.set_busy_timeout(3_600_000)
    close_sqlite(connection)
    other.execute("COMMIT")
    close_sqlite(other)
    assert read_everything(path) == len("kept")
