"""A user with mail in one place and room in another, both of real servers, and a root: where whole moves begin."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import trio

from moverq.model.ids import RequestId
from moverq.model.request import Status
from moverq.model.statistics import MoveStatistics
from moverq.root import Root, init_root, open_root
from tests.support.dovecot import shared_dovecot
from tests.support.imap_servers import SERVERS, ImapServer
from tests.support.imap_world import FOLDERS, Mail, Mailbox

REFUSED_BY_CYRUS = "Lists/50 %"
HOLD_FOLDERS = {"Archive", "Archives", "Lists"}
"""Only for Dovecot is there a folder that cannot be selected; Cyrus makes an ordinary one of it."""
PATIENCE_S = 120
"""For a move of a few dozen messages, on a busy machine."""


@attrs.frozen
class Place:
    """Where mail is kept: the server that a client sees it by, and how moverq reaches it."""

    server: Callable[[], ImapServer]
    location: Callable[[ImapServer, str], str]
    """Of the users whose name ends so."""


def by_imap(server: ImapServer, ending: str) -> str:
    return server.url(user="{address}." + ending)


def in_maildirs(server: ImapServer, ending: str) -> str:
    return f"maildir:{server.folder}/home/%u.{ending}/Maildir"


def in_mbox_files(server: ImapServer, ending: str) -> str:
    home = f"{server.folder}/home/%u.{ending}"
    return f"mbox:{home}/mail:INBOX={home}/inbox"


PLACES = {
    "maildir": Place(SERVERS["maildir"], in_maildirs),
    "mbox": Place(partial(shared_dovecot, "mbox"), in_mbox_files),
    **{f"imap-{name}": Place(server, by_imap) for name, server in SERVERS.items()},
}


@attrs.frozen
class Site:
    """Made by `a_site`."""

    root: Root
    address: str
    old: Mailbox
    new: Mailbox
    old_location: str
    new_location: str
    at_cyrus: bool
    """Is the new place a Cyrus? It refuses a folder's name."""

    async def ask(self, *, to: str | None = None, **options: Any) -> RequestId:
        """A request to move the mailbox, to its new place unless told otherwise."""
        return await self.root.move(self.address, to=to or self.new_location, source=self.old_location, **options)

    async def at_rest(self, request: RequestId) -> MoveStatistics:
        with trio.fail_after(PATIENCE_S):
            return await self.root.wait(request)

    async def ready(self) -> RequestId:
        """A request whose copy waits for its cutover."""
        request = await self.ask(suspend_when_ready_to_complete=True)
        assert (await self.at_rest(request)).status == Status.AUTO_SUSPENDED.value, await self.told(request)
        return request

    async def finish(self, request: RequestId) -> MoveStatistics:
        """It completes, if not without a warning."""
        done = await self.at_rest(request)
        assert done.status in {Status.COMPLETED.value, Status.COMPLETED_WITH_WARNING.value}, await self.told(request)
        assert done.bad_items_encountered == 0
        return done

    async def take_back(self) -> None:
        done = await self.finish(await self.root.rollback(self.address))
        assert done.status == Status.COMPLETED.value, await self.told(done.request_id)

    async def told(self, request: RequestId) -> list[str]:
        return [entry.text for entry in (await self.root.report(request)).entries]

    async def add_database(self) -> str:
        """A database of ours, in the same root."""
        await self.root.server_add("EX", version="2010")
        await self.root.database_add("DB", server="EX")
        return "DB"

    def expected(self) -> Mail:
        """The mail of the old place, as the new one can hold it."""
        mail = but_for_empty_parents(self.old.mail())
        if self.at_cyrus and REFUSED_BY_CYRUS in mail:
            mail[REFUSED_BY_CYRUS.replace("%", "_")] = mail.pop(REFUSED_BY_CYRUS)
        return mail

    def found(self) -> Mail:
        """The mail of the new place."""
        return but_for_empty_parents(self.new.mail())


def but_for_empty_parents(mail: Mail) -> Mail:
    return {name: messages for name, messages in mail.items() if messages or name not in HOLD_FOLDERS}


def count(mail: Mail) -> int:
    return sum(messages.total() for messages in mail.values())


def use(mailbox: Mailbox) -> None:
    """What a user does in a day."""
    for _ in range(3):
        mailbox.add("INBOX")
        mailbox.flag("Sent")
        mailbox.move("INBOX", "Archive/2020")
        mailbox.expunge("Archive/2020")


@asynccontextmanager
async def a_site(path: Path, old: str, new: str, *, messages: int = 40) -> AsyncIterator[Site]:
    """`old` and `new`: by their names in `PLACES`. The mail is there; the root knows nothing of it yet."""
    address = f"{uuid4().hex[:12]}@example.com"
    places = {"old": PLACES[old], "new": PLACES[new]}
    servers = {ending: place.server() for ending, place in places.items()}
    locations = [place.location(servers[ending], ending) for ending, place in places.items()]
    mailboxes = [
        Mailbox(servers[ending], f"{address}.{ending}", random.Random(seed)) for seed, ending in enumerate(places)
    ]
    folders = tuple(name for name in FOLDERS if old != "imap-cyrus" or name != REFUSED_BY_CYRUS)
    try:
        await trio.to_thread.run_sync(partial(mailboxes[0].fill, messages, folders=folders))
        await init_root(path / "root")
        async with open_root(path / "root") as root:
            yield Site(root, address, *mailboxes, *locations, new == "imap-cyrus")
    finally:
        for mailbox in mailboxes:
            mailbox.close()
