"""Moves to and from real IMAP servers, where it matters that they are: refused names, late writes, forms of bytes."""

import os
import random
from collections import Counter
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from moverq.directory.directory import Register
from moverq.errors import EndpointUnavailable
from moverq.model.request import Status
from moverq.phases import clean_up, finalize
from moverq.phases.tenure import Tenure
from moverq.root import init_root, open_root
from tests.support.dovecot import UID, shared_dovecot, start_dovecot
from tests.support.imap_world import Mailbox
from tests.support.mail_site import PATIENCE_S, REFUSED_BY_CYRUS, a_site, but_for_empty_parents, count

pytestmark = pytest.mark.slow


async def test_a_folder_name_that_the_server_refuses_is_named_and_goes_on_being_that_folder(tmp_path: Path) -> None:
    async with a_site(tmp_path, "imap-mdbox", "imap-cyrus", messages=20) as site:
        request = await site.ready()
        for name in (REFUSED_BY_CYRUS, "Sent"):
            site.old.add(name)
            site.old.rename(name, f"{name}%")
        site.old.add("Sent%")
        await site.root.complete(request)
        done = await site.finish(request)
        assert done.status == Status.COMPLETED_WITH_WARNING.value
        before = but_for_empty_parents(site.old.mail())
        for name in ("Lists/50 %%", "Sent%"):
            before[name.replace("%", "_")] = before.pop(name)
        assert site.found() == before
        told = await site.told(request)
        assert any("does not take the folder name '50 %'" in text for text in told), told
        await site.take_back()
        assert {"Lists/50 %%", "Sent%"} <= site.old.mail().keys()


async def test_folders_of_every_personal_namespace_are_moved(tmp_path: Path) -> None:
    archive = """namespace archive {
        type = private
        prefix = Archive/
        separator = /
        location = mdbox:~/archive
        list = yes
    }"""
    server, address = start_dovecot(namespace="separator = /", more=archive), f"{uuid4().hex[:12]}@example.com"
    try:
        with (
            closing(Mailbox(server, f"{address}.old", random.Random(1))) as old,
            closing(Mailbox(shared_dovecot("mdbox"), f"{address}.new", random.Random(2))) as new,
        ):
            old.fill(6, folders=("INBOX", "Archive/2020"))
            await init_root(tmp_path / "root")
            async with open_root(tmp_path / "root") as root:
                places = [of.server.url(user=of.user.replace(address, "{address}")) for of in (old, new)]
                done = await root.wait(await root.move(address, source=places[0], to=places[1]))
            assert done.status == Status.COMPLETED.value
            assert but_for_empty_parents(new.mail()) == but_for_empty_parents(old.mail())
    finally:
        server.stop()


async def test_flags_that_the_new_server_does_not_keep_are_named(tmp_path: Path) -> None:
    """A user who may not write flags there: what he brings along is dropped without a word."""
    acl = """mail_plugins = acl
    plugin {
        acl = vfile:{folder}/acl:cache_secs=0
    }"""
    server, address = start_dovecot(more=acl), f"{uuid4().hex[:12]}@example.com"
    try:
        (server.folder / "acl").write_text("* anyone lrstipekxa\n* owner lrstipekxa\n")
        with (
            closing(Mailbox(shared_dovecot("mdbox"), f"{address}.old", random.Random(1))) as old,
            closing(Mailbox(server, f"{address}.new", random.Random(2))) as new,
        ):
            old.fill(40, folders=("INBOX", "Archive/2020"))
            await init_root(tmp_path / "root")
            async with open_root(tmp_path / "root") as root:
                places = [of.server.url(user=of.user.replace(address, "{address}")) for of in (old, new)]
                before = old.mail()
                request = await root.move(address, source=places[0], to=places[1])
                with trio.fail_after(PATIENCE_S):
                    done = await root.wait(request)
                told = [entry.text for entry in (await root.report(request)).entries]
                assert done.status == Status.COMPLETED_WITH_WARNING.value, told
                for flag in ("\\Answered", "\\Draft", "\\Flagged"):
                    lacking = sum(flag in message[1] for messages in before.values() for message in messages)
                    assert f"The server did not keep the flag {flag} of a message ({lacking} times)." in told
                kept = {"\\Seen", "\\Deleted"}
                assert but_for_empty_parents(new.mail()) == {
                    name: Counter((what, " ".join(sorted(kept & {*flags.split()})), date) for what, flags, date in some)
                    for name, some in but_for_empty_parents(before).items()
                }
                with trio.fail_after(PATIENCE_S):
                    done = await root.wait(await root.rollback(address))
                assert done.status == Status.COMPLETED.value
            assert old.mail() == before
    finally:
        server.stop()


