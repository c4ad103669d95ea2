"""The committer: many proposals to one commit, one outcome each, whatever else happens to the others."""

import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing

import store
from store import records
from store.content.pool import SHARED
from store.content.segment import NewContent
from store.database import Database
from store.disk import Disk, File
from store.limits import STAGED_BY_COMMITTER_BYTES_MAX
from store.proposal import Draft, Proposal
from store.records import FolderPut, SettingPut
from tests.support.store_world import (
    ALICE,
    START_MS,
    append,
    check_sound,
    contents,
    inbox_of,
    make_mailbox,
    opened,
)

T = TypeVar("T")


class Gate:
    """Blocking work that waits in front of a door, until the test opens it."""

    def __init__(self) -> None:
        self.door = trio.Event()
        self.door.set()
        self.arrived = 0

    async def __call__(self, fn: Callable[[], T]) -> T:
        self.arrived += 1
        await self.door.wait()
        return fn()


class FailingDisk(Disk):
    """A disk whose files fail on demand: `fails` is asked before each call, and raises."""

    def __init__(self) -> None:
        self.fails: Callable[[str, Path], None] = lambda call, path: None

    def open(self, path: Path, *, create: bool = False, exclusive: bool = False, readonly: bool = False) -> File:
        if create:
            self.fails("create", path)
        opened = super().open(path, create=create, exclusive=exclusive, readonly=readonly)
        return _FailingFile(self, path, opened)


class _FailingFile(File):
    def __init__(self, disk: FailingDisk, path: Path, file: File) -> None:
        super().__init__(path, file._descriptor)
        file._descriptor = -1
        self._disk = disk

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._disk.fails("write", self.path)
        super().write(data, offset)

    def sync(self) -> None:
        self._disk.fails("sync", self.path)
        super().sync()


def failing(call: str, folder: str, error: Exception) -> Callable[[str, Path], None]:
    def fails(called: str, path: Path) -> None:
        if called == call and path.parent.name == folder:
            raise error

    return fails


async def setting(database: Database, name: str, value: str, *, items: int = 1) -> None:
    def decide(draft: Draft) -> None:
        draft.records.append(SettingPut(ALICE, name, value, draft.next_modseq()))

    await database._committer.submit(Proposal(ALICE, decide, items=items))


async def settings(database: Database) -> dict[str, str]:
    return (await database.account(ALICE))[2]


async def gated(database: Database) -> Gate:
    """From now on commits wait for the gate's door."""
    gate = database._committer._offload_log = Gate()
    gate.door = trio.Event()
    return gate


# ---- groups


async def test_what_queues_during_a_commit_is_committed_together(database: Database, mailbox: store.Mailbox) -> None:
    gate, before = await gated(database), database.statistics
    commits = database._committer.commits
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(setting, database, f"x-{number}", "1")
            await trio.testing.wait_all_tasks_blocked()
        gate.door.set()
    # The first alone, and all the rest.
    assert database._committer.commits == commits + 2
    assert len(await settings(database)) == 20
    assert (await before()).transactions >= 20


