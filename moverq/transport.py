"""A durable queue in front of mailboxes, for scripts that deliver without an MTA.

A mailbox that is being finalized refuses mail for a moment. An MTA keeps it in its queue; so does this. A message is
on the disk when `submit` returns, and goes from it only after its delivery returned: a crash between the two delivers
again, with the same key, and the mailbox knows the key. At least once here, and so exactly once there.

    submit ── SQLite, synchronous=FULL ── workers ── deliver(…)
                                                        done               removed
                                                        locked, away       stays, and its recipient rests
                                                        refused for good   failed: kept, listed, retried by hand

What always holds:
- Of one recipient, one message at a time is being delivered, oldest first; recipients do not wait for each other. One
  that failed for good is passed by those behind it.
- In memory are the contents being delivered, `bytes_max` of them or one, and a name for each recipient with mail.
- A mail system that is broken (a full disk) is waited for, as one that is away: that is not the message's fault.

Several processes may open one queue. Each delivers what it finds at the start and what it takes in: what two of them
deliver at once has one key. What it leaves to others: finding the mailbox, following a move, suppressing duplicates.
"""

import hashlib
import heapq
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import apsw
import attrs
import trio

from moverq.errors import EndpointBusy, MoveError, NotFound, Remedy, RequestRefused, leaves
from moverq.flow import clock
from moverq.flow.backoff import backoff_s
from moverq.flow.byte_budget import ByteBudget
from moverq.flow.offload import InThread, Offload
from moverq.flow.sqlite import bring_up, open_sqlite, sqlite_errors, transaction
from moverq.model.delivery import delivery_key

APPLICATION_ID = b"mqTQ"
MESSAGE_BYTES_MAX = 512 << 20
BYTES_MAX = 64 << 20
WORKERS = 8
BACKOFF_FIRST_S = 0.05
"""A lock is held for milliseconds: the first tries are close together."""
BACKOFF_MOST_S = 60.0
CLOSE_S = 10.0

SCHEMA = (
    """
    CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key BLOB NOT NULL,
        content_digest BLOB NOT NULL,
        sender TEXT NOT NULL,
        recipient TEXT NOT NULL,
        received_ms INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        failed TEXT,
        content BLOB NOT NULL
    ) STRICT;
    CREATE INDEX message_next ON message (recipient, id) WHERE failed IS NULL;
    CREATE UNIQUE INDEX message_once ON message (recipient, key, content_digest);
    """,
)


class Deliver(Protocol):
    """Puts a message into its mailbox, durably, once for each (key, content): then it returns.

    It should not wait for a lock to go: it holds a worker, which others may need.

    Raises:
        MoveError: one whose remedy is to wait keeps the message queued; another makes it failed.
    """

    async def __call__(self, *, recipient: str, sender: str, content: bytes, key: bytes, received_ms: int) -> None: ...


@attrs.frozen(kw_only=True)
class QueuedMessage:
    """A message in the queue, without its content."""

    number: int
    key: bytes
    sender: str
    recipient: str
    received_ms: int
    bytes: int
    failed: str | None
    """Why it failed for good; None: it is queued."""
    waiting: str | None
    """Why it, or one before it, had to wait the last time."""


@attrs.define(eq=False)
class _Lane:
    """A recipient with mail: in `ready`, in `waiting`, or with a worker."""

    more: bool = True
    """Something may have come since a worker last looked."""
    tries: int = 0
    why: str | None = None
    resting: int | None = None
    """The number of its valid entry in `waiting`."""


