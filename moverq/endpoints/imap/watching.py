"""Being told of a change instead of looking for it: NOTIFY (RFC 5465) and IDLE (RFC 2177), on a connection of its own.

    arm ─▶ look ─▶ nothing new ─▶ wait ─▶ the server speaks, or the time is over ─▶ arm ─▶ look …

Armed before the look, so what comes between look and wait is heard. NOTIFY tells of every folder; IDLE of INBOX alone,
where mail is delivered; the others are looked at when the time is over, as everything is at a server with neither.
Both together, where a server has both: Dovecot tells at once what it would otherwise tell after half a minute.
What is told is never believed, only taken as a reason to look. The connection is kept between waits, for one mailbox
waits often, and not kept for long: servers end silent ones.
"""

from typing import TYPE_CHECKING, Final

import trio

from moverq.endpoints.imap.connection import Connection, Refused
from moverq.errors import MoveError

if TYPE_CHECKING:
    from moverq.endpoints.imap.session import ImapSession

RENEW_S: Final = 600.0
"""A connection that has watched for so long is made anew. RFC 2177 has servers end an IDLE after 30 minutes."""
AGAIN_S: Final = 300.0
"""After a server did not let us watch, so long is only looked."""
LASTED_S: Final = 60.0
"""A connection that ended sooner was not let watch: made anew at once, it would be made again and again."""
EVENTS: Final = (
    b"NOTIFY SET (selected (MessageNew MessageExpunge FlagChange)) "
    b"(personal (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange))"
)


class Watch:
    """Of one mailbox, for any number of tasks: one of them listens, and what it hears is heard by all. `aclose` it."""

    def __init__(self, session: "ImapSession") -> None:
        self._session = session
        self._connection: Connection | None = None
        self._since = 0.0
        self._not_before = 0.0
        self._arming = trio.Lock()
        self._listening = trio.Lock()
        self._heard = 0
        """How often somebody who listened had a reason to look."""

    def __repr__(self) -> str:
        return f"<Watch {self._session.name} {'armed' if self._connection is not None else 'blind'}>"

    async def arm(self) -> None:
        """What happens from now on is heard by the next `wait`; not where the server cannot tell."""
        async with self._arming:
            now = trio.current_time()
            if self._connection is not None and now - self._since > RENEW_S and not self._listening.locked():
                await self.aclose()
            if self._connection is not None or now < self._not_before:
                return
            self._connection, self._since = await self._connect(), now
            if self._connection is None:
                self._not_before = now + AGAIN_S

    async def _connect(self) -> Connection | None:
        """A connection that will tell; None: the server does not let us."""
        try:
            # Never the first: where the server lets the user have one only, that is for the looks.
            async with self._session.connection():
                connection = await self._session.connect()
        except MoveError:
            return None  # one connection too many, perhaps: the look will say if it is worse
        try:
            if await _begin(connection):
                return connection
        except MoveError:
            pass
        except BaseException:
            await connection.aclose()
            raise
        await connection.aclose()
        return None

    async def wait(self, *, at_most_s: float) -> None:
        """The server has spoken, or this time is over.

        Cancelled: what was heard meanwhile is not lost to the next look, which asks everything anew.
        """
        if self._connection is None:
            await trio.sleep(at_most_s)
            return
        heard = self._heard
        with trio.move_on_after(at_most_s):
            async with self._listening:
                if self._connection is None or self._heard != heard:
                    return  # who listened while this one waited for his turn heard something, or lost the connection
                try:
                    self._heard += await self._connection.overhear(at_most_s=at_most_s)
                except MoveError:
                    self._heard += 1
                    now = trio.current_time()
                    if now - self._since < LASTED_S:
                        self._not_before = now + AGAIN_S
                    await self.aclose()  # and look, at once: if the server is gone the look says so

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()


async def _begin(connection: Connection) -> bool:
    """Raises: EndpointUnavailable."""
    told = False
    if connection.has(b"NOTIFY"):
        try:
            await connection.run(EVENTS)
            told = True
        except Refused:
            told = False  # Dovecot has it only with mailbox_list_index
    if not connection.has(b"IDLE"):
        return told
    try:
        await connection.run(b"EXAMINE INBOX")
    except Refused:
        return told
    return await connection.idle() or told