async def test_concurrent_deliveries_each_get_their_own_answer(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    uids: dict[int, int] = {}

    async def deliver(number: int) -> None:
        uids[number] = (await mailbox.deliver(b"mail %d" % number, key=b"%d" % number)).uid

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(deliver, number)
    assert sorted(uids.values()) == list(range(1, 31))
    rows = await database.folder_items(ALICE, inbox)
    found = {fetched.content: fetched.row.uid for fetched in await database.fetch(ALICE, rows)}
    assert found == {b"mail %d" % number: uid for number, uid in uids.items()}


async def test_the_same_delivery_twice_in_one_group_is_accepted_once(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    gate = await gated(database)
    answers: list[store.Added] = []

    async def deliver() -> None:
        answers.append(await mailbox.deliver(b"mail", key=b"k"))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(deliver)
        await trio.testing.wait_all_tasks_blocked()
        gate.door.set()
    assert sorted(answer.duplicate for answer in answers) == [False, True, True, True, True]
    assert await contents(database, inbox) == [b"mail"]


async def test_a_refusal_rolls_back_alone(database: Database, mailbox: store.Mailbox, tmp_path: Path) -> None:
    gate = await gated(database)
    errors: list[Exception] = []

    async def refused() -> None:
        def decide(draft: Draft) -> None:
            draft.records.append(SettingPut(ALICE, "x-refused", "1", draft.next_modseq()))
            raise store.Refused(why="no")

        with pytest.raises(store.Refused, match="no") as caught:
            await database._committer.submit(Proposal(ALICE, decide))
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting, database, "x-first", "1")
        nursery.start_soon(setting, database, "x-before", "1")
        nursery.start_soon(refused)
        nursery.start_soon(setting, database, "x-after", "1")
        await trio.testing.wait_all_tasks_blocked()
        gate.door.set()
    assert set(await settings(database)) == {"x-first", "x-before", "x-after"}
    assert len(errors) == 1
    states = await database.setting_states(ALICE)
    assert sorted(modseq for _, _, modseq in states) == [2, 3, 4]  # the refused one took no change number
    check_sound(tmp_path / "db")


@pytest.mark.parametrize("kind", ["decide", "apply", "constraint", "pack"])
async def test_a_bug_fails_its_own_caller_only(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId, kind: str, tmp_path: Path
) -> None:
    """Wherever it shows: in the decision, in its records, in the catalogue's own rules, or when they are packed."""
    gate = await gated(database)

    def decide(draft: Draft) -> None:
        put = FolderPut(ALICE, store.FolderId(b"f" * 16), b"", "new", 9, 1, 1, "", True, False, ())
        if kind == "decide":
            raise ZeroDivisionError
        if kind == "apply":
            draft.records.append(records.ItemsChanged(ALICE, [_no_such_item()]))
        if kind == "constraint":
            draft.records += [put, attrs_named(put, b"g" * 16)]
        if kind == "pack":
            draft.records.append(attrs_with(put, (("a", "\ud800"),)))

    async def buggy() -> None:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            await database._committer.submit(Proposal(ALICE, decide))
        assert not isinstance(caught.value, store.StoreError)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting, database, "x-first", "1")
        nursery.start_soon(setting, database, "x-before", "1")
        nursery.start_soon(buggy)
        nursery.start_soon(setting, database, "x-after", "1")
        await trio.testing.wait_all_tasks_blocked()
        gate.door.set()
    await setting(database, "x-later", "1")
    assert set(await settings(database)) == {"x-first", "x-before", "x-after", "x-later"}
    check_sound(tmp_path / "db")


def _no_such_item() -> records.ItemStateRow:
    return records.ItemStateRow(store.ItemId(b"?" * 16), store.FolderId(b"?" * 16), 1, 9, 0, (), ())


def attrs_named(put: FolderPut, folder_id: bytes) -> FolderPut:
    return FolderPut(ALICE, store.FolderId(folder_id), b"", put.name, 10, 1, 1, "", True, False, ())


def attrs_with(put: FolderPut, attributes: tuple[tuple[str, str], ...]) -> FolderPut:
    return FolderPut(ALICE, put.folder_id, b"", put.name, 9, 1, 1, "", True, False, attributes)


