"""Whole moves of a Maildir that a real Dovecot serves at the same time: everything arrives, once, as it was."""

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

from moverq.model.request import Status
from moverq.model.statistics import MoveStatistics
from moverq.root import Root, init_root, open_root
from tests.support.dovecot import Dovecot, shared_dovecot
from tests.support.imap_world import FOLDERS, Mailbox

pytestmark = pytest.mark.slow

AGENT = Path("/usr/lib/dovecot/dovecot-lda")


@attrs.frozen
class Site:
    """An address with mail in a Maildir, and another Maildir, both of one Dovecot; and a root."""

    root: Root
    address: str
    old: Mailbox
    new: Mailbox
    old_location: str
    new_location: str

    async def move(self, **options: object) -> MoveStatistics:
        with trio.fail_after(120):
            request = await self.root.move(self.address, to=self.new_location, source=self.old_location, **options)
            return await self.root.wait(request)

    async def told(self, name: str) -> list[str]:
        return [entry.text for entry in (await self.root.report(name)).entries]


def location(server: Dovecot, ending: str) -> str:
    return f"maildir:{server.folder}/home/%u.{ending}/Maildir"


@asynccontextmanager
async def a_site(path: Path, *, messages: int = 40) -> AsyncIterator[Site]:
    address = f"{uuid4().hex[:12]}@example.com"
    server = shared_dovecot("maildir")
    old = Mailbox(server, f"{address}.old", random.Random(1))
    new = Mailbox(server, f"{address}.new", random.Random(2))
    await trio.to_thread.run_sync(old.fill, messages)
    await init_root(path / "root")
    try:
        async with open_root(path / "root") as root:
            yield Site(root, address, old, new, location(server, "old"), location(server, "new"))
    finally:
        old.close()
        new.close()


async def test_a_maildir_arrives_whole_in_another(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        for _ in range(2):
            site.old.add("Sent", b"Subject: an equal copy\r\n\r\n")
        done = await site.move()
        assert (done.status, done.bad_items_encountered) == (Status.COMPLETED.value, 0), done.message
        before, after = site.old.mail(), site.new.mail()
        assert before == after
        assert set(FOLDERS) <= after.keys()


async def test_what_is_written_belongs_to_whom_the_maildir_belongs(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root writes for others")
    async with a_site(tmp_path, messages=5) as site:
        await site.move()
        home = site.new.server.home(site.new.user)
        owners = {path.stat().st_uid for path in (home / "Maildir").rglob("*")}
        assert owners == {home.stat().st_uid}
        assert owners != {0}


async def test_a_user_at_work_is_followed_through_the_cutover(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        request = await site.root.move(
            site.address, to=site.new_location, source=site.old_location, suspend_when_ready_to_complete=True
        )
        with trio.fail_after(120):
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
        with trio.fail_after(120):
            done = await site.root.wait(request)
        assert done.status == Status.COMPLETED.value, done.message
        assert site.new.mail() == site.old.mail()


async def test_a_move_taken_back_brings_what_came_since(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        await site.move()
        site.new.add("INBOX")
        site.new.flag("Sent")
        site.new.move("Archive/2020", "INBOX")
        site.new.expunge("Sent")
        assert site.new.mail() != site.old.mail()
        with trio.fail_after(120):
            taken_back = await site.root.wait(await site.root.rollback(site.address))
        assert taken_back.status == Status.COMPLETED.value, taken_back.message
        assert site.new.mail() == site.old.mail()


@pytest.mark.parametrize("kind", ["imap", "store"])
async def test_a_maildir_goes_to_every_other_kind_and_back(kind: str, tmp_path: Path) -> None:
    async with a_site(tmp_path, messages=20) as site:
        root, before = site.root, site.old.mail()
        if kind == "imap":
            target = site.new.server.url(user="{address}.new")
        else:
            target = "DB"
            await root.server_add("EX", version="2010")
            await root.database_add("DB", server="EX")
        with trio.fail_after(120):
            done = await root.wait(await root.move(site.address, to=target, source=site.old_location))
            assert done.status == Status.COMPLETED.value, await site.told(done.request_id)
            if kind == "imap":
                assert site.new.mail() == before
                site.new.add("INBOX")
                site.new.flag("Sent")
            else:
                await root.deliver(site.address, b"Subject: since\r\n\r\ntext\r\n")
            back = await root.wait(await root.rollback(site.address))
            assert back.status == Status.COMPLETED.value, await site.told(back.request_id)
        after = site.old.mail()
        if kind == "imap":
            assert after == site.new.mail()
        else:
            assert sum(after["INBOX"].values()) == sum(before["INBOX"].values()) + 1


async def test_uids_of_dovecot_go_with_the_mailbox(tmp_path: Path) -> None:
    async with a_site(tmp_path, messages=20) as site:
        for _ in range(3):
            site.old.expunge("INBOX")  # so that UIDs have holes
        await site.root.server_add("EX", version="2010")
        await site.root.database_add("DB", server="EX")
        client = site.old.client
        said = {}
        for folder, wire in (("INBOX", "INBOX"), ("Sent", "Sent")):
            client.select(wire, readonly=True)
            said[folder] = (int(client.response("UIDVALIDITY")[1][0]), int(client.response("UIDNEXT")[1][0]))
            client.unselect()
        with trio.fail_after(120):
            done = await site.root.wait(await site.root.move(site.address, to="DB", source=site.old_location))
        assert done.status == Status.COMPLETED.value, done.message
        shown = await site.root.mailbox_show(site.address)
        assert {f.path: (f.uidvalidity, f.uidnext) for f in shown.folder_list if f.path in said} == said


@pytest.mark.skipif(not AGENT.exists(), reason="no dovecot-lda here")
async def test_an_agent_that_delivers_all_the_time_loses_nothing(tmp_path: Path) -> None:
    """Dovecot's own delivery agent, a client that changes flags, and a move between them."""
    async with a_site(tmp_path, messages=60) as site:
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

        async def work() -> None:
            while not stopped:
                await trio.to_thread.run_sync(site.old.flag, "INBOX")
                await trio.to_thread.run_sync(site.old.move, "INBOX", "Sent")

        # In the nursery: the agent and the client, until the move is ready for its cutover.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            nursery.start_soon(work)
            request = await site.root.move(
                site.address, to=site.new_location, source=site.old_location, suspend_when_ready_to_complete=True
            )
            with trio.fail_after(180):
                await site.root.wait(request)
            stopped = True
        assert sent > 3
        await site.root.complete(request)
        with trio.fail_after(120):
            done = await site.root.wait(request)
        assert done.status == Status.COMPLETED.value, done.message
        after = site.new.mail()
        assert after == site.old.mail()
        assert sum(sum(folder.values()) for folder in after.values()) == 60 + sent


async def test_a_maildir_that_holds_mail_is_no_target(tmp_path: Path) -> None:
    async with a_site(tmp_path, messages=3) as site:
        site.new.add("INBOX")
        done = await site.move()
        assert done.status == Status.FAILED.value
        assert "holds 1 messages already" in done.message


async def test_a_move_given_up_leaves_the_target_empty(tmp_path: Path) -> None:
    async with a_site(tmp_path, messages=10) as site:
        before = site.old.mail()
        request = await site.root.move(
            site.address, to=site.new_location, source=site.old_location, suspend_when_ready_to_complete=True
        )
        with trio.fail_after(120):
            await site.root.wait(request)
            assert sum(sum(folder.values()) for folder in site.new.mail().values()) == 10
            await site.root.remove(request)
            await site.root.wait_all([request])
        assert site.new.mail() == {"INBOX": {}}
        assert site.old.mail() == before
