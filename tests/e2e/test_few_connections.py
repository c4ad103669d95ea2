"""Servers that let a user have fewer connections than a move would take: it is done with those, and slower."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

from moverq.model.ids import RequestId
from moverq.model.request import Status
from moverq.root import Root
from tests.e2e.test_cyrus_moves import a_site
from tests.support.cyrus import start_cyrus
from tests.support.dovecot import start_dovecot
from tests.support.imap_servers import ImapServer

pytestmark = pytest.mark.slow

OF_CLIENTS = 1
"""The test's own mail client is one of the user's connections."""


@pytest.fixture(scope="module", params=[1, 2, 3])
def few(request: pytest.FixtureRequest) -> Iterator[tuple[ImapServer, ImapServer]]:
    most = request.param + OF_CLIENTS
    with ExitStack() as stack:
        dovecot = start_dovecot(more=f"protocol imap {{\n  mail_max_userip_connections = {most}\n}}\n")
        stack.callback(dovecot.stop)
        cyrus = start_cyrus(logins=most)
        stack.callback(cyrus.stop)
        yield dovecot, cyrus


async def test_a_mailbox_goes_there_and_back_with_few_connections(
    few: tuple[ImapServer, ImapServer], tmp_path: Path
) -> None:
    async with a_site(tmp_path, *few) as (root, address, old, new):
        await trio.to_thread.run_sync(partial(old.fill, 400, folders=("INBOX", "Sent", "Archive")))
        before = old.mail()
        request = await root.move(address, to="NEW", suspend_when_ready_to_complete=True)
        await root.wait(request)
        old.add("INBOX")
        await root.complete(request)
        await completed(root, request)
        assert new.mail() == before | {"INBOX": old.mail()["INBOX"]}
        new.add("INBOX")
        await completed(root, await root.rollback(address))
        assert old.mail() == new.mail()


async def completed(root: Root, request: RequestId) -> None:
    """The move is complete, and never had to wait for a connection."""
    done = await root.wait(request)
    told = [entry.text for entry in (await root.report(request)).entries]
    assert done.status == Status.COMPLETED.value, told
    assert not [text for text in told if "is busy" in text or "cannot be reached" in text], told
