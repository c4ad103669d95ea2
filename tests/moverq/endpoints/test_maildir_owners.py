"""A mover that is root, and Maildirs of users: what Alice may not do herself, no move does for her, whatever links she
makes and whenever she changes them; and what is made there is hers."""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from moverq.endpoints.base import FolderStep, StepKind
from moverq.endpoints.files.acting import User, acting_as, user_named, whose_path
from moverq.endpoints.files.owner import Owner
from moverq.endpoints.maildir import folder
from moverq.endpoints.maildir.endpoint import open_endpoint
from moverq.endpoints.maildir.layout import Layout
from moverq.endpoints.maildir.settings import parse
from moverq.endpoints.mirrored.mailbox import MirroredMailbox
from moverq.errors import EndpointBroken, RequestRefused
from moverq.model.change import INBOX, BadItem
from moverq.model.request import Status
from moverq.root import init_root, open_root
from tests.support.files_place import CLEAN, Place, a_folder, a_place, an_item
from tests.support.homes import ALICE, BOB, belongs, link, two_homes
from tests.support.maildir_client import MaildirClient

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do what a user may not")

NOBODY = user_named("nobody")
SECRET = b"Subject: secret\r\n\r\nof Bob's\r\n"
MaildirPlace = Place[MaildirClient]


@pytest.fixture
def homes() -> Iterator[Path]:
    with two_homes() as path:
        yield path


@pytest.fixture
def bob(homes: Path) -> MaildirClient:
    """His Maildir is nobody else's to read."""
    client = MaildirClient(homes / "bob" / "mail")
    for name in ("INBOX", "Private"):
        client.make(name)
        client.append(name, SECRET, name="1.secret")
    belongs(client.root, BOB)
    return client


@pytest.fixture
def closed(homes: Path) -> Path:
    """The homes, in a folder that users may not enter."""
    homes.chmod(0o700)
    return homes


@asynccontextmanager
async def of_alice(homes: Path, location: str = "maildir:{}") -> AsyncIterator[MaildirPlace]:
    async with a_place(homes / "alice", open_endpoint, location, MaildirClient) as place:
        yield place


async def source(place: MaildirPlace, *folders: str) -> MirroredMailbox:
    """With a message of hers."""
    for name in (INBOX, *folders):
        place.client.make(name)
    place.client.append(INBOX, CLEAN, name="1.own")
    belongs(place.client.root, ALICE)
    return await place.source()


async def seed(mailbox: MirroredMailbox) -> tuple[list[bytes], tuple[BadItem, ...]]:
    page = await mailbox.read_seed(None, bytes_max=1 << 20, items_max=100)
    assert page.done
    return [item.content for item in page.items], page.bad


# ---- what is read


@pytest.mark.parametrize(
    ("location", "name", "target"),
    [
        ("maildir:{}", ".Stolen", ".Private"),
        ("maildir:{}:LAYOUT=fs", "Stolen", ".Private"),
        ("maildir:{}", ".Stolen/cur", ".Private/cur"),
        ("maildir:{}", "cur", "cur"),
        ("maildir:{}", "new", "cur"),
        ("maildir:{}:LAYOUT=fs", "Stolen", ""),
    ],
)
async def test_a_link_to_a_folder_that_she_may_not_enter_is_said_and_not_followed(
    homes: Path, bob: MaildirClient, location: str, name: str, target: str
) -> None:
    async with of_alice(homes, location) as place:
        mailbox = await source(place)
        path = place.client.root / name
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            shutil.rmtree(path)
        link(path, bob.root / target)
        with pytest.raises(
            EndpointBroken, match=rf"Permission denied to uid {ALICE}, whose .* \({place.client.root}/{name}"
        ):
            await seed(mailbox)
        path.unlink()
        os.makedirs(path)
        belongs(place.client.root, ALICE)
        assert SECRET not in (await seed(mailbox))[0]


