"""A client's session on a mailbox, wherever it lives: it finds it through the directory and follows it through a move.

    session.use(verb) ──▶ register (cached) ──▶ database ──▶ verb
          ▲                                            │ MailboxMoved, gone: read the register again, go there
          └────────────────────────────────────────────┤ MailboxLocked: read the guard, then the register; wait for
                                                       │ the guard's next turn, look again
                                                       └ answer

A verb is tried again only where the store *refused* it, so nothing happened; a verb whose outcome is unknown
(`EndpointBroken`, a cancelled call) is never repeated here, and the next one looks for the database anew: it may have
been opened again. How long a locked mailbox may keep a caller waiting is the
caller's to say: `with trio.fail_after(30)`, or `lock_wait_s` where a verb that has begun shall not be cut.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import attrs
import trio

from moverq.directory.directory import Directory, Recipient
from moverq.endpoints import store as stores
from moverq.endpoints.base import Home
from moverq.errors import EndpointBroken, EndpointUnavailable, MailboxLocked, MailboxMoved, NotFound

T = TypeVar("T")

OpenDatabase = Callable[[str], Awaitable[stores.Database]]
"""An open database by its name in the directory."""

HOPS_MAX = 8
"""A mailbox that has moved again each time one looks is a bug, not a move."""


@attrs.frozen(eq=False)
class Place:
    """Where a session stands: the database its mailbox is in, and the client verbs of the instance."""

    address: str
    """The mailbox's primary one."""
    home: Home
    epoch: int
    database: stores.Database
    mailbox: stores.Mailbox


@attrs.define(eq=False)
class Session:
    """One address. Use it from as many tasks as you like."""

    address: str
    _directory: Directory
    _open: OpenDatabase
    _place: Place | None = None
    moves_seen: int = 0
    """How often this session found its mailbox at a new home."""
    waits: int = 0
    """How often it waited for a lock to end."""

    def __repr__(self) -> str:
        return f"<Session {self.address} at {self._place.home if self._place else 'no place yet'}>"

    async def use(self, verb: Callable[[Place], Awaitable[T]], *, lock_wait_s: float = math.inf) -> T:
        """The verb's answer, given by the mailbox at its home. `lock_wait_s`: how long a lock is waited for, at most.

        Not the caller's own deadline, which would also cut a verb that has begun: only the wait ends.

        Raises: `NotFound`, `RequestRefused`, `EndpointBroken`, `MailboxLocked` when the wait is over, and
            `MailboxMoved` where it moves on each time.
        """
        hops = 0
        deadline = trio.current_time() + lock_wait_s
        while True:
            place = self._place or await self._find()
            try:
                with stores.translated(place.home.database):
                    return await verb(place)
            except MailboxLocked:
                head = await self._head_while_closed(place)
                if head is None or await self._has_moved(place):
                    continue  # the guard has turned since, or the mailbox lives elsewhere: the verb will be told
                if trio.current_time() >= deadline:
                    raise
                self.waits += 1
                with trio.move_on_at(deadline):
                    await self._wait_turn(place, head)
            except (MailboxMoved, NotFound):
                hops += 1
                if hops > HOPS_MAX or not await self._has_moved(place):
                    raise
            except (EndpointBroken, EndpointUnavailable):
                self._place = None
                raise

    async def place(self) -> Place:
        """Where the mailbox is now, by the directory."""
        return await self._find()

    async def _find(self) -> Place:
        recipient: Recipient = await self._directory.locate(self.address)
        home = recipient.register.home
        database = await self._open(home.database)
        mailbox = database.mailbox(stores.store_instance(home.instance))
        if self._place is not None and self._place.home != home:
            self.moves_seen += 1
        self._place = Place(recipient.address, home, recipient.register.epoch, database, mailbox)
        return self._place

    async def _has_moved(self, place: Place) -> bool:
        """Does the register name another home than this one? Goes there, if so."""
        return (await self._find()).home != place.home

    async def _head_while_closed(self, place: Place) -> int | None:
        """The head of an instance that refuses clients for now, of one moment with its mode. None: it does so no more.

        To be read *before* the register. Each turn of a guard is a change. So if the register still names this place
        afterwards, the turn that ends the refusal is a change after this head. Read in the other order, or waited for
        once the instance is retired, there may be no further change, and the wait would never end.
        """
        try:
            with stores.translated(place.home.database):
                info = await place.database.info(place.mailbox.instance)
        except NotFound:
            return None
        return info.head if stores.is_closed(info) else None

    async def _wait_turn(self, place: Place, head: int) -> None:
        """The guard may have turned since the instance was at `head`, or the instance is gone."""
        with suppress(NotFound), stores.translated(place.home.database):
            await place.database.wait_change(place.mailbox.instance, after=head)
