"""What only Cyrus has among the servers here: folders below INBOX, OBJECTID, special uses that a client may set."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from moverq.model.request import Status
from moverq.root import Root, init_root, open_root
from tests.support.cyrus import Cyrus, shared_cyrus, start_cyrus
from tests.support.dovecot import shared_dovecot
from tests.support.imap_servers import ImapServer
from tests.support.imap_world import Mailbox

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def below_inbox() -> Iterator[Cyrus]:
    """Its personal namespace is `INBOX/`."""
    server = start_cyrus(alternate=False)
    yield server
    server.stop()


def special_uses(mailbox: Mailbox) -> dict[str, str]:
    found = {}
    for line in mailbox.client.list()[1]:
        assert isinstance(line, bytes)
        attributes, _, name = line.decode().rpartition(' "/" ')
        for word in attributes.strip("()").split():
            if word in ("\\Sent", "\\Drafts"):
                found[name] = word
    return found


@asynccontextmanager
async def a_site(
    path: Path, old_server: ImapServer, new_server: ImapServer
) -> AsyncIterator[tuple[Root, str, Mailbox, Mailbox]]:
    address = f"{uuid4().hex[:12]}@example.com"
    with (
        closing(Mailbox(old_server, f"{address}.old", random.Random(1))) as old,
        closing(Mailbox(new_server, f"{address}.new", random.Random(2))) as new,
    ):
        await init_root(path / "root")
        async with open_root(path / "root") as root:
            for name, mailbox in (("OLD", old), ("NEW", new)):
                await root.server_add(f"mail-{name.lower()}", version="IMAP")
                url = mailbox.server.url(user="{address}." + name.lower())
                await root.database_add(name, server=f"mail-{name.lower()}", path=url)
            await root.mailbox_add(address, database="OLD")
            with trio.fail_after(60):
                yield root, address, old, new


async def test_folders_below_inbox_and_their_special_uses_go_there_and_back(below_inbox: Cyrus, tmp_path: Path) -> None:
    """The personal namespace's prefix is no folder: what is below INBOX there is beside it here."""
    async with a_site(tmp_path, below_inbox, shared_cyrus()) as (root, address, old, new):
        for name, use in (("INBOX/Sent", "\\Sent"), ("INBOX/Geschickt", "\\Drafts"), ("INBOX/Geschickt/2020", "")):
            status, _ = old.client._simple_command("CREATE", f'"{name}"', *([f"(USE ({use}))"] if use else []))
            assert status == "OK"
        for name in ("INBOX", "INBOX/Sent", "INBOX/Geschickt/2020"):
            for _ in range(3):
                old.add(name)
        before = old.mail()
        done = await root.wait(await root.move(address, to="NEW"))
        assert done.status == Status.COMPLETED.value, done.message
        assert new.mail() == {name.removeprefix("INBOX/"): mail for name, mail in before.items()}
        assert special_uses(new) == {"Sent": "\\Sent", "Geschickt": "\\Drafts"}
        new.add("Sent")
        new.rename("Geschickt/2020", "2020")
        done = await root.wait(await root.rollback(address))
        assert done.status == Status.COMPLETED.value, done.message
        after = old.mail()
        assert after.keys() == {"INBOX", "INBOX/Sent", "INBOX/Geschickt", "INBOX/2020"}
        assert {name.removeprefix("INBOX/"): mail for name, mail in after.items()} == new.mail()


async def test_folders_that_change_names_are_told_by_their_object_ids(tmp_path: Path) -> None:
    """Folders made in one second have one UIDVALIDITY, so neither name nor UIDVALIDITY says which is which."""
    async with a_site(tmp_path, shared_cyrus(), shared_dovecot("mdbox")) as (root, address, old, new):
        old.fill(0, folders=("One", "Two", "Three"))
        for name in ("One", "Two", "Three"):
            old.add(name, b"Subject: in %s\r\n\r\n" % name.encode() + b"x" * 100_000)
        request = await root.move(address, to="NEW", suspend_when_ready_to_complete=True)
        seeded = await root.wait(request)
        for source, target in (("One", "T"), ("Two", "One"), ("Three", "Two"), ("T", "Three")):
            old.rename(source, target)
        await root.complete(request)
        done = await root.wait(request)
        assert done.status == Status.COMPLETED.value, done.message
        assert new.mail() == old.mail()
        assert done.bytes_transferred == seeded.bytes_transferred


async def test_a_special_use_that_may_not_stand_at_its_place_keeps_no_folder_from_it(tmp_path: Path) -> None:
    """Our store lets `Sent` be anywhere; Cyrus, while it is the folder of sent mail, only at the top."""
    async with a_site(tmp_path, shared_dovecot("mdbox"), shared_cyrus()) as (root, _, _, new):
        await root.server_add("EX", version="2010")
        await root.database_add("DB", server="EX")
        address = new.user.removesuffix(".new").replace("@", "2@")
        new.user = f"{address}.new"
        await root.mailbox_add(address, database="DB")
        mailbox = (await root.session(address).place()).mailbox
        sent = await mailbox.create_folder(None, "Sent", special_use="\\Sent")
        kept = await mailbox.create_folder(None, "Kept")
        request = await root.move(address, to="NEW", suspend_when_ready_to_complete=True)
        await root.wait(request)
        assert special_uses(new) == {"Sent": "\\Sent"}
        await mailbox.move_folder(sent, kept, "Sent")
        await root.complete(request)
        done = await root.wait(request)
        assert done.status == Status.COMPLETED_WITH_WARNING.value, done.message
        assert new.mail().keys() == {"INBOX", "Kept", "Kept/Sent"}