@asynccontextmanager
async def open_transport(
    path: Path | str,
    deliver: Deliver,
    *,
    offload: Offload | None = None,
    now_ms: Callable[[], int] = clock.now_ms,
    rng: random.Random | None = None,
    workers: int = WORKERS,
    bytes_max: int = BYTES_MAX,
) -> AsyncIterator["Transport"]:
    """The queue at `path` (made if need be) and its workers; what was left in it is delivered first.

    Leaving stops the workers at once: what is not delivered stays. `Transport.wait_idle` before leaving waits for it.

    Raises:
        EndpointBroken: the queue's own disk or file is at fault, now or later.
    """
    run = offload or InThread()

    def connect() -> apsw.Connection:
        connection = open_sqlite(path, synchronous="FULL")
        try:
            bring_up(connection, kind="mail queue", application_id=APPLICATION_ID, steps=SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    connection = await run(connect)
    try:
        transport = Transport(
            connection, deliver, offload=run, now_ms=now_ms, rng=rng or random.Random(), bytes_max=bytes_max
        )
        await transport.resume()
        # In the nursery: the workers. Leaving the context cancels them; a bug in `deliver` ends the context.
        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(transport.work)
            yield transport
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(CLOSE_S, shield=True):
            await run(connection.close)


class Transport:
    """The queue. Made by `open_transport`."""

    def __init__(
        self,
        connection: apsw.Connection,
        deliver: Deliver,
        *,
        offload: Offload,
        now_ms: Callable[[], int],
        rng: random.Random,
        bytes_max: int,
    ) -> None:
        self._connection = connection
        self._deliver = deliver
        self._offload = offload
        self._now_ms = now_ms
        self._rng = rng
        self._budget = ByteBudget(bytes_max)
        self._lanes: dict[str, _Lane] = {}
        self._ready: deque[str] = deque()
        self._waiting: list[tuple[float, int, str]] = []
        self._numbers = count()
        self._news = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<Transport {self._connection.filename} {len(self._lanes)} recipients with mail>"

    async def submit(self, sender: str, recipient: str, content: bytes, key: bytes | None = None) -> bytes:
        """The message is in the queue; its delivery key, the caller's own or `delivery_key`'s.

        The same key and content for the same recipient, while it is in the queue, is the same message.

        Durable: on return.
        Cancelled: before it had its turn, nothing was queued; after that it is.

        Raises:
            RequestRefused: the message is too large.
            EndpointBroken: the queue's disk refuses it.
        """
        if len(content) > MESSAGE_BYTES_MAX:
            raise RequestRefused(why=f"a message of {len(content)} bytes is too large for the queue")
        used = delivery_key(sender, recipient, content) if key is None else key
        received_ms = self._now_ms()

        def insert() -> None:
            digest = hashlib.sha256(content).digest()
            with transaction(self._connection) as db:
                db.execute(
                    "INSERT INTO message (key, content_digest, sender, recipient, received_ms, bytes, content) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (used, digest, sender, recipient, received_ms, len(content), content),
                )

        await self._offload(insert)
        self._enlist(recipient)
        return used

    async def queue(self, *, after: int = 0, limit: int = 1000) -> Sequence[QueuedMessage]:
        """What is in the queue, oldest first, a page at a time (`after`: the last `number` seen)."""
        query = (
            "SELECT id, key, sender, recipient, received_ms, bytes, failed FROM message "
            "WHERE id > ? ORDER BY id LIMIT ?"
        )
        rows = await self._ask(query, after, limit)
        return [
            QueuedMessage(
                number=number,
                key=key,
                sender=sender,
                recipient=recipient,
                received_ms=received_ms,
                bytes=size,
                failed=failed,
                waiting=lane.why if failed is None and (lane := self._lanes.get(recipient)) else None,
            )
            for number, key, sender, recipient, received_ms, size, failed in rows
        ]

    async def retry(self, number: int) -> None:
        """A failed message is queued again. Durable. Raises `NotFound` where there is none of this number."""

        def requeue() -> str:
            with transaction(self._connection) as db:
                recipient = db.execute(
                    "UPDATE message SET failed = NULL WHERE id = ? RETURNING recipient", (number,)
                ).get
            if recipient is None:
                raise NotFound(kind="queued message", name=str(number))
            return str(recipient)

        recipient = await self._offload(requeue)
        self.nudge(recipient)

    async def discard(self, number: int) -> None:
        """A failed message is gone for good, undelivered. Durable.

        Raises:
            NotFound: no *failed* message has this number; one that is queued may be being delivered.
        """

        def delete() -> None:
            with transaction(self._connection) as db:
                db.execute("DELETE FROM message WHERE id = ? AND failed IS NOT NULL", (number,))
                if not db.changes():
                    raise NotFound(kind="failed message", name=str(number))

        await self._offload(delete)

    def nudge(self, recipient: str) -> None:
        """The recipient's mailbox may have opened again: try now, whatever the backoff says."""
        self._enlist(recipient)
        lane = self._lanes[recipient]
        if lane.resting is not None:
            lane.resting = None
            self._make_ready(recipient)

    async def wait_idle(self) -> None:
        """Return when nothing is queued any more: all delivered, or failed."""
        while self._lanes:
            await self._idle.wait()
        await trio.lowlevel.checkpoint()

    async def resume(self) -> None:
        """Take up what is in the queue: at the start, or what another process has put there."""
        query = "SELECT recipient FROM message WHERE failed IS NULL GROUP BY recipient ORDER BY min(id)"
        for (recipient,) in await self._ask(query):
            self._enlist(recipient)

    async def work(self) -> None:
        """Deliver, one message after the other, for ever. A task of `open_transport`'s nursery.

        Cancelled: a message that was being delivered stays queued; it comes again with the same key.
        """
        while True:
            recipient = await self._next_recipient()
            lane = self._lanes[recipient]
            lane.more = False
            query = "SELECT id, bytes FROM message WHERE recipient = ? AND failed IS NULL ORDER BY id LIMIT 1"
            head = await self._ask(query, recipient)
            if head:
                ((number, size),) = head
                error = await self._try(number, size)
                if error is None:
                    await self._write("DELETE FROM message WHERE id = ?", number)
                    lane.tries, lane.why = 0, None
                    self._make_ready(recipient)
                else:
                    await self._settle(recipient, lane, number, error)
            elif lane.more:
                self._make_ready(recipient)
            else:
                self._drop(recipient)

    async def _try(self, number: int, size: int) -> Exception | None:
        """One delivery; what it raised, apart from the queue's own errors, which end the transport."""
        async with self._budget.holding(size):
            query = "SELECT sender, recipient, content, key, received_ms FROM message WHERE id = ?"
            for sender, recipient, content, key, received_ms in await self._ask(query, number):
                try:
                    await self._deliver(
                        recipient=recipient, sender=sender, content=content, key=key, received_ms=received_ms
                    )
                except Exception as error:
                    return error
        return None  # delivered, or by another process meanwhile

    async def _settle(self, recipient: str, lane: _Lane, number: int, error: Exception) -> None:
        """What a delivery's failure means: wait, or failed. A bug is raised again, and the message stays."""
        found = [leaf for leaf in leaves(error) if isinstance(leaf, MoveError)]
        if len(found) < len(leaves(error)):
            raise error
        why = "; ".join(str(leaf) for leaf in found)
        if all(_is_passing(leaf) for leaf in found):
            rest_s = backoff_s(lane.tries, first_s=BACKOFF_FIRST_S, most_s=BACKOFF_MOST_S, rng=self._rng)
            rest_s = max([rest_s, *(leaf.retry_after_s for leaf in found if isinstance(leaf, EndpointBusy))])
            lane.tries, lane.why = lane.tries + 1, why
            lane.resting = next(self._numbers)
            heapq.heappush(self._waiting, (trio.current_time() + rest_s, lane.resting, recipient))
            self._announce()
        else:
            await self._write("UPDATE message SET failed = ? WHERE id = ?", why, number)
            lane.tries, lane.why = 0, None
            self._make_ready(recipient)

    async def _next_recipient(self) -> str:
        """The recipient whose turn it is; waits for mail, or for the end of somebody's rest."""
        await trio.lowlevel.checkpoint()
        while True:
            due = self._end_rests()
            if self._ready:
                return self._ready.popleft()
            with trio.move_on_at(due):
                await self._news.wait()

    def _end_rests(self) -> float:
        """Who has rested is ready; when the next one will have."""
        while self._waiting:
            due, number, recipient = self._waiting[0]
            lane = self._lanes.get(recipient)
            if lane is not None and lane.resting == number:
                if due > trio.current_time():
                    return due
                lane.resting = None
                self._ready.append(recipient)
            heapq.heappop(self._waiting)  # rested, or nudged meanwhile
        return float("inf")

    def _enlist(self, recipient: str) -> None:
        if recipient in self._lanes:
            self._lanes[recipient].more = True
            return
        if self._idle.is_set():
            self._idle = trio.Event()
        self._lanes[recipient] = _Lane()
        self._make_ready(recipient)

    def _make_ready(self, recipient: str) -> None:
        self._ready.append(recipient)
        self._announce()

    def _drop(self, recipient: str) -> None:
        del self._lanes[recipient]
        if not self._lanes:
            self._idle.set()

    def _announce(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _ask(self, query: str, *values: str | int) -> list[tuple[Any, ...]]:
        def ask() -> list[tuple[Any, ...]]:
            with sqlite_errors(self._connection.filename):
                return self._connection.execute(query, values).fetchall()

        return await self._offload(ask)

    async def _write(self, statement: str, *values: str | int) -> None:
        def write() -> None:
            with transaction(self._connection) as db:
                db.execute(statement, values)

        await self._offload(write)


def _is_passing(error: MoveError) -> bool:
    """Is it the mailbox's or its server's trouble, rather than the message's?"""
    return error.remedy in (Remedy.WAIT, Remedy.REDIRECT) or error.reach == "endpoint"
