"""A database of one's own, without threads, with one open mailbox in it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import store
from store.database import Database
from tests.support.store_world import Clock, inbox_of, make_mailbox, opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def database(tmp_path: Path, clock: Clock) -> AsyncIterator[Database]:
    async with opened(tmp_path / "db", clock=clock) as database:
        yield database


@pytest.fixture
async def mailbox(database: Database) -> store.Mailbox:
    """Alice's."""
    return await make_mailbox(database)


@pytest.fixture
async def inbox(database: Database, mailbox: store.Mailbox) -> store.FolderId:
    return await inbox_of(database)
