"""Whole moves from one mail system to another: everything arrives, once, as it was, and comes back."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from moverq.endpoints.imap.session import ImapSession
from moverq.endpoints.maildir.session import MaildirSession
from moverq.endpoints.mbox.session import MboxSession
from moverq.endpoints.mirrored.paging import PageRead
from moverq.model.request import Status
from tests.support.imap_world import FOLDERS
from tests.support.mail_site import PATIENCE_S, REFUSED_BY_CYRUS, Site, a_site, count, use

pytestmark = pytest.mark.slow

ALIKE = [("imap-mdbox", "imap-mdbox"), ("maildir", "maildir"), ("mbox", "mbox")]
PAIRS = [
    *ALIKE,
    ("imap-maildir", "imap-mdbox"),
    ("imap-mdbox", "imap-maildir"),
    ("imap-mdbox", "imap-cyrus"),
    ("imap-cyrus", "imap-maildir"),
    ("mbox", "maildir"),
    ("maildir", "mbox"),
    ("maildir", "imap-cyrus"),
    ("imap-cyrus", "maildir"),
]


@pytest.mark.parametrize(("old", "new"), PAIRS)
async def test_a_mailbox_is_followed_there_and_back(old: str, new: str, tmp_path: Path) -> None:
    """With flags, keywords, dates and equal copies; its user works on while it is copied, and after the move."""
    async with a_site(tmp_path, old, new) as site:
        for _ in range(2):
            site.old.add("Sent", b"Subject: an equal copy\r\n\r\ntext\r\n")
        request = await site.ready()
        assert site.found() == site.expected()
        assert set(FOLDERS) - {REFUSED_BY_CYRUS} <= site.found().keys()
        use(site.old)
        site.old.rename("Sent", "Sent of old")
        site.old.rename("Archive", "Archives")
        assert site.found() != site.expected()
        await site.root.complete(request)
        done = await site.finish(request)
        assert (done.status == Status.COMPLETED_WITH_WARNING.value) is site.at_cyrus, await site.told(request)
        assert site.found() == site.expected()
        site.new.rename("Sent of old", "Sent")
        site.new.rename("Archives", "Archive")
        use(site.new)
        assert site.found() != site.expected()
        await site.take_back()
        assert site.found() == site.expected()


@pytest.mark.parametrize("old", ["imap-mdbox", "imap-maildir", "maildir"])
async def test_mail_of_a_deleted_folder_is_gone_though_there_are_folders_in_it(old: str, tmp_path: Path) -> None:
    async with a_site(tmp_path, old, "imap-mdbox", messages=0) as site:
        for folder in ("Sent", f"Sent{site.old.server.separator}2020"):
            site.old.client.create(folder)
            site.old.client.append(folder, None, None, b"Subject: x\r\n\r\n")  # type: ignore[arg-type]
        request = await site.ready()
        assert site.old.client.delete("Sent")[0] == "OK"
        await site.root.complete(request)
        await site.finish(request)
        assert {name: mail.total() for name, mail in site.found().items() if mail} == {"Sent/2020": 1}


SESSIONS = {"imap-mdbox": ImapSession, "maildir": MaildirSession, "mbox": MboxSession}


@pytest.mark.parametrize("old", SESSIONS)
@pytest.mark.parametrize("how", ["renamed", "deleted"])
async def test_a_folder_that_goes_while_it_is_copied_needs_no_second_listing(
    old: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_site(tmp_path, old, "imap-mdbox", messages=0) as site:
        for folder in ("INBOX", "Sent"):
            site.old.add(folder)
        read_page = SESSIONS[old].read_page
        acts = [lambda: site.old.rename("Sent", "Gesendet") if how == "renamed" else site.old.client.delete("Sent")]

        async def after_the_listing(self: Any, *args: Any, **options: Any) -> PageRead:
            if acts:
                await trio.to_thread.run_sync(acts.pop())
            return await read_page(self, *args, **options)

        monkeypatch.setattr(SESSIONS[old], "read_page", after_the_listing)
        request = await site.ask()
        await site.finish(request)
        assert site.found() == site.expected()
        assert not [text for text in await site.told(request) if "Comparing source and target anew" in text]


@pytest.mark.parametrize("old", ["imap-maildir", "imap-cyrus", "maildir", "mbox"])
async def test_uids_go_with_the_mailbox_into_our_store(old: str, tmp_path: Path) -> None:
    async with a_site(tmp_path, old, "imap-mdbox") as site:
        for _ in range(3):
            site.old.expunge("INBOX")  # so that UIDs have holes
        before = site.expected()
        said = {}
        for folder in ("INBOX", "Sent"):
            site.old.client.select(folder, readonly=True)
            said[folder] = tuple(int(site.old.client.response(word)[1][0]) for word in ("UIDVALIDITY", "UIDNEXT"))
            site.old.client.unselect()
        done = await site.finish(await site.ask(to=await site.add_database()))
        assert done.status == Status.COMPLETED.value
        shown = await site.root.mailbox_show(site.address)
        assert {f.path: (f.uidvalidity, f.uidnext) for f in shown.folder_list if f.path in said} == said
        there = {folder.path: folder.items for folder in shown.folder_list if folder.path in before}
        assert there["INBOX"] == before["INBOX"].total()
        assert sum(folder.items for folder in shown.folder_list) == count(before)
        assert "älter Kram" in {folder.path for folder in shown.folder_list}


@pytest.mark.parametrize(("old", "new"), ALIKE)
async def test_a_mailbox_that_holds_mail_is_no_target(old: str, new: str, tmp_path: Path) -> None:
    async with a_site(tmp_path, old, new, messages=3) as site:
        site.new.add("INBOX")
        failed = await site.at_rest(await site.ask())
        assert failed.status == Status.FAILED.value
        assert "holds 1 message already" in failed.message
        assert count(site.found()) == 1


@pytest.mark.parametrize(("old", "new"), [*ALIKE, ("imap-mdbox", "imap-cyrus")])
async def test_a_move_given_up_leaves_the_target_as_it_was(old: str, new: str, tmp_path: Path) -> None:
    async with a_site(tmp_path, old, new, messages=10) as site:
        before, empty = site.old.mail(), site.new.mail()
        request = await site.ready()
        assert count(site.found()) == 10
        await site.root.remove(request)
        with trio.fail_after(PATIENCE_S):
            await site.root.wait_all([request])
        assert site.new.mail() == empty == {"INBOX": {}}
        assert site.old.mail() == before


@pytest.mark.parametrize(("old", "new"), [*ALIKE, ("imap-cyrus", "maildir")])
async def test_what_a_move_held_open_is_let_go_when_it_comes_to_rest(old: str, new: str, tmp_path: Path) -> None:
    """One process moves ten thousand: what each left open would soon be all that a process may have."""
    async with a_site(tmp_path, old, new, messages=120) as site:
        before = held(site)
        request = await site.ready()
        assert held(site) == before, "suspended"
        await site.root.complete(request)
        await site.finish(request)
        assert held(site) == before, "completed"
        await site.root.mailbox_show(site.address)
        assert held(site) == before, "shown"
        await site.take_back()
        assert held(site) == before, "taken back"


def held(site: Site) -> list[str]:
    """This process's open files that are for a mailbox: connections, mirrors, maps, mail."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(entry.readlink()).partition(":[")[0])
    return sorted(
        name for name in found if name == "socket" or "/mirrors/" in name or "/moves/" in name or "/home/" in name
    )
