"""What time brings: purging, cutting, dropping, trimming; and what must never go."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing

import store
from store import retention
from store.content.segment import NewContent
from store.database import Database
from store.disk import Disk
from store.layout import Layout, segment_numbers
from store.limits import DELIVERY_KEYS_KEPT_S, READERS, RECOVERABLE_KEPT_S
from store.names import DELETED_MS
from store.proposal import Draft, Proposal
from store.records import ItemsPut
from tests.support.store_world import (
    ALICE,
    BOB,
    START_MS,
    Clock,
    append,
    check_sound,
    contents,
    folder_named,
    inbox_of,
    make_mailbox,
    opened,
)

T = TypeVar("T")
DAY_MS = 86_400_000


async def purge_recoverable(database: Database, clock: Clock) -> int:
    return await retention.purge_recoverable(database._committer, ALICE, now_ms=clock.now_ms)


async def drop_segments(database: Database) -> int:
    return await retention.drop_segments(database._committer, database.read_db, database._disk, database._layout)


def segments(path: Path) -> list[int]:
    return segment_numbers([found.name for found in Layout(path).content.iterdir()])


def open_segments(database: Path) -> list[str]:
    """The files of the database's segments that this process has open, those too that were deleted."""
    names = [os.path.realpath(found) for found in Path("/proc/self/fd").iterdir()]
    return [name for name in names if ".seg" in name and name.startswith(str(database))]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.content.pool.SEGMENT_BYTES_MAX", 256)


# ---- recoverable items


async def test_items_are_purged_when_they_were_recoverable_long_enough(
    database: Database, mailbox: store.Mailbox, clock: Clock
) -> None:
    first, second, third = await append(database, b"one", b"two", b"three")
    await mailbox.delete([first])
    clock.now_ms += DAY_MS
    await mailbox.delete([second])
    clock.now_ms += RECOVERABLE_KEPT_S * 1000 - DAY_MS - 1
    assert await purge_recoverable(database, clock) == 0
    clock.now_ms += 1
    assert await purge_recoverable(database, clock) == 1
    assert [row.item_id for row in await database.find(ALICE, [first, second, third])] == [second, third]


async def test_a_mailbox_may_keep_what_is_deleted_for_a_time_of_its_own(
    database: Database, mailbox: store.Mailbox, clock: Clock
) -> None:
    (item,) = await append(database, b"one")
    await mailbox.set_setting("retention_days", 0)
    await mailbox.delete([item])
    assert await purge_recoverable(database, clock) == 1


async def test_a_clock_that_ran_ahead_keeps_only_its_own_items(
    database: Database, mailbox: store.Mailbox, clock: Clock
) -> None:
    first, second = await append(database, b"one", b"two")
    clock.now_ms += 1000 * DAY_MS
    await mailbox.delete([first])
    clock.now_ms -= 1000 * DAY_MS
    await mailbox.delete([second])
    clock.now_ms += 15 * DAY_MS
    assert await purge_recoverable(database, clock) == 1
    assert await database.find(ALICE, [first])


@pytest.mark.parametrize("said", [None, "yesterday", "-5", "²"])
async def test_what_has_no_date_of_deletion_stays_and_keeps_nobody(
    database: Database, mailbox: store.Mailbox, clock: Clock, said: str | None
) -> None:
    (item,) = await append(database, b"one")
    await mailbox.delete([item])
    hidden = (await folder_named(database, store.RECOVERABLE_ITEMS)).folder_id
    properties = {} if said is None else {DELETED_MS: said}
    (own,) = await mailbox.append(hidden, [store.NewItem(content=b"x", received_ms=1, properties=properties)])
    (other,) = await append(database, b"two")
    await mailbox.delete([other])
    clock.now_ms += 15 * DAY_MS
    assert await purge_recoverable(database, clock) == 2
    assert await contents(database, hidden) == [b"x"]
    assert own.item_id


