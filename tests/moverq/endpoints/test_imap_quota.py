"""A mailbox that the target's quota does not take is refused before anything is written there."""

import random
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from moverq.model.request import Status
from moverq.root import init_root, open_root
from tests.support.cyrus import shared_cyrus
from tests.support.dovecot import shared_dovecot
from tests.support.imap_world import Mailbox


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["STORAGE 30", "MESSAGE 2", "STORAGE 1000 MESSAGE 3"])
async def test_a_target_that_is_too_small_is_said_before_the_move(bound: str, tmp_path: Path) -> None:
    address = f"{uuid4().hex[:12]}@example.com"
    cyrus = shared_cyrus()
    with (
        closing(Mailbox(shared_dovecot("mdbox"), f"{address}.old", random.Random(1))) as old,
        closing(Mailbox(cyrus, f"{address}.new", random.Random(2))) as new,
    ):
        for _ in range(3):
            old.add("INBOX", b"Subject: large\r\n\r\n" + b"x" * 20_000)
        assert new.mail() == {"INBOX": {}}
        cyrus.administer("SETQUOTA", f'"user/{new.user}"', f"({bound})")
        await init_root(tmp_path / "root")
        async with open_root(tmp_path / "root") as root:
            for name, mailbox in (("OLD", old), ("NEW", new)):
                await root.server_add(f"mail-{name.lower()}", version="IMAP")
                url = mailbox.server.url(user="{address}." + name.lower())
                await root.database_add(name, server=f"mail-{name.lower()}", path=url)
            await root.mailbox_add(address, database="OLD")
            with trio.fail_after(60):
                done = await root.wait(await root.move(address, to="NEW"))
        if bound.startswith("STORAGE 1000"):
            assert done.status == Status.COMPLETED.value, done.message
            assert new.mail() == old.mail()
        else:
            assert done.status == Status.FAILED.value
            assert "its quota at NEW has room for" in done.message
            assert new.mail() == {"INBOX": {}}
