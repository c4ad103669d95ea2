"""Real mail through real servers: out of our store and back, and from Dovecot to Dovecot to Cyrus in every direction.

Each hop is a whole move. After it a client that is not ours reads both sides: every message is there once, byte for
byte or in the server's own form, with its flags, keywords and date, in its folder; what is not there is a bad item,
with the server's own words.

`MOVERQ_CORPUS_FULL=1` takes every message, else every `STRIDE`th.
"""

import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from moverq.endpoints.mirrored.normal_form import normal
from moverq.mailfiles import MailItem, read_mail
from moverq.model.request import Status
from moverq.root import Root, init_root, open_root
from tests.support.corpus import CORPUS, MISSING, append_to_odd_folders, real_folder_names, unpack_corpus
from tests.support.imap_servers import SERVERS
from tests.support.imap_world import Mail, Mailbox, Message

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CORPUS.exists(), reason=MISSING)]

STRIDE = 1 if os.environ.get("MOVERQ_CORPUS_FULL") == "1" else 80
ODD_FOLDERS = 75 if STRIDE == 1 else 8
"""Real folder names of each of two kinds: the most used, and those that differ only in case or blanks."""
EPOCH = "(1970, 1, 1, 0, 0, 0)"
LOCK_BUDGET_MS = 60_000
"""Not what this is about, and machines are busy."""
HOPS = ("mdbox", "maildir", "mdbox", "cyrus", "maildir", "cyrus", "mdbox")
"""Every ordered pair of different servers once."""
ADDRESS = "ada@example.com"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    unpack_corpus(folder)
    return folder


def some_of(corpus: Path, folder: Path) -> Path:
    """Every `STRIDE`th of its messages that is a file of its own, in the same folders; or all there is."""
    if STRIDE == 1:
        return corpus
    for file in sorted(corpus.rglob("*.eml"))[::STRIDE]:
        to = folder / file.relative_to(corpus)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.hardlink_to(file)
    return folder


@asynccontextmanager
async def a_full_mailbox(corpus: Path, path: Path) -> AsyncIterator[Root]:
    """In our store's `DB1`; `DB2` is empty."""
    await init_root(path / "root")
    async with open_root(path / "root") as root:
        for number in "12":
            await root.server_add(f"MBX{number}", version="2010")
            await root.database_add(f"DB{number}", server=f"MBX{number}")
        await root.mailbox_add(ADDRESS, database="DB1")
        await root.mailbox_import(ADDRESS, some_of(corpus, path / "some"))
        await append_to_odd_folders(root, ADDRESS, real_folder_names(corpus, ODD_FOLDERS))
        yield root


async def hop(root: Root, to: str) -> tuple[int, list[str]]:
    """The mailbox is there; how many bad items, and what the report says."""
    request = await root.move(
        ADDRESS,
        to=to,
        bad_item_limit=None,
        accept_large_data_loss=True,
        soak_s=0.0,
        lock_budget_ms=LOCK_BUDGET_MS,
    )
    done = await root.wait(request)
    assert done.status in (Status.COMPLETED.value, Status.COMPLETED_WITH_WARNING.value), done.message
    while (await root.move_show(request)).sync_stage != "SyncFinished":
        await root.complete(request)
        await root.wait(request)
    told = [entry.text for entry in (await root.report(request)).entries]
    return done.bad_items_encountered, told


def interesting(told: Iterable[str]) -> list[str]:
    """What the servers did to mail, for whoever runs this with -s."""
    return [text for text in told if "he server" in text or "bad item" in text]


async def a_server(root: Root, kind: str, number: int) -> Mailbox:
    name = f"{kind}{number}".upper()
    user = f"{uuid4().hex[:8]}.{number}"
    await root.server_add(f"mail-{name.lower()}", version="IMAP")
    await root.database_add(name, server=f"mail-{name.lower()}", path=SERVERS[kind]().url(user=user))
    return Mailbox(SERVERS[kind](), user, random.Random(number))


def but_for_dates_of_the_epoch(before: Mail, after: Mail) -> tuple[list["Counter[Message]"], list["Counter[Message]"]]:
    """Cyrus takes 1970-01-01 00:00:00 for no date, and says now; the mirror has it, and so has the next server."""
    undated = {digest for mail in (before, after) for f in mail.values() for digest, _, at in f if at == EPOCH}

    def without(mail: Mail) -> list["Counter[Message]"]:
        return [
            Counter((digest, flags, "" if digest in undated else at) for digest, flags, at in folder.elements())
            for folder in mail.values()
        ]

    return without(before), without(after)


def lost(before: Iterable["Counter[Message]"], after: Iterable["Counter[Message]"]) -> "Counter[Message]":
    """Folders are told by what they hold, as a server may call them otherwise. Nothing came, and what is gone."""
    left = [folder for folder in after if folder]
    gone: Counter[Message] = Counter()
    for folder in sorted(filter(None, before), key=lambda folder: -folder.total()):
        at = max(left, key=lambda other: (other & folder).total() - (other - folder).total(), default=Counter())
        if not at & folder:
            gone += folder
            continue
        left.remove(at)
        assert not at - folder, (
            f"came from nowhere: {list((at - folder).elements())[:3]}, gone: {list((folder - at).elements())[:3]}"
        )
        gone += folder - at
    assert not left, left
    return gone


async def test_from_server_to_server_in_every_direction(corpus: Path, tmp_path: Path) -> None:
    async with a_full_mailbox(corpus, tmp_path) as root:
        servers = [await a_server(root, kind, number) for number, kind in enumerate(HOPS)]
        assert (await hop(root, f"{HOPS[0]}0".upper()))[0] == 0
        for old, new in pairwise(servers):
            number = servers.index(new)
            before = await trio.to_thread.run_sync(old.mail, normal)
            bad, told = await hop(root, f"{HOPS[number]}{number}".upper())
            after = await trio.to_thread.run_sync(new.mail, normal)
            gone = lost(*but_for_dates_of_the_epoch(before, after))
            print(HOPS[number - 1], HOPS[number], sum(map(Counter.total, after.values())), bad, interesting(told))
            assert gone.total() == bad, list(gone)[:3]
            if HOPS[number] != "cyrus":
                assert bad == 0


@pytest.mark.parametrize("kind", sorted(SERVERS))
async def test_out_of_our_store_and_back(kind: str, corpus: Path, tmp_path: Path) -> None:
    def exported(path: Path) -> "Counter[tuple[tuple[str, ...], bytes, int, tuple[str, ...], int]]":
        items = [item for item in read_mail(path) if isinstance(item, MailItem)]
        return Counter(
            (item.folder, normal(item.content), item.flags, item.keywords, item.received_ms // 1000) for item in items
        )

    async with a_full_mailbox(corpus, tmp_path) as root:
        await root.mailbox_export(ADDRESS, tmp_path / "before", form="eml")
        mailbox = await a_server(root, kind, 1)
        bad, told = await hop(root, f"{kind}1".upper())
        print(kind, bad, interesting(told))
        assert (await hop(root, "DB2"))[0] == 0
        await root.mailbox_export(ADDRESS, tmp_path / "after", form="eml")
        mailbox.close()
    before, after = exported(tmp_path / "before"), exported(tmp_path / "after")
    gone, came = before - after, after - before
    assert gone.total() - came.total() == bad
