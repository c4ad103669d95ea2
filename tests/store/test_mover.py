"""A mover's verbs, where the contract of endpoints does not look: what arrives twice, out of order, or damaged."""

from collections.abc import Sequence
from pathlib import Path

import pytest

import store
from store.database import Database
from store.ids import ContentRef
from store.records import ItemRow
from tests.support.store_world import BOB, START_MS, check_sound

INBOX_ID = store.FolderId(b"inbox".ljust(16, b"."))
OTHER_ID = store.FolderId(b"other".ljust(16, b"."))


def row(number: int, content: bytes, modseq: int, *, uid: int | None = None, folder: bytes = INBOX_ID) -> ItemRow:
    ref = ContentRef(0, 0, len(content), b"")
    return ItemRow(
        store.ItemId(b"%016d" % number), store.FolderId(folder), uid or number, modseq, START_MS, ref.size,
        ref.content_hash, 0, 0, 0, (), "IPM.Note", (),
    )  # fmt: skip


Moved = tuple[ItemRow, bytes]


def moved(number: int, content: bytes, modseq: int, *, uid: int | None = None) -> Moved:
    return row(number, content, modseq, uid=uid), content


async def put(mover: store.Mover, items: Sequence[Moved], token: int) -> list[store.RefusedItem]:
    return await mover.put_items([row for row, _ in items], [content for _, content in items], token)


def folder(folder_id: store.FolderId, name: str, modseq: int, *, parent: bytes = b"") -> store.FolderPut:
    return store.FolderPut(BOB, folder_id, parent, name, modseq, 77, 1, "", True, False, ())


def create(folder_id: store.FolderId, name: str, modseq: int, *, parent: bytes = b"") -> store.MovedFolder:
    return store.MovedFolder(store.FolderStepKind.CREATE, folder(folder_id, name, modseq, parent=parent))


@pytest.fixture
async def mover(database: Database, tmp_path: Path) -> store.Mover:
    mover = database.mover(BOB)
    await mover.create(store.MailboxId(b"bob's"), 1)
    await mover.put_folders([create(INBOX_ID, "INBOX", 1), create(OTHER_ID, "Other", 2)], 1)
    return mover


async def states(database: Database) -> dict[int, tuple[int, int, bytes | None]]:
    """Item number: (modseq, UID, bytes)."""
    rows = await database.items(BOB)
    fetched = await database.fetch(BOB, rows) if rows else []
    return {int(one.row.item_id): (one.row.modseq, one.row.uid, one.content) for one in fetched}


async def test_one_item_many_times_in_one_call_is_taken_in_its_newest_state(
    database: Database, mover: store.Mover, tmp_path: Path
) -> None:
    await put(mover, [moved(1, b"first", 5)], 1)
    await put(mover, [moved(1, b"second", 8), moved(1, b"first", 7), moved(1, b"third", 9), moved(1, b"x", 6)], 1)
    await put(mover, [moved(2, b"a", 11), moved(2, b"b", 12)], 1)
    assert await states(database) == {1: (9, 1, b"third"), 2: (12, 2, b"b")}
    check_sound(tmp_path / "db")