async def test_more_than_one_transaction_takes_is_purged_in_several(
    database: Database, mailbox: store.Mailbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = await append(database, *(b"%d" % number for number in range(7)))
    await mailbox.delete(items)
    monkeypatch.setattr("store.retention.ITEMS_PER_VERB_MAX", 3)
    clock.now_ms += 15 * DAY_MS
    assert await purge_recoverable(database, clock) == 7


@pytest.mark.parametrize("mode", ["locked", "retired", "sealed"])
async def test_upkeep_leaves_a_mailbox_that_is_not_open_alone(
    database: Database, mailbox: store.Mailbox, clock: Clock, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await append(database, b"one", b"two")
    await mailbox.deliver(b"mail", key=b"k")
    await mailbox.delete([first])
    await mailbox.purge([second])
    mover = database.mover(ALICE)
    if mode == "locked":
        await mover.lock(1)
    else:
        await mover.retire(1, "there")
        if mode == "sealed":
            await mover.seal(1)
    before = await database.account(ALICE)
    monkeypatch.setattr("store.retention.TOMBSTONES_KEPT", 0)
    clock.now_ms += 1000 * DAY_MS
    assert (await database.maintain()).purged == 0
    assert await database.account(ALICE) == before
    assert await retention.purge_recoverable(database._committer, ALICE, now_ms=clock.now_ms) == 0
    assert await retention.cut_feed(database._committer, ALICE, now_ms=clock.now_ms) == 0


async def test_upkeep_does_not_mind_a_mailbox_that_has_just_gone(database: Database, clock: Clock) -> None:
    assert await retention.purge_recoverable(database._committer, BOB, now_ms=clock.now_ms) == 0
    assert await retention.cut_feed(database._committer, BOB, now_ms=clock.now_ms) == 0


# ---- the feed


async def test_old_tombstones_are_cut_and_a_reader_behind_them_is_told(
    database: Database, mailbox: store.Mailbox, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    items = await append(database, *(b"%d" % number for number in range(6)))
    start = (await database.info(ALICE)).head
    for item in items:
        await mailbox.purge([item])
    monkeypatch.setattr("store.retention.TOMBSTONES_KEPT", 2)
    assert await retention.cut_feed(database._committer, ALICE, now_ms=clock.now_ms) == 4
    horizon = (await database.info(ALICE)).horizon
    assert horizon == start + 4
    with pytest.raises(store.FeedTrimmed):
        await database.feed(ALICE, after=horizon - 1)
    page = await database.feed(ALICE, after=horizon)
    assert [gone.id for gone in page.items_gone] == items[4:]
    assert await retention.cut_feed(database._committer, ALICE, now_ms=clock.now_ms) == 0
    check_sound(tmp_path / "db")


async def test_a_delivery_key_is_kept_its_time(database: Database, mailbox: store.Mailbox, clock: Clock) -> None:
    await mailbox.deliver(b"mail", key=b"k")
    clock.now_ms += DELIVERY_KEYS_KEPT_S * 1000
    assert await retention.cut_feed(database._committer, ALICE, now_ms=clock.now_ms) == 0
    assert (await mailbox.deliver(b"mail", key=b"k")).duplicate
    clock.now_ms += 1
    assert await retention.cut_feed(database._committer, ALICE, now_ms=clock.now_ms) == 1
    assert not (await mailbox.deliver(b"mail", key=b"k")).duplicate


# ---- segments


async def test_a_segment_that_nothing_refers_to_is_dropped(small_segments: None, tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with opened(path) as database:
        mailbox = await make_mailbox(database)
        items = [(await append(database, b"%d" % number * 300))[0] for number in range(5)]
        assert segments(path) == [1, 2, 3, 4, 5]
        await mailbox.purge([items[1], items[2]])
    async with opened(path) as database:
        assert await drop_segments(database) == 2
        assert segments(path) == [1, 4, 5]
        assert await drop_segments(database) == 0
        kept = await database.fetch(ALICE, await database.find(ALICE, items))
        assert [fetched.content for fetched in kept] == [b"%d" % number * 300 for number in (0, 3, 4)]
    check_sound(path)


async def test_more_dead_segments_than_may_be_open_are_dropped_in_batches(
    small_segments: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a migration leaves behind: a segment for each larger mailbox."""
    monkeypatch.setattr("store.retention.OPEN_SEGMENTS_MAX", 4)
    path, open_at_once = tmp_path / "db", 0

    class Counting(Disk):
        def remove(self, gone: Path) -> None:
            nonlocal open_at_once
            if gone.suffix == ".seg":
                open_at_once = max(open_at_once, len(open_segments(path)))
            super().remove(gone)

    async with opened(path) as database:
        mailbox = await make_mailbox(database)
        items = [(await append(database, b"%d" % number * 300))[0] for number in range(15)]
        await mailbox.purge(items)
    async with opened(path, disk=Counting()) as database:
        assert await drop_segments(database) == 14
    assert 1 <= open_at_once <= 4
    check_sound(path)


async def test_upkeep_gives_back_the_room_of_segments_that_were_read(small_segments: None, tmp_path: Path) -> None:
    """A worker has them open for days."""
    path = tmp_path / "db"
    async with opened(path) as database:
        mailbox = await make_mailbox(database)
        items = [(await append(database, b"%d" % number * 70_000))[0] for number in range(2)]
        items += [(await append(database, b"%d" % number * 300))[0] for number in range(4)]
        rows = await database.find(ALICE, items)
        for _ in range(READERS):
            assert len(await database.fetch(ALICE, rows)) == 6
        await mailbox.purge(items)
        assert len(open_segments(path)) > 6
        assert (await database.maintain()).dropped == 3
        assert [name for name in open_segments(path) if "deleted" in name] == []


async def test_no_segment_number_is_used_twice(small_segments: None, tmp_path: Path) -> None:
    """Another process may still have the old file open, and read other bytes under the same number."""
    path = tmp_path / "db"
    async with opened(path) as reader:
        mailbox = await make_mailbox(reader)
        (item,) = await append(reader, b"old" * 100)
        (row,) = await reader.find(ALICE, [item])
        assert (await reader.fetch(ALICE, [row]))[0].content == b"old" * 100
        await mailbox.purge([item])
    async with opened(path) as reader, opened(path) as writer:
        assert await drop_segments(writer) == 0
        await append(writer, b"new" * 100)
        assert await drop_segments(writer) == 1
        assert segments(path) == [2]
        assert await contents(reader, await inbox_of(reader)) == [b"new" * 100]


async def test_content_that_another_handle_has_staged_and_not_committed_stays(
    small_segments: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.commit.STAGED_BY_COMMITTER_BYTES_MAX", -1)

    class Gate:
        def __init__(self) -> None:
            self.door = trio.Event()

        async def __call__(self, fn: Callable[[], T]) -> T:
            await self.door.wait()
            return fn()

    path = tmp_path / "db"
    async with opened(path) as stager, opened(path) as other, trio.open_nursery() as nursery:
        await make_mailbox(stager)
        gate = stager._committer._offload_log = Gate()
        for number in range(4):
            nursery.start_soon(append, stager, b"staged %d" % number * 60)
            await trio.testing.wait_all_tasks_blocked()
        await append(other, b"other" * 60)
        assert len(segments(path)) >= 2
        assert await drop_segments(other) == 0
        gate.door.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(await contents(other, await inbox_of(other))) == 5
    check_sound(path)


async def test_content_whose_process_died_after_the_log_and_before_the_catalogue_stays(
    small_segments: None, tmp_path: Path
) -> None:
    """Its lease is gone with it, and no item refers to it yet: only the log knows."""
    path = tmp_path / "db"
    async with opened(path) as other:
        await make_mailbox(other)
        inbox = await inbox_of(other)
        async with opened(path) as dying:
            committer = dying._committer
            places: list[store.ids.ContentRef] = []

            def decide(draft: Draft) -> None:
                (ref,) = draft.content
                places.append(ref)
                row = store.ItemRow(
                    store.ItemId(b"i" * 16), inbox, 1, 2, START_MS, ref.size, ref.content_hash, ref.segment,
                    ref.offset, 0, (), "IPM.Note", (),
                )  # fmt: skip
                draft.records.append(ItemsPut(ALICE, [row]))

            class Dies:
                """The log's sync fails once the frame is there: the outcome is unknown to this process."""

                def __init__(self) -> None:
                    self.append = committer._log.append

                def __call__(self, *args: object, **kwargs: object) -> None:
                    self.append(*args, **kwargs)  # type: ignore[arg-type]
                    raise store.StoreBroken(path="log", why="Input/output error")

            dies = Dies()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(committer._log), "append", lambda log, *args, **kwargs: dies(*args, **kwargs))
                header = NewContent(store.ItemId(b"i" * 16), inbox, START_MS, 0)
                with pytest.raises(store.StoreBroken):
                    await committer.submit(Proposal(ALICE, decide, [header], [b"unknown" * 60]))
        (path / "content" / "00000009.seg").touch()  # so that it is not the newest one, which stays anyway
        assert await drop_segments(other) == 0
        assert places[0].segment in segments(path)
        assert await contents(other, inbox) == [b"unknown" * 60]
    check_sound(path)


# ---- all of it


async def test_a_round_of_upkeep_says_what_it_did(
    small_segments: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = Clock(), tmp_path / "db"
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 2048)
    monkeypatch.setattr("store.retention.CHECKPOINT_LOG_BYTES", 1)
    async with opened(path, clock=clock) as database:
        mailbox = await make_mailbox(database)
        items = [(await append(database, b"%d" % number * 300))[0] for number in range(4)]
        await mailbox.delete(items)
    async with opened(path, clock=clock) as database:
        clock.now_ms += 15 * DAY_MS
        done = await database.maintain()
        assert (done.purged, done.dropped, done.checkpointed) == (4, 3, True)
        again = await database.maintain()
        assert (again.purged, again.cut, again.dropped) == (0, 0, 0)
    check_sound(path)
