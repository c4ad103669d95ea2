"""Upkeep comes round, does what is due, and outlives a database that cannot be kept."""

from pathlib import Path

import structlog.testing
import trio

import store
from moverq.directory.directory import DatabaseEntry, Server
from moverq.directory.memory import MemoryDirectory
from moverq.endpoints.base import Home
from moverq.endpoints.store import StoreEndpoint
from moverq.flow.clock import now_ms
from moverq.model.ids import InstanceId, MailboxId
from moverq.upkeep import keep_in_order
from tests.support.move_world import Inline

INSTANCE = store.InstanceId(b"i" * 16)
DAY_MS = 86_400_000


async def test_each_round_purges_what_was_deleted_long_enough_ago(tmp_path: Path, autojump_clock: object) -> None:
    now = 1_700_000_000_000
    store.create_database(tmp_path / "DB1")
    async with store.open_database(tmp_path / "DB1", offload=Inline, clock=lambda: now) as database:
        await database.create_mailbox(store.MailboxId(b"m" * 16), INSTANCE)
        mailbox = database.mailbox(INSTANCE)
        added = await mailbox.deliver(b"Subject: x\r\n\r\n", key=b"k")
        assert added.item_id is not None
        await mailbox.delete([added.item_id])
        endpoint = StoreEndpoint("DB1", database)
        with trio.move_on_after(1000):
            await keep_in_order(lambda: [endpoint], MemoryDirectory())
        assert len(await database.find(INSTANCE, [added.item_id])) == 1
        now += 15 * DAY_MS
        with trio.move_on_after(1000):
            await keep_in_order(lambda: [endpoint], MemoryDirectory())
        assert await database.find(INSTANCE, [added.item_id]) == []


async def test_a_soft_deleted_mailbox_is_purged_after_its_retention_unless_the_directory_has_it_for_a_home(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Also where no request knows of it any more. A register that has fallen back names what may be the only copy."""
    directory, now = MemoryDirectory(), now_ms()
    await directory.add_server(Server(name="EX1", version="2010"))
    for name in ("DB1", "DB2"):
        await directory.add_database(DatabaseEntry(name=name, server="EX1", path=name))
    store.create_database(tmp_path / "DB1")
    async with store.open_database(tmp_path / "DB1", offload=Inline) as database:
        endpoint = StoreEndpoint("DB1", database)
        homes = {
            "moved": ("DB2", bytes(16), now - 1),
            "fallen-back": ("DB1", b"f" * 16, now - 1),
            "kept": ("DB2", bytes(16), now + DAY_MS),
            "retired": ("DB2", bytes(16), None),
        }
        for number, (name, (home, instance, keep_until_ms)) in enumerate(homes.items()):
            mailbox_id, here = MailboxId(bytes([number]) * 16), InstanceId(name[:1].encode() * 16)
            await directory.add_recipient(mailbox_id, f"{name}@example.org", Home(home, InstanceId(instance)))
            await endpoint.add_mailbox(mailbox_id, here)
            source = endpoint.source(here)
            await source.lock(7)
            await source.retire(7, Home("DB2", InstanceId(instance)))
            if keep_until_ms is not None:
                await source.remove(7, keep_until_ms=keep_until_ms)
        with structlog.testing.capture_logs() as said, trio.move_on_after(1000):
            await keep_in_order(lambda: [endpoint], directory)
        left = {info.instance[:1].decode() for info in await database.mailboxes()}
        assert left == {"f", "k", "r"}
        assert [one.get("mailboxes_purged") for one in said] == [None, 1]


async def test_a_database_that_fails_is_named_and_does_not_end_the_rounds(
    tmp_path: Path, autojump_clock: object
) -> None:
    store.create_database(tmp_path / "DB1")
    async with store.open_database(tmp_path / "DB1", offload=Inline) as database:
        endpoint = StoreEndpoint("DB1", database)
    with structlog.testing.capture_logs() as said, trio.move_on_after(2000):
        await keep_in_order(lambda: [endpoint], MemoryDirectory())
    assert [(one["event"], one["database"]) for one in said] == [("upkeep failed", "DB1")] * 2
