"""Import and export by root, among files of users: what Alice may not read or write herself, nobody does for her,
whatever links she makes and whenever she changes them."""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from moverq import Root, init_root, open_root
from moverq.errors import EndpointBroken, RequestRefused
from moverq.mailbox_files import Imported, import_mail
from moverq.mailfiles import MailItem
from tests.support.homes import ALICE, BOB, belongs, link, two_homes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do what a user may not")

ADDRESS = "alice@example.org"
OWN = b"From: a@example.org\r\nSubject: own\r\n\r\n"
SECRET = b"From: b@example.org\r\nSubject: secret\r\n\r\nof Bob's\r\n"


@pytest.fixture
def homes() -> Iterator[Path]:
    """With a Maildir of Alice's, which has a message, and one of Bob's, which is nobody else's to read."""
    with two_homes() as path:
        for name, uid, content in (("alice", ALICE, OWN), ("bob", BOB, SECRET)):
            put(path / name / "mail" / "cur" / "1.x:2,", content)
            belongs(path / name / "mail", uid)
        yield path


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Root]:
    await init_root(tmp_path / "root")
    async with open_root(tmp_path / "root") as opened:
        await opened.server_add("EX1", version="2010")
        await opened.database_add("DB1", server="EX1")
        await opened.mailbox_add(ADDRESS, database="DB1")
        yield opened


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def contents(root: Root) -> list[bytes]:
    """Of the mailbox."""
    place = await root.session(ADDRESS).place()
    page = await place.database.page(place.mailbox.instance, after=b"", limit=100)
    return sorted(item.content or b"" for item in page.items)


def a_hard_link(homes: Path) -> Path:
    os.link(homes / "bob/mail/cur/1.x:2,", homes / "alice/mail/cur/2.x:2,")
    return homes / "alice/mail"


def a_hard_link_by_itself(homes: Path) -> Path:
    os.link(homes / "bob/mail/cur/1.x:2,", homes / "alice/mail.eml")
    (homes / "bob/mail/cur").chmod(0o755)
    return homes / "alice/mail.eml"


def a_folder_that_is_a_link(homes: Path) -> Path:
    link(homes / "alice/mail/new", homes / "bob/mail/cur")
    return homes / "alice/mail"


def a_maildir_that_is_a_link(homes: Path) -> Path:
    link(homes / "alice/moved", homes / "bob/mail")
    return homes / "alice/moved"


def a_link_on_the_way(homes: Path) -> Path:
    link(homes / "alice/home", homes / "bob")
    return homes / "alice/home/mail"


def a_message_that_is_a_link(homes: Path) -> Path:
    link(homes / "alice/mail.eml", homes / "bob/mail/cur/1.x:2,")
    return homes / "alice/mail.eml"


@pytest.mark.parametrize(
    "make",
    [
        a_hard_link,
        a_hard_link_by_itself,
        a_folder_that_is_a_link,
        a_maildir_that_is_a_link,
        a_link_on_the_way,
        a_message_that_is_a_link,
    ],
)
async def test_no_message_of_bobs_is_imported_by_a_link_of_hers(
    root: Root, homes: Path, make: Callable[[Path], Path]
) -> None:
    done = Imported()
    try:
        await root.mailbox_import(ADDRESS, make(homes), done=done)
    except EndpointBroken as error:
        assert f"Permission denied to uid {ALICE}" in str(error)  # noqa: PT017 (a refusal in whole will do, too)
    else:
        assert [one.why for one in done.refused if one.may_be_mail]
    assert SECRET not in await contents(root)


async def test_what_she_may_read_is_imported_by_links_too(root: Root, homes: Path) -> None:
    shutil.move(homes / "alice/mail", homes / "alice/disk")
    link(homes / "alice/mail", "disk")
    shutil.move(homes / "alice/disk/cur/1.x:2,", homes / "alice/disk/own")
    link(homes / "alice/disk/cur/1.x:2,", "../own")
    done = await root.mailbox_import(ADDRESS, homes / "alice/mail")
    assert OWN in await contents(root)
    assert done.refused == []


async def test_a_maildir_in_a_folder_of_roots_is_whose_its_cur_is(root: Root, homes: Path) -> None:
    os.chown(a_hard_link(homes), 0, 0)
    (homes / "alice/mail").chmod(0o755)
    shutil.move(homes / "alice/mail", homes / "mail")
    assert (await root.mailbox_import(ADDRESS, homes / "mail")).items == 1
    assert await contents(root) == [OWN]


async def test_what_only_root_may_read_is_imported_where_it_is_said(root: Root, homes: Path) -> None:
    os.chmod(homes, 0o700)
    with pytest.raises(EndpointBroken, match=f"Permission denied to uid {ALICE}"):
        await root.mailbox_import(ADDRESS, homes / "alice/mail")
    assert (await root.mailbox_import(ADDRESS, homes / "alice/mail", owner="root")).items == 1
    with pytest.raises(RequestRefused, match="no user of this system"):
        await root.mailbox_import(ADDRESS, homes / "alice/mail", owner="no-such-user")


@pytest.mark.parametrize("form", ["maildir", "mbox", "eml"])
async def test_an_export_writes_nothing_where_she_leads_it_meanwhile(root: Root, homes: Path, form: str) -> None:
    """Into her home: she puts a link in place of a folder of it while it is at work."""
    items = [MailItem(("INBOX",), b"Subject: %d\r\n\r\n" % n, 1000 * n, 0, ()) for n in range(600)]
    await import_mail(root.session(ADDRESS), iter(items))
    out, bobs = homes / "alice/out", homes / "bob/mail"
    for name in ("tmp", "cur", "INBOX"):
        (bobs / name).mkdir(exist_ok=True)
    put(bobs / "INBOX.mbox", b"Bob's\n")
    belongs(bobs, BOB)
    before = {path: path.stat() for path in sorted(bobs.rglob("*"))}

    def lead_elsewhere(_: object) -> None:
        if not out.is_symlink():
            out.rename(homes / "alice/away")
            link(out, bobs)

    with pytest.raises(EndpointBroken, match="Permission denied") as caught:
        await root.mailbox_export(ADDRESS, out, form=form, on_batch=lead_elsewhere)
    assert f"the rights of uid {ALICE}" in caught.value.__notes__[0]
    assert {path: path.stat() for path in sorted(bobs.rglob("*"))} == before


async def test_an_export_into_her_home_is_hers(root: Root, homes: Path) -> None:
    await root.deliver(ADDRESS, OWN)
    await root.mailbox_export(ADDRESS, homes / "alice/new/out")
    made = [homes / "alice/new", *(homes / "alice/new").rglob("*")]
    assert {path.stat().st_uid for path in made} == {ALICE}
    await root.mailbox_export(ADDRESS, homes / "alice/roots", owner="root")
    assert (homes / "alice/roots").stat().st_uid == 0
