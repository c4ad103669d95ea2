"""The databases of a root that this process has open: each opened by the first who asks, and open until the end.

One whose commit had an unknown outcome is closed, and opened again when it is needed next, which settles that commit.
What opens a database must also close it, so each lives in a task of its own, in the nursery of whoever made this.
Which kind of endpoint a database is, its path in the directory says: `endpoints.kinds`.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from moverq.directory.directory import Directory
from moverq.endpoints.base import Endpoint
from moverq.endpoints.kinds import described, is_mail_system, open_mail_system
from moverq.errors import ServedElsewhere
from moverq.flow.log import log
from moverq.model.ids import MailboxId

if TYPE_CHECKING:
    from moverq.endpoints.mirrored.endpoint import MirroredEndpoint
    from moverq.endpoints.store import StoreEndpoint

MIRRORS = "mirrors"


@attrs.define(eq=False)
class Databases:
    """See the module."""

    _root: Path
    _directory: Directory
    _nursery: trio.Nursery
    _stores: dict[str, "StoreEndpoint"] = attrs.field(factory=dict)
    _mail_systems: "dict[tuple[str, str], MirroredEndpoint]" = attrs.field(factory=dict)
    """By name and path: the name may have been given to another one since. A store that is open is not removed."""
    _opening: dict[str, trio.Event] = attrs.field(factory=dict)

    def __repr__(self) -> str:
        return f"<Databases {len(self._stores) + len(self._mail_systems)} open>"

    def stores(self) -> "Collection[StoreEndpoint]":
        """Those that are open now."""
        return self._stores.values()

    async def endpoint(self, name: str) -> Endpoint:
        """Of whatever kind. Raises `NotFound`, or what opening it raises."""
        if name in self._stores:
            return self._stores[name]  # open is open: only what has yet to be found is asked for
        path = (await self._directory.database(name)).path
        return await self.mail_system_at(name, path) if is_mail_system(path) else await self.store(name)

    async def store(self, name: str) -> "StoreEndpoint":
        """The store of this name, recovered and ready.

        Raises:
            NotFound: there is no such database.
            ServedElsewhere: it is a mail system, which only the engine uses.
        """
        if name not in self._stores:
            async with self._taking_up(name):
                if name not in self._stores:
                    path = (await self._directory.database(name)).path
                    if is_mail_system(path):
                        raise ServedElsewhere(why=f"{name} is {described(path)}, not from here")
                    self._stores[name] = await self._nursery.start(self._hold_store, name, self._root / path)
        return self._stores[name]

    async def mail_system(self, name: str) -> "MirroredEndpoint":
        """The mail system of this name; nothing is asked of it yet. Raises `NotFound`."""
        return await self.mail_system_at(name, (await self._directory.database(name)).path)

    async def mail_system_at(self, name: str, path: str) -> "MirroredEndpoint":
        """The same, also where the directory does not have it yet."""
        if (name, path) not in self._mail_systems:
            async with self._taking_up(name):
                if (name, path) not in self._mail_systems:
                    started = await self._nursery.start(self._hold_mail_system, name, path)
                    self._mail_systems[name, path] = started
        return self._mail_systems[name, path]

    @asynccontextmanager
    async def _taking_up(self, name: str) -> AsyncIterator[None]:
        """One task at a time takes up a database; the others wait, and find it there."""
        while name in self._opening:
            await self._opening[name].wait()
        self._opening[name] = opened = trio.Event()
        try:
            yield
        finally:
            del self._opening[name]
            opened.set()

    async def _hold_store(self, name: str, path: Path, *, task_status: "trio.TaskStatus[StoreEndpoint]") -> None:
        from moverq.endpoints.store import open_endpoint

        async with open_endpoint(name, path) as endpoint:
            task_status.started(endpoint)
            await endpoint.database.wait_broken()
            log("moverq.databases").warning(
                "a commit failed half-way; the database is closed, and opened again when it is needed", database=name
            )
            del self._stores[name]

    async def _hold_mail_system(
        self, name: str, path: str, *, task_status: "trio.TaskStatus[MirroredEndpoint]"
    ) -> None:
        async def address_of(mailbox_id: MailboxId) -> str:
            return (await self._directory.recipient(mailbox_id)).address

        mirrors = self._root / MIRRORS / name
        async with open_mail_system(name, path, mirrors=mirrors, address_of=address_of) as endpoint:
            task_status.started(endpoint)
            await trio.sleep_forever()


__all__ = ["Databases"]
