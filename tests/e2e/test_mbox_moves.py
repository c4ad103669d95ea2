"""Whole moves of mbox files that a real Dovecot serves at the same time: everything arrives, once, as it was."""

import os
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import attrs
import pytest
import trio

from moverq.model.ids import RequestId
from moverq.model.request import Status
from moverq.root import Root, init_root, open_root
from tests.support.dovecot import Dovecot, shared_dovecot
from tests.support.imap_world import FOLDERS, Mail, Mailbox

pytestmark = pytest.mark.slow

AGENT = Path("/usr/lib/dovecot/dovecot-lda")


@attrs.frozen
class Site:
    """An address with mail in mbox files, or to go into such, another place for it, and a root."""

    root: Root
    address: str
    old: Mailbox
    new: Mailbox
    old_location: str
    new_location: str

    async def move(self, **options: object) -> RequestId:
        """Its copy is ready, or it has ended."""
        with trio.fail_after(120):
            request = await self.root.move(self.address, to=self.new_location, source=self.old_location, **options)
            await self.root.wait(request)
            return request

    async def finish(self, request: RequestId) -> None:
        with trio.fail_after(120):
            done = await self.root.wait(request)
        assert done.status == Status.COMPLETED.value, [one.text for one in (await self.root.report(request)).entries]


def location(server: Dovecot, ending: str) -> str:
    home = f"{server.folder}/home/%u.{ending}"
    return f"mbox:{home}/mail:INBOX={home}/inbox" if server.mail_format == "mbox" else f"maildir:{home}/Maildir"


@asynccontextmanager
async def a_site(path: Path, *formats: str, messages: int = 30) -> AsyncIterator[Site]:
    address = f"{uuid4().hex[:12]}@example.com"
    servers = [shared_dovecot(name) for name in formats]
    old = Mailbox(servers[0], f"{address}.old", random.Random(1))
    new = Mailbox(servers[1], f"{address}.new", random.Random(2))
    await trio.to_thread.run_sync(old.fill, messages)
    await init_root(path / "root")
    try:
        async with open_root(path / "root") as root:
            yield Site(root, address, old, new, location(servers[0], "old"), location(servers[1], "new"))
    finally:
        old.close()
        new.close()


def work(mailbox: Mailbox) -> None:
    for _ in range(3):
        mailbox.add("INBOX")
        mailbox.flag("Sent")
        mailbox.move("INBOX", "Archive/2020")
        mailbox.expunge("Archive/2020")


def count(mail: Mail) -> int:
    return sum(sum(folder.values()) for folder in mail.values())


@pytest.mark.parametrize("formats", [("mbox", "mbox"), ("mbox", "maildir"), ("maildir", "mbox")], ids="-to-".join)
async def test_a_user_at_work_is_followed_there_and_back(formats: tuple[str, str], tmp_path: Path) -> None:
    async with a_site(tmp_path, *formats) as site:
        for _ in range(2):
            site.old.add("Sent", b"Subject: an equal copy\r\n\r\ntext\r\n")
        request = await site.move(suspend_when_ready_to_complete=True)
        assert site.new.mail() == site.old.mail()
        assert set(FOLDERS) <= site.new.mail().keys()
        work(site.old)
        site.old.rename("Sent", "Sent of old")
        assert site.new.mail() != site.old.mail()
        await site.root.complete(request)
        await site.finish(request)
        assert site.new.mail() == site.old.mail()
        site.new.rename("Sent of old", "Sent")
        work(site.new)
        assert site.new.mail() != site.old.mail()
        await site.finish(await site.root.rollback(site.address))
        assert site.new.mail() == site.old.mail()


@pytest.mark.parametrize("kind", ["imap", "store"])
async def test_mbox_files_go_to_every_other_kind_and_back(kind: str, tmp_path: Path) -> None:
    async with a_site(tmp_path, "mbox", "mdbox", messages=20) as site:
        root, before = site.root, site.old.mail()
        if kind == "imap":
            target = site.new.server.url(user="{address}.new")
        else:
            target = "DB"
            await root.server_add("EX", version="2010")
            await root.database_add("DB", server="EX")
        await site.finish(await root.move(site.address, to=target, source=site.old_location))
        if kind == "imap":
            assert site.new.mail() == before
            work(site.new)
        else:
            await root.deliver(site.address, b"Subject: since\r\n\r\ntext\r\n")
        await site.finish(await root.rollback(site.address))
        after = site.old.mail()
        if kind == "imap":
            assert after == site.new.mail()
        else:
            assert sum(after["INBOX"].values()) == sum(before["INBOX"].values()) + 1


