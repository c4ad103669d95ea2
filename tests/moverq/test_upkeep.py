"""Upkeep comes round, does what is due, and outlives a database that cannot be kept."""

from pathlib import Path

import structlog.testing
import trio

import store
from moverq.endpoints.store import StoreEndpoint
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
            await keep_in_order(lambda: [endpoint])
        assert len(await database.find(INSTANCE, [added.item_id])) == 1
        now += 15 * DAY_MS
        with trio.move_on_after(1000):
            await keep_in_order(lambda: [endpoint])
        assert await database.find(INSTANCE, [added.item_id]) == []


async def test_a_database_that_fails_is_named_and_does_not_end_the_rounds(
    tmp_path: Path, autojump_clock: object
) -> None:
    store.create_database(tmp_path / "DB1")
    async with store.open_database(tmp_path / "DB1", offload=Inline) as database:
        endpoint = StoreEndpoint("DB1", database)
    with structlog.testing.capture_logs() as said, trio.move_on_after(2000):
        await keep_in_order(lambda: [endpoint])
    assert [(one["event"], one["database"]) for one in said] == [("upkeep failed", "DB1")] * 2
