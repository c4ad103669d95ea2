"""Random verbs on two handles of one database, against a model made of dicts, with reopening in between.

At the end, and at each reopening: contents, flags, folders and sums agree, and the log alone says the same.
"""

import random
from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import pytest

import store
from store.database import Database
from tests.support.crashing_disk import QuickDisk
from tests.support.store_world import ALICE, START_MS, Clock, check_sound, make_mailbox, opened

NAMES = ("Work", "work", "Work ", "Play", "ä", "INBOX")


@attrs.define
class ModelItem:
    folder: store.FolderId
    content: bytes
    flags: int
    keywords: frozenset[str]


@attrs.define
class Model:
    """What a mailbox holds, as the verbs' docstrings say it."""

    inbox: store.FolderId
    items: dict[store.ItemId, ModelItem] = attrs.Factory(dict)
    folders: dict[store.FolderId, tuple[bytes, str]] = attrs.Factory(dict)
    settings: dict[str, str] = attrs.Factory(dict)
    delivered: set[tuple[bytes, bytes]] = attrs.Factory(set)
    hidden: store.FolderId | None = None
    uids: dict[store.FolderId, int] = attrs.Factory(dict)


async def check(database: Database, model: Model) -> None:
    _, folders, settings = await database.account(ALICE)
    found = {folder.folder_id: (folder.parent_id, folder.name) for folder in folders if not folder.hidden}
    assert found == model.folders
    assert settings == model.settings
    items: dict[store.ItemId, ModelItem] = {}
    for folder in folders:
        rows = await database.folder_items(ALICE, folder.folder_id, limit=1 << 30)
        assert folder.items == len(rows)
        done = 0
        while done < len(rows):
            for one in await database.fetch(ALICE, rows[done:]):
                assert one.content is not None
                done += 1
                items[one.row.item_id] = ModelItem(
                    folder.folder_id, one.content, one.row.flags, frozenset(one.row.keywords)
                )
    assert items == model.items


