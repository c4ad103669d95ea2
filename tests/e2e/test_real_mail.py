"""Real mail, all of it: imported, moved online while it is used, exported; every byte, flag, date and folder is there.

The corpus lies beside the project (`../shared/corpus/mail.tar.xz`), never in it. It has NULs, bare CRs, 200 kB headers,
missing and repeated Message-IDs, and real folder names, some of which differ only in case or in a trailing space.
"""

import hashlib
import itertools
import random
from collections import Counter
from pathlib import Path

import attrs
import pytest
import trio

import store
from moverq.mailfiles import MailItem, read_mail
from moverq.root import Root, init_root, open_root
from moverq.session import Session
from tests.support.corpus import CORPUS, MISSING, append_to_odd_folders, real_folder_names, unpack_corpus

ADDRESS = "ada@example.com"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CORPUS.exists(), reason=MISSING),
]

Seen = tuple[tuple[str, ...], bytes, int, tuple[str, ...], int]
"""What a user sees of an item: folder path, SHA-256, flags, keywords, received date."""


def seen_in_file(item: MailItem) -> Seen:
    return item.folder, hashlib.sha256(item.content).digest(), item.flags, item.keywords, item.received_ms


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    unpack_corpus(folder)
    return folder


async def everything(root: Root) -> dict[bytes, Seen]:
    """The mailbox at its home, item by item."""
    place = await root.session(ADDRESS).place()
    instance = place.mailbox.instance
    _, folders, _ = await place.database.account(instance)
    by_id = {folder.folder_id: folder for folder in folders}

    def path(folder: store.FolderInfo) -> tuple[str, ...]:
        above = path(by_id[store.FolderId(folder.parent_id)]) if folder.parent_id else ()
        return (*above, folder.name)

    found: dict[bytes, Seen] = {}
    after: bytes | None = b""
    while after is not None:
        page = await place.database.page(instance, after=after, limit=500, bytes_max=1 << 26)
        after = page.following
        for item in page.items:
            assert item.content is not None
            row = item.row
            digest = hashlib.sha256(item.content).digest()
            found[row.item_id] = path(by_id[row.folder_id]), digest, row.flags, row.keywords, row.received_ms
    return found


@attrs.define(eq=False)
class User:
    """Changes the mailbox while it moves, and keeps account of what was acknowledged."""

    session: Session
    items: dict[bytes, Seen]
    random: random.Random
    acts: int = 0

    async def work(self) -> None:
        for number in itertools.count():
            await self._deliver(number)
            await self._flag()
            if number % 3 == 0:
                await self._purge()
            self.acts += 1
            await trio.sleep(0.002)

    async def _deliver(self, number: int) -> None:
        content = b"Subject: while it moves, %d\r\n\r\n\0\r" % number
        with trio.CancelScope(shield=True):  # what is begun is acknowledged, so that the account is exact
            added = await self.session.use(
                lambda place: place.mailbox.deliver(content, key=b"%d" % number, received_ms=number)
            )
            assert added.item_id is not None
            self.items[added.item_id] = ("INBOX",), hashlib.sha256(content).digest(), 0, (), number

    async def _flag(self) -> None:
        item_id = self.random.choice(list(self.items))
        flags, keywords = self.random.randrange(32), tuple(sorted(self.random.sample(["$Work", "$Junk", "later"], 2)))
        with trio.CancelScope(shield=True):
            await self.session.use(lambda place: place.mailbox.set_flags([store.ItemId(item_id)], flags, keywords))
            folder, digest, _, _, received_ms = self.items[item_id]
            self.items[item_id] = folder, digest, flags, keywords, received_ms

    async def _purge(self) -> None:
        item_id = self.random.choice(list(self.items))
        with trio.CancelScope(shield=True):
            await self.session.use(lambda place: place.mailbox.purge([store.ItemId(item_id)]))
            del self.items[item_id]


async def test_all_of_it_survives_import_a_move_under_load_and_export(corpus: Path, tmp_path: Path) -> None:
    await init_root(tmp_path / "root")
    async with open_root(tmp_path / "root") as root:
        for number in "12":
            await root.server_add(f"MBX{number}", version="2010")
            await root.database_add(f"DB{number}", server=f"MBX{number}")
        await root.mailbox_add(ADDRESS, database="DB1")
        imported = await root.mailbox_import(ADDRESS, corpus)
        await append_to_odd_folders(root, ADDRESS, real_folder_names(corpus, 150))

        files = Counter(seen_in_file(item) for item in read_mail(corpus) if isinstance(item, MailItem))
        assert imported.items == files.total() > 16_000
        items = await everything(root)
        assert not files - Counter(items.values()), "a message did not come in as it lay in its file"

        user = User(root.session(ADDRESS), items, random.Random(7))
        async with trio.open_nursery() as nursery:  # the user, until the move is over
            nursery.start_soon(user.work)
            request = await root.move(ADDRESS, to="DB2")
            done = await root.wait(request)
            nursery.cancel_scope.cancel()
        assert (done.status, done.bad_items_encountered) == ("Completed", 0)
        assert done.digest_source == done.digest_target == done.digest_ledger
        assert user.acts > 10
        assert user.session.moves_seen == 1
        moved = await everything(root)
        assert moved == user.items

        for form in ("maildir", "eml"):
            await root.mailbox_export(ADDRESS, tmp_path / form, form=form)
            back = Counter(seen_in_file(item) for item in read_mail(tmp_path / form) if isinstance(item, MailItem))
            wanted = Counter(moved.values())
            if form == "maildir":  # the date is a file's time, in seconds
                back, wanted = to_the_second(back), to_the_second(wanted)
            assert not wanted - back, f"{form}: lost {list((wanted - back).elements())[:3]}"
            assert not back - wanted, f"{form}: more than there is"


def to_the_second(items: Counter[Seen]) -> Counter[Seen]:
    return Counter(
        (folder, digest, flags, keywords, received_ms // 1000)
        for folder, digest, flags, keywords, received_ms in items.elements()
    )
