"""Whole moves between real IMAP servers, and between one and our store: everything arrives, once, as it was."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import attrs
import pytest
import trio

from moverq.directory.directory import Register
from moverq.errors import EndpointUnavailable
from moverq.model.request import Status
from moverq.model.statistics import MoveStatistics
from moverq.phases import clean_up, finalize
from moverq.phases.tenure import Tenure
from moverq.root import Root, init_root, open_root
from tests.support.imap_servers import SERVERS
from tests.support.imap_world import FOLDERS, Mail, Mailbox

pytestmark = pytest.mark.slow

PAIRS = [("mdbox", "mdbox"), ("maildir", "mdbox"), ("mdbox", "maildir"), ("mdbox", "cyrus"), ("cyrus", "maildir")]
REFUSED_BY_CYRUS = "Lists/50 %"
HOLD_FOLDERS = {"Archive", "Archives", "Lists"}
"""Only for Dovecot is there a folder that cannot be selected; Cyrus makes an ordinary one of it."""


@attrs.frozen
class Site:
    """An old server and a new one, a root, and one user with mail on the old one."""

    root: Root
    address: str
    old: Mailbox
    new: Mailbox

    async def move(self, **options: object) -> MoveStatistics:
        with trio.fail_after(60):
            return await self.root.wait(await self.root.move(self.address, to="NEW", **options))

    async def rollback(self) -> MoveStatistics:
        with trio.fail_after(60):
            return await self.root.wait(await self.root.rollback(self.address))


def but_for_empty_parents(mail: Mail) -> Mail:
    return {name: messages for name, messages in mail.items() if messages or name not in HOLD_FOLDERS}


@asynccontextmanager
async def a_site(path: Path, formats: tuple[str, str], *, messages: int = 40) -> AsyncIterator[Site]:
    address = f"{uuid4().hex[:12]}@example.com"
    servers = [SERVERS[mail_format]() for mail_format in formats]
    folders = tuple(name for name in FOLDERS if formats[0] != "cyrus" or name != REFUSED_BY_CYRUS)
    old = Mailbox(servers[0], f"{address}.old", random.Random(1))
    new = Mailbox(servers[1], f"{address}.new", random.Random(2))
    await trio.to_thread.run_sync(partial(old.fill, messages, folders=folders))
    await init_root(path / "root")
    try:
        async with open_root(path / "root") as root:
            for name, server in (("OLD", servers[0]), ("NEW", servers[1])):
                await root.server_add(f"mail-{name.lower()}", version="IMAP")
                url = server.url(user="{address}." + name.lower())
                await root.database_add(name, server=f"mail-{name.lower()}", path=url)
            await root.mailbox_add(address, database="OLD")
            yield Site(root, address, old, new)
    finally:
        old.close()
        new.close()


@pytest.mark.parametrize("formats", PAIRS, ids="-to-".join)
async def test_a_mailbox_arrives_whole_with_flags_keywords_and_dates(formats: tuple[str, str], tmp_path: Path) -> None:
    async with a_site(tmp_path, formats) as site:
        twice = b"Subject: an equal copy\r\n\r\n"
        for _ in range(2):
            site.old.add("Sent", twice)
        done = await site.move()
        before, after = (but_for_empty_parents(mailbox.mail()) for mailbox in (site.old, site.new))
        assert done.bad_items_encountered == 0
        if formats[1] == "cyrus":
            assert done.status == Status.COMPLETED_WITH_WARNING.value
            before["Lists/50 _"] = before.pop(REFUSED_BY_CYRUS)
        else:
            assert done.status == Status.COMPLETED.value
        assert before == after
        assert set(FOLDERS) - {REFUSED_BY_CYRUS} <= after.keys()


async def test_a_folder_name_that_the_server_refuses_is_named_and_goes_on_being_that_folder(tmp_path: Path) -> None:
    async with a_site(tmp_path, ("mdbox", "cyrus"), messages=20) as site:
        request = await site.root.move(site.address, to="NEW", suspend_when_ready_to_complete=True)
        with trio.fail_after(60):
            await site.root.wait(request)
        for name in (REFUSED_BY_CYRUS, "Sent"):
            site.old.add(name)
            site.old.rename(name, f"{name}%")
        site.old.add("Sent%")
        await site.root.complete(request)
        with trio.fail_after(60):
            done = await site.root.wait(request)
        assert done.status == Status.COMPLETED_WITH_WARNING.value
        before, after = (but_for_empty_parents(mailbox.mail()) for mailbox in (site.old, site.new))
        for name in ("Lists/50 %%", "Sent%"):
            before[name.replace("%", "_")] = before.pop(name)
        assert before == after
        told = [entry.text for entry in (await site.root.report(request)).entries]
        assert any("does not take the folder name '50 %'" in text for text in told), told
        taken_back = await site.rollback()
        assert taken_back.status == Status.COMPLETED.value
        assert {"Lists/50 %%", "Sent%"} <= site.old.mail().keys()


@pytest.mark.parametrize("formats", [("mdbox", "mdbox"), ("cyrus", "mdbox"), ("mdbox", "cyrus")], ids="-to-".join)
async def test_a_user_at_work_is_followed_through_the_cutover(formats: tuple[str, str], tmp_path: Path) -> None:
    async with a_site(tmp_path, formats) as site:
        request = await site.root.move(site.address, to="NEW", suspend_when_ready_to_complete=True)
        with trio.fail_after(60):
            await site.root.wait(request)
        for _ in range(3):
            site.old.add("INBOX")
            site.old.flag("Sent")
            site.old.move("INBOX", "Archive/2020")
            site.old.expunge("Archive/2020")
        site.old.rename("Sent", "Sent of old")
        site.old.rename("Archive", "Archives")
        assert site.new.mail() != site.old.mail()
        await site.root.complete(request)
        with trio.fail_after(60):
            done = await site.root.wait(request)
        assert done.status in (Status.COMPLETED.value, Status.COMPLETED_WITH_WARNING.value)
        before, after = (but_for_empty_parents(mailbox.mail()) for mailbox in (site.old, site.new))
        if formats[1] == "cyrus":
            before["Lists/50 _"] = before.pop(REFUSED_BY_CYRUS)
        assert after == before


@pytest.mark.parametrize("formats", [("mdbox", "maildir"), ("cyrus", "mdbox")], ids="-to-".join)
async def test_what_a_client_does_past_the_lock_is_carried(
    formats: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was open before the lock writes on, after the last drain and before the commit."""
    relocate = finalize._relocate

    async with a_site(tmp_path, formats) as site:

        def writes() -> None:
            site.old.add("INBOX", b"Subject: too late\r\n\r\n")
            site.old.flag("Sent", "\\Flagged toolate")
            site.old.expunge("Sent")
            site.old.move("Archive/2020", "INBOX")

        async def late(t: Tenure) -> Register:
            await trio.to_thread.run_sync(writes)
            return await relocate(t)

        monkeypatch.setattr(finalize, "_relocate", late)
        request = await site.root.move(site.address, to="NEW", lock_budget_ms=30_000)
        with trio.fail_after(60):
            done = await site.root.wait(request)
        assert done.status == Status.COMPLETED.value, done.message
        told = [entry.text for entry in (await site.root.report(request)).entries]
        assert any("that got past the lock were carried" in text for text in told), told
        assert not [text for text in told if "came to the source after the lock" in text]
        before, after = site.old.mail(), site.new.mail()
        assert before == after
        assert any("toolate" in flags for _, flags, _ in after["Sent"]) or len(after["Sent"]) < 2


