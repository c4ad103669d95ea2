"""The directory in LDAP: the register beside the addresses that proxies and MTAs look up anyway.

    <base>            anywhere below it: a recipient's entry, one that the site has, or one made in <people>
                        moverqRegister   "2 0f3c… DB2": epoch, instance, database        changed by compare-and-set
                        mailHost         the server of DB2: what Dovecot and Postfix read  in the same Modify
                        moverqToken, moverqActiveMove                                     by compare-and-set too
                        mail, mailLocalAddress                                            its addresses
    <configuration>   ou=servers, ou=databases: an entry each, whose name is taken by its DN

Compare-and-set is one Modify that deletes the old value and adds the new one: every LDAP server does that atomically
for one entry, or refuses it where the old value is not there (RFC 4511 §4.6). What has no value yet has the value
`none`, so that there is always one to delete. It needs one server that takes the writes, and reads go to it as well: a
register read from a replica is a register of before.

An address belongs to one entry by looking, adding, and looking again: of two who add one address at once, at least one
sees the other, and takes his own back. A site that wants the server to see to it adds its uniqueness overlay.

Cancelled: a verb that waited did nothing; an operation that had begun goes on to its end (`ldap_connection`).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import attrs
import trio
from anyldap.delta import Add, Delete, Replace
from anyldap.ldap.dn import escape_dn_chars

from moverq.directory.directory import (
    DatabaseEntry,
    MoveAttributes,
    Recipient,
    Register,
    Server,
    check_removable,
    checked_address,
    sought_address,
    still_used,
)
from moverq.directory.ldap_connection import (
    BASE,
    Change,
    Code,
    Entry,
    Filter,
    LdapConnection,
    all_of,
    any_of,
    equal,
    open_connection,
)
from moverq.directory.ldap_settings import Attributes, LdapSettings
from moverq.endpoints.base import Home
from moverq.errors import EndpointBroken, NotFound, RegisterChanged, RequestRefused
from moverq.model.ids import InstanceId, MailboxId, RequestId

NONE = "none"
"""The value of what has none: there is always one to delete."""
SERVERS, DATABASES = "servers", "databases"


async def init_ldap_directory(settings: LdapSettings, *, organisation: str) -> None:
    """The directory has its containers. Where they are there already, this root joins it.

    Raises:
        RequestRefused: it is another organisation's.
        EndpointUnavailable, EndpointBroken: the server is away, or refuses.
    """
    async with open_connection(settings) as connection:
        name = settings.configuration.partition("=")[2].partition(",")[0]
        top = {"objectClass": ["organizationalUnit"], "ou": [name], "description": [organisation]}
        if not await connection.add(settings.configuration, top):
            present = await _organisation(connection, settings)
            if present != organisation:
                raise RequestRefused(
                    why=f"{settings.configuration} is the directory of {present}; join it with "
                    f"`--organisation {present}`"
                )
        for one in (SERVERS, DATABASES):
            await connection.add(
                f"ou={one},{settings.configuration}", {"objectClass": ["organizationalUnit"], "ou": [one]}
            )


@asynccontextmanager
async def open_ldap_directory(settings: LdapSettings) -> AsyncIterator["LdapDirectory"]:
    """The directory that `settings` lead to; a server that is away is met by the first verb."""
    async with open_connection(settings) as connection:
        yield LdapDirectory(settings, connection)


@attrs.define(eq=False)
class LdapDirectory:
    """`Directory` over one LDAP server."""

    _settings: LdapSettings
    _connection: LdapConnection
    _taking: trio.Lock = attrs.field(factory=trio.Lock)
    """Tokens are taken one after the other in this process: racing for them would only mean more losers."""
    _listing: list[Recipient] | None = None
    """What is left of a listing, so that its pages are of one moment, and the server is asked once. None: there is none
    under way."""
    _listed: str = ""
    """The last address of the page that went before."""

    def __repr__(self) -> str:
        return f"<LdapDirectory {self._connection}>"

    @property
    def _names(self) -> Attributes:
        return self._settings.attributes

    async def organisation(self) -> str:
        """The organisation's name."""
        return await _organisation(self._connection, self._settings)

    # ---- servers and databases

    async def add_server(self, server: Server) -> None:
        if self._names.host and not server.name.isascii():
            raise RequestRefused(
                why=f"a server's name is what {self._names.host} says, so it has to be a host name: {server.name}"
            )
        values = {"objectClass": ["moverqServerEntry"], "moverqVersion": [server.version], "moverqSite": [server.site]}
        await self._add_named(SERVERS, "server", server.name, values)

    async def add_database(self, database: DatabaseEntry) -> None:
        await self.server(database.server)
        values = {
            "objectClass": ["moverqDatabaseEntry"],
            "moverqServer": [database.server],
            "moverqPath": [database.path],
        }
        await self._add_named(DATABASES, "database", database.name, values)

    async def server(self, name: str) -> Server:
        return _server(await self._named(SERVERS, "server", name))

    async def database(self, name: str) -> DatabaseEntry:
        return _database(await self._named(DATABASES, "database", name))

    async def servers(self) -> Sequence[Server]:
        found = await self._all_named(SERVERS, "moverqServerEntry")
        return sorted(map(_server, found), key=lambda server: server.name)

    async def databases(self) -> Sequence[DatabaseEntry]:
        found = await self._all_named(DATABASES, "moverqDatabaseEntry")
        return sorted(map(_database, found), key=lambda database: database.name)

    async def set_database_path(self, name: str, path: str) -> None:
        await self.database(name)
        await self._modify(self._named_dn(DATABASES, name), [Replace("moverqPath", [path])])

    async def remove_server(self, name: str) -> None:
        await self.server(name)
        there = [one.name for one in await self.databases() if one.server == name]
        if there:
            raise still_used("server", name, f"the database {there[0]}", len(there))
        await self._remove_named(SERVERS, "server", name)

    async def remove_database(self, name: str) -> None:
        """A mailbox that is added at the same moment is not seen: there is no transaction over two entries."""
        await self.database(name)
        homes = [self._recipient(entry) for entry in await self._entries()]
        there = sorted(one.address for one in homes if one.register.home.database == name)
        if there:
            raise still_used("database", name, f"the mailbox of {there[0]}", len(there))
        await self._remove_named(DATABASES, "database", name)

    # ---- recipients

    async def add_recipient(
        self, mailbox_id: MailboxId, address: str, home: Home, *, quota_bytes: int | None = None, token: int = 0
    ) -> Recipient:
        primary = checked_address(address)
        if await self._entries(equal(self._names.mailbox, mailbox_id.hex())):
            raise RequestRefused(why=f"mailbox {mailbox_id.hex()} has a recipient already")
        await self._check_free([primary], mine=None)
        server = (await self.database(home.database)).server
        names = self._names
        values = {
            names.mailbox: [mailbox_id.hex()],
            names.address: [primary],
            names.register: [register_text(Register(home, 1))],
            names.token: [str(token)],
            names.active_move: [NONE],
            names.move_status: [MoveAttributes().status],
            **({names.quota: [str(quota_bytes)]} if quota_bytes is not None else {}),
            **({names.host: [server]} if names.host else {}),
        }
        dn = await self._enrolled(primary, values) or await self._made(primary, values)
        recipient = await self.recipient(mailbox_id)
        await self._check_free((primary, *recipient.aliases), mine=mailbox_id, undo=lambda: self._withdrawn(dn, values))
        return recipient

    async def remove_recipient(self, mailbox_id: MailboxId, *, expected: Register) -> None:
        """The entry stays, and what is the site's in it; also the addresses that its `mail` and `alias` say."""
        names = self._names
        ours = (names.mailbox, names.address, names.token, names.quota, names.move_status, names.move_batch)
        others = [*ours, names.move_source, names.move_target, *([names.host] if names.host else [])]
        changes: list[Change] = [
            Delete(names.register, [register_text(expected)]),
            Delete(names.active_move, [NONE]),
            Delete("objectClass", [self._settings.recipient_classes[0]]),
            *(Replace(name, []) for name in others),
        ]
        while True:
            dn, present = await self._entry(mailbox_id)
            check_removable(present, expected)
            if await self._modify(dn, changes) is Code.SUCCESS:
                return

    async def add_alias(self, mailbox_id: MailboxId, alias: str) -> None:
        address = checked_address(alias)
        dn, present = await self._entry(mailbox_id)
        if address in (present.address, *present.aliases):
            return
        await self._check_free([address], mine=mailbox_id)
        # Somebody else may have added it to this entry meanwhile: then it is there, as it was asked for.
        await self._modify(dn, [Add(self._names.alias, [address])])

        async def undo() -> None:
            await self._modify(dn, [Delete(self._names.alias, [address])])

        await self._check_free([address], mine=mailbox_id, undo=undo)

    async def recipients(self, *, after: str = "", limit: int = 1000) -> Sequence[Recipient]:
        begin = after.strip().lower()
        if self._listing is None or begin != self._listed:
            found = [self._recipient(entry) for entry in await self._entries()]
            self._listing = sorted((one for one in found if one.address > begin), key=lambda one: one.address)
        page, self._listing = self._listing[:limit], self._listing[limit:]
        if page:
            self._listed = page[-1].address
        else:
            self._listing = None
        return page

    async def recipient(self, mailbox_id: MailboxId) -> Recipient:
        return (await self._entry(mailbox_id))[1]

    async def locate(self, address: str) -> Recipient:
        normal = sought_address(address)
        found = await self._entries(self._has_address(normal))
        if not found:
            raise NotFound(kind="recipient", name=normal)
        if len(found) > 1:
            raise EndpointBroken(
                endpoint=self._settings.uri,
                why=f"the address {normal} belongs to {' and to '.join(dn for dn, _ in found)}",
            )
        return self._recipient(found[0])

    # ---- compare-and-set

    async def relocate(self, mailbox_id: MailboxId, *, expected: Register, home: Home) -> Register:
        server = (await self.database(home.database)).server
        dn, _ = await self._entry(mailbox_id)
        wanted = Register(home, expected.epoch + 1)
        changes = _swap(self._names.register, register_text(expected), register_text(wanted))
        if self._names.host:
            changes.append(Replace(self._names.host, [server]))
        if await self._modify(dn, changes) is not Code.SUCCESS:
            present = (await self.recipient(mailbox_id)).register
            raise RegisterChanged(expected=str(expected), present=str(present))
        return wanted

    async def take_token(self, mailbox_id: MailboxId) -> int:
        async with self._taking:
            while True:  # whoever loses here has been overtaken by somebody who won
                dn, present = await self._entry(mailbox_id)
                token = present.token + 1
                changes = _swap(self._names.token, str(present.token), str(token))
                if await self._modify(dn, changes) is Code.SUCCESS:
                    return token

    async def claim_move(self, mailbox_id: MailboxId, request_id: RequestId) -> None:
        while True:
            dn, present = await self._entry(mailbox_id)
            if present.active_move == request_id:
                return
            if present.active_move is not None:
                raise RequestRefused(why=f"{present.address} is being moved by request {present.active_move}")
            if await self._modify(dn, _swap(self._names.active_move, NONE, request_id)) is Code.SUCCESS:
                return

    async def release_move(self, mailbox_id: MailboxId, request_id: RequestId) -> None:
        dn, present = await self._entry(mailbox_id)
        if present.active_move == request_id:
            # Refused: it is released already, by this request's own earlier attempt.
            await self._modify(dn, _swap(self._names.active_move, request_id, NONE))

    async def set_move(self, mailbox_id: MailboxId, move: MoveAttributes) -> None:
        dn, _ = await self._entry(mailbox_id)
        names = self._names
        shown = {
            names.move_status: move.status,
            names.move_batch: move.batch_name,
            names.move_source: move.source_database,
            names.move_target: move.target_database,
        }
        await self._modify(dn, [Replace(name, [value] if value else []) for name, value in shown.items()])

    async def aclose(self) -> None:
        """Closed; again does nothing."""
        await self._connection.aclose()

    # ---- entries

    async def _entries(self, *filters: Filter) -> list[Entry]:
        """The recipients' entries that all of these fit."""
        names = [name for name in attrs.asdict(self._names).values() if name]
        marked = equal("objectClass", self._settings.recipient_classes[0])
        return await self._connection.search(self._settings.base, where=all_of(marked, *filters), attributes=names)

    async def _entry(self, mailbox_id: MailboxId) -> tuple[str, Recipient]:
        """Raises `NotFound`, and `EndpointBroken` where several entries have this mailbox."""
        found = await self._entries(equal(self._names.mailbox, mailbox_id.hex()))
        if not found:
            raise NotFound(kind="mailbox", name=mailbox_id.hex())
        if len(found) > 1:
            raise EndpointBroken(
                endpoint=self._settings.uri,
                why=f"mailbox {mailbox_id.hex()} is named by {' and by '.join(dn for dn, _ in found)}",
            )
        return found[0][0], self._recipient(found[0])

    def _recipient(self, entry: Entry) -> Recipient:
        """Raises `EndpointBroken` where the entry is not what this module writes."""
        dn, values = entry
        names = self._names

        def one(name: str) -> str | None:
            given = values.get(name.lower())
            return given[0] if given else None

        try:
            primary = _present(one(names.address)).lower()
            addresses = {
                address.lower() for name in (names.mail, names.alias) for address in values.get(name.lower(), [])
            }
            active, quota = _present(one(names.active_move)), one(names.quota)
            return Recipient(
                mailbox_id=MailboxId(bytes.fromhex(_present(one(names.mailbox)))),
                address=primary,
                aliases=tuple(sorted(addresses - {primary})),
                register=register_of(_present(one(names.register))),
                token=int(_present(one(names.token))),
                active_move=None if active == NONE else RequestId(active),
                quota_bytes=None if quota is None else int(quota),
                move=MoveAttributes(
                    status=one(names.move_status) or MoveAttributes().status,
                    batch_name=one(names.move_batch),
                    source_database=one(names.move_source),
                    target_database=one(names.move_target),
                ),
            )
        except ValueError as error:
            raise EndpointBroken(
                endpoint=self._settings.uri, why=f"the entry {dn} is not as moverq wrote it: {error}"
            ) from error

    async def _modify(self, dn: str, changes: Sequence[Change]) -> Code:
        """`SUCCESS`, or why nothing was changed. Raises `NotFound` where the entry has gone."""
        code = await self._connection.modify(dn, changes)
        if code is Code.NO_SUCH_OBJECT:
            raise NotFound(kind="entry", name=dn)
        return code

    # ---- addresses

    def _has_address(self, address: str) -> Filter:
        names = self._names
        return any_of(*(equal(name, address) for name in (names.address, names.mail, names.alias)))

    async def _check_free(
        self, addresses: Iterable[str], *, mine: MailboxId | None, undo: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """No recipient but `mine` has any of them. Else `undo`, and `RequestRefused`."""
        for address in addresses:
            for entry in await self._entries(self._has_address(address)):
                owner = self._recipient(entry)
                if owner.mailbox_id != mine:
                    if undo is not None:
                        await undo()
                    raise RequestRefused(why=f"the address {address} belongs to {owner.address}")

    async def _enrolled(self, address: str, values: Mapping[str, list[str]]) -> str | None:
        """The site's own entry with this address is a recipient's; its DN. None: it has none."""
        names = self._names
        found = await self._connection.search(
            self._settings.base,
            where=any_of(equal(names.mail, address), equal(names.alias, address)),
            attributes=["objectClass"],
        )
        if not found:
            return None
        if len(found) > 1:
            raise RequestRefused(why=f"{address} is an address of {' and of '.join(dn for dn, _ in found)}")
        dn, present = found[0]
        there = {name.lower() for name in present.get("objectclass", [])}
        classes = [name for name in self._settings.recipient_classes if name.lower() not in there]
        # What an entry has of its own (its quota, the host it is on now) is replaced; the mailbox must not be there.
        changes: list[Change] = [Add("objectClass", classes)] if classes else []
        changes += [(Add if name == names.mailbox else Replace)(name, value) for name, value in values.items()]
        if await self._modify(dn, changes) is not Code.SUCCESS:
            raise RequestRefused(why=f"{dn} became a recipient meanwhile")
        return dn

    async def _made(self, address: str, values: Mapping[str, list[str]]) -> str:
        """A new entry in `people`; its DN."""
        dn = f"uid={escape_dn_chars(address)},{self._settings.people}"
        local = address.rpartition("@")[0]
        person = {
            "objectClass": [*self._settings.person_classes, *self._settings.recipient_classes],
            "uid": [address],
            "cn": [address],
            "sn": [local],
            self._names.mail: [address],
        }
        if not await self._connection.add(dn, {**person, **values}):
            raise RequestRefused(why=f"there is an entry {dn} already, and it has not the address {address}")
        return dn

    async def _withdrawn(self, dn: str, values: Mapping[str, list[str]]) -> None:
        """The entry is no recipient's any more; a person that was made for it stays, which harms nobody."""
        changes: list[Change] = [Delete("objectClass", [self._settings.recipient_classes[0]])]
        changes += [Replace(name, []) for name in values if name.lower() != self._names.host.lower()]
        await self._modify(dn, changes)

    # ---- servers and databases, by name

    async def _add_named(self, container: str, kind: str, name: str, values: Mapping[str, list[str]]) -> None:
        if not await self._connection.add(self._named_dn(container, name), {"cn": [name], **values}):
            raise RequestRefused(why=f"there is a {kind} {name} already")

    async def _remove_named(self, container: str, kind: str, name: str) -> None:
        if not await self._connection.delete(self._named_dn(container, name)):
            raise NotFound(kind=kind, name=name)

    async def _named(self, container: str, kind: str, name: str) -> Mapping[str, list[str]]:
        dn = self._named_dn(container, name)
        for _, values in await self._connection.search(dn, scope=BASE, attributes=["*"]):
            if values.get("cn") == [name]:  # a DN does not mind upper and lower case; a name does
                return values
        raise NotFound(kind=kind, name=name)

    async def _all_named(self, container: str, kind: str) -> list[Mapping[str, list[str]]]:
        base = f"ou={container},{self._settings.configuration}"
        found = await self._connection.search(base, where=equal("objectClass", kind), attributes=["*"])
        return [values for _, values in found]

    def _named_dn(self, container: str, name: str) -> str:
        return f"cn={escape_dn_chars(name)},ou={container},{self._settings.configuration}"


def register_text(register: Register) -> str:
    """The register as one value: `2 0f3c… DB2`. One, so that a Modify compares all of it; the database last, since its
    name may have spaces in it."""
    return f"{register.epoch} {register.home.instance.hex()} {register.home.database}"


def register_of(text: str) -> Register:
    """A register from `register_text`. Raises `ValueError`."""
    epoch, instance, database = text.split(" ", 2)
    return Register(Home(database, InstanceId(bytes.fromhex(instance))), int(epoch))


async def _organisation(connection: LdapConnection, settings: LdapSettings) -> str:
    for _, values in await connection.search(settings.configuration, scope=BASE, attributes=["description"]):
        return values.get("description", [""])[0]
    raise RequestRefused(why=f"there is no directory at {settings.configuration}; make one with `moverq init`")


def _swap(attribute: str, old: str, new: str) -> list[Change]:
    """Compare-and-set of one attribute."""
    return [Delete(attribute, [old]), Add(attribute, [new])]


def _server(values: Mapping[str, list[str]]) -> Server:
    return Server(name=values["cn"][0], version=values["moverqversion"][0], site=values["moverqsite"][0])


def _database(values: Mapping[str, list[str]]) -> DatabaseEntry:
    return DatabaseEntry(name=values["cn"][0], server=values["moverqserver"][0], path=values["moverqpath"][0])


def _present(value: str | None) -> str:
    if value is None:
        raise ValueError("a value is missing")
    return value
