"""A mover that is root, and mbox files of users: what Alice may not read or write herself, no move does for her."""

import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from moverq.endpoints.files.dot_lock import is_held, is_nobodys
from moverq.endpoints.mbox import opening
from moverq.endpoints.mbox.endpoint import open_endpoint
from moverq.endpoints.mbox.index import read_index
from moverq.endpoints.mbox.locks import locked
from moverq.endpoints.mirrored.mailbox import MirroredMailbox
from moverq.errors import EndpointBroken
from moverq.model.change import INBOX
from tests.support.files_place import Place, a_place
from tests.support.homes import ALICE, BOB, belongs, link, two_homes
from tests.support.mbox_client import MboxClient

root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do what a user may not")
FROM = b"From a@b Tue Nov 14 22:13:20 2023 +0000\n"
SECRET = FROM + b"Subject: secret\n\n"
OWN = FROM + b"Subject: own\n\n"


@pytest.fixture
def homes() -> Iterator[Path]:
    """With mail of each."""
    with two_homes() as path:
        for name, uid, data in (("alice", ALICE, OWN), ("bob", BOB, SECRET)):
            mail = path / name / "mail"
            mail.mkdir()
            (mail / "inbox").write_bytes(data)
            (mail / "Folder").write_bytes(data)
            belongs(mail, uid)
        yield path


@pytest.fixture
async def place(homes: Path) -> AsyncIterator[Place[MboxClient]]:
    async with a_place(homes / "alice", open_endpoint, "mbox:{}", MboxClient) as one:
        yield one


async def contents(mailbox: MirroredMailbox) -> list[bytes]:
    page = await mailbox.read_seed(None, bytes_max=1 << 20, items_max=100)
    assert page.done
    return [item.content for item in page.items]


@root_alone
async def test_her_folder_that_is_a_link_leads_to_nobody_elses_mail(place: Place[MboxClient], homes: Path) -> None:
    shutil.rmtree(place.client.root)
    link(homes / "alice/mail", homes / "bob/mail")
    with pytest.raises(EndpointBroken, match=f"Permission denied to uid {ALICE}"):
        await place.endpoint.adopt(place.mailbox_id, place.instance, "ada@example.org")
    with pytest.raises(PermissionError), locked(os.fsencode(homes / "alice/mail/inbox")):
        pass


@root_alone
async def test_nor_does_a_hard_link(place: Place[MboxClient], homes: Path) -> None:
    os.link(homes / "bob/mail/inbox", homes / "alice/mail/Stolen")
    with pytest.raises(EndpointBroken, match=f"Permission denied to uid {ALICE}"):
        await place.endpoint.adopt(place.mailbox_id, place.instance, "ada@example.org")


@root_alone
@pytest.mark.parametrize("at", ["the link", "the link it leads to"])
def test_a_link_that_root_made_is_not_hers_to_change_meanwhile(
    homes: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Neither between the look and the open, nor behind it."""
    path, inner = homes / "alice/mail/Other", homes / "alice/inner"
    link(inner, homes / "alice/mail/inbox")
    link(path, inner, maker=0)
    swapped = path if at == "the link" else inner

    def lead_elsewhere(asked: bytes) -> object:
        found = whose_path(asked)
        swapped.unlink()
        link(swapped, homes / "bob/mail/inbox")
        return found

    whose_path = opening.whose_path
    monkeypatch.setattr(opening, "whose_path", lead_elsewhere)
    with pytest.raises(PermissionError):
        read_index(os.fsencode(path))


@root_alone
async def test_what_is_hers_is_read_by_links_too_and_where_she_may_not_enter(
    place: Place[MboxClient], homes: Path
) -> None:
    """The spool lies in a folder of root's, and the store may be closed to users: the files are theirs."""
    spool = homes / "spool"
    spool.mkdir(mode=0o700)
    shutil.move(homes / "alice/mail/Folder", spool / "alice")
    link(homes / "alice/mail/Folder", spool / "alice")
    os.chmod(homes, 0o700)
    source = await place.source()
    assert await contents(source) == [b"Subject: own\r\n"] * 2
    with locked(os.fsencode(homes / "alice/mail/Folder")) as descriptor:
        assert os.pread(descriptor, len(OWN), 0) == OWN


@pytest.mark.parametrize("name", [INBOX.lower(), "inbox.lock"])
def test_a_pipe_in_the_place_of_a_file_or_of_its_lock_holds_nothing_up(tmp_path: Path, name: str) -> None:
    path = tmp_path / "inbox"
    if name != "inbox":
        path.write_bytes(OWN)
    os.mkfifo(tmp_path / name)
    ended: list[object] = []

    def look() -> None:
        try:
            if name == "inbox":
                read_index(os.fsencode(path))
            else:
                ended.append((is_held(os.fsencode(path) + b".lock"), is_nobodys(os.fsencode(path) + b".lock")))
        except OSError as error:
            ended.append(str(error))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(5)
    if name == "inbox":
        assert "no regular file" in str(ended)
    else:
        assert ended == [(True, False)]