async def test_a_source_that_is_gone_at_the_last_look_keeps_no_target_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*args: object, **options: object) -> int:
        raise EndpointUnavailable(endpoint="old", why="it closed the connection")

    async with a_site(tmp_path, ("mdbox", "mdbox"), messages=3) as site:
        monkeypatch.setattr(clean_up, "drain", gone)
        request = await site.root.move(site.address, to="NEW")
        with trio.fail_after(60):
            done = await site.root.wait(request)
        assert done.status == Status.COMPLETED_WITH_WARNING.value
        told = [entry.text for entry in (await site.root.report(request)).entries]
        assert any("The last look at the source was given up" in text for text in told), told
        assert site.new.mail() == site.old.mail()


async def test_a_move_taken_back_brings_what_came_since(tmp_path: Path) -> None:
    async with a_site(tmp_path, ("mdbox", "maildir")) as site:
        await site.move()
        site.new.add("INBOX")
        site.new.flag("Sent")
        site.new.move("Archive/2020", "INBOX")
        site.new.expunge("Sent")
        assert site.new.mail() != site.old.mail()
        taken_back = await site.rollback()
        assert taken_back.status == Status.COMPLETED.value
        assert site.new.mail() == site.old.mail()
        assert (await site.root.directory.locate(site.address)).register.home.database == "OLD"


