"""The connections of one mailbox to its server, each lent to one task at a time: `async with connections.lend()`.

One in which anything went wrong, or that was cancelled half way, is closed and not lent again; one that lay idle for
long is closed: the server would do it at the wrong moment, and of four one is enough while a move waits.

A server may let a user have fewer than `at_most`, and says so in as many ways as there are servers: NO to the login,
BYE, a connection reset (Dovecot's mail_max_userip_connections, Cyrus's maxlogins_per_user, Gmail's fifteen). So one
that cannot be had while others are there is one too many, whatever was said: it is done with those, for `MORE_S`. Only
of the last one it is believed that the server is away, or the password wrong.

    lend ─▶ room? ─▶ an idle one ─────────────────────────────▶ lent
              ▲        └▶ a new one ─▶ had ──────────────────────┘
              │                    └▶ refused, others there ─▶ no more than these ─┐
              └────────────────────────────────────────────────────────────────────┘
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from moverq.endpoints.imap.connection import Connection
from moverq.errors import EndpointBroken, EndpointBusy, EndpointUnavailable

IDLE_S: Final = 60.0
"""A connection that nobody used for so long is closed: servers drop silent ones, from five minutes on."""
MORE_S: Final = 300.0
"""So long it is not tried again to have more than the server let us have."""


class Connections:
    """Those of one mailbox. `aclose` them.

    connect: makes one.
    give_way: gives back what is held ahead of need, so that nobody waits for what only he himself would set free.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], give_way: Callable[[], Awaitable[None]], *, at_most: int
    ) -> None:
        self._connect = connect
        self._give_way = give_way
        self._wanted = at_most
        self._places = trio.CapacityLimiter(at_most)
        self._more_at = 0.0
        self._idle: list[tuple[Connection, float]] = []

    def __repr__(self) -> str:
        return f"<Connections {self._places.borrowed_tokens} of {self.at_most} lent, {len(self._idle)} idle>"

    @property
    def at_most(self) -> int:
        """So many there may be, as far as is known."""
        return int(self._places.total_tokens)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """A connection that is logged in, for one task.

        Raises: what `connect` raises, where there is no other.
        """
        borrower = object()
        connection = await self._take(borrower)
        try:
            try:
                yield connection
            except BaseException:
                await connection.aclose()
                raise
            await self._give_back(connection)
        finally:
            self._places.release_on_behalf_of(borrower)

    async def _take(self, borrower: object) -> Connection:
        while True:
            if self.at_most < self._wanted and trio.current_time() >= self._more_at:
                self._places.total_tokens = self._wanted
            await self._places.acquire_on_behalf_of(borrower)
            try:
                return await self._idle_one() or await self._connect()
            except BaseException as error:
                self._places.release_on_behalf_of(borrower)
                others = self._places.borrowed_tokens + len(self._idle)
                is_refused = isinstance(error, EndpointUnavailable | EndpointBusy | EndpointBroken)
                if not is_refused or not others:
                    raise
            self._places.total_tokens = min(others, self.at_most)
            self._more_at = trio.current_time() + MORE_S
            await self._give_way()

    async def _idle_one(self) -> Connection | None:
        await self._drop_stale()
        return self._idle.pop()[0] if self._idle else None

    async def _drop_stale(self) -> None:
        now = trio.current_time()
        while self._idle and now - self._idle[0][1] >= IDLE_S:  # the first came back first
            stale, _ = self._idle.pop(0)
            await stale.aclose()

    async def _give_back(self, connection: Connection) -> None:
        if not connection.is_idle:
            await connection.aclose()
            return
        try:
            await connection.leave()
        except BaseException:
            await connection.aclose()
            raise
        connection.rest()
        self._idle.append((connection, trio.current_time()))
        await self._drop_stale()

    async def aclose(self) -> None:
        """Of those that nobody has."""
        while self._idle:
            connection, _ = self._idle.pop()
            await connection.aclose()