@pytest.mark.parametrize("make", [link, lambda path, target: os.link(target, path)], ids=["symbolic", "hard"])
async def test_a_link_to_a_file_that_she_may_not_read_is_a_bad_item(
    homes: Path, bob: MaildirClient, make: Callable[[Path, Path], None]
) -> None:
    async with of_alice(homes) as place:
        mailbox = await source(place)
        make(place.client.root / "cur" / "2.stolen:2,", bob.find(INBOX, "1.secret"))
        found, bad = await seed(mailbox)
        assert found == [CLEAN]
        assert [item.why for item in bad] == ["the file cannot be read: Permission denied"]


async def test_a_link_that_the_administrator_made_leads_her_no_further(homes: Path, bob: MaildirClient) -> None:
    """She may rename it, and change what lies on its way."""
    async with of_alice(homes) as place:
        mailbox = await source(place)
        link(place.client.root / "cur" / "2.stolen:2,", bob.find(INBOX, "1.secret"), maker=0)
        assert (await seed(mailbox))[0] == [CLEAN]


async def test_a_folder_that_becomes_a_link_between_listing_and_reading_gives_nothing_away(
    homes: Path, bob: MaildirClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with of_alice(homes) as place:
        mailbox = await source(place)
        bob.append(INBOX, SECRET, name="1.own")
        belongs(bob.root, BOB)
        cur = place.client.root / "cur"
        read = folder.read

        def swapped(path: bytes, rel: bytes, known_hash: bytes) -> bytes:
            if not cur.is_symlink():
                cur.rename(cur.with_name("away"))
                link(cur, bob.root / "cur")
            return read(path, rel, known_hash)

        monkeypatch.setattr(folder, "read", swapped)
        assert SECRET not in (await seed(mailbox))[0]


async def test_her_own_links_are_followed(homes: Path) -> None:
    async with of_alice(homes) as place:
        archive = MaildirClient(homes / "alice" / "archive")
        archive.make("Old")
        archive.append("Old", b"Subject: old\r\n\r\n", name="1.old")
        belongs(archive.root, ALICE)
        mailbox = await source(place)
        link(place.client.root / ".Old", archive.root / ".Old")
        link(place.client.root / "cur" / "2.linked:2,", archive.find("Old", "1.old"))
        assert sorted((await seed(mailbox))[0]) == [CLEAN, b"Subject: old\r\n\r\n", b"Subject: old\r\n\r\n"]


@pytest.mark.parametrize("maker", [0, ALICE])
async def test_a_maildir_that_is_a_link_is_hers_if_what_it_leads_to_is(homes: Path, maker: int) -> None:
    async with of_alice(homes) as place:
        there = MaildirClient(homes / "alice" / "elsewhere")
        there.make(INBOX)
        there.append(INBOX, CLEAN, name="1.own")
        belongs(there.root, ALICE)
        link(place.client.root, there.root, maker)
        assert await seed(await place.source()) == ([CLEAN], ())


@pytest.mark.parametrize("inside", ["", "new"])
async def test_a_maildir_that_is_her_link_to_anothers_is_not_read(homes: Path, bob: MaildirClient, inside: str) -> None:
    """The mailbox is whose the link is, not whose it leads to; also where it leads to what is to be made."""
    link(homes / "alice" / "mail", bob.root / inside if not inside else bob.root.parent)
    location = "maildir:{}/mail" if inside else "maildir:{}"
    async with of_alice(homes, location) as place:
        with pytest.raises(EndpointBroken, match=f"Permission denied to uid {ALICE}"):
            await place.endpoint.adopt(place.mailbox_id, place.instance, "ada@example.org")


async def test_a_maildir_that_becomes_a_link_while_it_is_read_gives_nothing_away(
    homes: Path, bob: MaildirClient
) -> None:
    """Whose it is was asked before."""
    client = MaildirClient(homes / "alice" / "mail")
    client.make(INBOX)
    belongs(client.root, ALICE)
    root = os.fsencode(client.root)
    layout = Layout(root=root, inbox=root, nested=False, utf8=False, control=root)

    def swapped() -> int:
        client.root.rename(homes / "alice" / "away")
        link(client.root, bob.root)
        return folder.count(root)

    with pytest.raises(PermissionError):
        layout.as_user(swapped)


async def test_a_maildir_of_roots_with_her_mail_in_it_is_hers(homes: Path, bob: MaildirClient) -> None:
    """Root made it, in the system's spool, and gave her what is in it."""
    (homes / "spool").mkdir()
    client = MaildirClient(homes / "spool" / "alice")
    client.make(INBOX)
    link(client.root / "cur" / "1.stolen:2,", bob.find(INBOX, "1.secret"), maker=0)
    belongs(client.root, ALICE)
    client.root.chmod(0o755)
    os.chown(client.root, 0, 0)
    root = os.fsencode(client.root)
    layout = Layout(root=root, inbox=root, nested=False, utf8=False, control=root)
    assert layout.user() == User(ALICE, ALICE)


# ---- what is written


@pytest.mark.parametrize("name", [".Other", ".Other/cur", ".Other/tmp"])
async def test_nothing_is_written_where_she_may_not_write(homes: Path, bob: MaildirClient, name: str) -> None:
    """His folder may be read by all, as nobody's folders should be."""
    belongs(bob.root, BOB, 0o755)
    (homes / "bob").chmod(0o755)
    before = sorted(bob.root.rglob("*"))
    async with of_alice(homes) as place:
        target, _ = await place.target()
        other = a_folder("Other")
        await target.apply_folders([FolderStep(StepKind.CREATE, other)], token=1)
        path = place.client.root / name
        shutil.rmtree(path)
        link(path, Path(str(path).replace(f"{place.client.root}/.Other", f"{bob.root}/.Private")))
        with pytest.raises(EndpointBroken, match=f"Permission denied to uid {ALICE}"):
            await target.write_items([an_item(other.folder_id, 1)], token=1)
    assert sorted(bob.root.rglob("*")) == before


async def test_nothing_is_made_where_her_link_leads(homes: Path, bob: MaildirClient) -> None:
    before = sorted(bob.root.parent.rglob("*"))
    link(homes / "alice" / "mail", homes / "bob")
    async with of_alice(homes, "maildir:{}/made/here") as place:
        with pytest.raises(EndpointBroken, match=f"Permission denied to uid {ALICE}"):
            await place.target()
    assert sorted(bob.root.parent.rglob("*")) == before


async def test_what_is_made_is_hers_with_the_group_of_her_maildir(homes: Path) -> None:
    """Though nobody put her into that group."""
    async with of_alice(homes) as place:
        place.client.make(INBOX)
        belongs(place.client.root, NOBODY.uid, 0o770)
        os.chown(homes / "alice", NOBODY.uid, NOBODY.gid)
        for path in [place.client.root, *place.client.root.rglob("*")]:
            os.chown(path, NOBODY.uid, BOB)
        target, inbox = await place.target()
        other = a_folder("Other", subscribed=True)
        await target.apply_folders([FolderStep(StepKind.CREATE, other)], token=1)
        items = [an_item(inbox, 1, keywords=("word",)), an_item(other.folder_id, 1, b"Subject: 2\r\n\r\n")]
        assert await target.write_items(items, token=1) == ()
        found = list(place.client.root.rglob("*"))
        assert len(found) > 10
        assert {(path.stat().st_uid, path.stat().st_gid) for path in found} == {(NOBODY.uid, BOB)}


# ---- a new one


async def test_a_new_maildir_in_a_folder_of_roots_is_whose_the_location_says(homes: Path) -> None:
    spool, control = homes / "spool", homes / "control"
    for path in (spool, control):
        path.mkdir(mode=0o755)
    location = f"maildir:{spool}/example.org/alice:CONTROL={control}/alice?owner={ALICE}"
    async with a_place(homes / "alice", open_endpoint, location, MaildirClient) as place:
        target, inbox = await place.target()
        other = a_folder("Other", subscribed=True)
        await target.apply_folders([FolderStep(StepKind.CREATE, other)], token=1)
        await target.write_items([an_item(inbox, 1, keywords=("word",)), an_item(other.folder_id, 1)], token=1)
    made = [*(spool / "example.org").rglob("*"), *control.rglob("*")]
    assert len(made) > 12
    assert {(path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o077) for path in made} == {
        (ALICE, ALICE, 0)
    }
    above = (spool / "example.org").stat()
    assert (above.st_uid, above.st_mode & 0o777) == (0, 0o755)


@pytest.mark.parametrize("said", ["", f"?owner={ALICE}"])
async def test_a_new_maildir_in_a_folder_of_roots_is_whose_the_move_says(homes: Path, said: str) -> None:
    """In the report of a whole move: whose it will be, before anything is copied."""
    client = MaildirClient(homes / "alice" / "mail")
    client.make(INBOX)
    client.append(INBOX, CLEAN)
    belongs(client.root, ALICE)
    await init_root(homes / "root")
    async with open_root(homes / "root") as root:
        await root.server_add("files", version="MAILDIR")
        await root.database_add("OLD", server="files", path=f"maildir:{homes}/%n/mail")
        await root.database_add("NEW", server="files", path=f"maildir:{homes}/spool/%n{said}")
        await root.mailbox_add("alice@example.org", database="OLD")
        with trio.fail_after(60):
            done = await root.wait(await root.move("alice@example.org", to="NEW"))
        report = await root.report("alice@example.org")
    assert done.status == Status.COMPLETED.value
    assert (homes / "spool" / "alice" / "cur").stat().st_uid == (ALICE if said else 0)
    assert (f"The Maildir {homes}/spool/alice will be root's" in str(report)) == (not said)


async def test_that_a_new_maildir_would_be_roots_is_said_before(homes: Path) -> None:
    location = f"maildir:{homes}/%n/mail"
    async with a_place(homes / "alice", open_endpoint, f"{location}?owner={ALICE}", MaildirClient) as place:
        assert (await place.endpoint.system.room("new@example.org")).costs == ()
    async with a_place(homes / "alice", open_endpoint, location, MaildirClient) as place:
        assert (await place.endpoint.system.room("alice@example.org")).costs == ()
        (said,) = (await place.endpoint.system.room("new@example.org")).costs
    assert said.startswith(f"The Maildir {homes}/new/mail will be root's")


async def test_a_maildir_that_is_said_to_be_roots_is_read_as_root(closed: Path) -> None:
    """One of a disk that was put back."""
    async with of_alice(closed, "maildir:{}?owner=root") as place:
        assert await seed(await source(place)) == ([CLEAN], ())


async def test_without_that_it_is_said_who_may_not_enter(closed: Path) -> None:
    async with of_alice(closed) as place:
        with pytest.raises(EndpointBroken, match=f"Permission denied to uid {ALICE}, whose mailbox it is"):
            await source(place)


def test_an_owner_is_a_user_of_the_system() -> None:
    settings = parse("maildir:/srv/mail/%n?owner=%n")
    assert settings.layout_of("nobody@example.org").owner == NOBODY
    with pytest.raises(RequestRefused, match=r"'no\.such' is no user of this system"):
        settings.user_of("no.such@example.org")


# ---- the rights of a thread


def test_who_acted_as_somebody_acts_as_before_whatever_happened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"root's")
    groups = os.getgroups()
    tmp_path.chmod(0o700)
    for _ in range(2):
        with acting_as(NOBODY):
            assert set(os.getgroups()) == set(NOBODY.groups)
        with pytest.raises(PermissionError), acting_as(NOBODY):
            (tmp_path / "file").read_bytes()
        assert (tmp_path / "file").read_bytes() == b"root's"
        assert os.getgroups() == groups


def test_whose_a_path_is(homes: Path) -> None:
    def whose(path: str) -> int:
        return whose_path(os.fsencode(homes / path)).uid

    (homes / "alice" / "roots").mkdir()
    os.symlink("alice", homes / "by-root")
    link(homes / "alice" / "round", Path("round"))
    link(homes / "alice" / "up", Path("../bob"))
    assert [whose(path) for path in ("", "none", "alice", "alice/none/at/all", "alice/roots", "by-root/x")] == [
        0,
        0,
        ALICE,
        ALICE,
        ALICE,
        ALICE,
    ]
    assert whose("alice/up/mail") == ALICE
    assert Owner.of(os.fsencode(homes / "alice/up")).uid == BOB
    with pytest.raises(OSError, match="Too many levels"):
        whose("alice/round")
