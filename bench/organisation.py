"""Two databases, a directory and a ledger in a folder, with one mailbox full of made mail: what the benches move."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

import store
from moverq import moves
from moverq.directory.directory import DatabaseEntry, Server
from moverq.directory.sqlite import SqliteDirectory, init_directory, open_directory
from moverq.endpoints.base import Endpoint, Home
from moverq.endpoints.store import Database, StoreEndpoint
from moverq.flow.offload import InThread
from moverq.ledger.ledger import Ledger
from moverq.mailmaker import make_mail
from moverq.model.ids import InstanceId, MailboxId, RequestId, new_id
from moverq.model.statistics import MoveStatistics
from moverq.service import Service
from moverq.session import Session

APPEND_ITEMS = 512


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@attrs.define(eq=False)
class Organisation:
    """Open, for one process."""

    root: Path
    directory: SqliteDirectory
    ledger: Ledger
    databases: dict[str, Database]

    async def endpoint(self, name: str) -> Endpoint:
        return StoreEndpoint(name, self.databases[name])

    async def database(self, name: str) -> Database:
        return self.databases[name]

    def session(self, address: str) -> Session:
        return Session(address, self.directory, self.database)

    async def fill(self, address: str, *, seed: int, items: int, median_bytes: int) -> int:
        """A mailbox in DB1 with so many items; returns its bytes."""
        mailbox_id, instance = MailboxId(new_id()), InstanceId(new_id())
        database = self.databases["DB1"]
        await database.create_mailbox(store.MailboxId(mailbox_id), store.InstanceId(instance))
        await self.directory.add_recipient(mailbox_id, address, Home("DB1", instance))
        mailbox = database.mailbox(store.InstanceId(instance))
        _, (inbox,), _ = await database.account(store.InstanceId(instance))
        batch: list[store.NewItem] = []
        size = 0
        for mail in make_mail(seed, items, median_bytes):
            batch.append(
                store.NewItem(
                    content=mail.content, received_ms=mail.received_ms, flags=mail.flags, keywords=mail.keywords
                )
            )
            size += len(mail.content)
            if len(batch) == APPEND_ITEMS:
                await mailbox.append(inbox.folder_id, batch)
                batch = []
        if batch:
            await mailbox.append(inbox.folder_id, batch)
        return size

    async def run(self, request_id: RequestId) -> MoveStatistics:
        """The worker runs until nothing is left; the request's figures."""
        service = Service(
            ledger=self.ledger,
            directory=self.directory,
            endpoints=self.endpoint,
            make_offload=InThread,
            rng=random.Random(1),
        )
        await service.run(drain=True)
        return await moves.get(self.ledger, request_id)


@asynccontextmanager
async def organisation(root: Path) -> AsyncIterator[Organisation]:
    """Made in `root`, and open."""
    await init_directory(root / "directory.sqlite", organisation="bench")
    ledger = await Ledger.open(root, make_offload=InThread, now_ms=now_ms)
    async with open_directory(root / "directory.sqlite") as directory:
        for number in "12":
            store.create_database(root / f"DB{number}")
            await directory.add_server(Server(name=f"MBX{number}", version="2010"))
            await directory.add_database(
                DatabaseEntry(name=f"DB{number}", server=f"MBX{number}", path=str(root / f"DB{number}"))
            )
        async with store.open_database(root / "DB1") as one, store.open_database(root / "DB2") as two:
            yield Organisation(root, directory, ledger, {"DB1": one, "DB2": two})
    with trio.CancelScope(shield=True):
        await ledger.close()
