"""An organisation in a folder, with one mailbox full of made mail: what the benches move."""

import gc
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

import store
from moverq.cli.__main__ import OBJECTS_BETWEEN_COLLECTIONS
from moverq.limits import Limits
from moverq.mailmaker import make_mail
from moverq.model.ids import RequestId
from moverq.model.statistics import MoveStatistics
from moverq.root import Root, init_root, open_root

ADDRESS = "ada@example.com"
APPEND_ITEMS = 512


@asynccontextmanager
async def organisation(root: Path, *, limits: Limits | None = None) -> AsyncIterator[Root]:
    """Two databases on two servers, and an empty mailbox in DB1; made in `root`, and open."""
    await init_root(root, "bench")
    async with open_root(root, limits=limits) as made:
        for number in "12":
            await made.server_add(f"MBX{number}", version="2010")
            await made.database_add(f"DB{number}", server=f"MBX{number}")
        await made.mailbox_add(ADDRESS, database="DB1")
        yield made


async def fill(root: Root, *, seed: int, items: int, median_bytes: int, address: str = ADDRESS) -> int:
    """So many items in the mailbox's INBOX; returns their bytes."""
    place = await root.session(address).place()
    _, (inbox,), _ = await place.database.account(place.mailbox.instance)
    batch: list[store.NewItem] = []
    size = 0
    for number, mail in enumerate(make_mail(seed, items, median_bytes), 1):
        batch.append(
            store.NewItem(content=mail.content, received_ms=mail.received_ms, flags=mail.flags, keywords=mail.keywords)
        )
        size += len(mail.content)
        if len(batch) == APPEND_ITEMS or number == items:
            await place.mailbox.append(inbox.folder_id, batch)
            batch = []
    return size


def set_collector() -> None:
    """As `moverq worker` sets it."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    gc.collect()
    gc.freeze()


async def run(root: Root, request: RequestId) -> MoveStatistics:
    """The worker runs until nothing is left; the request's figures."""
    set_collector()
    await root.worker(drain=True)
    return await root.move_show(request)


async def deliver_steadily(root: Root, address: str, waits: list[float], per_second: int) -> None:
    """So many deliveries a second, until cancelled; what each took in ms goes to `waits`."""
    session = root.session(address)
    due = trio.current_time()
    for number in itertools.count():
        content, key = b"Subject: %d\r\n\r\n" % number + b"x" * 2000, b"%d" % number
        start = trio.current_time()
        await session.use(lambda place, c=content, k=key: place.mailbox.deliver(c, key=k))  # type: ignore[misc]
        waits.append((trio.current_time() - start) * 1000)
        due += 1 / per_second
        await trio.sleep_until(due)
