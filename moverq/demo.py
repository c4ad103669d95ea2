"""The demo: a mailbox in use is moved and taken back, and whatever its user was told is looked for afterwards.

    deliveries ── Transport (durable queue) ──┐
    a client   ── Session ────────────────────┼──▶ the mailbox, wherever it is ◀── the move
    what each was told (acknowledged) ────────┴──▶ `check`, after the load has stopped

Nothing is staged: deliveries and client go through the same verbs as anybody's, the move is an ordinary request, and
the checks read the mailbox at the home that the directory names. They know only what was acknowledged, so they find a
loss, a double and a wrong state alike.
"""

import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from moverq.endpoints.store import NewItem
from moverq.mailbox_files import Imported, folder_paths, import_mail
from moverq.mailfiles import MailItem, NotMail
from moverq.mailmaker import make_mail
from moverq.model.ids import RequestId
from moverq.model.report import EntryKind, MoveReport
from moverq.root import OnLook, Root, init_root, open_root
from moverq.session import Place, Session
from moverq.transport import Transport

ADDRESS = "ada@example.org"
SEED = 2010
ITEMS = 4000
DELIVERIES_PER_S = 80.0
CHANGES_PER_S = 80.0
BEFORE_S = 0.6
"""Load alone, before the move."""
AFTER_S = 0.8
"""Load at the new home, after the move."""
FEW = 10
"""A mailbox with fewer items gets drafts: there would soon be nothing left to change."""
FLAGS = (1, 2, 4)
KEYWORDS = ("$Label1", "$Forwarded", "work")

Say = Callable[[str], None]


@attrs.frozen
class Check:
    """Something that must be so, and how it was looked at."""

    what: str
    ok: bool
    how: str


@attrs.frozen(kw_only=True)
class Moved:
    """One move of the demo, as it went."""

    report: MoveReport
    checks: tuple[Check, ...]
    longest_ms: float
    """The longest any client verb took."""
    waits: int
    """How often the client met a lock and waited."""
    hops: int
    """How often it followed the mailbox to another database."""


@attrs.define
class Item:
    """What a client was last told of an item."""

    folder_id: Any
    flags: int
    keywords: tuple[str, ...]
    content_hash: bytes | None


@attrs.define
class Told:
    """Everything that was acknowledged to somebody."""

    items: dict[Any, Item] = attrs.field(factory=dict)
    gone: set[Any] = attrs.field(factory=set)
    folders: dict[Any, tuple[bytes, str]] = attrs.field(factory=dict)
    delivered: Counter[bytes] = attrs.field(factory=Counter)
    """SHA-256 of each message that the queue took."""
    changes: int = 0


async def prepare(root: Root, *, mail: Path | None, items: int, on_batch: Callable[[Imported], None]) -> Imported:
    """Two servers, a database on each, and a mailbox with mail in DB1."""
    for number in (1, 2):
        await root.server_add(f"EX{number}", version="2010")
        await root.database_add(f"DB{number}", server=f"EX{number}")
    await root.mailbox_add(ADDRESS, database="DB1")
    source: Path | Iterator[MailItem | NotMail] = mail if mail is not None else iter(make_mail(SEED, items))
    return await import_mail(root.session(ADDRESS), source, on_batch=on_batch)


async def read_told(root: Root) -> Told:
    """The mailbox as it is now, as what its user knows of it."""
    told = Told()
    place = await root.session(ADDRESS).place()
    _, folders, _ = await place.database.account(place.mailbox.instance)
    told.folders = {folder.folder_id: (folder.parent_id, folder.name) for folder in folders}
    after = b""
    while rows := await place.database.items(place.mailbox.instance, after=after, limit=1000):
        for row in rows:
            told.items[row.item_id] = Item(row.folder_id, row.flags, row.keywords, row.content_hash)
        after = rows[-1].item_id
    return told


