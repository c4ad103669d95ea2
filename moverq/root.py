"""An organisation's root: one folder with its directory, its ledger and its databases; and all verbs on it.

    <root>/directory.sqlite      who lives where; or directory.toml: which LDAP server says so
           ledger.sqlite         every move request
           moves/  quarantine/   what belongs to single requests
           transport.sqlite      the queue of scripts that deliver, where one is used
           databases/<name>/     the databases, unless they were put elsewhere
           mirrors/<name>/       what is known of mailboxes on mail servers that are databases here

    async with open_root("moverq-root") as root:
        request = await root.move("ada@example.org", to="DB2")
        await root.wait(request)

The verbs have the command line's words, so a script reads as a session at the prompt does. Databases are opened when
they are first needed and stay open as long as the root: each lives in a task of its own, because what opens a database
must also close it. One whose commit had an unknown outcome is closed, and opened again when it is needed next. Any
number of processes may have a root open.
"""

import os
import random
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from moverq import moves
from moverq.databases import Databases
from moverq.directory.directory import (
    DatabaseEntry,
    Directory,
    MoveAttributes,
    Recipient,
    Register,
    Server,
    checked_address,
)
from moverq.directory.opening import make_directory, open_directory_of
from moverq.endpoints.base import Endpoint, Home
from moverq.endpoints.kinds import checked_folder, checked_location, described, is_mail_system
from moverq.errors import EndpointBroken, EndpointBusy, EndpointUnavailable, MoveError, NotFound, RequestRefused
from moverq.flow.backoff import wait_first
from moverq.flow.clock import now_ms
from moverq.flow.file_lock import FileLock
from moverq.flow.folders import make_folder
from moverq.flow.nursery import open_own_nursery
from moverq.flow.offload import InThread
from moverq.flow.trouble import Trouble
from moverq.ledger.ledger import Ledger
from moverq.limits import Limits
from moverq.model.delivery import delivery_key
from moverq.model.digest import folder_paths
from moverq.model.ids import InstanceId, MailboxId, RequestId, new_id
from moverq.model.progress import Progress
from moverq.model.quota import quota_bytes_of
from moverq.model.request import Status, SyncStage
from moverq.model.standing import Standing
from moverq.model.statistics import MoveStatistics
from moverq.plan.explanation import Explanation
from moverq.plan.sharing import WHOLE, Share
from moverq.plan.versions import said_wrong
from moverq.shown import FolderShown, Foreseen, InstanceShown, Look, MailboxShown, Rebuilt

if TYPE_CHECKING:
    from moverq.connecting import Connected, Disconnected
    from moverq.endpoints.store import CheckReport, Database, StoreEndpoint
    from moverq.lmtp.listener import LmtpListener
    from moverq.lmtp.session import Deliver
    from moverq.mailbox_files import Exported, Imported
    from moverq.model.report import MoveReport
    from moverq.removal import MailboxRemoved
    from moverq.service import Service
    from moverq.session import Place, Session
    from moverq.transport import Transport

# What only some verbs need (import and export, the queue, workers) is imported by them: a command line that delivers
# one message shall not wait for the engine.

TRANSPORT = "transport.sqlite"
DATABASES = "databases"
IMPORTS = "imports"
NAME = re.compile(r"[^\W_][\w .+-]{0,63}")
"""What servers and databases are called: a database's folder has its name."""
LOOK_S = 0.2
"""Between two looks of `wait` where nothing rings."""
REST_S = 0.02
"""Between two looks where everything rings: a running move writes many times a second."""


OnLook = Callable[[Sequence[Look]], None]


async def init_root(
    path: Path | str, organisation: str = "example", *, directory_settings: Path | str | None = None
) -> None:
    """There is an empty organisation at `path`. Cut short, it may simply be asked for again.

    `directory_settings`: a file that says which LDAP server keeps the directory (`directory.ldap_settings`); the root
    gets a copy. Where that server has this organisation already, the root joins it.

    Durable: on return.

    Raises:
        RequestRefused: there is one already, or the settings are wrong.
        EndpointUnavailable, EndpointBroken: it cannot be written, or the LDAP server is away or refuses.
    """
    root = Path(path)

    def prepare() -> None:
        try:
            if not root.exists():
                make_folder(root)
                root.chmod(0o700)  # there is mail in it, and who is moved where
            make_folder(root / DATABASES)
        except OSError as error:
            raise EndpointBroken(endpoint=str(root), why=f"cannot be made: {error.strerror}") from error

    await trio.to_thread.run_sync(prepare)
    ledger = await Ledger.open(root, make_offload=InThread, now_ms=now_ms, watch=False)
    await ledger.close()
    settings = None if directory_settings is None else absolute(directory_settings)
    await make_directory(root, organisation=organisation, settings_file=settings)


