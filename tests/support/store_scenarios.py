"""What the crash tests stop everywhere: scenarios of steps, each one acknowledged call, and what a client sees.

A step is one transaction, or none that a client sees (upkeep). The clock stands still and ids are left out of a
snapshot, so two runs show the same after each step, change numbers included.
"""

import shutil
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

import store
from store import retention
from store.catalogue.schema import _connect, open_catalogue
from store.database import Database
from store.disk import Disk
from store.ids import ContentRef
from store.layout import Layout
from store.records import ItemRow
from tests.support.crashing_disk import PowerLoss
from tests.support.store_world import ALICE, BOB, START_MS, Clock, folder_named, inbox_of, make_mailbox, opened

Step = Callable[[Database], Awaitable[object]]
Snapshot = Any


@attrs.frozen
class Scenario:
    """Steps, and the bounds under which they reach what they are about."""

    name: str
    steps: tuple[Step, ...]
    limits: dict[str, int] = attrs.Factory(dict)

    def __str__(self) -> str:
        return self.name

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"store.log.log.GENERATION_GROW_BYTES": 2048, **self.limits}.items():
            monkeypatch.setattr(name, value)


# ---- what a client sees


async def snapshot(database: Database) -> Snapshot:
    """Everything, but for ids and places."""
    return [
        [info.instance, info.mode.name, info.token, info.home, info.head, await _account(database, info.instance)]
        for info in await database.mailboxes()
    ]


async def _account(database: Database, instance: store.InstanceId) -> Snapshot:
    _, folders, _ = await database.account(instance)
    names = {folder.folder_id.hex(): folder.name for folder in folders} | {"": ""}
    shown = []
    for folder in sorted(folders, key=lambda folder: folder.modseq):
        rows = await database.folder_items(instance, folder.folder_id)
        fetched = await database.fetch(instance, rows) if rows else []
        assert [one.damage for one in fetched] == [None] * len(fetched)
        items = [
            (
                one.row.uid,
                one.row.modseq,
                one.row.flags,
                one.row.keywords,
                tuple((name, names.get(value, value)) for name, value in one.row.properties),
                one.content,
            )
            for one in fetched
        ]
        place = (names[folder.parent_id.hex()], folder.name, folder.uidvalidity, folder.uidnext, folder.modseq)
        shown.append((*place, folder.subscribed, folder.attributes, items))
    horizon = (await database.info(instance)).horizon
    page = await database.feed(instance, after=horizon)
    gone = [row.modseq for row in page.items_gone]
    keys = [(row.key, row.modseq) for row in await database.delivery_keys(instance)]
    return shown, await database.setting_states(instance), gone, keys


# ---- running


async def make_template(path: Path) -> None:
    """A database with Alice's mailbox: INBOX with two items, and a folder."""
    async with opened(path) as database:
        mailbox = await make_mailbox(database)
        await mailbox.append(
            await inbox_of(database),
            [store.NewItem(content=b"first", received_ms=1), store.NewItem(content=b"second" * 300, received_ms=2)],
        )
        await mailbox.create_folder(None, "Work")


def copy_template(template: Path, path: Path) -> Path:
    if path.exists():
        shutil.rmtree(path)
    shutil.copytree(template, path)
    return path


async def run(
    path: Path, disk: Disk, scenario: Scenario, done: list[Snapshot], *, start: int = 0, look: bool = True
) -> None:
    """Take the steps from `start` on; after each one `done` has grown by what is there (`look`) or by None."""
    async with opened(path, disk=disk, clock=Clock()) as database:
        for step in scenario.steps[start:]:
            await step(database)
            done.append(await snapshot(database) if look else None)


async def until_power_loss(work: Awaitable[None]) -> bool:
    """Has it run through? What ended it otherwise was the disk, or an error that followed from that."""
    ran_through = True
    try:
        await work
    except* (PowerLoss, store.StoreBroken, store.StoreClosed) as ended:
        if ended.subgroup(PowerLoss) is None:
            raise
        ran_through = False
    return ran_through


def keep_catalogue(path: Path, copy: Path) -> None:
    """A copy of the catalogue as it is now."""
    copy.unlink(missing_ok=True)
    with closing(open_catalogue(Layout(path).catalogue)) as db:
        db.execute("VACUUM INTO ?", (str(copy),))