async def test_a_bug_while_staging_fails_its_group_and_not_the_database(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    header = NewContent(store.ItemId(b"i" * 16), inbox, START_MS, -1)
    with pytest.raises(Exception, match="argument"):
        await database._committer.submit(Proposal(ALICE, lambda draft: None, [header], [b"flags that fit no header"]))
    await append(database, b"one")
    assert await contents(database, inbox) == [b"one"]


async def test_changes_that_are_too_large_together_are_committed_one_by_one(
    database: Database, mailbox: store.Mailbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("store.commit.FRAME_BYTES_MAX", 1000)
    gate = await gated(database)

    async def too_large() -> None:
        with pytest.raises(store.Refused, match="split them"):
            await setting(database, "x-absurd", "x" * 1000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(too_large)
        for number in range(5):
            nursery.start_soon(setting, database, f"x-{number}", "x" * 500)
        await trio.testing.wait_all_tasks_blocked()
        gate.door.set()
    assert set(await settings(database)) == {f"x-{number}" for number in range(5)}
    check_sound(tmp_path / "db")


async def test_deliveries_to_many_mailboxes_together_each_come_to_what_they_come_to_alone(
    database: Database, mailbox: store.Mailbox, tmp_path: Path
) -> None:
    """Open, full, locked, without INBOX and missing ones; each key twice, and once more with other bytes."""
    kinds = ("open", "full", "locked", "no INBOX", "missing", "other")
    instances = {kind: store.InstanceId(kind.encode().ljust(16, b"_")) for kind in kinds}
    for kind, instance in instances.items():
        if kind == "no INBOX":
            await database.mover(instance).create(store.MailboxId(b"made"), 1)
            await database.mover(instance).open(1)
        elif kind != "missing":
            await make_mailbox(database, instance)
    await database.mailbox(instances["full"]).set_setting("quota_bytes", 7)
    await database.mover(instances["locked"]).lock(1)
    told: dict[tuple[str, int], object] = {}

    async def deliver(kind: str, number: int, content: bytes) -> None:
        try:
            told[kind, number] = (await database.mailbox(instances[kind]).deliver(content, key=b"k"))[1:]
        except store.StoreError as refusal:
            told[kind, number] = type(refusal)

    gate, commits = await gated(database), database._committer.commits
    async with trio.open_nursery() as nursery:
        for number, content in enumerate((b"mail", b"mail", b"other")):
            for kind in kinds:
                nursery.start_soon(deliver, kind, number, content)
                await trio.testing.wait_all_tasks_blocked()
        gate.door.set()
    assert database._committer.commits <= commits + 2
    first, again = (1, 2, False), (0, 0, True)
    assert {kind: [told[kind, number] for number in range(3)] for kind in kinds} == {
        "open": [first, again, (2, 4, False)],
        "full": [(1, 3, False), again, store.QuotaExceeded],  # its quota was a change
        "locked": [store.MailboxLocked] * 3,
        "no INBOX": [store.NoSuchFolder] * 3,
        "missing": [store.NoSuchMailbox] * 3,
        "other": [first, again, (2, 4, False)],
    }
    assert [len(await database.items(instances[kind])) for kind in ("open", "full", "locked", "other")] == [2, 1, 0, 2]
    check_sound(tmp_path / "db")


async def test_a_delivery_does_not_wait_behind_a_copy(database: Database, mailbox: store.Mailbox) -> None:
    """Though the copy queued first, and its content is still being written."""
    staging = database._committer._copies.offload = Gate()
    staging.door = trio.Event()
    committed: list[str] = []

    async def copy() -> None:
        content = b"x" * (STAGED_BY_COMMITTER_BYTES_MAX + 1)
        header = NewContent(store.ItemId(b"i" * 16), store.FolderId(b"f" * 16), START_MS, 0)
        await database._committer.submit(Proposal(ALICE, lambda draft: None, [header], [content], stream=b"copy"))
        committed.append("copy")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(copy)
        await trio.testing.wait_all_tasks_blocked()
        await mailbox.deliver(b"mail", key=b"k")
        committed.append("delivery")
        staging.door.set()
    assert committed == ["delivery", "copy", "copy", "copy"]


# ---- cancellation


async def test_cancelled_before_being_taken_it_did_not_happen(database: Database, mailbox: store.Mailbox) -> None:
    gate = await gated(database)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting, database, "x-committing", "1")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(setting, database, "x-staged", "1")
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as queued:
                queued.start_soon(setting, database, "x-queued", "1")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        gate.door.set()
    assert set(await settings(database)) == {"x-committing", "x-staged"}
    assert database._committer._clients.queued_bytes == 0


async def test_cancelled_once_taken_it_may_happen_and_nobody_else_notices(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId
) -> None:
    gate = await gated(database)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as taken:
                taken.start_soon(append, database, b"taken")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        nursery.start_soon(setting, database, "x-other", "1")
        await trio.testing.wait_all_tasks_blocked()
        gate.door.set()
    assert await settings(database) == {"x-other": "1"}
    assert await contents(database, inbox) == [b"taken"]


async def test_a_cancelled_submit_takes_nothing(database: Database, mailbox: store.Mailbox) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await setting(database, "x-never", "1")
    await setting(database, "x-later", "1")
    assert set(await settings(database)) == {"x-later"}


async def test_closing_answers_everybody_who_waits(tmp_path: Path) -> None:
    errors: list[Exception] = []

    async def waits(database: Database, number: int) -> None:
        with pytest.raises(store.StoreClosed) as caught:
            await setting(database, f"x-{number}", "1")
        errors.append(caught.value)

    async with trio.open_nursery() as nursery, opened(tmp_path / "db") as database:
        await make_mailbox(database)
        await gated(database)
        for number in range(5):  # one at the gate, one staged, three queued
            nursery.start_soon(waits, database, number)
            await trio.testing.wait_all_tasks_blocked()
    assert len(errors) == 5
    with pytest.raises(store.StoreClosed):
        await setting(database, "x-late", "1")
    async with opened(tmp_path / "db") as database:
        assert await settings(database) == {}


# ---- what the disk does


@pytest.mark.parametrize("call", ["write", "sync"])
async def test_a_commit_cut_short_breaks_the_handle_for_everybody_and_reopening_settles_it(
    tmp_path: Path, call: str
) -> None:
    disk = FailingDisk()
    broken: list[store.StoreBroken] = []

    async def breaks(number: int) -> None:
        with pytest.raises(store.StoreBroken) as caught:
            await setting(database, f"x-{number}", "1")
        broken.append(caught.value)

    async with opened(tmp_path / "db", disk=disk) as database:
        await make_mailbox(database)
        await setting(database, "x-before", "1")
        gate = await gated(database)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(breaks, number)
                await trio.testing.wait_all_tasks_blocked()
            error = store.StoreBroken(path="log", why="Input/output error")
            disk.fails = failing(call, "log", error)
            gate.door.set()
        disk.fails = lambda called, path: None
        await breaks(6)
        assert set(await settings(database)) == {"x-before"}  # reading goes on
        assert "open the database again" in str(broken[0])
    async with opened(tmp_path / "db") as database:
        # The frame of the first is there where its sync failed; what came after it never began.
        assert set(await settings(database)) == {"x-before", *(["x-0"] if call == "sync" else [])}
        await setting(database, "x-after", "1")
    check_sound(tmp_path / "db")


async def test_a_commit_of_the_other_lane_that_waits_for_its_turn_does_not_follow_a_broken_one(tmp_path: Path) -> None:
    """The turn is given before any task hears that the commit before it broke."""
    disk, broken, going_on = FailingDisk(), [], threading.Event()
    errors = [store.StoreBroken(path="log", why="Input/output error")]

    def fails(called: str, path: Path) -> None:
        if called == "sync" and path.parent.name == "log" and errors:
            going_on.wait(10)
            raise errors.pop()

    async def change(name: str, stream: bytes) -> None:
        def decide(draft: Draft) -> None:
            draft.records.append(SettingPut(ALICE, name, "1", draft.next_modseq()))

        with pytest.raises(store.StoreBroken) as caught:
            await database._committer.submit(Proposal(ALICE, decide, stream=stream))
        broken.append(str(caught.value))

    store.create_database(tmp_path / "db")
    async with store.open_database(tmp_path / "db", disk=disk) as database:
        await make_mailbox(database)
        disk.fails = fails
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, "x-first", SHARED)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.start_soon(change, "x-second", b"copy")
            await trio.testing.wait_all_tasks_blocked(0.05)
            going_on.set()
    assert len(broken) == 2
    async with opened(tmp_path / "db") as database:
        assert set(await settings(database)) == {"x-first"}  # its frame is there; the other never began


async def test_the_error_that_everybody_gets_does_not_grow(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with opened(tmp_path / "db", disk=disk) as database:
        await make_mailbox(database)
        disk.fails = failing("sync", "log", store.StoreBroken(path="log", why="Input/output error"))
        depths = []
        for _ in range(10):
            with pytest.raises(store.StoreBroken) as caught:
                await setting(database, "x", "1")
            depths.append(len(caught.traceback))
        assert len(set(depths[1:])) == 1


async def test_another_process_settles_what_a_broken_one_left(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with opened(tmp_path / "db", disk=disk) as one, opened(tmp_path / "db") as other:
        await make_mailbox(one)
        disk.fails = failing("sync", "log", store.StoreBroken(path="log", why="Input/output error"))
        with pytest.raises(store.StoreBroken):
            await setting(one, "x-unknown", "1")
        await setting(other, "x-next", "1")
        assert set(await settings(other)) == {"x-unknown", "x-next"}
    check_sound(tmp_path / "db")


@pytest.mark.parametrize("folder", ["content", "log"])
async def test_a_full_disk_fails_a_write_and_not_the_handle(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the log, too, where it shows as the generation is extended: before the frame's first byte."""
    monkeypatch.setattr("store.log.log.GENERATION_GROW_BYTES", 512)
    disk = FailingDisk()
    async with opened(tmp_path / "db", disk=disk) as database:
        await make_mailbox(database)
        disk.fails = failing("write", folder, store.StoreFull(path=folder, why="the disk is full"))
        for _ in range(4):
            with pytest.raises(store.StoreFull, match="make room and try again"):
                await append(database, b"one")
        disk.fails = lambda called, path: None
        await append(database, b"two")
        assert await contents(database, await inbox_of(database)) == [b"two"]
    check_sound(tmp_path / "db")


async def test_a_full_disk_while_a_generation_rolls_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 2048)
    disk = FailingDisk()
    async with opened(tmp_path / "db", disk=disk) as database:
        await make_mailbox(database)
        disk.fails = failing("create", "log", store.StoreFull(path="log", why="the disk is full"))
        full = 0
        for number in range(8):
            try:
                await setting(database, f"x-{number}", "1")
            except store.StoreFull:
                full += 1
        assert full
        disk.fails = lambda called, path: None
        await setting(database, "x-after", "1")
        assert (await database.statistics()).generation > 1
        assert len(await settings(database)) == 9 - full
    check_sound(tmp_path / "db")


# ---- bounds


async def test_what_waits_is_bounded_in_bytes_and_a_larger_one_goes_alone(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.lane.QUEUE_BYTES_MAX", 100)
    monkeypatch.setattr("store.lane.GROUP_BYTES_MAX", 100)
    gate = await gated(database)
    async with trio.open_nursery() as nursery:
        for size in (1, 1, 60, 60, 500, 30, 30, 30, 30, 30):
            nursery.start_soon(append, database, b"x" * size)
        while gate.arrived < 1:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        waiting, alone = database._committer._clients.queued_bytes, len(database._committer._clients._queue) == 1
        gate.door.set()
    assert waiting <= 100 or alone
    assert len(await contents(database, inbox)) == 10


async def test_somebody_cancelled_while_there_is_no_room_leaves_no_trace(
    database: Database, mailbox: store.Mailbox, inbox: store.FolderId, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.lane.QUEUE_BYTES_MAX", 10)
    gate = await gated(database)
    async with trio.open_nursery() as nursery:
        for content in (b"committing", b"staged", b"queued"):
            nursery.start_soon(append, database, content)
            await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as waiting:
                waiting.start_soon(append, database, b"no room yet")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        gate.door.set()
    assert await contents(database, inbox) == [b"committing", b"staged", b"queued"]


@pytest.mark.parametrize(("small_bytes", "segments"), [(0, 2), (5, 3), (1000, 1)])
async def test_content_of_two_copies_is_not_mixed_but_what_they_begin_with(
    database: Database, mailbox: store.Mailbox, small_bytes: int, segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.commit.OWN_SEGMENT_AFTER_BYTES", small_bytes)
    gate = await gated(database)
    places: list[tuple[bytes, int]] = []

    async def put(stream: bytes) -> None:
        header = NewContent(store.ItemId(b"i" * 16), store.FolderId(b"f" * 16), START_MS, 0)

        def decide(draft: Draft) -> tuple[bytes, int]:
            return stream, draft.content[0].segment

        proposal = Proposal(ALICE, decide, [header], [b"bytes"], stream=stream)
        places.append(await database._committer.submit(proposal))

    async with trio.open_nursery() as nursery:
        for stream in (b"one", b"two", b"one", b"two", b"one"):
            nursery.start_soon(put, stream)
        await trio.testing.wait_all_tasks_blocked()
        gate.door.set()
    assert len({segment for _, segment in places}) == segments


async def test_an_empty_transaction_writes_no_frame(database: Database, mailbox: store.Mailbox) -> None:
    before = await database.statistics()
    await database._committer.submit(Proposal(ALICE, lambda draft: None))
    after = await database.statistics()
    assert (before.offset, before.transactions) == (after.offset, after.transactions)


Verb = Callable[[store.Mailbox, store.FolderId, list[store.ItemId]], Awaitable[object]]


def _verbs(rng: random.Random) -> list[Verb]:
    """What clients and agents may want at once: few keys, few contents and a small quota, so that they meet."""

    def one() -> Verb:
        key, content = b"key %d" % rng.randrange(3), b"content %d " % rng.randrange(2) * rng.randrange(1, 40)
        number, kind = rng.randrange(3), rng.randrange(12)
        if kind < 5:
            return lambda mailbox, inbox, items: mailbox.deliver(content, key=key, received_ms=START_MS)
        if kind < 7:
            new = [store.NewItem(content=content, received_ms=START_MS) for _ in range(number)]
            return lambda mailbox, inbox, items: mailbox.append(inbox, new)
        if kind == 7:
            return lambda mailbox, inbox, items: mailbox.change_flags(items[number : number + 1], add=4)
        if kind == 8:
            return lambda mailbox, inbox, items: mailbox.delete(items[number : number + 1])
        if kind == 9:
            return lambda mailbox, inbox, items: mailbox.set_setting("quota_bytes", 300 * number or None)
        if kind == 10:
            return lambda mailbox, inbox, items: mailbox.create_folder(None, f"folder {number}")
        return lambda mailbox, inbox, items: mailbox.copy(items[number : number + 1], inbox)

    return [one() for _ in range(30)]


class Asked:
    """A mailbox with three items, and what each verb answered or refused, item ids apart."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.answers: list[object] = []

    async def prepare(self) -> "Asked":
        await make_mailbox(self.database)
        self.inbox = await inbox_of(self.database)
        await append(self.database, b"one", b"two", b"three")
        self.items = [row.item_id for row in await self.database.folder_items(ALICE, self.inbox)]
        return self

    async def ask(self, verb: Verb) -> None:
        place = len(self.answers)
        self.answers.append(None)
        try:
            answer = await verb(self.database.mailbox(ALICE), self.inbox, self.items)
        except store.StoreError as refusal:
            answer = str(refusal)
        if isinstance(answer, bytes):
            answer = "a folder's id"
        added = answer if isinstance(answer, list) else [answer]
        self.answers[place] = [a._replace(item_id=None) if isinstance(a, store.Added) else a for a in added]

    async def end(self) -> object:
        info, folders, set_ = await self.database.account(ALICE)
        rows = await self.database.items(ALICE)
        return (
            self.answers,
            info.head,
            [(f.name, f.uidnext, f.items, f.bytes, f.equality, f.instance) for f in folders if not f.hidden],
            set_,
            sorted((row.uid, row.modseq, row.content_hash, row.flags) for row in rows),
        )


@pytest.mark.parametrize("seed", range(12))
async def test_what_goes_together_comes_to_what_it_comes_to_one_by_one(tmp_path: Path, seed: int) -> None:
    """A group remembers what it has looked up, and writes late; nobody in it may notice."""
    verbs = _verbs(random.Random(seed))
    async with opened(tmp_path / "alone") as database:
        alone = await Asked(database).prepare()
        for verb in verbs:
            await alone.ask(verb)
        expected = await alone.end()
    async with opened(tmp_path / "together") as database:
        together = await Asked(database).prepare()
        gate, commits = await gated(database), database._committer.commits
        async with trio.open_nursery() as nursery:
            for verb in verbs:
                nursery.start_soon(together.ask, verb)
                await trio.testing.wait_all_tasks_blocked(0.0005)
            gate.door.set()
        assert database._committer.commits < commits + 10
        assert await together.end() == expected
    check_sound(tmp_path / "together")
