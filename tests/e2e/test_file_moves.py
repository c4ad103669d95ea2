"""Whole moves of mail in files that a real Dovecot serves and delivers to at the same time."""

import os
import subprocess
from pathlib import Path

import pytest
import trio

from moverq.model.request import Status
from moverq.root import init_root, open_root
from tests.support.mail_site import PATIENCE_S, a_site, count, use

pytestmark = pytest.mark.slow

FORMATS = pytest.mark.parametrize("form", ["maildir", "mbox"])
AGENT = Path("/usr/lib/dovecot/dovecot-lda")


@FORMATS
async def test_files_go_to_an_imap_server_and_back(form: str, tmp_path: Path) -> None:
    async with a_site(tmp_path, form, "imap-mdbox", messages=20) as site:
        await site.finish(await site.ask())
        assert site.found() == site.expected()
        use(site.new)
        assert site.found() != site.expected()
        await site.take_back()
        assert site.found() == site.expected()


@FORMATS
async def test_files_go_to_our_store_and_back(form: str, tmp_path: Path) -> None:
    async with a_site(tmp_path, form, form, messages=20) as site:
        before = site.old.mail()
        await site.finish(await site.ask(to=await site.add_database()))
        await site.root.deliver(site.address, b"Subject: since\r\n\r\ntext\r\n")
        await site.take_back()
        after = site.old.mail()
        assert after["INBOX"].total() == before["INBOX"].total() + 1
        assert before["INBOX"] <= after["INBOX"]
        assert {**after, "INBOX": before["INBOX"]} == before


@FORMATS
async def test_what_is_written_belongs_to_whom_the_mail_belongs(form: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root writes for others")
    async with a_site(tmp_path, form, form, messages=5) as site:
        await site.finish(await site.ask())
        home = site.new.server.folder / "home" / site.new.user
        assert {path.stat().st_uid for path in home.rglob("*")} == {home.stat().st_uid} != {0}


@pytest.mark.skipif(not AGENT.exists(), reason="no dovecot-lda here")
@FORMATS
async def test_an_agent_that_delivers_all_the_time_loses_nothing(form: str, tmp_path: Path) -> None:
    """Dovecot's own delivery agent, a client that changes flags and moves messages, and a move between them."""
    async with a_site(tmp_path, form, form) as site:
        configuration, sent, stopped = site.old.server.folder / "dovecot.conf", 0, False
        pause_s = 0.05 if form == "mbox" else 0.0
        """A file that is locked all the time is nobody's to read."""

        async def deliver() -> None:
            nonlocal sent
            while not stopped:
                await trio.run_process(
                    [str(AGENT), "-c", str(configuration), "-d", site.old.user],
                    stdin=f"Subject: delivered {sent}\r\n\r\ntext\r\n".encode(),
                    stderr=subprocess.DEVNULL,
                )
                sent += 1
                await trio.sleep(pause_s)

        async def work() -> None:
            while not stopped:
                await trio.to_thread.run_sync(site.old.flag, "INBOX")
                await trio.to_thread.run_sync(site.old.move, "INBOX", "Sent")
                await trio.sleep(pause_s)

        # In the nursery: the agent and the client, until the move is ready for its cutover.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            nursery.start_soon(work)
            request = await site.ready()
            while sent < 5:  # noqa: ASYNC110 (another program delivers)
                await trio.sleep(0.01)
            stopped = True
        await site.root.complete(request)
        await site.finish(request)
        assert site.found() == site.expected()
        assert count(site.found()) == 40 + sent


async def test_a_single_file_goes_into_a_database_and_a_mailbox_comes_out_as_one(tmp_path: Path) -> None:
    await init_root(tmp_path / "root")
    async with open_root(tmp_path / "root") as root:
        await root.server_add("EX", version="2010")
        await root.database_add("DB", server="EX")
        inbox = tmp_path / "old.mbox"
        message = "From a@b Tue Nov 14 22:13:20 2023\nSubject: %d\nStatus: RO\n\n>From a friend\n\n"
        inbox.write_text("".join(message % number for number in range(5)))
        with trio.fail_after(PATIENCE_S):
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