def put_catalogue_back(copy: Path, path: Path) -> None:
    """The catalogue has lost every commit since the copy was made, as after power loss."""
    catalogue = Layout(path).catalogue
    for suffix in ("-wal", "-shm", ""):
        Path(f"{catalogue}{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, catalogue)
    with closing(_connect(catalogue, create=False)) as db:
        db.execute("PRAGMA journal_mode=WAL")


# ---- steps


async def _ids(database: Database, folder: str = store.INBOX) -> list[store.ItemId]:
    found = await folder_named(database, folder)
    return [row.item_id for row in await database.folder_items(ALICE, found.folder_id)]


def deliver(number: int, size: int = 20) -> Step:
    async def step(database: Database) -> None:
        await database.mailbox(ALICE).deliver(b"mail %d " % number * size, key=b"key %d" % number)

    return step


def append(*contents: bytes) -> Step:
    async def step(database: Database) -> None:
        items = [store.NewItem(content=content, received_ms=START_MS) for content in contents]
        await database.mailbox(ALICE).append(await inbox_of(database), items)

    return step


async def flag(database: Database) -> None:
    await database.mailbox(ALICE).change_flags((await _ids(database))[:1], add=1, add_keywords=["$Seen"])


async def move(database: Database) -> None:
    work = await folder_named(database, "Work")
    await database.mailbox(ALICE).move((await _ids(database))[:1], work.folder_id)


async def delete(database: Database) -> None:
    await database.mailbox(ALICE).delete((await _ids(database))[:1])


async def purge(database: Database) -> None:
    await database.mailbox(ALICE).purge((await _ids(database))[:1])


async def create_folder(database: Database) -> None:
    await database.mailbox(ALICE).create_folder(None, "New", attributes={"a": "1"})


async def move_folder(database: Database) -> None:
    parent, folder = await folder_named(database, "Work"), await folder_named(database, "New")
    await database.mailbox(ALICE).move_folder(folder.folder_id, parent.folder_id, "Newer")


async def delete_folder(database: Database) -> None:
    await database.mailbox(ALICE).delete_folder((await folder_named(database, "Newer")).folder_id)


async def set_setting(database: Database) -> None:
    await database.mailbox(ALICE).set_setting("retention_days", 30)


async def make_bob(database: Database) -> None:
    await database.mover(BOB).create(store.MailboxId(b"bob's"), 1)


def _put(name: str, number: int) -> store.MovedFolder:
    folder_id = store.FolderId(name.encode().ljust(16, b"."))
    put = store.FolderPut(BOB, folder_id, b"", name, number, 77 + number, 1, "", True, False, ())
    return store.MovedFolder(store.FolderStepKind.CREATE, put)


async def put_folders(database: Database) -> None:
    await database.mover(BOB).put_folders([_put("INBOX", 3), _put("Other", 4)], 1)


def _row(number: int, content: bytes, modseq: int) -> ItemRow:
    ref = ContentRef(0, 0, len(content), b"")
    return ItemRow(
        store.ItemId(b"item %d" % number + b"." * 10),
        store.FolderId(b"INBOX".ljust(16, b".")),
        number,
        modseq,
        START_MS,
        ref.size,
        ref.content_hash,
        0,
        0,
        0,
        (),
        "IPM.Note",
        (),
    )


async def put_items(database: Database) -> None:
    contents = [b"moved %d" % number * 90 for number in range(3)]
    rows = [_row(number + 1, content, 10 + number) for number, content in enumerate(contents)]
    await database.mover(BOB).put_items(rows, contents, 1)


async def apply_changes(database: Database) -> None:
    changed = _row(1, b"moved 0" * 90, 20)._replace(flags=5)
    changes = store.MovedChanges(
        through=30,
        items=[changed],
        items_gone=[store.GoneRow(b"item 2" + b"." * 10, 21)],
        settings=[("x-a", "1", 22)],
        delivery_keys=[store.DeliveryKeyRow(b"k", b"d" * 32, START_MS, 23)],
    )
    await database.mover(BOB).apply(changes, 1)


async def open_bob(database: Database) -> None:
    await database.mover(BOB).open(2)


async def lock(database: Database) -> None:
    await database.mover(ALICE).lock(3)


async def unlock(database: Database) -> None:
    await database.mover(ALICE).unlock(3)


async def retire(database: Database) -> None:
    await database.mover(ALICE).retire(4, "there")


async def label(database: Database) -> None:
    await database.mover(ALICE).label(5, '"alice"')


async def retire_again(database: Database) -> None:
    await database.mover(ALICE).retire(5, "itself")


async def soft_delete(database: Database) -> None:
    await database.mover(ALICE).remove(5, keep_until_ms=START_MS + 1)


async def keep(database: Database) -> None:
    await database.mover(ALICE).keep(6, until_ms=START_MS + 2)


async def connect(database: Database) -> None:
    await database.mover(ALICE).connect(6)


async def checkpoint(database: Database) -> None:
    await database.checkpoint()


async def drop_segments(database: Database) -> None:
    await retention.drop_segments(database._committer, database.read_db, database._disk, database._layout)


SMALL_GENERATIONS = {"store.log.log.GENERATION_BYTES_MAX": 3072}
SMALL_SEGMENTS = {"store.content.pool.SEGMENT_BYTES_MAX": 1024}

SCENARIOS = (
    Scenario("deliveries", (deliver(1), deliver(2), deliver(1), deliver(3, size=900))),
    Scenario("appends", (append(b"a", b"b" * 3000, b""), append(*(b"%d" % number for number in range(20))))),
    Scenario("item verbs", (flag, move, delete, purge)),
    Scenario("folder verbs", (create_folder, move_folder, set_setting, delete_folder)),
    Scenario("a move's target", (make_bob, put_folders, put_items, put_items, apply_changes, open_bob)),
    Scenario("folded", (deliver(1), deliver(2), deliver(1), flag, delete), {"store.folding.FOLD_PAGES": 1}),
    Scenario("the guard", (lock, unlock, deliver(1), retire)),
    Scenario("connecting", (deliver(1), label, retire_again, soft_delete, keep, connect, deliver(2))),
    Scenario("generations roll", tuple(deliver(number) for number in range(6)), SMALL_GENERATIONS),
    Scenario("segments roll", tuple(deliver(number, size=200) for number in range(4)), SMALL_SEGMENTS),
    Scenario(
        "checkpoints and trimming",
        (deliver(1), deliver(2), checkpoint, deliver(3), deliver(4), checkpoint, deliver(5), checkpoint, flag),
        SMALL_GENERATIONS,
    ),
    Scenario(
        "dropped segments",
        (deliver(1, size=200), purge, purge, deliver(2, size=200), purge, drop_segments, deliver(3), drop_segments),
        SMALL_SEGMENTS,
    ),
)