@pytest.mark.parametrize("number", [3, 4, 9])
async def test_a_large_batch_is_several_transactions_and_comes_to_the_same(
    database: Database, mover: store.Mover, number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("store.mover.COPIED_ITEMS_MAX", 3)
    items = [moved(n, b"item %d" % n, 10 + n) for n in range(1, number + 1)]
    refused = await put(mover, [*items, moved(90, b"x", 90, uid=1), moved(91, b"x", 91, uid=2)], 1)
    assert {int(one.item_id) for one in refused} | set(await states(database)) == {*range(1, number + 1), 90, 91}
    assert len(await states(database)) == number
    await mover.claim(5)
    with pytest.raises(store.StaleToken):  # one error, as from a small batch
        await put(mover, [moved(n, b"again", 100 + n) for n in range(1, number + 1)], 1)
    before = await states(database)
    await put(mover, items, 5)  # again: what is there is known
    assert await states(database) == before
    check_sound(tmp_path / "db")


async def test_one_item_many_times_in_one_batch_of_changes_keeps_the_sums_true(
    database: Database, mover: store.Mover, tmp_path: Path
) -> None:
    await put(mover, [moved(1, b"first", 5)], 1)
    changes = [row(1, b"first", 6)._replace(flags=1), row(1, b"first", 8)._replace(flags=2), row(1, b"first", 7)]
    assert await mover.apply(store.MovedChanges(through=8, items=changes), 1) == []
    (found,) = await database.items(BOB)
    assert (found.modseq, found.flags) == (8, 2)
    check_sound(tmp_path / "db")


async def test_a_dead_item_never_comes_back(database: Database, mover: store.Mover, tmp_path: Path) -> None:
    gone = [store.GoneRow(b"%016d" % 1, 9)]
    await mover.apply(store.MovedChanges(through=9, items_gone=gone), 1)
    await put(mover, [moved(1, b"late", 20)], 1)
    assert await mover.apply(store.MovedChanges(through=20, items=[row(1, b"late", 21)]), 1) == []
    assert await states(database) == {}
    check_sound(tmp_path / "db")


async def test_bytes_that_are_not_those_promised_are_refused_and_the_others_taken(
    database: Database, mover: store.Mover
) -> None:
    wrong_hash = row(1, b"good", 5)._replace(content_hash=b"?" * 16), b"good"
    wrong_size = row(2, b"longer", 6), b"short"
    refused = await put(mover, [wrong_hash, wrong_size, moved(3, b"fine", 7)], 1)
    assert [(int(one.item_id), one.why) for one in refused] == [
        (1, "the bytes are not those that its hash names"),
        (2, "the bytes are not those that its hash names"),
    ]
    assert set(await states(database)) == {3}


async def test_a_uid_that_is_taken_is_refused_also_within_one_call(
    database: Database, mover: store.Mover, tmp_path: Path
) -> None:
    refused = await put(mover, [moved(1, b"a", 5, uid=7), moved(2, b"b", 6, uid=7)], 1)
    assert [int(one.item_id) for one in refused] == [2]
    swapped = [row(1, b"a", 8, uid=9), row(2, b"b", 9, uid=7)]
    assert await mover.apply(store.MovedChanges(through=9, items=swapped), 1) == [b"%016d" % 2]
    assert set(await states(database)) == {1}
    check_sound(tmp_path / "db")


async def test_a_step_that_is_refused_stops_there_and_the_steps_before_stand(
    database: Database, mover: store.Mover
) -> None:
    third = store.FolderId(b"third".ljust(16, b"."))
    with pytest.raises(store.Refused, match="already"):
        await mover.put_folders([create(third, "Third", 3), create(store.FolderId(b"x" * 16), "Other", 4)], 1)
    _, folders, _ = await database.account(BOB)
    assert [found.name for found in folders] == ["INBOX", "Other", "Third"]


async def test_folders_never_become_a_ring(database: Database, mover: store.Mover) -> None:
    inner = store.FolderId(b"inner".ljust(16, b"."))
    await mover.put_folders([create(inner, "Inner", 3, parent=OTHER_ID)], 1)
    into_itself = store.MovedFolder(store.FolderStepKind.MOVE, folder(OTHER_ID, "Other", 4, parent=inner))
    with pytest.raises(store.Refused, match="inside itself"):
        await mover.put_folders([into_itself], 1)


async def test_a_stale_token_changes_nothing(database: Database, mover: store.Mover) -> None:
    await mover.claim(5)
    before = await database.account(BOB)
    for attempt in (
        put(mover, [moved(1, b"x", 5)], 4),
        mover.apply(store.MovedChanges(through=9), 4),
        mover.put_folders([], 4),
        mover.open(4),
        mover.retire(4, "there"),
        mover.remove(4, keep_until_ms=0),
        mover.label(4, "1"),
        mover.keep(4, until_ms=0),
        mover.connect(4),
        mover.purge(4),
    ):
        with pytest.raises(store.StaleToken):
            await attempt
    assert await database.account(BOB) == before


async def test_a_purged_mailbox_leaves_nothing_but_its_tombstone(
    database: Database, mover: store.Mover, tmp_path: Path
) -> None:
    await put(mover, [moved(1, b"x", 5)], 1)
    with pytest.raises(store.Refused, match="only a soft-deleted"):
        await mover.purge(1)
    await mover.remove(1, keep_until_ms=START_MS)
    await mover.purge(1)
    await mover.purge(1)  # gone already
    assert await database.mailboxes() == []
    tables = ("item", "folder", "setting", "delivery_key")
    assert await database.read_db(lambda db: [db.execute(f"SELECT count(*) FROM {one}").get for one in tables]) == [
        0
    ] * len(tables)
    assert await database.read_db(lambda db: db.execute("SELECT id, modseq FROM tombstone").fetchall()) == [
        (mover.instance, 1)
    ]
    check_sound(tmp_path / "db")


async def test_a_soft_deleted_mailbox_is_connected_again_with_all_that_was_in_it(
    database: Database, mover: store.Mover, tmp_path: Path
) -> None:
    await put(mover, [moved(1, b"x", 5)], 1)
    await mover.label(2, '"bob"')
    await mover.retire(2, "itself")
    await mover.remove(2, keep_until_ms=START_MS)
    before = await states(database)
    _, _, settings = await database.account(BOB)
    assert settings == {store.LABEL: '"bob"'}
    for _ in range(2):
        await mover.keep(3, until_ms=START_MS + 5000)
        with pytest.raises(store.StaleToken):
            await mover.purge(2)  # of one who looked before
        with pytest.raises(store.Refused, match="kept for 5 s more"):
            await mover.purge(3)
    for _ in range(2):
        await mover.connect(3)
    info, _, settings = await database.account(BOB)
    assert (info.mode, info.token, info.home, info.keep_until_ms, settings) == (store.Mode.OPEN, 3, "", None, {})
    assert await states(database) == before
    await database.mailbox(BOB).deliver(b"new", key=b"k")
    assert len(await database.items(BOB)) == 2
    await mover.lock(4)
    with pytest.raises(store.Refused, match="not disconnected"):
        await mover.connect(5)  # of one who looked before; a move has it by now
    check_sound(tmp_path / "db")


async def test_what_was_purged_or_is_a_movers_is_not_connected(database: Database, mover: store.Mover) -> None:
    with pytest.raises(store.Refused, match="not disconnected: it is sealed"):
        await mover.connect(1)
    await mover.remove(1, keep_until_ms=START_MS)
    await mover.purge(1)
    for attempt in (mover.label(2, "1"), mover.keep(2, until_ms=START_MS + 1), mover.connect(2)):
        with pytest.raises(store.NoSuchMailbox):
            await attempt


async def test_a_mailbox_is_kept_until_its_date(database: Database, mover: store.Mover) -> None:
    await mover.remove(1, keep_until_ms=START_MS + 5000)
    with pytest.raises(store.Refused, match="kept for 5 s more"):
        await mover.purge(1)