class Load:
    """Deliveries and a client at work. Entered, they run; left, all that was acknowledged is settled."""

    def __init__(self, session: Session, transport: Transport, told: Told, *, rng: random.Random) -> None:
        self._session = session
        self._transport = transport
        self._told = told
        self._rng = rng
        self._folders = [folder for folder, (parent, name) in told.folders.items() if parent or name != "INBOX"]
        self.longest_ms = 0.0

    async def deliver(self, stop: trio.Event) -> None:
        """Submit a message every now and then; acknowledged is what the queue took."""
        while not stop.is_set():
            number = self._rng.getrandbits(64)
            body = "x" * self._rng.randrange(200, 8000)
            content = (
                f"From: demo@example.net\r\nTo: {ADDRESS}\r\nSubject: delivered meanwhile\r\n"
                f"Message-ID: <{number:016x}@example.net>\r\n\r\n{body}\r\n"
            ).encode()
            await self._transport.submit("demo@example.net", ADDRESS, content)
            self._told.delivered[hashlib.sha256(content).digest()] += 1
            await trio.sleep(self._rng.uniform(0.5, 1.5) / DELIVERIES_PER_S)

    async def change(self, stop: trio.Event) -> None:
        """Flags, keywords, moves, drafts, renames, deletes: what people do; acknowledged is what was answered."""
        verbs = (self._flag, self._flag, self._flag, self._keyword, self._move, self._draft, self._rename, self._purge)
        while not stop.is_set():
            begun = trio.current_time()
            await (self._rng.choice(verbs) if len(self._told.items) >= FEW else self._draft)()
            self._told.changes += 1
            self.longest_ms = max(self.longest_ms, (trio.current_time() - begun) * 1000)
            await trio.sleep(self._rng.uniform(0.5, 1.5) / CHANGES_PER_S)

    def _some(self) -> list[Any]:
        ids = list(self._told.items)
        return self._rng.sample(ids, min(len(ids), self._rng.randrange(1, 6)))

    async def _flag(self) -> None:
        ids, flag, add = self._some(), self._rng.choice(FLAGS), self._rng.random() < 0.6

        async def verb(place: Place) -> None:
            await place.mailbox.change_flags(ids, add=flag if add else 0, remove=0 if add else flag)

        await self._session.use(verb)
        for one in ids:
            item = self._told.items[one]
            item.flags = item.flags | flag if add else item.flags & ~flag

    async def _keyword(self) -> None:
        ids, word = self._some(), self._rng.choice(KEYWORDS)

        async def verb(place: Place) -> None:
            await place.mailbox.change_flags(ids, add_keywords=[word])

        await self._session.use(verb)
        for one in ids:
            item = self._told.items[one]
            item.keywords = tuple(sorted({*item.keywords, word}))

    async def _move(self) -> None:
        ids, to = self._some(), self._rng.choice(list(self._told.folders))

        async def verb(place: Place) -> None:
            await place.mailbox.move(ids, to)

        await self._session.use(verb)
        for one in ids:
            self._told.items[one].folder_id = to

    async def _draft(self) -> None:
        to = self._rng.choice(list(self._told.folders))
        content = f"Subject: a draft\r\n\r\n{self._rng.getrandbits(64):016x}\r\n".encode()

        async def verb(place: Place) -> Any:
            (added,) = await place.mailbox.append(to, [NewItem(content=content, received_ms=1_300_000_000_000)])
            return added.item_id

        self._told.items[await self._session.use(verb)] = Item(to, 0, (), None)

    async def _rename(self) -> None:
        if not self._folders:
            return
        folder = self._rng.choice(self._folders)
        parent, name = self._told.folders[folder]
        new = f"{name.partition(' ~')[0]} ~{self._rng.randrange(1000)}"
        if (parent, new) in self._told.folders.values():
            return

        async def verb(place: Place) -> None:
            await place.mailbox.move_folder(folder, parent or None, new)  # type: ignore[arg-type]

        await self._session.use(verb)
        self._told.folders[folder] = (parent, new)

    async def _purge(self) -> None:
        (one, *_) = self._some()

        async def verb(place: Place) -> None:
            await place.mailbox.purge([one])

        await self._session.use(verb)
        del self._told.items[one]
        self._told.gone.add(one)


@asynccontextmanager
async def loaded(session: Session, transport: Transport, told: Told, rng: random.Random) -> AsyncIterator[Load]:
    """The mailbox is in use within; on leaving the client has stopped and the queue is empty."""
    load, stop = Load(session, transport, told, rng=rng), trio.Event()
    # In the nursery: the deliveries and the client, which end by themselves once `stop` is set.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.deliver, stop)
        nursery.start_soon(load.change, stop)
        try:
            yield load
        finally:
            stop.set()
    await transport.wait_idle()


async def move_in_use(
    root: Root, told: Told, begin: Callable[[], Any], *, home: str, epoch: int, on_look: OnLook, rng: random.Random
) -> Moved:
    """One move under load: `begin` asks for it; then everything is checked."""
    session = root.session(ADDRESS)
    async with root.transport() as transport, loaded(session, transport, told, rng) as load:
        await trio.sleep(BEFORE_S)
        request: RequestId = await begin()
        await root.wait_all([request], on_look=on_look)
        await trio.sleep(AFTER_S)
    report = await root.report(request)
    checks = await check(root, told, report, home=home, epoch=epoch)
    return Moved(
        report=report,
        checks=tuple(checks),
        longest_ms=load.longest_ms,
        waits=session.waits,
        hops=session.moves_seen,
    )


