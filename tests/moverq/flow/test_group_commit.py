"""Group commit: one sync for many, and yet to each as if it had been alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import apsw
import pytest
import trio
import trio.testing

from moverq.errors import EndpointBroken, RequestRefused
from moverq.flow.group_commit import GroupCommit
from moverq.flow.sqlite import open_sqlite

T = TypeVar("T")


class Gated:
    """Blocking work inline, when the door is open; counts."""

    def __init__(self) -> None:
        self.door = trio.Event()
        self.calls = 0

    async def __call__(self, fn: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.calls += 1
        with trio.CancelScope(shield=True):  # as a thread: what has begun ends
            await self.door.wait()
        return fn()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_sqlite(tmp_path / "db", synchronous="NORMAL")
    connection.execute("CREATE TABLE number (n INTEGER PRIMARY KEY)")
    yield connection
    connection.close()


@pytest.fixture
def offload() -> Gated:
    return Gated()


@pytest.fixture
def commit(db: apsw.Connection, offload: Gated) -> GroupCommit:
    return GroupCommit(db, offload)


def numbers(db: apsw.Connection) -> list[object]:
    return [n for (n,) in db.execute("SELECT n FROM number ORDER BY n")]


async def test_what_queues_up_during_a_commit_goes_together(
    db: apsw.Connection, commit: GroupCommit, offload: Gated
) -> None:
    answers: dict[int, object] = {}

    async def put(n: int) -> None:
        def insert() -> int:
            db.execute("INSERT INTO number VALUES (?)", (n,))
            return len(numbers(db))

        answers[n] = await commit(insert)

    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(put, n)
            await trio.testing.wait_all_tasks_blocked()
        offload.door.set()
    assert numbers(db) == list(range(10))
    assert offload.calls == 2, "the first alone, then all that had come meanwhile"
    assert answers == {n: n + 1 for n in range(10)}, "each sees those before it"


async def test_one_that_refuses_changes_nothing_and_spoils_it_for_nobody(
    db: apsw.Connection, commit: GroupCommit, offload: Gated
) -> None:
    refused: list[int] = []

    async def put(n: int) -> None:
        def insert() -> None:
            db.execute("INSERT INTO number VALUES (?)", (n,))
            if n % 3 == 1:
                raise RequestRefused(why=f"{n}")

        if n % 3 != 1:
            await commit(insert)
            return
        with pytest.raises(RequestRefused, match=str(n)):
            await commit(insert)
        refused.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(9):
            nursery.start_soon(put, n)
            await trio.testing.wait_all_tasks_blocked()
        offload.door.set()
    assert sorted(refused) == [1, 4, 7]
    assert numbers(db) == [0, 2, 3, 5, 6, 8]


async def test_where_the_common_transaction_fails_each_has_his_own_answer(
    db: apsw.Connection, commit: GroupCommit, offload: Gated
) -> None:
    """A full disk rolls the whole transaction back: the small ones then succeed, and the large one says why not."""
    db.pragma("max_page_count", int(db.execute("PRAGMA page_count").get) + 4)
    db.execute("CREATE TABLE large (x BLOB)")
    failed: list[int] = []

    async def put(n: int) -> None:
        def insert() -> None:
            db.execute("INSERT INTO number VALUES (?)", (n,))
            if n == 2:
                db.execute("INSERT INTO large VALUES (zeroblob(1000000))")

        if n != 2:
            await commit(insert)
            return
        with pytest.raises(EndpointBroken, match="the disk is full"):
            await commit(insert)
        failed.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(put, n)
            await trio.testing.wait_all_tasks_blocked()
        offload.door.set()
    assert failed == [2]
    assert numbers(db) == [0, 1, 3, 4]
    assert not db.in_transaction


async def test_cancelled_while_waiting_nothing_happened_and_cancelled_after_it_began_all_of_it_did(
    db: apsw.Connection, commit: GroupCommit, offload: Gated
) -> None:
    scopes = {n: trio.CancelScope() for n in range(6)}
    returned: list[int] = []

    async def put(n: int) -> None:
        with scopes[n]:
            await commit(lambda: db.execute("INSERT INTO number VALUES (?)", (n,)))
            returned.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(6):
            nursery.start_soon(put, n)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()  # it leads, and has begun
        scopes[1].cancel()  # the first in the queue: the next leader
        scopes[3].cancel()
        await trio.testing.wait_all_tasks_blocked()
        offload.door.set()
    assert numbers(db) == [0, 2, 4, 5]
    assert sorted(returned) == [0, 2, 4, 5]


async def test_a_leader_cut_short_before_it_began_hands_the_lead_on(db: apsw.Connection, tmp_path: Path) -> None:
    """Here the offload is what is cancelled: it waits for a thread that somebody else has."""
    limiter = trio.CapacityLimiter(1)

    async def offload(fn: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(fn, limiter=limiter)

    commit = GroupCommit(db, offload)
    leader = trio.CancelScope()

    async def put(n: int, scope: trio.CancelScope) -> None:
        with scope:
            await commit(lambda: db.execute("INSERT INTO number VALUES (?)", (n,)))

    async with trio.open_nursery() as nursery, limiter:
        nursery.start_soon(put, 0, leader)
        await trio.testing.wait_all_tasks_blocked()
        for n in range(1, 4):
            nursery.start_soon(put, n, trio.CancelScope())
        await trio.testing.wait_all_tasks_blocked()
        leader.cancel()
        await trio.testing.wait_all_tasks_blocked()
    assert numbers(db) == [1, 2, 3]