@asynccontextmanager
async def open_root(path: Path | str, *, limits: Limits | None = None) -> AsyncIterator["Root"]:
    """The organisation at `path`; what it opened is closed on leaving.

    Raises:
        NotFound: there is none; the sentence says what to do.
        EndpointBroken: it cannot be read.
    """
    root = absolute(path)
    async with open_directory_of(root) as directory:
        ledger = await Ledger.open(root, make_offload=InThread, now_ms=now_ms)
        try:
            # In the nursery: one task a database, which holds it open until the end.
            async with open_own_nursery() as nursery:
                databases = Databases(root, directory, nursery)
                yield Root(root, directory, ledger, databases, limits if limits is not None else Limits())
        finally:
            with trio.move_on_after(10, shield=True):
                await ledger.close()


@attrs.define(eq=False)
class Root:
    """See the module. Made by `open_root`."""

    path: Path
    directory: Directory
    ledger: Ledger
    _databases: Databases
    limits: Limits

    def __repr__(self) -> str:
        return f"<Root {self.path} {self._databases!r}>"

    # ---- databases, opened

    async def endpoint(self, name: str) -> Endpoint:
        """The endpoint of a database, for the engine. Raises `NotFound`, or what opening it raises."""
        return await self._databases.endpoint(name)

    async def store(self, name: str) -> "StoreEndpoint":
        """The open database of this name. Raises `NotFound`; `RequestRefused` where it is a mail server."""
        return await self._databases.store(name)

    async def database(self, name: str) -> "Database":
        """The same, for clients."""
        return (await self.store(name)).database

    async def database_path(self, name: str) -> Path:
        """Where the store lies that the database is. A path that leads to a folder is taken as it stands.

        Raises:
            NotFound: there is no such database.
            RequestRefused: it is a mail system.
        """
        try:
            path = (await self.directory.database(name)).path
        except NotFound:
            if os.sep in name and await trio.Path(name).is_dir():
                return Path(name)
            raise
        if is_mail_system(path):
            what = described(path).partition(":")[0]
            raise RequestRefused(why=f"{name} is {what}, and none of our databases: its own programs look after it")
        return self.path / path

    async def database_named(self, place: str) -> str:
        """The name of the database that is meant: by its name, or by the path of its folder. A path that the directory
        does not have stands for itself."""
        try:
            return (await self.directory.database(place)).name
        except NotFound:
            if os.sep not in place:
                raise
        found = await self._entry_at(Path(place))
        return found.name if found is not None else place

    async def _entry_at(self, path: Path) -> DatabaseEntry | None:
        """The database whose folder this is, by whatever path it is known."""
        wanted = await trio.Path(path).resolve()
        for entry in await self.directory.databases():
            if not is_mail_system(entry.path) and await trio.Path(self.path / entry.path).resolve() == wanted:
                return entry
        return None

    # ---- servers and databases

    async def server_add(self, name: str, *, version: str, site: str = "Default-First-Site-Name") -> Server:
        """The server is in the directory. Raises `RequestRefused`: the name is taken, or it or the version is none."""
        if (wrong := said_wrong(version)) is not None:
            raise RequestRefused(why=wrong)
        server = Server(name=checked_name(name, "server"), version=version, site=site)
        await self.directory.add_server(server)
        return server

    async def server_remove(self, name: str) -> None:
        """The directory does not have it any more. Raises `NotFound`, `RequestRefused`: a database is on it."""
        await self.directory.remove_server(name)

    async def server_list(self) -> Sequence[Server]:
        return await self.directory.servers()

    async def database_add(self, name: str, *, server: str, path: Path | str | None = None) -> DatabaseEntry:
        """The database exists and is in the directory. Asked for again after a crash, what lies there is taken.

        Raises:
            RequestRefused: the name is taken or no name, another database is at that path, or other files are.
            NotFound: there is no such server.
        """
        checked_name(name, "database")
        await self.directory.server(server)
        url = str(path) if path is not None and is_mail_system(str(path)) else None
        if url is not None:
            checked_location(url)
        elif path is not None:
            checked_folder(str(path))
        if any(entry.name == name for entry in await self.directory.databases()):
            raise RequestRefused(why=f"there is a database {name} already")
        if url is not None:
            entry = DatabaseEntry(name=name, server=server, path=url)
            await self.directory.add_database(entry)
            return entry
        place = Path(DATABASES, name) if path is None else absolute(path)
        if (taken := await self._entry_at(self.path / place)) is not None:
            raise RequestRefused(why=f"the database {taken.name} is at {self.path / place} already")
        from moverq.endpoints.store import make_database

        await trio.to_thread.run_sync(make_database, name, self.path / place)
        entry = DatabaseEntry(name=name, server=server, path=str(place))
        await self.directory.add_database(entry)
        return entry

    async def database_at(self, place: str) -> str:
        """The name of the database that is meant: by its name, or by where a mail system is (`endpoints.kinds`), which
        is registered if it is not yet: an IMAP server by its host's name."""
        found = await self.database_foreseen(place)
        if found.is_registered:
            return found.entry.name
        host = found.entry.server
        if all(server.name != host for server in await self.directory.servers()):
            await self.server_add(host, version=checked_location(place)[1])
        return (await self.database_add(found.entry.name, server=host, path=place)).name

    async def database_foreseen(self, place: str, *, beside: Foreseen | None = None) -> Foreseen:
        """The database that `database_at` would give, also where that is not registered yet: nothing is written.

        `beside`: one that is to be registered before. Raises `NotFound`, `RequestRefused`.
        """
        if not is_mail_system(place):
            return Foreseen(await self.directory.database(place))
        known = [*map(Foreseen, await self.directory.databases()), *([] if beside is None else [beside])]
        for one in known:
            if one.entry.path == place:
                return one
        host = checked_name(checked_location(place)[0], "server")
        taken = {one.entry.name for one in known}
        name = next(n for n in (host, *(f"{host}-{number}" for number in range(2, 1000))) if n not in taken)
        entry = DatabaseEntry(name=checked_name(name, "database"), server=host, path=place)
        return Foreseen(entry, is_registered=False)

    async def database_set(self, name: str, *, path: Path | str) -> DatabaseEntry:
        """The database lies at `path` now, where somebody moved its files to; see `moverq.relocation`."""
        from moverq.relocation import relocate_database

        entry = await self.directory.database(name)
        if is_mail_system(entry.path) or is_mail_system(str(path)):
            raise RequestRefused(why="only a folder of our own can be moved; a mail system is another database")
        checked_folder(str(path))
        place = absolute(path)
        if (taken := await self._entry_at(place)) is not None:
            if taken.name == name:
                return entry
            raise RequestRefused(why=f"the database {taken.name} is at {place} already")
        at_home = {one.register.home.instance: one.address for one in await self.mailbox_list(database=name)}
        await relocate_database(
            self.directory, self.ledger, name, at_home=at_home, before=self.path / entry.path, now=place
        )
        return attrs.evolve(entry, path=str(place))

    async def database_remove(self, name: str, *, force: bool = False) -> DatabaseEntry:
        """The directory does not have it any more, and its files stay where they are; see `moverq.removal`."""
        from moverq.removal import remove_database

        return await remove_database(self.directory, self.ledger, name, root=self.path, force=force)

    async def database_list(self) -> Sequence[DatabaseEntry]:
        return await self.directory.databases()

    async def instances(self, name: str, endpoint: Endpoint | None = None) -> list[InstanceShown]:
        """Every mailbox instance in a database that is not soft-deleted, and what knows of it.

        `endpoint`: the database, where it may be one that the directory does not have.
        """
        known: dict[bytes, str] = {}
        for standing in await self.ledger.find(limit=1_000_000):
            request = standing.request
            for home in (request.source, Home(request.target_database, request.target_instance)):
                if home.database == name:
                    known[home.instance] = f"move {request.request_id[:8]} of {request.address}"
        for recipient in await self.mailbox_list(database=name):
            known[recipient.register.home.instance] = f"home of {recipient.address}"
        return [
            InstanceShown(
                instance=summary.instance.hex(),
                guard=summary.guard.mode.value,
                items=summary.items,
                bytes=summary.bytes,
                known_to=known.get(summary.instance),
            )
            for summary in await (endpoint or await self.endpoint(name)).instances()
        ]

    async def store_check(self, name: str, *, progress: Callable[[str, int, int], None] | None = None) -> "CheckReport":
        """The whole database, verified, while it is in use. Raises `NotFound`, `EndpointBroken`."""
        from moverq.endpoints.store import check_database

        path = await self.database_path(name)
        return await trio.to_thread.run_sync(lambda: check_database(name, path, progress=progress))

    async def store_rebuild(
        self, name: str, *, from_content: bool = False, progress: Callable[[str, int, int], None] | None = None
    ) -> Rebuilt:
        """The database's catalogue is made anew. Nobody may have it open.

        From content alone the mailboxes come back locked. Those that the directory names at this database are opened,
        and made where they had no item, unless a move has them in hand; one that soaks does not.

        Raises:
            EndpointUnavailable: somebody has it open.
            EndpointBroken: the log is damaged; nothing was changed.
        """
        from moverq.endpoints.store import rebuild_database

        path = await self.database_path(name)
        report = await trio.to_thread.run_sync(
            lambda: rebuild_database(name, path, from_content=from_content, progress=progress)
        )
        if not from_content:
            return Rebuilt(report=report)
        known = await self.database_named(name)
        opened: list[str] = []
        held: list[str] = []
        made: list[str] = []
        for recipient in await self.mailbox_list(database=known):
            instance = recipient.register.home.instance
            endpoint = await self.store(known)
            if is_empty := not await endpoint.target(instance).exists():
                await endpoint.add_mailbox(recipient.mailbox_id, instance)
                made.append(recipient.address)
            if await self._is_held(recipient):
                if is_empty:
                    await endpoint.source(instance).lock(0)
                held.append(recipient.address)
            elif not is_empty:
                await endpoint.source(instance).unlock(await self.directory.take_token(recipient.mailbox_id))
                opened.append(recipient.address)
        return Rebuilt(report=report, opened=tuple(opened), held=tuple(held), made=tuple(made))

    async def _is_held(self, recipient: Recipient) -> bool:
        """Has a move this mailbox's guard in hand? Not while it soaks: then its users have the mailbox."""
        if recipient.active_move is None:
            return False
        standing = await self._standing(RequestId(recipient.active_move))
        return standing is None or standing.stage is not SyncStage.SOAK

    # ---- mailboxes

    async def mailbox_add(self, address: str, *, database: str, quota_bytes: int | None = None) -> Recipient:
        """A new, empty mailbox, and its recipient at epoch 1. In a mail system: the one that the address has there.

        The mailbox first: a crash between the two leaves one that nobody names, which is empty and harmless; the other
        way round it would leave an address without a mailbox. One that the directory then refuses is taken away again.

        Raises:
            RequestRefused: the address is taken, or is none.
            NotFound: there is no such database.
        """
        normal = checked_address(address)
        if quota_bytes is not None and not 0 < quota_bytes < 1 << 63:
            raise RequestRefused(why=f"a quota of {quota_bytes} bytes is none")
        try:
            taken = await self.directory.locate(normal)
        except NotFound:
            pass
        else:
            raise RequestRefused(why=f"the address {normal} is taken, by the mailbox of {taken.address}")
        mailbox_id, instance = MailboxId(new_id()), InstanceId(new_id())
        if is_mail_system((await self.directory.database(database)).path):
            await (await self._databases.mail_system(database)).adopt(mailbox_id, instance, normal)
            return await self.directory.add_recipient(
                mailbox_id, normal, Home(database, instance), quota_bytes=quota_bytes
            )
        from moverq.endpoints.store import translated

        endpoint, home = await self.store(database), Home(database, instance)
        await endpoint.add_mailbox(mailbox_id, instance)
        try:
            if quota_bytes is not None:
                with translated(database):
                    await endpoint.mailbox(instance).set_setting("quota_bytes", quota_bytes)
            return await self.directory.add_recipient(mailbox_id, normal, home, quota_bytes=quota_bytes)
        except (RequestRefused, NotFound, EndpointBroken):
            # Somebody else got the address, or there is no room: unlike an answer that was lost, that is for certain.
            with suppress(MoveError):
                await self._withdraw(mailbox_id, home)
            raise

    async def _withdraw(self, mailbox_id: MailboxId, home: Home) -> None:
        """The new mailbox is gone, if the directory does not name it."""
        try:
            await self.directory.recipient(mailbox_id)
        except NotFound:
            endpoint = await self.store(home.database)
            source, target = endpoint.source(home.instance), endpoint.target(home.instance)
            token = 1  # of a mailbox that nobody else knows
            await source.lock(token)
            await source.retire(token, home)
            await source.remove(token, keep_until_ms=0)
            await target.purge(token)

    async def mailbox_remove(
        self, address: str, *, retention_s: float = 30 * 86400.0, force: bool = False
    ) -> "MailboxRemoved":
        """Nobody has the address any more, and the mailbox is soft-deleted; see `moverq.removal`."""
        from moverq.removal import remove_mailbox

        moves.check_options(self.ledger, retention_s=retention_s)
        return await remove_mailbox(
            self.directory,
            self.ledger,
            address,
            endpoints=self.endpoint,
            stores=self.store,
            retention_s=retention_s,
            force=force,
        )

    async def mailbox_remove_old(self, address: str, *, retention_s: float = 30 * 86400.0) -> "list[MailboxRemoved]":
        """What removed requests have left of this mailbox is soft-deleted, in all databases; see `moverq.removal`."""
        from moverq.removal import remove_old_mailboxes

        moves.check_options(self.ledger, retention_s=retention_s)
        stores = await self._own_stores()
        return await remove_old_mailboxes(self.directory, self.ledger, address, stores=stores, retention_s=retention_s)

    async def _own_stores(self) -> "list[StoreEndpoint]":
        """All databases that are ours, opened."""
        return [await self.store(one.name) for one in await self.directory.databases() if not is_mail_system(one.path)]

    async def mailbox_connect(
        self, address: str, *, database: str | None = None, instance: str | None = None
    ) -> "Connected":
        """A mailbox that was removed has an address again, its own or another; see `moverq.connecting`."""
        from moverq.connecting import connect_mailbox

        found = await self.mailbox_disconnected(database=database)
        return await connect_mailbox(self.directory, address, instance=instance, found=found, stores=self.store)

    async def mailbox_disconnected(self, *, database: str | None = None) -> "list[Disconnected]":
        """Every mailbox that is soft-deleted, in all databases of our own or in this one.

        Raises:
            NotFound, RequestRefused: there is no such database, or it is a mail system, which keeps what it has.
        """
        from moverq.connecting import find_disconnected

        stores = await self._own_stores() if database is None else [await self.store(database)]
        recipients = {one.mailbox_id: one for one in await self.mailbox_list()}
        found: list[Disconnected] = []
        for endpoint in stores:
            found += await find_disconnected(endpoint, recipients)
        return found

    async def mailbox_list(self, *, database: str | None = None) -> list[Recipient]:
        """Every recipient, by address."""
        found: list[Recipient] = []
        while page := await self.directory.recipients(after=found[-1].address if found else ""):
            found += page
        return [one for one in found if database is None or one.register.home.database == database]

    async def mailbox_show(self, address: str) -> MailboxShown:
        """The mailbox at its home; one on a mail server as the server says it now. Raises `NotFound`."""
        recipient = await self.directory.locate(address)
        home = recipient.register.home
        async with aclosing((await self.endpoint(home.database)).source(home.instance)) as source:
            account, guard = await source.account(), await source.guard()
        digests, paths = dict(account.digests), folder_paths(account.folders)
        return MailboxShown(
            address=recipient.address,
            aliases=recipient.aliases,
            mailbox_id=recipient.mailbox_id.hex(),
            database=home.database,
            instance=home.instance.hex(),
            epoch=recipient.register.epoch,
            guard=guard.mode.value,
            items=sum(digest.items for digest in digests.values()),
            bytes=sum(digest.bytes for digest in digests.values()),
            folders=len(account.folders),
            # Of a mailbox that keeps to none itself: what the directory was told.
            quota_bytes=quota_bytes_of(dict(account.settings), otherwise=recipient.quota_bytes),
            settings=dict(account.settings),
            head=account.head.modseq,
            active_move=recipient.active_move,
            move_status=recipient.move.status,
            folder_list=tuple(
                FolderShown(
                    path="/".join(paths[folder.folder_id]),
                    items=digests[folder.folder_id].items,
                    bytes=digests[folder.folder_id].bytes,
                    uidvalidity=folder.uidvalidity,
                    uidnext=folder.uidnext,
                    special_use=folder.special_use,
                    hidden=folder.hidden,
                )
                for folder in sorted(account.folders, key=lambda folder: paths[folder.folder_id])
            ),
        )

    async def alias_add(self, address: str, alias: str) -> Recipient:
        """The mailbox answers to one more address. Raises `RequestRefused`, `NotFound`."""
        recipient = await self.directory.locate(address)
        await self.directory.add_alias(recipient.mailbox_id, alias)
        return await self.directory.recipient(recipient.mailbox_id)

    async def mailbox_set(self, address: str, name: str, value: object | None) -> None:
        """A setting has this value (anything JSON can say); None: it is not set. Raises `RequestRefused`."""
        from moverq.mailbox_files import patiently

        await patiently(self.session(address), lambda place: place.mailbox.set_setting(name, value))

    async def mailbox_import(
        self,
        address: str,
        path: Path | str,
        *,
        append: bool = False,
        owner: str | None = None,
        done: "Imported | None" = None,
        on_batch: "Callable[[Imported], None] | None" = None,
    ) -> "Imported":
        """Every message of a Maildir, mbox or folder of .eml is in the mailbox; see `mailbox_files`.

        Raises:
            EndpointBusy: another import into this mailbox is at work; each would add what the other does.
        """
        from moverq.mailbox_files import import_mail

        session = self.session(address)
        await session.place()
        recipient = await self.directory.locate(address)
        lock = FileLock(self.path / IMPORTS / f"{recipient.mailbox_id.hex()}.lock")
        if not await trio.to_thread.run_sync(lock.try_acquire):
            why = "another import into it is at work"
            raise EndpointBusy(endpoint=f"mailbox {recipient.address}", retry_after_s=60.0, why=why)
        try:
            return await import_mail(session, Path(path), append=append, owner=owner, done=done, on_batch=on_batch)
        finally:
            lock.release()

    async def mailbox_export(
        self,
        address: str,
        path: Path | str,
        *,
        form: str = "maildir",
        owner: str | None = None,
        done: "Exported | None" = None,
        on_batch: "Callable[[Exported], None] | None" = None,
    ) -> "Exported":
        """The mailbox's mail is in a new folder; see `mailbox_files`."""
        from moverq.mailbox_files import export_mail

        session = self.session(address)
        await session.place()
        return await export_mail(session, Path(path), form=form, owner=owner, done=done, on_batch=on_batch)

    def session(self, address: str) -> "Session":
        """A client of this mailbox, which follows it through a move and waits while it is locked."""
        from moverq.session import Session

        return Session(address, self.directory, self.database)

    async def deliver(
        self,
        address: str,
        content: bytes,
        *,
        sender: str = "",
        key: bytes | None = None,
        received_ms: int | None = None,
    ) -> bool:
        """The message is in the mailbox's INBOX, once for this key and content. False: it was there already.

        `key`: what tells this delivery from others, as an MTA's queue id does; not what a stranger chose, as a
        Message-ID. Without one it is `delivery_key`'s, SHA-256 over sender, recipient and all bytes.

        Raises:
            MailboxLocked: try again in a moment; nothing was delivered.
            NotFound, RequestRefused: there is no such mailbox, or its quota is used up.
        """
        return await deliver_by(self.session(address), content, sender=sender, key=key, received_ms=received_ms)

    @asynccontextmanager
    async def transport(self) -> "AsyncIterator[Transport]":
        """The root's durable queue: what is submitted arrives exactly once, also while the mailbox is locked."""

        from moverq.transport import open_transport

        async def deliver(*, recipient: str, sender: str, content: bytes, key: bytes, received_ms: int) -> None:
            await self.deliver(recipient, content, sender=sender, key=key, received_ms=received_ms)

        async with open_transport(self.path / TRANSPORT, deliver) as transport:
            yield transport

    @asynccontextmanager
    async def lmtp(
        self, listen: str, *, socket_mode: int = 0o660, recipient_delimiter: str = ""
    ) -> "AsyncIterator[LmtpListener]":
        """MTAs deliver at `listen`, until this is left; see `moverq.lmtp.listener.open_listener`.

        `recipient_delimiter`: as Postfix's; `ada+lists@example.org` is `ada@example.org` where nobody has the whole.
        """
        from moverq.lmtp.listener import open_listener

        async def find(address: str) -> "Deliver":
            session = self.session(address)
            try:
                await session.place()
            except NotFound as error:
                plain = without_extension(address, recipient_delimiter)
                if error.kind != "recipient" or plain is None:
                    raise
                session = self.session(plain)
                await session.place()
            return partial(self._deliver_patiently, session)

        async with open_listener(listen, find, limits=self.limits, socket_mode=socket_mode) as listener:
            yield listener

    async def _deliver_patiently(self, session: "Session", sender: str, content: bytes) -> bool:
        return await deliver_by(session, content, sender=sender, lock_wait_s=self.limits.lmtp_lock_wait_s)

    # ---- moves

    async def move(self, address: str, *, to: str, source: str | None = None, **options: Any) -> RequestId:
        """A request to move this mailbox is queued. `options` as `moverq.moves.new_move` has them.

        `source`: where the mailbox is. One in a mail system that the directory does not know yet is registered there.
        `to` and `source` are databases by name, or where a mail system is, which is registered too.

        Raises:
            RequestRefused: no such mailbox or database, there already, moving already, not at `source`.
        """
        if source is not None or is_mail_system(to):
            to = await self._register(address, to=to, source=source, options=options)
        return (await moves.new_move(self.ledger, self.directory, address, to, **options)).request.request_id

    async def _register(self, address: str, *, to: str, source: str | None, options: Mapping[str, Any]) -> str:
        """What the move needs is in the directory; the name of its target.

        All that can refuse the move is asked first, so that one that is refused registers nothing. A crash between the
        writes leaves a server, a database or a mailbox that is registered and has no move: the lists name it, it harms
        nobody, and the same command goes on from it.
        """
        moves.check_options(self.ledger, **options)
        origin = None if source is None else await self.database_foreseen(source)
        target = await self.database_foreseen(to, beside=origin)
        recipient = await self._recipient_foreseen(address, origin)
        is_new = recipient.register.epoch == 0
        if target.is_registered and not is_new:
            return target.entry.name
        home = await self.directory.database(recipient.register.home.database) if origin is None else origin.entry
        await moves.check_way(self.ledger, recipient, home, target.entry, key=options.get("idempotency_key"))
        if source is not None and origin is not None and is_new:
            if not origin.is_registered:
                await (await self._databases.mail_system_at(home.name, home.path)).check_reached(recipient.address)
            await self.mailbox_add(address, database=await self.database_at(source))
        return await self.database_at(to)

    async def _recipient_foreseen(self, address: str, origin: Foreseen | None) -> Recipient:
        """The mailbox to be moved; one that is to be registered at `origin` is at epoch 0. Raises `RequestRefused`."""
        if origin is None:
            return await moves.locate(self.directory, address)
        try:
            recipient = await self.directory.locate(address)
        except NotFound as error:
            normal = checked_address(address)
            if not is_mail_system(origin.entry.path):  # of ours the directory knows every mailbox: this one is none
                raise RequestRefused(
                    why=f"there is no mailbox {normal} in {origin.entry.name}, nor elsewhere in the directory: see "
                    f"`moverq mailbox list`; `moverq mailbox add` makes an empty one"
                ) from error
            return Recipient(
                mailbox_id=MailboxId(new_id()),
                address=normal,
                aliases=(),
                register=Register(Home(origin.entry.name, InstanceId(new_id())), 0),
                token=0,
                active_move=None,
                quota_bytes=None,
                move=MoveAttributes(),
            )
        home = recipient.register.home.database
        if home != origin.entry.name:
            raise RequestRefused(why=f"{recipient.address} is in {home}, not in {origin.entry.name}")
        return recipient

    async def find(self, name: str) -> RequestId:
        """The request meant by an address, a request id or the beginning of one. Raises `NotFound`."""
        return await moves.find_request(self.ledger, self.directory, name)

    async def move_list(
        self,
        *,
        statuses: Iterable[Status] | None = None,
        batch_name: str | None = None,
        source_database: str | None = None,
        target_database: str | None = None,
    ) -> list[MoveStatistics]:
        """Requests in numbers, newest first. Raises `NotFound`: there is no such database, or migration batch."""
        for database in (source_database, target_database):
            if database is not None:
                await self.directory.database(database)
        found = await moves.list_moves(
            self.ledger,
            statuses=statuses,
            batch_name=batch_name,
            source_database=source_database,
            target_database=target_database,
            limit=1_000_000,
        )
        # A batch is the name that requests have in common: nothing else knows it.
        if batch_name is not None and not found and not await self.ledger.find(batch_name=batch_name, limit=1):
            raise NotFound(kind="migration batch", name=batch_name)
        return found[::-1]

    async def move_show(self, name: str) -> MoveStatistics:
        return await moves.get(self.ledger, await self.find(name))

    async def report(self, name: str) -> "MoveReport":
        return await moves.report(self.ledger, await self.find(name))

    async def explain(self, name: str) -> Explanation:
        return await moves.explain(self.ledger, await self.find(name))

    async def suspend(self, name: str) -> RequestId:
        return (await moves.suspend(self.ledger, await self.find(name))).request.request_id

    async def resume(self, name: str, **options: Any) -> RequestId:
        return (await moves.resume(self.ledger, await self.find(name), **options)).request.request_id

    async def complete(self, name: str) -> RequestId:
        return (await moves.complete(self.ledger, await self.find(name))).request.request_id

    async def rollback(self, name: str, **options: Any) -> RequestId:
        """The id of the request that takes this one back."""
        return (await moves.rollback(self.ledger, self.directory, await self.find(name), **options)).request.request_id

    async def remove(self, name: str, *, force: bool = False) -> RequestId:
        return (await moves.remove(self.ledger, await self.find(name), force=force)).request.request_id

    async def move_set(self, name: str, **options: Any) -> RequestId:
        return (await moves.set_move(self.ledger, await self.find(name), **options)).request.request_id

    # ---- workers

    def service(
        self,
        *,
        only: Callable[[Standing], bool] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        share: Share = WHOLE,
    ) -> "Service":
        """A worker on this root; `run` it. `only`: the requests that it cares for. `share`: its part, where several
        processes are one worker."""
        from moverq.service import Service

        return Service(
            ledger=self.ledger,
            directory=self.directory,
            endpoints=self.endpoint,
            make_offload=InThread,
            rng=random.Random(),
            limits=self.limits,
            on_progress=on_progress,
            only=only,
            share=share,
        )

    async def worker(self, *, drain: bool = False) -> None:
        """Run queued moves, and look after the databases they use; with `drain` until no move is left that could go
        on by itself."""
        # In the nursery: the upkeep, until the worker ends.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.upkeep)
            await self.service().run(drain=drain)
            nursery.cancel_scope.cancel()

    async def upkeep(self, share: Share = WHOLE) -> None:
        """Keep the databases that are open here in order, until cancelled; see `upkeep`. Of several processes each
        does so, but not all at the same time."""
        from moverq.upkeep import UPKEEP_INTERVAL_S, keep_in_order

        first_s = UPKEEP_INTERVAL_S * (share.number + 1) / share.of
        await keep_in_order(self._databases.stores, self.directory, first_s=first_s)

    async def wait(self, request: RequestId, *, work: bool = True) -> MoveStatistics:
        """The request has come to rest: completed, suspended as asked, failed. With `work` this process moves it,
        unless another worker does.

        Raises:
            NotFound: it has been removed.
        """
        await self.wait_all([request], work=work)
        return await moves.get(self.ledger, request)

    async def wait_all(
        self, requests: Sequence[RequestId], *, work: bool = True, on_look: OnLook | None = None
    ) -> None:
        """All of them have come to rest, or are gone. `on_look` sees them on the way. While the ledger is busy with
        others, it waits on.

        Cancelled: they go on with the next worker.
        """
        trouble = Trouble("moverq.wait", "looking how the moves stand", random.Random())
        # In the nursery: a worker that cares for these requests alone, ended by its `stop`.
        async with trio.open_nursery() as nursery:
            service: Service | None = None
            if work:
                wanted = set(requests)
                for request in requests:
                    standing = await self._standing(request)
                    if standing is not None and standing.request.parent is not None:
                        wanted.add(standing.request.parent)
                service = self.service(only=lambda standing: standing.request.request_id in wanted)
                nursery.start_soon(service.run)
            while True:
                seen = self.ledger.version
                try:
                    found = await self.look(requests, service)
                except EndpointUnavailable as unavailable:
                    await trio.sleep(trouble.met(unavailable))
                    continue
                trouble.is_over()
                if on_look is not None:
                    on_look(found)
                if all(is_at_rest(look.standing) for look in found):
                    break
                await wait_first(partial(self.ledger.wait_changed, seen), at_most_s=LOOK_S)
                await trio.sleep(REST_S)
            if service is not None:
                service.stop()

    async def look(self, requests: Iterable[RequestId], service: "Service | None" = None) -> list[Look]:
        """These requests now, but for those that are gone."""
        standings = [await self._standing(request) for request in requests]
        return looks([standing for standing in standings if standing is not None], service)

    async def _standing(self, request: RequestId) -> Standing | None:
        try:
            return await self.ledger.get(request)
        except NotFound:
            return None