@pytest.mark.parametrize("server", ["mdbox", "cyrus"])
async def test_what_our_store_holds_goes_to_an_imap_server_and_back(server: str, tmp_path: Path) -> None:
    """Bare line ends, milliseconds and an address that delivered: what IMAP cannot keep comes back all the same."""
    async with a_site(tmp_path, ("mdbox", server), messages=5) as site:
        root = site.root
        await root.server_add("EX", version="2010")
        await root.database_add("DB", server="EX")
        address = f"{uuid4().hex[:12]}@example.com"
        await root.mailbox_add(address, database="DB")
        for number in range(20):
            ends = b"\n" if number % 3 == 0 else b"\r\n"
            content = ends.join((b"Subject: %d" % number, b"", b"text", b""))
            await root.deliver(address, content, received_ms=1_700_000_000_123)
        before = (await root.mailbox_show(address)).to_json()
        for target in ("NEW", "DB"):
            request = await root.move(address, to=target) if target == "NEW" else await root.rollback(address)
            with trio.fail_after(60):
                done = await root.wait(request)
            told = [entry.text for entry in (await root.report(request)).entries]
            assert (done.status == Status.COMPLETED_WITH_WARNING.value) is (target == "NEW"), told
            in_its_own_form = (
                "The server keeps a message in its own form: line ends, NUL, header bytes that are not ASCII (7 times)."
            )
            assert (in_its_own_form in told) is (target == "NEW")
        after = (await root.mailbox_show(address)).to_json()
        same = ("items", "bytes", "folders", "settings")
        assert {key: before[key] for key in same} == {key: after[key] for key in same}
        there = Mailbox(site.new.server, f"{address}.new", random.Random(1)).mail()
        assert sum(there["INBOX"].values()) == 20


@pytest.mark.parametrize("server", ["maildir", "cyrus"])
async def test_an_imap_mailbox_goes_to_our_store_with_its_uids(server: str, tmp_path: Path) -> None:
    async with a_site(tmp_path, (server, "mdbox")) as site:
        await site.root.server_add("EX", version="2010")
        await site.root.database_add("DB", server="EX")
        with trio.fail_after(60):
            done = await site.root.wait(await site.root.move(site.address, to="DB"))
        assert done.status == Status.COMPLETED.value, done.message
        shown = await site.root.mailbox_show(site.address)
        there = {folder.path: folder.items for folder in shown.folder_list}
        assert there["Archive/2020"] == len(site.old.uids("Archive/2020"))
        assert there["älter Kram"] == len(site.old.uids("&AOQ-lter Kram"))
        assert sum(there.values()) == 40


async def test_a_mailbox_that_holds_mail_is_no_target(tmp_path: Path) -> None:
    async with a_site(tmp_path, ("mdbox", "mdbox"), messages=3) as site:
        site.new.add("INBOX")
        done = await site.move()
        assert done.status == Status.FAILED.value
        assert "holds 1 messages already" in done.message
        assert sum(sum(folder.values()) for folder in site.new.mail().values()) == 1


async def test_a_move_given_up_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    async with a_site(tmp_path, ("mdbox", "mdbox"), messages=10) as site:
        before = site.old.mail()
        request = await site.root.move(site.address, to="NEW", suspend_when_ready_to_complete=True)
        with trio.fail_after(60):
            await site.root.wait(request)
            assert sum(sum(folder.values()) for folder in site.new.mail().values()) == 10
            await site.root.remove(request)
            await site.root.wait_all([request])
        assert site.new.mail() == {"INBOX": {}}
        assert site.old.mail() == before