async def check(root: Root, told: Told, report: MoveReport, *, home: str, epoch: int) -> list[Check]:
    """All that must be so now, looked at in the mailbox at the register's home."""
    statistics = report.statistics
    digests = {statistics.digest_source, statistics.digest_target, statistics.digest_ledger}
    found = [
        Check(
            f"completed; the digests of source, target and ledger are one: {(statistics.digest_source or '')[:16]}…",
            statistics.status == "Completed" and len(digests) == 1 and None not in digests,
            "taken under the lock, over every folder, item, flag and setting",
        )
    ]
    recipient = await root.directory.locate(ADDRESS)
    register = recipient.register
    found.append(
        Check(
            f"the directory says {register.home.database}, epoch {register.epoch}",
            (register.home.database, register.epoch) == (home, epoch),
            "the register alone decides where a mailbox is",
        )
    )
    endpoint = await root.store(home)
    rows: dict[Any, Any] = {}
    after = b""
    arrived: Counter[bytes] = Counter()
    wrong: list[str] = []
    place = await root.session(ADDRESS).place()
    while page := await endpoint.database.items(place.mailbox.instance, after=after, limit=500):
        new = []
        for row in page:
            rows[row.item_id] = row
            if row.item_id not in told.items:
                new.append(row)
        while new:
            fetched = await endpoint.database.fetch(place.mailbox.instance, new)
            for got in fetched:
                arrived[hashlib.sha256(got.content or b"").digest()] += 1
            new = new[len(fetched) :]
        after = page[-1].item_id
    for item_id, item in told.items.items():
        now = rows.get(item_id)
        if now is None:
            wrong.append(f"item {item_id.hex()} is not there")
        elif (now.folder_id, now.flags, now.keywords) != (item.folder_id, item.flags, item.keywords) or (
            item.content_hash not in (None, now.content_hash)
        ):
            wrong.append(f"item {item_id.hex()} is not as its user left it")
    wrong += [f"item {item_id.hex()} is there again" for item_id in told.gone if item_id in rows]
    _, folders, _ = await endpoint.database.account(place.mailbox.instance)
    present = {folder.folder_id: (folder.parent_id, folder.name) for folder in folders if not folder.hidden}
    wrong += [
        f"folder {name!r} is not as its user left it" for f, (_, name) in told.folders.items() if f not in present
    ]
    paths = folder_paths(folders)
    wrong += [
        f"folder {paths[f]} has a wrong name" for f, at in told.folders.items() if f in present and present[f] != at
    ]
    lost = sum((told.delivered - arrived).values())
    twice = sum((arrived - told.delivered).values())
    deliveries = sum(told.delivered.values())
    found.append(
        Check(
            f"{deliveries:,} acknowledged deliveries, each there exactly once"
            + (f": {lost} lost, {twice} too many" if lost or twice else ""),
            not lost and not twice,
            "SHA-256 of every message that the queue took, against every new item's bytes",
        )
    )
    found.append(
        Check(
            f"{told.changes:,} acknowledged changes of the client, all there" + (f": {wrong[0]}" if wrong else ""),
            not wrong,
            f"folder, flags, keywords and content of {len(told.items):,} items and {len(told.folders)} folders, "
            f"as last answered",
        )
    )
    mailbox = endpoint.source(register.home.instance)
    found.append(
        Check(
            "every byte read again gives the digests that are kept",
            await mailbox.recount() == await mailbox.account(),
            "recounted from the items at the new home",
        )
    )
    return found


def narrated(moved: Moved) -> Iterator[str]:
    """The move's stages, its lock, and what was checked, in lines."""
    for entry in moved.report.of(EntryKind.STAGE):
        data = entry.data
        seconds = (data["end_timestamp_ms"] - data["start_timestamp_ms"]) / 1000
        line = f"  {data['sync_stage']:<34}{seconds:7.3f} s"
        if data["items"]:
            line += f"{data['items']:>8,} items{data['bytes'] / 1048576:>8.1f} MiB"
            line += f"{data['bytes_per_s'] / 1048576:>8.1f} MiB/s" if data["bytes_per_s"] else ""
        yield line
    statistics = moved.report.statistics
    for entry in moved.report.of(EntryKind.LOCK_ATTEMPT):
        yield f"  {entry.text}"
    if statistics.lock_ms is not None:
        yield f"  locked for {statistics.lock_ms:.0f} ms, of {statistics.lock_budget_ms} ms allowed"
    yield (
        f"  the client followed it {moved.hops}x to another database, met the lock {moved.waits}x, and waited "
        f"{moved.longest_ms:.0f} ms for its slowest answer"
    )
    yield ""
    for one in moved.checks:
        yield f"  {'ok  ' if one.ok else 'FAIL'}  {one.what}"
        yield f"        ({one.how})"


__all__ = [
    "ADDRESS",
    "ITEMS",
    "Check",
    "Moved",
    "Told",
    "check",
    "init_root",
    "move_in_use",
    "narrated",
    "open_root",
    "prepare",
    "read_told",
]