async def test_a_folder_that_its_server_cannot_open_any_more_is_waited_for_by_its_name(tmp_path: Path) -> None:
    """For an hour: see `busy_part_s`. Nothing in it counts as deleted."""
    async with a_site(tmp_path, "imap-maildir", "imap-mdbox") as site:
        request = await site.ready()
        before = site.new.mail()
        folder = site.old.server.folder / "home" / site.old.user / "Maildir" / ".Sent"
        site.old.close()
        for inner in ("cur", "new", "tmp", "."):  # restored by root, and nobody gave it back to its user
            os.chown(folder / inner, 0, 0)
            os.chmod(folder / inner, 0o700)
        await site.root.complete(request)
        async with trio.open_nursery() as nursery:  # who waits for the move works on it meanwhile
            nursery.start_soon(site.finish, request)
            with trio.fail_after(PATIENCE_S):
                shown = await site.root.move_show(request)
                while "open the folder 'Sent'" not in shown.message:
                    await trio.sleep(0.05)
                    shown = await site.root.move_show(request)
            assert shown.status == Status.IN_PROGRESS.value
            assert site.new.mail() == before
            for inner in ("cur", "new", "tmp", "."):
                os.chown(folder / inner, UID, UID)
            await site.root.resume(request)
        assert site.new.mail() == site.old.mail()


@pytest.mark.parametrize(("old", "new"), [("imap-mdbox", "imap-maildir"), ("imap-cyrus", "imap-mdbox")])
async def test_what_a_client_does_past_the_lock_is_carried(
    old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was open before the lock writes on, after the last drain and before the commit."""
    relocate = finalize._relocate

    async with a_site(tmp_path, old, new) as site:

        def writes() -> None:
            site.old.add("INBOX", b"Subject: too late\r\n\r\n")
            site.old.flag("Sent", "\\Flagged toolate")
            site.old.expunge("Sent")
            site.old.move("Archive/2020", "INBOX")

        async def late(t: Tenure) -> Register:
            await trio.to_thread.run_sync(writes)
            return await relocate(t)

        monkeypatch.setattr(finalize, "_relocate", late)
        request = await site.ask(lock_budget_ms=30_000)
        done = await site.finish(request)
        told = await site.told(request)
        assert done.status == Status.COMPLETED.value, told
        assert any("what got past the lock: " in text for text in told), told
        assert not [text for text in told if "came to the source after the lock" in text]
        before, after = site.old.mail(), site.new.mail()
        assert before == after
        assert any("toolate" in flags for _, flags, _ in after["Sent"]) or len(after["Sent"]) < 2


async def test_a_source_that_is_gone_at_the_last_look_keeps_no_target_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*args: object, **options: object) -> int:
        raise EndpointUnavailable(endpoint="old", why="it closed the connection")

    async with a_site(tmp_path, "imap-mdbox", "imap-mdbox", messages=3) as site:
        monkeypatch.setattr(clean_up, "drain", gone)
        request = await site.ask()
        done = await site.finish(request)
        assert done.status == Status.COMPLETED_WITH_WARNING.value
        told = await site.told(request)
        assert any("The last look at the source was given up" in text for text in told), told
        assert site.new.mail() == site.old.mail()


@pytest.mark.parametrize("new", ["imap-mdbox", "imap-cyrus"])
async def test_what_our_store_holds_goes_to_an_imap_server_and_back(new: str, tmp_path: Path) -> None:
    """Bare line ends, milliseconds and an address that delivered: what IMAP cannot keep comes back all the same."""
    own_form = "The server keeps a message in its own form: line ends, NUL, header bytes that are not ASCII (7 times)."
    async with a_site(tmp_path, "imap-mdbox", new, messages=0) as site:
        root, address = site.root, site.address
        await root.mailbox_add(address, database=await site.add_database())
        for number in range(20):
            ends = b"\n" if number % 3 == 0 else b"\r\n"
            content = ends.join((b"Subject: %d" % number, b"", b"text", b""))
            await root.deliver(address, content, received_ms=1_700_000_000_123)
        before = (await root.mailbox_show(address)).to_json()
        there = await site.finish(await root.move(address, to=site.new_location))
        assert there.status == Status.COMPLETED_WITH_WARNING.value
        assert own_form in await site.told(there.request_id)
        assert count(site.found()) == 20
        await site.take_back()
        after = (await root.mailbox_show(address)).to_json()
        same = ("items", "bytes", "folders", "settings")
        assert {key: before[key] for key in same} == {key: after[key] for key in same}