async def deliver_by(
    session: "Session",
    content: bytes,
    *,
    sender: str,
    key: bytes | None = None,
    received_ms: int | None = None,
    lock_wait_s: float = 0.0,
) -> bool:
    """The message is in the session's mailbox, once for its key and content. False: it was there already."""

    async def put(place: "Place") -> bool:
        used = delivery_key(sender, place.address, content) if key is None else key
        return not (await place.mailbox.deliver(content, key=used, received_ms=received_ms)).duplicate

    return await session.use(put, lock_wait_s=lock_wait_s)


def without_extension(address: str, delimiter: str) -> str | None:
    """`ada@example.org` for `ada+lists@example.org`; None where there is nothing to take off. Of several characters
    each is one, as in Postfix."""
    local, _, domain = address.rpartition("@")
    found = [at for character in delimiter if (at := local.find(character, 1)) > 0]
    return f"{local[: min(found)]}@{domain}" if found else None


def looks(standings: Iterable[Standing], service: "Service | None") -> list[Look]:
    """With the newest progress: this process's own where it has the move at work, else the ledger's."""
    own = service.progress if service is not None else {}
    return [Look(standing=s, progress=own.get(s.request.request_id, s.progress)) for s in standings]


def is_at_rest(standing: Standing) -> bool:
    """Will nothing happen to this request by itself that somebody would wait for?"""
    wishes = standing.wishes
    if wishes.remove:
        return False
    if standing.status.is_final:
        return not wishes.finish or standing.stage is SyncStage.SYNC_FINISHED
    if standing.status in (Status.SUSPENDED, Status.AUTO_SUSPENDED):
        return not (wishes.retry or wishes.complete)
    return standing.status is Status.FAILED and not wishes.retry


def checked_name(name: str, kind: str) -> str:
    """Raises `RequestRefused`."""
    if not NAME.fullmatch(name):
        raise RequestRefused(
            why=f"{name!r} is no name for a {kind}: letters, digits, spaces and . _ + - , up to 64, a letter or "
            f"digit first"
        )
    return name


def absolute(path: Path | str) -> Path:
    """By the working directory of now, which a script may change later."""
    return Path(path).absolute()
