"""A session that met a lock is answered, whatever the guard does between the refusal and the wait for its turn.

The verbs of a cutover are let happen at each point at which the session looks: at the instance, at the register, and
when it has begun to wait. Whatever the order, the verb has its effect at the register's home, and soon.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import store
from moverq.directory.directory import DatabaseEntry, Recipient, Server
from moverq.directory.memory import MemoryDirectory
from moverq.endpoints.base import Home
from moverq.endpoints.store import home_text
from moverq.errors import MailboxLocked
from moverq.model.ids import InstanceId, MailboxId
from moverq.session import Place, Session
from tests.support.move_world import Inline

ADDRESS = "ada@example.org"
MAILBOX = MailboxId(b"mailbox of ada--")
OLD, NEW = Home("DB1", InstanceId(b"old instance----")), Home("DB2", InstanceId(b"new instance----"))
SOON_S = 10.0
LOOKS = ("before the instance is looked at", "before the register is looked at", "when it waits")


@attrs.define(eq=False)
class Stage:
    """Two databases, the register, and a cutover by its verbs; `happen` happens at `when`, once."""

    databases: dict[str, store.Database]
    directory: MemoryDirectory
    when: str = ""
    happen: Callable[["Stage"], Awaitable[None]] | None = None
    token: int = 1

    def side(self, home: Home) -> store.Mover:
        return self.databases[home.database].mover(store.InstanceId(home.instance))

    async def lock(self) -> None:
        await self.side(OLD).lock(self.token)

    async def relocate(self) -> None:
        register = (await self.directory.recipient(MAILBOX)).register
        await self.directory.relocate(MAILBOX, expected=register, home=NEW)

    async def look(self, where: str) -> None:
        if where == self.when and self.happen is not None:
            happen, self.happen = self.happen, None
            await happen(self)

    async def open(self, name: str) -> Any:
        return _WatchedDatabase(self, self.databases[name])

    def session(self) -> Session:
        return Session(ADDRESS, _WatchedDirectory(self, self.directory), self.open)  # type: ignore[arg-type]


class _WatchedDirectory:
    """A directory whose session is looked over its shoulder."""

    def __init__(self, stage: Stage, directory: MemoryDirectory) -> None:
        self._stage, self._directory = stage, directory

    async def locate(self, address: str) -> Recipient:
        await self._stage.look(LOOKS[1])
        return await self._directory.locate(address)


class _WatchedDatabase:
    """Likewise a database."""

    def __init__(self, stage: Stage, database: store.Database) -> None:
        self._stage, self._database = stage, database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def info(self, instance: store.InstanceId) -> store.MailboxInfo:
        await self._stage.look(LOOKS[0])
        return await self._database.info(instance)

    async def wait_change(self, instance: store.InstanceId, *, after: int) -> None:
        async def later() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await self._stage.look(LOOKS[2])

        # In the nursery: what happens while it waits.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(later)
            await self._database.wait_change(instance, after=after)
            nursery.cancel_scope.cancel()


async def unlocked(stage: Stage) -> None:
    await stage.side(OLD).unlock(stage.token)


async def committed(stage: Stage) -> None:
    await stage.relocate()
    await stage.side(OLD).retire(stage.token, home_text(NEW))
    await stage.side(NEW).open(stage.token)


async def committed_and_over(stage: Stage) -> None:
    await committed(stage)
    await stage.side(OLD).remove(stage.token, keep_until_ms=0)


async def committed_and_purged(stage: Stage) -> None:
    await committed_and_over(stage)
    await stage.side(OLD).purge(stage.token)


async def committed_and_being_taken_back(stage: Stage) -> None:
    """The old home is sealed: it is the target of a move that nobody is in a hurry to complete."""
    await committed(stage)
    await stage.side(OLD).seal(stage.token)


HAPPENINGS = (unlocked, committed, committed_and_over, committed_and_purged, committed_and_being_taken_back)


@asynccontextmanager
async def open_stage(root: Path) -> AsyncIterator[Stage]:
    directory = MemoryDirectory()
    await directory.add_server(Server(name="MBX1", version="2010"))
    for home in (OLD, NEW):
        store.create_database(root / home.database)
        await directory.add_database(DatabaseEntry(name=home.database, server="MBX1", path=home.database))
    await directory.add_recipient(MAILBOX, ADDRESS, OLD)
    async with (
        store.open_database(root / "DB1", offload=Inline) as one,
        store.open_database(root / "DB2", offload=Inline) as two,
    ):
        stage = Stage({"DB1": one, "DB2": two}, directory)
        await one.create_mailbox(store.MailboxId(MAILBOX), store.InstanceId(OLD.instance))
        await stage.side(NEW).create(store.MailboxId(MAILBOX), stage.token)
        yield stage


async def put(place: Place) -> Home:
    await place.mailbox.set_setting("x-seen", "here")
    return place.home


@pytest.mark.parametrize("happening", HAPPENINGS, ids=lambda h: h.__name__)
@pytest.mark.parametrize("when", LOOKS)
async def test_a_verb_that_met_a_lock_is_answered_whenever_the_guard_turns(
    tmp_path: Path, autojump_clock: object, when: str, happening: Callable[[Stage], Awaitable[None]]
) -> None:
    async with open_stage(tmp_path) as stage:
        session = stage.session()
        await session.place()
        await stage.lock()
        stage.when, stage.happen = when, happening
        with trio.fail_after(SOON_S):
            home = await session.use(put)
        assert home == (await stage.directory.recipient(MAILBOX)).register.home
        assert stage.happen is None, "nothing happened"


async def test_a_wait_for_a_lock_has_its_end(tmp_path: Path, autojump_clock: object) -> None:
    async with open_stage(tmp_path) as stage:
        session = stage.session()
        await stage.lock()
        begun = trio.current_time()
        with pytest.raises(MailboxLocked):
            await session.use(put, lock_wait_s=3)
        assert 3 <= trio.current_time() - begun < 4