class Player:
    """Plays one random verb after another on either handle, and tells the model."""

    def __init__(self, rng: random.Random, model: Model) -> None:
        self.rng = rng
        self.model = model
        self.verbs = [
            *[self.append, self.deliver, self.flag, self.move, self.copy, self.delete] * 3,
            *[self.purge, self.create_folder, self.move_folder, self.delete_folder, self.setting],
        ]

    async def play(self, database: Database) -> None:
        await self.rng.choice(self.verbs)(database.mailbox(ALICE), database)

    def _some(self) -> list[store.ItemId]:
        """Items, some of them twice or unknown."""
        known = list(self.model.items)
        chosen = self.rng.choices(known, k=self.rng.randint(0, 4)) if known else []
        return [*chosen, store.ItemId(self.rng.randbytes(16))] if self.rng.random() < 0.2 else chosen

    def _folder(self) -> store.FolderId:
        return self.rng.choice(list(self.model.folders))

    def _live(self, chosen: list[store.ItemId]) -> list[store.ItemId]:
        return [item for item in dict.fromkeys(chosen) if item in self.model.items]

    async def append(self, mailbox: store.Mailbox, database: Database) -> None:
        folder = self._folder()
        contents = [self.rng.randbytes(self.rng.choice((0, 10, 1000))) for _ in range(self.rng.randint(1, 4))]
        flags = self.rng.randrange(4)
        items = [store.NewItem(content=one, received_ms=START_MS, flags=flags) for one in contents]
        for added, content in zip(await mailbox.append(folder, items), contents, strict=True):
            assert added.item_id is not None
            assert added.uid > self.model.uids.get(folder, 0)
            self.model.uids[folder] = added.uid
            self.model.items[added.item_id] = ModelItem(folder, content, flags, frozenset())

    async def deliver(self, mailbox: store.Mailbox, database: Database) -> None:
        key, content = b"%d" % self.rng.randrange(20), b"%d" % self.rng.randrange(3)
        added = await mailbox.deliver(content, key=key)
        assert added.duplicate == ((key, content) in self.model.delivered)
        self.model.delivered.add((key, content))
        if added.item_id is not None:
            self.model.items[added.item_id] = ModelItem(self.model.inbox, content, 0, frozenset())

    async def flag(self, mailbox: store.Mailbox, database: Database) -> None:
        chosen, add, remove = self._some(), self.rng.randrange(8), self.rng.randrange(8)
        words = self.rng.sample(("a", "b", "c"), 2)
        await mailbox.change_flags(chosen, add=add, remove=remove, add_keywords=words[:1], remove_keywords=words[1:])
        for item in self._live(chosen):
            old = self.model.items[item]
            keywords = (old.keywords | {words[0]}) - {words[1]}
            self.model.items[item] = attrs.evolve(old, flags=(old.flags | add) & ~remove, keywords=keywords)

    async def move(self, mailbox: store.Mailbox, database: Database) -> None:
        chosen, folder = self._some(), self._folder()
        await mailbox.move(chosen, folder)
        for item in self._live(chosen):
            self.model.items[item].folder = folder

    async def copy(self, mailbox: store.Mailbox, database: Database) -> None:
        chosen, folder = self._some(), self._folder()
        for added, item in zip(await mailbox.copy(chosen, folder), self._live(chosen), strict=True):
            assert added.item_id is not None
            self.model.items[added.item_id] = attrs.evolve(self.model.items[item], folder=folder)

    async def _hidden(self, database: Database) -> store.FolderId:
        _, folders, _ = await database.account(ALICE)
        (hidden,) = [folder.folder_id for folder in folders if folder.hidden]
        return hidden

    async def delete(self, mailbox: store.Mailbox, database: Database) -> None:
        chosen = self._some()
        await mailbox.delete(chosen)
        live = self._live(chosen)
        if not live:
            return
        hidden = await self._hidden(database)
        for item in live:
            if self.model.items[item].folder == hidden:
                del self.model.items[item]
            else:
                self.model.items[item].folder = hidden

    async def purge(self, mailbox: store.Mailbox, database: Database) -> None:
        chosen = self._some()
        assert await mailbox.purge(chosen) == len(self._live(chosen))
        for item in self._live(chosen):
            del self.model.items[item]

    async def create_folder(self, mailbox: store.Mailbox, database: Database) -> None:
        parent = self._folder() if self.rng.random() < 0.5 else None
        name = self.rng.choice(NAMES)
        try:
            folder = await mailbox.create_folder(parent, name)
        except store.Refused:
            assert (parent or b"", name) in self.model.folders.values()
        else:
            assert (parent or b"", name) not in self.model.folders.values()
            self.model.folders[folder] = (parent or b"", name)

    def _is_inside(self, folder: bytes, top: bytes) -> bool:
        while folder:
            if folder == top:
                return True
            folder = self.model.folders[store.FolderId(folder)][0]
        return False

    async def move_folder(self, mailbox: store.Mailbox, database: Database) -> None:
        folder, parent = self._folder(), self._folder() if self.rng.random() < 0.5 else None
        place = (parent or b"", self.rng.choice(NAMES))
        refused = (
            folder == self.model.inbox
            or self._is_inside(place[0], folder)
            or place == (b"", "INBOX")
            or any(other == place for at, other in self.model.folders.items() if at != folder)
        )
        try:
            await mailbox.move_folder(folder, parent, place[1])
        except store.Refused:
            assert refused
        else:
            assert not refused
            self.model.folders[folder] = place

    async def delete_folder(self, mailbox: store.Mailbox, database: Database) -> None:
        folder = self._folder()
        refused = folder == self.model.inbox or any(parent == folder for parent, _ in self.model.folders.values())
        try:
            await mailbox.delete_folder(folder)
        except store.Refused:
            assert refused
            return
        assert not refused
        del self.model.folders[folder]
        held = [item for item in self.model.items.values() if item.folder == folder]
        if held:
            hidden = await self._hidden(database)
            for item in held:
                item.folder = hidden

    async def setting(self, mailbox: store.Mailbox, database: Database) -> None:
        name, value = self.rng.choice(("x-a", "x-b")), self.rng.choice((None, 1, 2))
        await mailbox.set_setting(name, value)
        self.model.settings.pop(name, None)
        if value is not None:
            self.model.settings[name] = str(value)


@pytest.mark.parametrize("seed", range(10))
async def test_random_verbs_on_two_handles_agree_with_the_model(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.log.log.GENERATION_BYTES_MAX", 16_384)
    monkeypatch.setattr("store.log.log.GENERATION_GROW_BYTES", 4096)
    monkeypatch.setattr("store.content.pool.SEGMENT_BYTES_MAX", 8192)
    rng, path, clock = random.Random(seed), tmp_path / "db", Clock()
    async with opened(path, disk=QuickDisk()) as database:
        await make_mailbox(database)
        _, (inbox,), _ = await database.account(ALICE)
    model = Model(inbox.folder_id, folders={inbox.folder_id: (b"", "INBOX")})
    player = Player(rng, model)
    for _ in range(4):
        async with AsyncExitStack() as stack:
            handles = [await stack.enter_async_context(opened(path, disk=QuickDisk(), clock=clock)) for _ in range(2)]
            for _ in range(100):
                clock.now_ms += rng.randrange(-1000, 2000)
                await player.play(rng.choice(handles))
            for handle in handles:
                await check(handle, model)
            if rng.random() < 0.7:
                await handles[0].maintain()
                await check(handles[1], model)
        check_sound(path)