async def test_what_is_written_belongs_to_whom_the_mail_belongs(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root writes for others")
    async with a_site(tmp_path, "mbox", "mbox", messages=5) as site:
        await site.finish(await site.move())
        home = site.new.server.home(site.new.user)
        assert {path.stat().st_uid for path in home.rglob("*")} == {home.stat().st_uid} != {0}


async def test_uids_of_dovecot_go_with_the_mailbox(tmp_path: Path) -> None:
    async with a_site(tmp_path, "mbox", "mbox", messages=20) as site:
        for _ in range(3):
            site.old.expunge("INBOX")  # so that UIDs have holes
        await site.root.server_add("EX", version="2010")
        await site.root.database_add("DB", server="EX")
        client = site.old.client
        said = {}
        for folder in ("INBOX", "Sent"):
            client.select(folder)
            said[folder] = (int(client.response("UIDVALIDITY")[1][0]), int(client.response("UIDNEXT")[1][0]))
            client.unselect()
        await site.finish(await site.root.move(site.address, to="DB", source=site.old_location))
        shown = await site.root.mailbox_show(site.address)
        assert {f.path: (f.uidvalidity, f.uidnext) for f in shown.folder_list if f.path in said} == said


@pytest.mark.skipif(not AGENT.exists(), reason="no dovecot-lda here")
async def test_an_agent_that_delivers_all_the_time_loses_nothing(tmp_path: Path) -> None:
    """Dovecot's own delivery agent, a client that changes flags and moves messages, and a move between them."""
    async with a_site(tmp_path, "mbox", "mbox", messages=40) as site:
        server, sent, stopped = site.old.server, 0, False

        async def deliver() -> None:
            nonlocal sent
            while not stopped:
                await trio.run_process(
                    [str(AGENT), "-c", str(server.folder / "dovecot.conf"), "-d", site.old.user],
                    stdin=f"Subject: delivered {sent}\r\n\r\ntext\r\n".encode(),
                    stderr=subprocess.DEVNULL,
                )
                sent += 1
                await trio.sleep(0.05)

        async def work() -> None:
            while not stopped:
                await trio.to_thread.run_sync(site.old.flag, "INBOX")
                await trio.to_thread.run_sync(site.old.move, "INBOX", "Sent")
                await trio.sleep(0.05)

        # In the nursery: the agent and the client, until the move is ready for its cutover.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            nursery.start_soon(work)
            request = await site.move(suspend_when_ready_to_complete=True)
            while sent < 5:  # noqa: ASYNC110 (another program delivers)
                await trio.sleep(0.01)
            stopped = True
        await site.root.complete(request)
        await site.finish(request)
        after = site.new.mail()
        assert after == site.old.mail()
        assert count(after) == 40 + sent


async def test_a_single_file_goes_into_a_database_and_a_mailbox_comes_out_as_one(tmp_path: Path) -> None:
    await init_root(tmp_path / "root")
    async with open_root(tmp_path / "root") as root:
        await root.server_add("EX", version="2010")
        await root.database_add("DB", server="EX")
        inbox = tmp_path / "old.mbox"
        message = "From a@b Tue Nov 14 22:13:20 2023\nSubject: %d\nStatus: RO\n\n>From a friend\n\n"
        inbox.write_text("".join(message % number for number in range(5)))
        with trio.fail_after(120):
            done = await root.wait(await root.move("ada@example.org", to="DB", source=f"mbox:{inbox}"))
            assert done.status == Status.COMPLETED.value, done.message
            shown = await root.mailbox_show("ada@example.org")
            assert [(folder.path, folder.items) for folder in shown.folder_list] == [("INBOX", 5)]
            await root.mailbox_add("bert@example.org", database="DB")
            lookalike = b"Subject: out\r\n\r\nFrom me\r\nFrom a@b Tue Nov 14 22:13:20 2023\r\n"
            await root.deliver("bert@example.org", lookalike)
            back = tmp_path / "new.mbox"
            done = await root.wait(await root.move("bert@example.org", to=f"mbox:{back}"))
            assert done.status == Status.COMPLETED_WITH_WARNING.value, done.message
            told = [one.text for one in (await root.report(done.request_id)).entries]
            assert sum("in its own form" in text for text in told) == 1
        assert back.read_text().endswith("\n\nFrom me\n>From a@b Tue Nov 14 22:13:20 2023\n\n")


async def test_mbox_files_that_hold_mail_are_no_target(tmp_path: Path) -> None:
    async with a_site(tmp_path, "mbox", "mbox", messages=3) as site:
        site.new.add("INBOX")
        request = await site.move()
        done = await site.root.wait(request)
        assert done.status == Status.FAILED.value
        assert "holds 1 messages already" in done.message


async def test_a_move_given_up_leaves_the_target_empty(tmp_path: Path) -> None:
    async with a_site(tmp_path, "mbox", "mbox", messages=10) as site:
        before = site.old.mail()
        request = await site.move(suspend_when_ready_to_complete=True)
        assert count(site.new.mail()) == 10
        await site.root.remove(request)
        with trio.fail_after(120):
            await site.root.wait_all([request])
        assert count(site.new.mail()) == 0
        assert site.old.mail() == before
